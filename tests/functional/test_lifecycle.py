"""The way of a container from create to delete, as engines take it; what OCI or runc define runs on runc too."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from messages import message
from waiting import becomes, eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Runtime

FOREVER = ("sleep", "1000")
UNKNOWN = "no-such-container"

# Adopts what its children leave, as conmon and containerd's shim do: creates, starts, and waits for the pid of the
# pid file. Its arguments: the pid file, then the command lines to carry out, each after a "--".
SUBREAPER = """
import ctypes, itertools, os, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
pid_file, *rest = sys.argv[1:]
for is_mark, command in itertools.groupby(rest, lambda word: word == "--"):
    if not is_mark:
        subprocess.run(list(command), check=True, stdin=subprocess.DEVNULL)
pid = int(open(pid_file).read())
print(pid, flush=True)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(code if code >= 0 else 128 - code)
"""


def lives(pid: int | str) -> bool:
    """Whether a process still runs: a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def stopped(runtime: Runtime, container_id: str) -> bool:
    return runtime.state(container_id)["status"] == "stopped"


def test_from_create_to_delete(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    bundle = bundles.busybox(*FOREVER, edit=lambda config: config.update(annotations={"com.example.key": "value"}))
    container_id = any_runtime.create(bundle, "--pid-file", str(tmp_path / "pid"))

    created = any_runtime.state(container_id)
    assert created["status"] == "created"
    assert lives(created["pid"])
    assert (tmp_path / "pid").read_text() == str(created["pid"])
    assert created["id"] == container_id
    assert created["bundle"] == str(bundle)
    assert created["annotations"]["com.example.key"] == "value"

    any_runtime("start", container_id)
    running = any_runtime.state(container_id)
    assert running == {**created, "status": "running"}

    any_runtime("kill", container_id, "KILL")
    eventually(lambda: stopped(any_runtime, container_id))
    assert any_runtime.state(container_id) == {**created, "status": "stopped", "pid": 0}
    any_runtime("delete", container_id)
    assert any_runtime("list", "-q").stdout == b""


def test_state_and_list_have_the_form_of_runc(vruntime: Runtime, runc: Runtime, bundles: Bundles) -> None:
    """Byte for byte, but for what must differ: pid, time, version, and the mark of an emulated guest."""
    bundle = bundles.busybox(*FOREVER, edit=lambda config: config.update(annotations={"z": "1", "a": 'ü"\n'}))
    assert _shown(vruntime, bundle) == _shown(runc, bundle)


def _shown(runtime: Runtime, bundle: Path) -> list[str]:
    container_id = runtime.start(bundle)
    pid = str(runtime.state(container_id)["pid"])
    outputs = [
        runtime(*arguments).stdout.decode()
        for arguments in (["state", container_id], ["list"], ["list", "-f", "json"], ["list", "-q"])
    ]
    runtime("delete", "--force", container_id)
    empty = [runtime("list", *flags).stdout.decode() for flags in ([], ["-f", "json"], ["-q"])]
    return [_without_what_differs(output, container_id, pid) for output in outputs] + empty


def _without_what_differs(output: str, container_id: str, pid: int | str) -> str:
    output = output.replace(container_id, "ID")
    output = re.sub(rf"\b{pid}\b *", "PID", output)
    output = re.sub(r'"ociVersion":( ?)"[^"]+"', r'"ociVersion":\1"VERSION"', output)
    output = re.sub(r'(,\s*)"io\.vruntime\.insecure": ?"[^"]*"', "", output)
    return _with_times_of_one_width(output)


def _with_times_of_one_width(output: str) -> str:
    """Every creation time as one of nine decimals, of which runc leaves out the zeros at the end, and the table's
    column widened with it."""
    for time in re.findall(r"\d{4}-\d\d-\d\dT[\d:.]+Z", output):
        full = "TIME".ljust(len("2006-01-02T15:04:05.999999999Z"))
        output = output.replace("CREATED ", "CREATED " + " " * (len(full) - len(time))).replace(time, full)
    return output


def test_ps(any_runtime: Runtime, bundles: Bundles) -> None:
    container_id = any_runtime.create(bundles.busybox("sh", "-c", "sleep 1000 & wait"))
    assert len(any_runtime("ps", container_id).stdout.splitlines()) == 2
    any_runtime("start", container_id)
    eventually(lambda: len(any_runtime("ps", container_id).stdout.splitlines()) == 3)

    heading, *rows = any_runtime("ps", container_id).stdout.decode().splitlines()
    assert heading.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert [row.split(maxsplit=7)[7] for row in rows] == ["sh -c sleep 1000 & wait", "sleep 1000"]
    pids = [int(row.split()[1]) for row in rows]
    assert int(rows[1].split()[2]) == pids[0]

    heading, *rows = any_runtime("ps", container_id, "-o", "pid,comm").stdout.decode().splitlines()
    assert heading.split() == ["PID", "COMMAND"]
    assert [row.split() for row in rows] == [[str(pids[0]), "sh"], [str(pids[1]), "sleep"]]

    any_runtime("kill", container_id, "KILL")
    eventually(lambda: stopped(any_runtime, container_id))
    assert len(any_runtime("ps", container_id).stdout.splitlines()) == 1


def test_pids_on_the_host(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    """Engines ask for them, and show their users what the host's ps says of each."""
    container_id = any_runtime.start(bundles.busybox("sleep", "1000"))
    process = ["sh", "-c", "kill -STOP $$", "x" * 5000]
    arguments = ["exec", "--detach", "--pid-file", str(tmp_path / "pid"), container_id, *process]
    subprocess.run(any_runtime.command(*arguments), stdin=subprocess.DEVNULL, check=True, timeout=15)
    pids = [any_runtime.state(container_id)["pid"], int((tmp_path / "pid").read_text())]

    def told() -> Any:
        return json.loads(any_runtime("ps", "--format", "json", container_id).stdout)

    def shown(pid: int) -> str:
        ps = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=True)
        return ps.stdout.strip()

    assert told() == pids
    becomes(lambda: shown(pids[0]), "sleep 1000")
    eventually(lambda: shown(pids[1]).startswith("sh -c kill -STOP $$ xxxx"))
    os.kill(pids[1], signal.SIGKILL)
    becomes(told, pids[:1])
    any_runtime("kill", container_id, "KILL")
    eventually(lambda: stopped(any_runtime, container_id))
    assert told() is None


def test_transitions_that_are_not_allowed(any_runtime: Runtime, bundles: Bundles) -> None:
    def refused(*arguments: str) -> str:
        return message(any_runtime(*arguments, check=False))

    bundle = bundles.busybox(*FOREVER)
    container_id = any_runtime.create(bundle)
    created = any_runtime.state(container_id)
    taken = "create failed: container with given ID already exists"
    assert refused("create", "--bundle", str(bundle), container_id) == taken
    assert any_runtime.state(container_id) == created

    any_runtime("start", container_id)
    running = any_runtime.state(container_id)
    assert refused("start", container_id) == "cannot start an already running container"
    not_stopped = f"cannot delete container {container_id} that is not stopped: running"
    assert refused("delete", container_id) == not_stopped
    assert refused("run", "--bundle", str(bundle), container_id) == taken.replace("create", "run")
    assert any_runtime.state(container_id) == running
    assert any_runtime("exec", container_id, "true").returncode == 0

    any_runtime("kill", container_id, "KILL")
    eventually(lambda: stopped(any_runtime, container_id))
    assert refused("kill", container_id) == "container not running"
    assert refused("start", container_id) == "cannot start a container that has stopped"
    exec_refused = any_runtime("exec", container_id, "true", check=False)
    assert message(exec_refused) == "exec failed: cannot exec in a stopped container"
    assert exec_refused.returncode == 255
    any_runtime("kill", "--all", container_id, "KILL")
    assert refused("create", "--bundle", str(bundle), container_id) == taken


@pytest.mark.parametrize("verb", ["state", "start", "kill", "ps", "delete", "exec"])
def test_a_container_that_is_not_there(any_runtime: Runtime, verb: str) -> None:
    arguments = [verb, UNKNOWN, "true"] if verb == "exec" else [verb, UNKNOWN]
    result = any_runtime(*arguments, check=False)
    assert message(result).removeprefix("exec failed: ") == "container does not exist"
    assert result.returncode == (255 if verb == "exec" else 1)


def test_forced_delete_can_be_repeated(any_runtime: Runtime, bundles: Bundles) -> None:
    container_id = any_runtime.start(bundles.busybox(*FOREVER))
    pid = any_runtime.state(container_id)["pid"]
    any_runtime("delete", "--force", container_id)
    assert not lives(pid)
    any_runtime("delete", "--force", container_id)
    any_runtime("delete", "--force", container_id)


def test_delete_of_a_created_container(any_runtime: Runtime, bundles: Bundles) -> None:
    container_id = any_runtime.create(bundles.busybox(*FOREVER))
    any_runtime("delete", container_id)
    assert message(any_runtime("state", container_id, check=False)) == "container does not exist"


def test_an_id_can_be_used_again(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("sh", "-c", "exit 4")
    container_id = any_runtime.new_id()
    for _ in range(2):
        assert any_runtime("run", "--bundle", str(bundle), container_id, check=False).returncode == 4


def test_run_in_the_foreground(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    bundle = bundles.busybox("sh", "-c", "echo out; echo err >&2; exit 3")
    pid_file, container_id = tmp_path / "pid", any_runtime.new_id()
    result = any_runtime("run", "--bundle", str(bundle), "--pid-file", str(pid_file), container_id, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert not lives(pid_file.read_text())
    assert any_runtime("list", "-q").stdout == b""


def test_the_bundle_is_the_current_directory_by_default(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("echo", "here")
    assert any_runtime("run", any_runtime.new_id(), cwd=bundle).stdout == b"here\n"


def test_run_detached_and_killed(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    container_id = any_runtime.new_id()
    arguments = ["run", "--detach", "--bundle", str(bundles.busybox(*FOREVER)), container_id]
    with open(tmp_path / "log", "wb") as log:
        subprocess.run(any_runtime.command(*arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
    assert any_runtime.state(container_id)["status"] == "running"
    any_runtime("kill", container_id, "9")
    eventually(lambda: stopped(any_runtime, container_id))


def test_signals_by_name_and_number(any_runtime: Runtime, bundles: Bundles) -> None:
    script = "trap 'echo got >> /got' USR1; trap 'exit 15' TERM; touch /got; while :; do sleep 0.05; done"
    bundle = bundles.busybox("sh", "-c", script)
    got = bundle / "rootfs/got"
    process = subprocess.Popen(
        any_runtime.command("run", "--bundle", str(bundle), container_id := any_runtime.new_id()),
        stdin=subprocess.DEVNULL,
    )
    eventually(got.exists)
    for count, name in enumerate(["USR1", "SIGUSR1", "usr1", "10"], start=1):
        any_runtime("kill", container_id, name)
        eventually(lambda count=count: got.read_text() == "got\n" * count)
    any_runtime("kill", container_id, "0")
    assert message(any_runtime("kill", container_id, "FOO", check=False)) == 'unknown signal "FOO"'
    for number in ("65", "100000", "99999999999"):
        assert any_runtime("kill", container_id, number, check=False).returncode == 1
    assert process.poll() is None
    any_runtime("kill", container_id)
    assert process.wait(timeout=15) == 15


def test_kill_all_reaches_children(any_runtime: Runtime, bundles: Bundles) -> None:
    """A signal to init alone leaves its children; --all does not."""
    script = (
        "trap : USR1; (trap 'echo child >> /got' USR1; while :; do sleep 0.05; done) & touch /got; wait; wait; wait"
    )
    bundle = bundles.busybox("sh", "-c", script)
    container_id = any_runtime.start(bundle)
    got = bundle / "rootfs/got"
    eventually(got.exists)
    any_runtime("kill", container_id, "USR1")
    assert any_runtime("exec", container_id, "sleep", "0.3").returncode == 0
    assert got.read_text() == ""
    any_runtime("kill", "--all", container_id, "USR1")
    eventually(lambda: got.read_text() == "child\n")


@pytest.mark.parametrize(
    ("script", "kill_with", "expected"),
    [
        ("exit 42", None, 42),
        ("trap 'exit 5' TERM; touch /ready; while :; do sleep 0.05; done", signal.SIGTERM, 5),
        ("touch /ready; sleep 1000", signal.SIGKILL, 137),
    ],
    ids=["exits", "catches a signal", "is killed"],
)
def test_the_pid_stands_for_the_process(
    any_runtime: Runtime, bundles: Bundles, tmp_path: Path, script: str, kill_with: signal.Signals | None, expected: int
) -> None:
    """An engine is a subreaper: it inherits the pid of the pid file, signals it, and waits for it."""
    bundle = bundles.busybox("sh", "-c", script)
    container_id, pid_file = any_runtime.new_id(), tmp_path / "pid"
    create = any_runtime.command("create", "--bundle", str(bundle), "--pid-file", str(pid_file), container_id)
    start = any_runtime.command("start", container_id)
    arguments = [sys.executable, "-c", SUBREAPER, str(pid_file), *create, "--", *start]
    with (
        open(tmp_path / "errors", "w+") as errors,
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors) as engine,
    ):
        first = engine.stdout.readline()
        assert first, (tmp_path / "errors").read_text()
        pid = int(first)
        if kill_with is not None:
            eventually((bundle / "rootfs/ready").exists)
            assert any_runtime.state(container_id)["pid"] == pid
            os.kill(pid, kill_with)
        assert int(engine.stdout.read()) == expected
    assert stopped(any_runtime, container_id)


def test_the_log_file(any_runtime: Runtime, tmp_path: Path) -> None:
    for form in ("json", "text"):
        log = tmp_path / f"log.{form}"
        any_runtime.flags = ("--log", str(log), "--log-format", form)
        for _ in range(2):
            result = any_runtime("state", UNKNOWN, check=False)
            assert result.returncode == 1
            assert b"container does not exist" in result.stderr
        any_runtime.flags = ()
        lines = log.read_text().splitlines()
        assert len(lines) == 2, "a log is added to"
        if form == "json":
            entry = json.loads(lines[0])
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry.pop("time"))
            assert entry == {"level": "error", "msg": "container does not exist"}
        else:
            assert re.fullmatch(r'time="[^"]+" level=error msg="container does not exist"', lines[0])


@pytest.mark.parametrize(
    "arguments", [["state"], ["state", "a", "b"], ["create", "--no-such-flag", "x"], ["list", "-f", "x"]]
)
def test_wrong_usage_fails(any_runtime: Runtime, arguments: list[str]) -> None:
    result = any_runtime(*arguments, check=False)
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr


def test_the_monitor_has_nothing_to_say_of_a_life_without_mishap(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = vruntime.new_id()
    vruntime("run", "--keep", "--bundle", str(bundles.busybox("true")), container_id)
    record = json.loads((vruntime.root / "containers" / container_id / "state.json").read_text())
    eventually(lambda: not lives(record["monitor"]["pid"]))
    assert (vruntime.root / "sandboxes" / container_id / "monitor.log").read_text() == ""
