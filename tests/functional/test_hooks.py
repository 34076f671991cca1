"""Hooks of every kind, next to runc: when they run, what they are told, where they are, and how they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from messages import message
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimes import Bundles, Runtime

HOSTS = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
BEFORE_CREATE = ("prestart", "createRuntime", "createContainer")
IN_THE_CONTAINER = "startContainer"
PREFIX = "unable to start container process: error during container init: "
FAILS = "echo out; echo err >&2; exit 3"
FAILED = "error running hook #0: error running hook: exit status 3, stdout: out\n, stderr: err\n"

Hook = dict[str, Any]


def shell(script: str, **more: Any) -> Hook:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def adding(**hooks: list[Hook]) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.update(hooks=hooks, annotations={"of": "ours"})


def said(result: subprocess.CompletedProcess[bytes], verb: str = "run") -> str:
    """The error, with the line ends of a hook's output as they are: ours are escaped, for it to be one line."""
    return message(result).removeprefix(f"{verb} failed: ").replace("\\n", "\n")


def processes_of(marker: str) -> list[int]:
    """The processes that have this argument."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if marker in entry.read_text().split("\0"):
                found.append(int(entry.parent.name))
    return found


# -- when, and what they are told ---------------------------------------------------------------------------------


def test_each_kind_at_its_time_with_the_state(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    log = tmp_path / "log"
    hooks = {
        kind: [shell(f"echo {kind} $(pwd -P) $(cat) >> {log}"), shell(f"echo second {kind} >> {log}")] for kind in HOSTS
    }
    hooks[IN_THE_CONTAINER] = [shell("echo $(pwd) $(cat) > /log")]
    bundle = bundles.busybox("sh", "-c", "cat /log", edit=adding(**hooks))
    container = any_runtime.new_id()
    result = any_runtime("run", "--bundle", str(bundle), container, cwd="/")

    lines = log.read_text().splitlines()
    assert lines[1::2] == [f"second {kind}" for kind in HOSTS]
    seen = {kind: (directory, json.loads(state)) for kind, directory, state in (x.split(" ", 2) for x in lines[::2])}
    assert list(seen) == list(HOSTS)
    directories = {kind: directory for kind, (directory, _) in seen.items()}
    assert directories == dict.fromkeys(HOSTS, str(bundle)) | {"createContainer": f"{bundle}/rootfs"}
    states = {kind: state for kind, (_, state) in seen.items()}
    for state in states.values():
        assert state["id"] == container
        assert state["bundle"] == str(bundle)
        assert state["annotations"] == {"of": "ours"}
    statuses = {kind: state["status"] for kind, state in states.items()}
    assert statuses.pop("poststart") == ("created" if any_runtime.program.endswith("runc") else "running")
    assert statuses == dict.fromkeys(BEFORE_CREATE, "creating") | {"poststop": "stopped"}
    assert "pid" not in states["poststop"]
    assert states["prestart"]["pid"] == states["createRuntime"]["pid"] == states["poststart"]["pid"] > 1

    directory, state = result.stdout.decode().split(" ", 1)
    in_the_container = json.loads(state)
    assert (directory, in_the_container["pid"], in_the_container["status"]) == ("/", 1, "created")
    assert in_the_container["id"] == container


def test_poststart_and_poststop_come_with_their_verbs(vruntime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    log = tmp_path / "log"
    hooks = {kind: [shell(f"echo {kind} >> {log}")] for kind in HOSTS}
    container = vruntime.create(bundles.busybox("sleep", "1000", edit=adding(**hooks)))
    assert log.read_text().split() == list(BEFORE_CREATE)
    assert vruntime.state(container)["status"] == "created"
    vruntime("start", container)
    assert log.read_text().split()[3:] == ["poststart"]
    vruntime("delete", "--force", container)
    assert log.read_text().split()[4:] == ["poststop"]


def test_the_environment_is_the_hooks_own_or_its_runners(
    any_runtime: Runtime, bundles: Bundles, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    script = f"echo $OWN-$CALLERS-$CONTAINERS >> {log}"

    def edit(config: dict[str, Any]) -> None:
        config["hooks"] = {
            kind: [shell(script, env=["OWN=1", "OWN=2"]), shell(script)] for kind in ("prestart", "createContainer")
        }
        config["process"]["env"].append("CONTAINERS=3")

    environment = {**os.environ, "CALLERS": "4"}
    any_runtime("run", "--bundle", str(bundles.busybox("true", edit=edit)), any_runtime.new_id(), env=environment)
    assert log.read_text().split() == ["2--", "-4-", "2--", "--3"]


def test_those_of_the_config_as_it_was_at_create(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    bundle = bundles.busybox("true", edit=adding(poststop=[shell(f"touch {tmp_path}/ran")]))
    container = any_runtime.create(bundle)
    config = json.loads((bundle / "config.json").read_text())
    config["hooks"]["poststop"] = [shell(f"touch {tmp_path}/edited")]
    (bundle / "config.json").write_text(json.dumps(config))
    any_runtime("delete", "--force", container)
    assert (tmp_path / "ran").exists()
    assert not (tmp_path / "edited").exists()


def test_one_that_edits_the_config_changes_nothing(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox(
        "echo", "as written", edit=adding(prestart=[shell("sed -i s/written/edited/ config.json")])
    )
    assert any_runtime("run", "--bundle", str(bundle), any_runtime.new_id()).stdout == b"as written\n"
    assert "edited" in (bundle / "config.json").read_text()


# -- where ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["createContainer", "createRuntime"])
def test_what_a_hook_mounts_is_in_the_container_alone(
    any_runtime: Runtime, bundles: Bundles, tmp_path: Path, kind: str
) -> None:
    """createContainer hooks are among its mounts; the others reach them by the pid that they are told."""
    mount = "mount -t tmpfs none $0/mnt && mkdir $0/mnt/sub && echo mounted > $0/mnt/sub/file"
    script = f"cd / && exec sh -c '{mount}' $root"
    if kind == "createRuntime":
        script = f"pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/') && exec nsenter -t $pid -m sh -c '{mount}' $root"
    bundle = bundles.busybox("cat", "/mnt/sub/file")
    (bundle / "rootfs/mnt").mkdir()
    config = json.loads((bundle / "config.json").read_text())
    config["hooks"] = {kind: [shell(script.replace("$root", f"{bundle}/rootfs"))]}
    (bundle / "config.json").write_text(json.dumps(config))
    assert any_runtime("run", "--bundle", str(bundle), any_runtime.new_id()).stdout == b"mounted\n"
    assert list((bundle / "rootfs/mnt").iterdir()) == []


def test_the_pid_has_a_network_of_its_own(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    """So that a hook that sets up the network of this pid does not set up the host's."""
    script = f"readlink /proc/$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/')/ns/net > {tmp_path}/network"
    bundle = bundles.busybox("true", edit=adding(prestart=[shell(script)]))
    any_runtime("run", "--bundle", str(bundle), any_runtime.new_id())
    network = (tmp_path / "network").read_text().strip()
    assert network.startswith("net:[")
    assert network != os.readlink("/proc/self/ns/net")


def test_a_hook_has_its_own_streams_and_no_other_descriptor(
    vruntime: Runtime, bundles: Bundles, tmp_path: Path
) -> None:
    script = f"ls /proc/self/fd > {tmp_path}/fds"
    vruntime("run", "--bundle", str(bundles.busybox("true", edit=adding(prestart=[shell(script)]))), vruntime.new_id())
    assert (tmp_path / "fds").read_text().split() == ["0", "1", "2", "3"]  # 3 is that of the listing


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.parametrize("kind", BEFORE_CREATE)
def test_one_that_fails_before_the_container_is_made(
    any_runtime: Runtime, bundles: Bundles, tmp_path: Path, kind: str, verb: str
) -> None:
    hooks = {kind: [shell(FAILS), shell(f"touch {tmp_path}/next")]}
    bundle = bundles.busybox("true", edit=adding(**hooks, poststop=[shell(f"cat > {tmp_path}/stopped")]))
    container = any_runtime.new_id()
    result = any_runtime(verb, "--bundle", str(bundle), container, check=False)
    assert result.returncode == 1
    assert said(result, verb) == PREFIX + FAILED
    assert not (tmp_path / "next").exists()
    assert json.loads((tmp_path / "stopped").read_text())["status"] == "stopped"
    assert b"does not exist" in any_runtime("state", container, check=False).stderr


@pytest.mark.parametrize(
    ("hook", "error"),
    [
        ({"path": "/nonexistent"}, "fork/exec /nonexistent: no such file or directory"),
        ({"path": "/etc/passwd"}, "fork/exec /etc/passwd: permission denied"),
        (shell("kill -9 $$"), "error running hook: signal: killed, stdout: , stderr: "),
        ({"path": "/bin/sleep", "args": ["sleep", "9"], "timeout": 1}, "hook ran past specified timeout of 1.0s"),
    ],
)
def test_how_a_failure_reads(any_runtime: Runtime, bundles: Bundles, hook: Hook, error: str) -> None:
    bundle = bundles.busybox("true", edit=adding(createRuntime=[hook]))
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
    assert said(result) == f"{PREFIX}error running hook #0: {error}"


def test_one_that_fails_in_the_container(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("echo", "ran", edit=adding(startContainer=[shell(FAILS)]))
    container = vruntime.create(bundle)
    result = vruntime("start", container, check=False)
    assert result.returncode == 1
    assert message(result).replace("\\n", "\n") == f"unable to start container process: {FAILED}"
    eventually(lambda: vruntime.state(container)["status"] == "stopped")
    vruntime("delete", container)
    assert (bundle / "create.log").read_text() == ""


def test_run_with_one_that_fails_in_the_container(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    hooks = {"startContainer": [shell(FAILS)], "poststop": [shell(f"touch {tmp_path}/stopped")]}
    bundle = bundles.busybox("echo", "ran", edit=adding(**hooks))
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"error running hook #0: error running hook: exit status 3, stdout: out" in result.stderr
    assert (tmp_path / "stopped").exists()


def test_one_that_fails_after_the_start(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    hooks = {"poststart": [shell(FAILS)], "poststop": [shell(f"touch {tmp_path}/stopped")]}
    bundle = bundles.busybox("sleep", "1000", edit=adding(**hooks))
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
    assert said(result) == FAILED
    assert (tmp_path / "stopped").exists()


def test_start_with_one_that_fails_after_it(vruntime: Runtime, bundles: Bundles) -> None:
    container = vruntime.create(bundles.busybox("sleep", "1000", edit=adding(poststart=[shell(FAILS)])))
    assert message(vruntime("start", container, check=False)).replace("\\n", "\n") == FAILED
    eventually(lambda: vruntime.state(container)["status"] == "stopped")


def test_one_that_fails_at_the_end_is_a_warning(vruntime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    hooks = [shell(FAILS), {"path": "/nonexistent"}, shell(f"touch {tmp_path}/last")]
    bundle = bundles.busybox("true", edit=adding(poststop=hooks))
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id())
    lines = result.stderr.decode().splitlines()
    assert ["level=warning" in line for line in lines] == [True, True]
    assert "error running hook #0: error running hook: exit status 3" in lines[0]
    assert "error running hook #1: fork/exec /nonexistent" in lines[1]
    assert (tmp_path / "last").exists()


@pytest.mark.parametrize("damage", ["", "{", None])
def test_a_kept_config_that_is_damaged(vruntime: Runtime, bundles: Bundles, damage: str | None) -> None:
    container = vruntime.create(bundles.busybox("true", edit=adding(poststop=[shell("true")])))
    kept = vruntime.root / "containers" / container / "config.json"
    kept.unlink()
    if damage is not None:
        kept.write_text(damage)
    assert "config.json is damaged" in message(vruntime("start", container, check=False))
    result = vruntime("delete", "--force", container)
    assert b"level=warning" in result.stderr
    assert b"the poststop hooks do not run" in result.stderr


# -- hooks that do harm or hang -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*BEFORE_CREATE, "poststart"])
def test_one_that_hangs_is_killed_with_its_session(vruntime: Runtime, bundles: Bundles, kind: str) -> None:
    hook = shell("trap '' TERM HUP INT; sleep 7654321 & sleep 7654321", timeout=1)
    bundle = bundles.busybox("sleep", "1000", edit=adding(**{kind: [hook]}))
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert said(result).endswith("error running hook #0: hook ran past specified timeout of 1.0s")
    eventually(lambda: processes_of("7654321") == [])


def test_one_that_hangs_in_the_container(vruntime: Runtime, bundles: Bundles) -> None:
    hook = shell("trap '' TERM HUP INT; sleep 1000 & sleep 1000", timeout=1)
    bundle = bundles.busybox("true", edit=adding(startContainer=[hook]))
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert said(result).endswith("error running hook #0: hook ran past specified timeout of 1.0s")


def test_one_without_a_limit_that_hangs_in_the_container_can_be_killed(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("true", edit=adding(startContainer=[shell("touch /hangs; sleep 1000")]))
    container = vruntime.create(bundle)
    with subprocess.Popen(vruntime.command("start", container), stderr=subprocess.PIPE) as start:
        eventually((bundle / "rootfs/hangs").exists)
        vruntime("kill", container, "KILL")
        assert start.wait(15) == 1
    eventually(lambda: vruntime.state(container)["status"] == "stopped")


def test_a_command_that_is_interrupted_takes_its_hook_along(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("true", edit=adding(createRuntime=[shell("sleep 7654322 & sleep 7654322")]))
    container = vruntime.new_id()
    command = vruntime.command("create", "--bundle", str(bundle), container)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as create:
        eventually(lambda: len(processes_of("7654322")) == 2)
        assert vruntime.state(container)["status"] == "creating"
        create.send_signal(signal.SIGINT)
        assert create.wait(15) == 130
    eventually(lambda: processes_of("7654322") == [])


def test_one_that_leaves_a_daemon_with_its_streams_has_ended(vruntime: Runtime, bundles: Bundles) -> None:
    hooks = {kind: [shell("setsid sleep 7654323 & exit 0")] for kind in HOSTS}
    bundle = bundles.busybox("echo", "ran", edit=adding(**hooks))
    try:
        assert vruntime("run", "--bundle", str(bundle), vruntime.new_id()).stdout == b"ran\n"
        eventually(lambda: len(processes_of("7654323")) == len(HOSTS))
    finally:
        for pid in processes_of("7654323"):
            os.kill(pid, signal.SIGKILL)


def test_endless_output_is_not_kept(vruntime: Runtime, bundles: Bundles) -> None:
    script = "head -c 1000000000 /dev/zero; head -c 1000000 /dev/zero >&2; echo the end >&2; exit 1"
    bundle = bundles.busybox("true", edit=adding(prestart=[shell(script)]))
    result = vruntime("create", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert said(result, "create").endswith("the end\n")
    assert len(result.stderr) < 64 << 10


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ({"path": "relative"}, 'hooks.prestart[0].path: "relative" is not an absolute path'),
        ({}, "hooks.prestart[0].path: is required"),
        (shell("true", timeout=0), "hooks.prestart[0].timeout: 0 is less than 1"),
        (shell("true", env=["NOVALUE"]), 'hooks.prestart[0].env[0]: "NOVALUE" does not have the form NAME=VALUE'),
        (shell("true\0"), "hooks.prestart[0].args[2]: contains a NUL"),
        ({"path": "/x", "args": ["x" * (200 << 10)]}, "hooks.prestart[0].args[0]: has 204800 bytes"),
    ],
)
def test_what_is_no_hook(vruntime: Runtime, bundles: Bundles, hook: Hook, said: str) -> None:
    bundle = bundles.busybox("true", edit=adding(prestart=[hook]))
    result = vruntime("create", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert said in message(result)
    assert not vruntime.root.exists()
