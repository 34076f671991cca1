"""What a caller gets from each command, for right and wrong input: exit codes, outputs, errors, states."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from cases import FOREVER, Apart, Call, Caller
from edits import process, top
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtimes import Edit

UNKNOWN = "no-such-container"


def status(caller: Caller) -> str:
    return str(caller.runtime.state(caller.id)["status"])


def stopped(caller: Caller) -> None:
    """Waits for the end of the caller's container."""
    eventually(lambda: status(caller) == "stopped")


def shape(state: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """A state without what differs from run to run, and without our own annotations."""
    fixed = {key: caller.plain(value) if isinstance(value, str) else value for key, value in state.items()}
    if "pid" in fixed:
        fixed["pid"] = "of a process" if fixed["pid"] else 0
    if "created" in fixed:
        created = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", fixed["created"])
        fixed["created"] = "a time" if created else fixed["created"]
    if isinstance(kept := fixed.get("annotations"), dict):
        kept = {key: value for key, value in kept.items() if not key.startswith("io.vruntime.")}
        fixed["annotations"] = kept
        if not kept:
            del fixed["annotations"]
    fixed.pop("ociVersion", None)
    return fixed


def shaped(caller: Caller) -> dict[str, Any]:
    return shape(caller.runtime.state(caller.id), caller)


def in_state(name: str) -> dict[str, Any]:
    """What `state` says of a container, `ociVersion` apart."""
    return {
        "id": "ID",
        "pid": 0 if name == "stopped" else "of a process",
        "status": name,
        "bundle": "BUNDLE",
        "rootfs": "BUNDLE/rootfs",
        "created": "a time",
        "annotations": {"com.example.key": "value"},
        "owner": "",
    }


def annotated(config: Any) -> None:
    config["annotations"] = {"com.example.key": "value"}


# -- a container's way; each of these goes on where the one before ended --------------------------------------------


def create(caller: Caller) -> Any:
    bundle = caller.bundle(*FOREVER, edit=annotated)
    caller.id = caller.runtime.create(bundle, "--pid-file", str(bundle / "pid"))
    caller.runtime.state(caller.id)
    written = (bundle / "pid").read_text()
    return written == str(caller.runtime.state(caller.id)["pid"])


def again(*arguments: str) -> Callable[[Caller], str]:
    """A command on the container; `ID` and `BUNDLE` stand for it."""

    def do(caller: Caller) -> str:
        bundle = caller.bundle(*FOREVER) if "BUNDLE" in arguments else None
        words = {"ID": caller.id, "BUNDLE": str(bundle)}
        return caller.told(*(words.get(argument, argument) for argument in arguments))

    return do


def listed(caller: Caller) -> Any:
    entries = json.loads(caller.runtime("list", "--format", "json").stdout)
    return [shape(entry, caller) for entry in entries]


def table(caller: Caller) -> list[str]:
    """The table of `list`: its columns, and what does not differ from run to run."""
    head, row = caller.runtime("list").stdout.decode().splitlines()
    fields = caller.plain(row).split()
    return [" ".join(head.split()), " ".join([fields[0], fields[2], fields[3], fields[5]])]


def processes(caller: Caller) -> Any:
    return len(json.loads(caller.runtime("ps", "--format", "json", caller.id).stdout))


def processes_table(caller: Caller) -> Any:
    lines = caller.runtime("ps", caller.id).stdout.decode().splitlines()
    return [lines[0].split()[:2], [" ".join(line.split()[7:]) for line in lines[1:]]]


def kill_and_wait(caller: Caller) -> str:
    told = caller.told("kill", caller.id, "KILL")
    stopped(caller)
    return told


TAKEN = "exit 1: container with given ID already exists"
GONE = "exit 1: container does not exist"

LIFE = Apart(
    "a container's way",
    Call("create-pid-file", True, create),
    Call("state-created", in_state("created"), shaped),
    Call("create-id-taken", TAKEN, again("create", "--bundle", "BUNDLE", "ID")),
    Call("pause-created", "exit 0: ", again("pause", "ID")),
    Call("resume-created", "exit 0: ", again("resume", "ID")),
    Call("resume-unpaused", "exit 1: container not paused", again("resume", "ID")),
    Call("start", "exit 0: ", again("start", "ID")),
    Call("state-running", in_state("running"), shaped),
    Call("start-twice", "exit 1: cannot start an already running container", again("start", "ID")),
    Call("run-id-taken", TAKEN, again("run", "--bundle", "BUNDLE", "ID")),
    Call("delete-running", "exit 1: cannot delete container ID that is not stopped: running", again("delete", "ID")),
    Call("list-json", [in_state("running") | {"owner": "root"}], listed),
    Call("list-quiet", "exit 0: ID", again("list", "--quiet")),
    Call("list-table", ["ID PID STATUS BUNDLE CREATED OWNER", "ID running BUNDLE root"], table),
    Call("list-unknown-format", "exit 1: invalid format option", again("list", "--format", "yaml")),
    Call("ps-json", 1, processes),
    Call("ps-table", [["UID", "PID"], ["sleep 1000"]], processes_table),
    Call("ps-unknown-format", "exit 1: invalid format option", again("ps", "--format", "yaml", "ID")),
    Call("kill-nothing", "exit 0: ", again("kill", "ID", "0")),
    Call("kill-unknown-signal", 'exit 1: unknown signal "FOO"', again("kill", "ID", "FOO")),
    Call("kill-ignored-by-init", "running", lambda caller: [caller.told("kill", caller.id, "TERM"), status(caller)][1]),
    Call("pause", "exit 0: ", again("pause", "ID")),
    Call("state-paused", in_state("paused"), shaped),
    Call("pause-twice", "exit 1: container not running", again("pause", "ID")),
    Call(
        "exec-paused",
        "exit 255: cannot exec in a paused container (use --ignore-paused to override)",
        again("exec", "ID", "true"),
    ),
    Call("start-paused", "exit 1: cannot start a container in the paused state", again("start", "ID")),
    Call("delete-paused", "exit 1: cannot delete container ID that is not stopped: paused", again("delete", "ID")),
    Call("resume", "exit 0: ", again("resume", "ID")),
    Call("state-resumed", in_state("running"), shaped),
    Call("kill", "exit 0: ", kill_and_wait),
    Call("state-stopped", in_state("stopped"), shaped),
    Call("kill-stopped", "exit 1: container not running", again("kill", "ID", "KILL")),
    Call("kill-all-stopped", "exit 0: ", again("kill", "--all", "ID", "KILL")),
    Call("start-stopped", "exit 1: cannot start a container that has stopped", again("start", "ID")),
    Call("exec-stopped", "exit 255: cannot exec in a stopped container", again("exec", "ID", "true")),
    Call("pause-stopped", "exit 1: container not running", again("pause", "ID")),
    Call("update-stopped", "exit 1: container not running", again("update", "--pids-limit", "20", "ID")),
    Call("delete", "exit 0: ", again("delete", "ID")),
    Call("delete-again", GONE, again("delete", "ID")),
    Call("delete-forced-again", "exit 0: ", again("delete", "--force", "ID")),
    Call("list-empty", "exit 0: null", again("list", "--format", "json")),
    Call("list-quiet-empty", "exit 0: ", again("list", "--quiet")),
)


# -- what is not there, and what cannot be --------------------------------------------------------------------------


def told(*arguments: str) -> Callable[[Caller], str]:
    return lambda caller: caller.told(*arguments)


def created(id: str) -> Callable[[Caller], str]:
    """What create says to an id that cannot be one."""

    def do(caller: Caller) -> str:
        said = caller.told("create", "--bundle", str(caller.bundle(*FOREVER)), id)
        if said.startswith("exit 0"):
            caller.runtime("delete", "--force", id)
        return said

    return do


def ran(
    *args: str, edit: Edit = lambda config: None, prepare: Callable[[Path], None] | None = None
) -> Callable[[Caller], str]:
    """What `run` of a program comes to."""

    def do(caller: Caller) -> str:
        bundle = caller.bundle(*args, edit=edit)
        if prepare is not None:
            prepare(bundle)
        return caller.run(bundle)

    return do


def written(name: str, content: str, mode: int) -> Callable[[Path], None]:
    def prepare(bundle: Path) -> None:
        (bundle / "rootfs" / name).write_text(content)
        (bundle / "rootfs" / name).chmod(mode)

    return prepare


def run_in(directory: str) -> Callable[[Caller], str]:
    """`run` of a bundle by another path of it."""
    return lambda caller: caller.told(
        "run", "--bundle", f"{caller.bundle('echo', 'ran')}{directory}", caller.runtime.new_id()
    )


def rooted(path: str, prepare: Callable[[Path], None] = lambda bundle: None) -> Callable[[Caller], str]:
    """`run` with this root.path, in which `BUNDLE` stands for the bundle."""

    def do(caller: Caller) -> str:
        bundle = caller.bundle("echo", "ran")
        prepare(bundle)
        config = json.loads((bundle / "config.json").read_text())
        config["root"]["path"] = path.replace("BUNDLE", str(bundle))
        (bundle / "config.json").write_text(json.dumps(config))
        return caller.run(bundle)

    return do


def only_code(do: Callable[[Caller], str]) -> Callable[[Caller], str]:
    """The exit code alone, where each runtime has its own words."""
    return lambda caller: do(caller).partition(":")[0]


NO_PROGRAM = "exit 1: unable to start container process: exec: "
BAD_ID = "exit 1: invalid container ID format"

WRONG = Apart(
    "wrong input",
    *(
        Call(f"{verb}-unknown-id", GONE, told(verb, UNKNOWN))
        for verb in ("state", "start", "kill", "delete", "ps", "pause", "resume", "update", "events")
    ),
    Call("exec-unknown-id", GONE.replace("exit 1", "exit 255"), told("exec", UNKNOWN, "true")),
    Call("delete-forced-unknown-id", "exit 0: ", told("delete", "--force", UNKNOWN)),
    Call("state-no-id", "exit 1", only_code(told("state"))),
    Call("state-two-ids", "exit 1", only_code(told("state", "a", "b"))),
    Call("create-no-id", "exit 1", only_code(told("create"))),
    Call("unknown-flag", "exit 1", only_code(told("state", "--no-such-flag", "a"))),
    Call("unknown-command", "exit 3", only_code(told("no-such-command"))),
    Call("id-with-slash", BAD_ID, created("a/b")),
    Call("id-climbing", BAD_ID, created("..")),
    Call("id-dot", BAD_ID, created(".")),
    Call("id-with-space", BAD_ID, created("a b")),
    Call("id-with-newline", BAD_ID, created("a\nb")),
    Call("id-empty", "exit 1: container id cannot be empty", created("")),
    Call("state-bad-id", BAD_ID, told("state", "../x")),
    Call("bundle-missing", "exit 1", only_code(told("create", "--bundle", "/no/such/bundle", UNKNOWN))),
    Call("bundle-trailing-slash", "exit 0: ran", run_in("/")),
    Call("bundle-with-dots", "exit 0: ran", run_in("/rootfs/..")),
    Call("root-absolute", "exit 0: ran", rooted("BUNDLE/rootfs")),
    Call("root-with-dot", "exit 0: ran", rooted("./rootfs")),
    Call("root-trailing-slash", "exit 0: ran", rooted("rootfs/")),
    Call("root-winding", "exit 0: ran", rooted("rootfs/../rootfs")),
    Call("root-missing", "exit 1", only_code(rooted("none"))),
    Call("root-a-file", "exit 1", only_code(rooted("config.json"))),
    Call("root-a-link", "exit 1", only_code(rooted("link", lambda bundle: (bundle / "link").symlink_to("rootfs")))),
    Call("root-of-the-host", "exit 1", only_code(rooted("/"))),
    Call("program-missing", f'{NO_PROGRAM}"none": executable file not found in $PATH', ran("none")),
    Call("program-missing-absolute", f'{NO_PROGRAM}"/none": stat /none: no such file or directory', ran("/none")),
    Call("program-not-executable", f'{NO_PROGRAM}"/etc/passwd": permission denied', ran("/etc/passwd")),
    Call("program-a-directory", "exit 1", only_code(ran("/etc"))),
    Call("program-empty", "exit 1", only_code(ran(""))),
    Call("program-garbage", "exit 1", only_code(ran("/garbage", prepare=written("garbage", "\0\1\2", 0o755)))),
    Call("program-orphan-script", "exit 1", only_code(ran("/orphan", prepare=written("orphan", "#!/none\n", 0o755)))),
    Call(
        "program-script",
        "exit 0: a script",
        ran("/script", prepare=written("script", "#!/bin/sh\necho a script\n", 0o755)),
    ),
    Call(
        "program-relative",
        "exit 0: a script",
        ran("./script", prepare=written("script", "#!/bin/sh\necho a script\n", 0o755)),
    ),
    Call("program-by-last-path", "exit 0: found", ran("echo", "found", edit=process(env=["PATH=/none", "PATH=/bin"]))),
    Call(
        "program-without-path",
        f'{NO_PROGRAM}"echo": executable file not found in $PATH',
        ran("echo", edit=process(env=[])),
    ),
    Call("cwd-missing", "exit 0: /made/for/it", ran("pwd", edit=process(cwd="/made/for/it"))),
    Call("cwd-a-file", "exit 1", only_code(ran("pwd", edit=process(cwd="/etc/passwd")))),
    Call(
        "cwd-forbidden",
        "exit 0",
        only_code(
            ran(
                "pwd",
                edit=process(cwd="/root/x", user={"uid": 1000, "gid": 1000}),
                prepare=lambda bundle: (bundle / "rootfs/root").chmod(0o700),
            )
        ),
    ),
    Call("run-exit-code", "exit 42", only_code(ran("sh", "-c", "exit 42"))),
    Call("run-exit-255", "exit 255", only_code(ran("sh", "-c", "exit 255"))),
    Call("run-output", "exit 0: out", ran("sh", "-c", "echo out; echo err >&2")),
    Call("run-init-reaps", "exit 0: done", ran("sh", "-c", "(sleep 0.1 &) ; sleep 0.2; echo done")),
    Call("run-hostname", "exit 0: by.example", ran("hostname", edit=top(hostname="by.example"))),
)


def config_of(text: str) -> Callable[[Caller], str]:
    """What create says to a config.json with this text."""

    def do(caller: Caller) -> str:
        bundle = caller.bundle(*FOREVER)
        (bundle / "config.json").write_text(text)
        return caller.create(bundle)

    return only_code(do)


def without_config(caller: Caller) -> str:
    bundle = caller.bundle(*FOREVER)
    (bundle / "config.json").unlink()
    return caller.create(bundle)


MALFORMED = Apart(
    "malformed",
    Call("config-missing", "exit 1: JSON specification file config.json not found", without_config),
    Call("config-empty", "exit 1", config_of("")),
    Call("config-no-object", "exit 1", config_of("[]")),
    Call("config-null", "exit 1", config_of("null")),
    Call("config-cut-off", "exit 1", config_of('{"ociVersion": "1.0.2", "process": {')),
    Call("config-not-json", "exit 1", config_of("ociVersion = 1")),
    Call("config-without-all", "exit 1", config_of("{}")),
    Call("config-wrong-types", "exit 1", config_of('{"ociVersion": "1.0.2", "process": "sh", "root": []}')),
)


def specified(caller: Caller) -> Any:
    """What `spec` writes, and that it does not do so twice."""
    directory = caller.directory / "spec"
    directory.mkdir()
    caller.runtime("spec", "--bundle", str(directory))
    config = json.loads((directory / "config.json").read_text())
    second = caller.told("spec", "--bundle", str(directory))
    return [
        config["process"]["args"],
        config["root"],
        len(config["mounts"]),
        oct(os.stat(directory / "config.json").st_mode & 0o777),
        second.partition(":")[0],
    ]


def featured(key: str, *names: str) -> Callable[[Caller], Any]:
    """Which of these `features` lists under a key."""

    def do(caller: Caller) -> Any:
        said = caller.told("features")
        if not said.startswith("exit 0"):
            return said
        return sorted(set(names) & set(json.loads(said.removeprefix("exit 0: "))[key]))

    return do


OTHERS = Apart(
    "others",
    Call("spec", [["sh"], {"path": "rootfs", "readonly": True}, 7, "0o644", "exit 1"], specified),
    Call("features-hooks", ["createContainer", "createRuntime"], featured("hooks", "createRuntime", "createContainer")),
    Call(
        "features-mount-options", ["rbind", "rro", "tmpcopyup"], featured("mountOptions", "rro", "rbind", "tmpcopyup")
    ),
    Call("features-no-such", [], featured("mountOptions", "none-such")),
    Call("checkpoint-unknown-id", "exit 1", only_code(told("checkpoint", UNKNOWN))),
)

GROUPS = (LIFE, WRONG, MALFORMED, OTHERS)


def test_commands(seen: Any, expected: Any) -> None:
    assert seen == expected
