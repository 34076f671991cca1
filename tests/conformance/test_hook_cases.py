"""`hooks`: when they run, what they get, and what their failure means (config.md, "POSIX-platform Hooks")."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cases import FOREVER, Apart, Call, Caller
from waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
STATUS = r"""echo "$state" | sed -n 's/.*"status": *"\([a-z]*\)".*/\1/p'"""
Do = Callable[[Caller], Any]


def hook(script: str, **more: Any) -> dict[str, Any]:
    """A hook that runs a shell script, which reads the state: crun fails when a hook does not."""
    return {"path": "/bin/sh", "args": ["sh", "-c", f"state=$(cat); {script}"], **more}


def hooked(caller: Caller, hooks: dict[str, list[Any]], *args: str) -> Path:
    """A bundle with these hooks; `LOG` stands for a file of the bundle, of the container for startContainer."""
    bundle = caller.bundle(*(args or FOREVER), edit=lambda config: config.update(annotations={"key": "value"}))
    config = json.loads((bundle / "config.json").read_text())
    for kind, made in hooks.items():
        log = "/log" if kind == "startContainer" else f"{bundle}/log"
        config.setdefault("hooks", {})[kind] = json.loads(json.dumps(made).replace("LOG", log))
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def logged(bundle: Path) -> list[str]:
    """What the hooks wrote, those of the container last."""
    logs = [bundle / "log", bundle / "rootfs/log"]
    return [line for log in logs if log.exists() for line in log.read_text().splitlines()]


def order(caller: Caller) -> Any:
    """What each kind says of itself, after create, start and delete."""
    hooks = {kind: [hook(f"echo {kind} $({STATUS}) >> LOG")] for kind in KINDS}
    bundle = hooked(caller, hooks)
    caller.id = caller.runtime.new_id()
    said = []
    for command in (
        ("create", "--bundle", str(bundle), caller.id),
        ("start", caller.id),
        ("delete", "--force", caller.id),
    ):
        told = caller.told(*command)
        if not told.startswith("exit 0"):
            return told
        if command[0] == "start":  # which may return before the hook in the container has run
            eventually(lambda: "startContainer" in "".join(logged(bundle)))
        said.append(logged(bundle))
    return said


def state_of(kind: str) -> Do:
    """The state that a hook gets."""

    def do(caller: Caller) -> Any:
        bundle = hooked(caller, {kind: [hook("""echo "$state" >> LOG""")]}, "true")
        told = caller.run(bundle)
        if not told.startswith("exit 0"):
            return told
        state = json.loads("".join(logged(bundle)))
        return {
            "id": caller.plain(state["id"]),
            "status": state["status"],
            "pid": bool(state.get("pid")),
            "bundle": caller.plain(state["bundle"]),
            "annotations": state.get("annotations"),
        }

    return do


def given(status: str, *, pid: bool = True) -> dict[str, Any]:
    return {"id": "ID", "status": status, "pid": pid, "bundle": "BUNDLE", "annotations": {"key": "value"}}


def outcome_of(kind: str, *made: dict[str, Any]) -> Do:
    """What `run` comes to with hooks, and whether anything is left."""

    def do(caller: Caller) -> Any:
        code = caller.run(hooked(caller, {kind: list(made)}, "echo", "ran")).partition(":")[0]
        if caller.name == "crun" and code != "exit 0":
            code = "exit 1"  # its code for the same failure varies from run to run
        return [code, caller.runtime("list", "--quiet").stdout.decode()]

    return do


def said_by(kind: str, *made: dict[str, Any]) -> Do:
    """What hooks write."""

    def do(caller: Caller) -> Any:
        bundle = hooked(caller, {kind: list(made)}, "true")
        told = caller.run(bundle)
        return [caller.plain(line) for line in logged(bundle)] if told.startswith("exit 0") else told

    return do


def poststop(caller: Caller) -> Any:
    """What a poststop hook writes, when the container has gone."""
    bundle = hooked(caller, {"poststop": [hook("echo gone >> LOG")]}, "true")
    told = caller.run(bundle)
    eventually((bundle / "log").exists) if told.startswith("exit 0") else None
    return [told.partition(":")[0], logged(bundle)]


# runc has poststart at the end of create.
AT_CREATE = ["prestart creating", "createRuntime creating", "createContainer creating", "poststart created"]
AT_START = [*AT_CREATE, "startContainer created"]
AT_DELETE = [*AT_CREATE, "poststop stopped", "startContainer created"]

GROUPS = (
    Apart(
        "hooks",
        Call(
            "hooks-order",
            [AT_CREATE, AT_START, AT_DELETE],
            order,
        ),
        Call("hook-state-prestart", given("creating"), state_of("prestart")),
        Call("hook-state-create-runtime", given("creating"), state_of("createRuntime")),
        Call("hook-state-create-container", given("creating"), state_of("createContainer")),
        Call("hook-state-start-container", given("created"), state_of("startContainer")),
        Call("hook-state-poststop", given("stopped", pid=False), state_of("poststop")),
        Call(
            "hook-several",
            ["first", "second"],
            said_by("createRuntime", hook("echo first >> LOG"), hook("echo second >> LOG")),
        ),
        Call(
            "hook-args",
            ["named a b"],
            said_by(
                "createRuntime",
                {
                    "path": "/bin/sh",
                    "args": ["named", "-c", 'cat >/dev/null; echo "$0" "$@" >> LOG', "named", "a", "b"],
                },
            ),
        ),
        Call(
            "hook-env",
            ["value"],
            said_by("createRuntime", hook("echo $GIVEN >> LOG", env=["GIVEN=value", "PATH=/bin:/usr/bin"])),
        ),
        Call("hook-env-inherited", ["inherited"], said_by("createRuntime", hook("echo ${HOME:+inherited} >> LOG"))),
        Call("hook-cwd", ["BUNDLE"], said_by("createRuntime", hook("pwd >> LOG"))),
        Call(
            "hook-in-the-container",
            ["by.runc"],
            said_by("startContainer", hook("echo by.$(hostname) >> LOG", env=["PATH=/bin"])),
        ),
        Call("hook-poststop-runs", ["exit 0", ["gone"]], poststop),
        *(
            Call(f"hook-fails-{kind}", ["exit 1", ""], outcome_of(kind, hook("exit 3")))
            for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart")
        ),
        Call("hook-fails-poststop", ["exit 0", ""], outcome_of("poststop", hook("exit 3"))),
        Call("hook-missing-program", ["exit 1", ""], outcome_of("createRuntime", {"path": "/no/such/program"})),
        Call("hook-relative-program", ["exit 1", ""], outcome_of("createRuntime", {"path": "bin/true"})),
        Call("hook-times-out", ["exit 1", ""], outcome_of("createRuntime", hook("sleep 30", timeout=1))),
        Call("hook-in-time", ["exit 0", ""], outcome_of("createRuntime", hook("true", timeout=10))),
        Call(
            "hook-no-hooks",
            ["exit 0", ""],
            outcome_of("createRuntime"),
        ),
    ),
)


def test_hooks(seen: Any, expected: Any) -> None:
    assert seen == expected
