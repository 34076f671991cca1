"""Faults: what is killed, stopped, filled, damaged or goes wild, and what its users then see."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Runtime

DEADLINE = 30.0
SEEN_WITHIN = 2.0  # a death shows in `state` within this, in seconds
KILLED = 137
PR_SET_CHILD_SUBREAPER = 36

HELPERS = ("qemu", "virtiofsd", "virtiofsd's server", "monitor", "shim")


# -- looking at the host ---------------------------------------------------------------------------------------------


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def command_line(pid: int) -> list[str]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


def comm(pid: int) -> str:
    """What the kernel calls it; empty when it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def monitor_of(container_id: str) -> int | None:
    for entry in Path("/proc").glob("[0-9]*"):
        arguments = command_line(int(entry.name))
        if "vruntime.monitor" in arguments and container_id in arguments:
            return int(entry.name)
    return None


def helper(container_id: str, name: str, *, shim: int | None = None) -> int | None:
    """The pid of a process of a container's sandbox; None while there is none."""
    monitor = monitor_of(container_id)
    if name == "monitor" or monitor is None:
        return monitor
    if name == "shim":
        return shim
    program = name.partition("'")[0]
    mine = [pid for pid in children(monitor) if program in os.path.basename(command_line(pid)[0])]
    if mine and name == "virtiofsd's server":
        mine = children(mine[0])
    return mine[0] if mine else None


@pytest.fixture
def subreaper() -> Iterator[None]:
    """As an engine's shim, this process gets the orphans, and with them the exit code of a container's process."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def exit_code_of(pid: int) -> int:
    """The exit code of a process that we reap, as a shell gives it."""
    fd = os.pidfd_open(pid)
    try:
        eventually(lambda: os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | os.WNOWAIT), SEEN_WITHIN)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(fd)
    return code if code >= 0 else 128 - code


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the background, killed when the test leaves it running."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def assert_stopped(runtime: Runtime, container_id: str) -> None:
    """`state` says so in time."""
    eventually(lambda: runtime.state(container_id)["status"] == "stopped", SEEN_WITHIN)
    assert runtime.state(container_id)["pid"] == 0


def assert_nothing_is_kept(runtime: Runtime) -> None:
    assert json.loads(runtime("list", "--format", "json").stdout) is None


# -- kill -9 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", HELPERS)
@pytest.mark.parametrize("phase", ["created", "running", "exec"])
def test_a_helper_is_killed(vruntime: Runtime, bundles: Bundles, subreaper: None, phase: str, victim: str) -> None:
    container_id = vruntime.create(bundles.busybox("sleep", "1000"))
    shim = vruntime.state(container_id)["pid"]
    if phase != "created":
        vruntime("start", container_id)
    script = ["sh", "-c", "echo begun; exec sleep 1000"] if phase == "exec" else ["true"]
    command = vruntime.command("exec", container_id, *script) if phase == "exec" else ["true"]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as added:
        assert added.stdout is not None
        if phase == "exec":
            assert added.stdout.readline() == b"begun\n"
        pid = helper(container_id, victim, shim=shim)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert_stopped(vruntime, container_id)
        assert exit_code_of(shim) == KILLED
        if phase == "exec":
            assert added.wait(SEEN_WITHIN) == KILLED
    for verb in ("start", "exec", "kill"):
        refused = vruntime(verb, container_id, *(["true"] if verb == "exec" else []), check=False)
        assert refused.returncode != 0
        assert len(refused.stderr.splitlines()) == 1
    vruntime("delete", "--force", container_id)
    assert_nothing_is_kept(vruntime)


@pytest.mark.parametrize("victim", ["qemu", "virtiofsd", "virtiofsd's server", "monitor", "shim"])
def test_a_helper_is_killed_while_its_container_is_made(vruntime: Runtime, bundles: Bundles, victim: str) -> None:
    container_id = vruntime.new_id()
    command = vruntime.command("run", "--bundle", str(bundles.busybox("true")), container_id)
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        eventually(lambda: helper(container_id, "virtiofsd's server"), DEADLINE)
        (shim,) = eventually(lambda: [pid for pid in children(process.pid) if comm(pid) == "vruntime-shim"])
        pid = eventually(lambda: helper(container_id, victim, shim=shim))
        os.kill(pid, signal.SIGKILL)
        output, error = process.communicate(timeout=10)
    assert (process.returncode, output) == (1, b"")
    assert len(error.splitlines()) == 1
    assert b"vruntime run failed: " in error
    assert victim.partition("'")[0].encode() in error
    assert_nothing_is_kept(vruntime)


def test_the_command_is_killed_while_its_container_is_made(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = vruntime.new_id()
    command = vruntime.command("create", "--bundle", str(bundles.busybox("true")), container_id)
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
        eventually(lambda: helper(container_id, "qemu"), DEADLINE)
    assert_stopped(vruntime, container_id)
    vruntime("delete", "--force", container_id)
    assert_nothing_is_kept(vruntime)


def test_a_container_outlives_its_killed_foreground_command(any_runtime: Runtime, bundles: Bundles) -> None:
    container_id = any_runtime.new_id()
    bundle = bundles.busybox("sh", "-c", "echo begun; exec sleep 1000")
    command = any_runtime.command("run", "--bundle", str(bundle), container_id)
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
    assert any_runtime.state(container_id)["status"] == "running"
    assert any_runtime("exec", container_id, "echo", "alive").stdout == b"alive\n"


def test_the_shim_of_an_exec_is_killed(vruntime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    bundle = bundles.busybox("sleep", "1000")
    container_id = vruntime.start(bundle)
    pid_file = tmp_path / "pid"
    command = vruntime.command("exec", "--pid-file", str(pid_file), container_id, "sleep", "2000")
    with running(command) as process:
        eventually(pid_file.exists)
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        assert process.wait(SEEN_WITHIN) == KILLED
    eventually(lambda: b"sleep 2000" not in vruntime("ps", container_id).stdout, SEEN_WITHIN)
    assert vruntime.state(container_id)["status"] == "running"


# -- the machine dies, and its user is told why ----------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["qemu", "virtiofsd", "monitor"])
def test_run_tells_why_its_machine_died(vruntime: Runtime, bundles: Bundles, victim: str) -> None:
    container_id = vruntime.new_id()
    bundle = bundles.busybox("sh", "-c", "echo begun; exec sleep 1000")
    with running(
        vruntime.command("run", "--bundle", str(bundle), container_id), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        pid = helper(container_id, victim)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        _, error = process.communicate(timeout=DEADLINE)
    assert process.returncode == KILLED
    assert len(error.splitlines()) == 1
    assert b"killed" in error
    assert victim == "monitor" or victim.encode() in error


def unprotected(config: dict[str, Any]) -> None:
    """The container's root may do to its own machine what it likes."""
    config["linux"]["readonlyPaths"] = []
    config["linux"]["maskedPaths"] = []
    config["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind] += ["CAP_MKNOD", "CAP_SYS_ADMIN"]


def test_a_panic_of_the_guest_is_told_with_its_console(vruntime: Runtime, bundles: Bundles) -> None:
    script = r"""
        mknod /dev/console-of-ours c 4 64
        printf '\033]0;forged title\007said on the console\n' >/dev/console-of-ours
        read line </gate
        echo c >/proc/sysrq-trigger
    """
    bundle = bundles.busybox("sh", "-c", script, edit=unprotected)
    os.mkfifo(bundle / "rootfs/gate")
    container_id = vruntime.new_id()
    command = vruntime.command("run", "--keep", "--bundle", str(bundle), container_id)
    with running(command, stderr=subprocess.PIPE) as process:
        eventually(lambda: b'"running"' in vruntime("state", container_id, check=False).stdout, DEADLINE)
        vruntime("exec", container_id, "sh", "-c", "echo >/gate", check=False)
        _, error = process.communicate(timeout=5)
    assert process.returncode == KILLED
    assert b"guest kernel: sysrq triggered crash" in error
    assert b"said on the console" in error
    assert re.fullmatch(rb"[\x20-\x7e]+\n", error), "one line, without a control character"
    assert_stopped(vruntime, container_id)


def test_a_panic_while_an_exec_runs(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = vruntime.start(bundles.busybox("sleep", "1000", edit=unprotected))
    result = vruntime("exec", container_id, "sh", "-c", "echo c >/proc/sysrq-trigger", check=False, timeout=5)
    assert result.returncode == KILLED
    assert_stopped(vruntime, container_id)


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that QEMU, a user of its own, can read too."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def with_another_init(runtime: Runtime, directory: Path, script: str, settings: str) -> None:
    """Lets the guests of a runtime boot into a script in place of the agent."""
    tree = directory / "tree"
    for name in ("bin", "dev"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/sh")
    (tree / "init").write_text(f"#!/bin/sh\n{script}\n")
    (tree / "init").chmod(0o755)
    os.mknod(tree / "dev/console", 0o600 | 0o020000, os.makedev(5, 1))
    names = "init bin bin/sh dev dev/console".replace(" ", "\n")
    with open(directory / "initramfs.cpio", "wb") as archive:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names.encode(), stdout=archive, check=True
        )
    config = directory / "config.toml"
    config.write_text(f'[vm]\nallow_emulation = true\ninitramfs = "{directory}/initramfs.cpio"\n{settings}')
    runtime.flags = ("--config", str(config))


def test_a_guest_that_never_answers(vruntime: Runtime, bundles: Bundles, public_directory: Path) -> None:
    script = "echo waiting for nothing >/dev/console; exec /bin/sh -c 'read line </dev/console'"
    with_another_init(vruntime, public_directory, script, "[agent]\nboot_timeout = 5\n")
    began = time.monotonic()
    result = vruntime("run", "--bundle", str(bundles.busybox("true")), vruntime.new_id(), check=False)
    assert 5 <= time.monotonic() - began < 10
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert b"the guest did not come up" in result.stderr
    assert b"waiting for nothing" in result.stderr
    assert_nothing_is_kept(vruntime)


def test_a_guest_that_dies_at_boot(vruntime: Runtime, bundles: Bundles, public_directory: Path) -> None:
    with_another_init(vruntime, public_directory, "echo no agent here >/dev/console; exit 3", "")
    result = vruntime("run", "--bundle", str(bundles.busybox("true")), vruntime.new_id(), check=False, timeout=10)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert b"guest kernel: Attempted to kill init! exitcode=0x00000300" in result.stderr
    assert b"no agent here" in result.stderr
    assert_nothing_is_kept(vruntime)


# -- SIGSTOP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["kill", "delete"])
@pytest.mark.parametrize("victim", ["qemu", "virtiofsd's server", "monitor", "shim"])
def test_a_stopped_helper_saves_no_container(vruntime: Runtime, bundles: Bundles, victim: str, verb: str) -> None:
    container_id = vruntime.start(bundles.busybox("sleep", "1000"))
    pid = helper(container_id, victim, shim=vruntime.state(container_id)["pid"])
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert vruntime.state(container_id)["status"] == "running"
    if verb == "kill":
        vruntime("kill", container_id, "KILL", timeout=15)
        if victim == "shim":
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: vruntime.state(container_id)["status"] == "stopped", 10)
    vruntime("delete", "--force", container_id, timeout=40)
    assert_nothing_is_kept(vruntime)


# -- guests that go wild ---------------------------------------------------------------------------------------------


def test_a_fork_bomb_stays_in_its_guest(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("sh", "-c", "echo begun; bomb() { printf . >>/count; bomb | bomb & }; bomb; sleep 1000")
    count = bundle / "rootfs/count"
    container_id = vruntime.new_id()
    command = vruntime.command("run", "--bundle", str(bundle), container_id)
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        monitor = monitor_of(container_id)
        assert monitor is not None
        before = sorted(children(monitor))
        eventually(lambda: count.exists() and count.stat().st_size > 200, DEADLINE)
        assert sorted(children(monitor)) == before
        vruntime("delete", "--force", container_id)
        assert process.wait(DEADLINE) == KILLED


@pytest.mark.parametrize("limit", [64 << 20, None])
def test_a_guest_out_of_memory_kills_the_eater(vruntime: Runtime, bundles: Bundles, limit: int | None) -> None:
    def edit(config: dict[str, Any]) -> None:
        if limit is not None:
            config["linux"]["resources"]["memory"] = {"limit": limit}

    bundle = bundles.busybox("sh", "-c", "tail /dev/zero; echo eater=$?", edit=edit)
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"eater=137\n", b"Killed\n")


def test_an_init_out_of_memory_exits_137(vruntime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 64 << 20}

    bundle = bundles.busybox("tail", "/dev/zero", edit=edit)
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert result.returncode == KILLED


def test_a_console_flood_disturbs_nobody(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = vruntime.start(bundles.busybox("sleep", "1000", edit=unprotected))
    flood = "mknod /dev/tty-of-ours c 4 64; yes >/dev/tty-of-ours & echo begun"
    assert vruntime("exec", container_id, "sh", "-c", f"({flood}) 2>/dev/null").stdout == b"begun\n"
    monitor = monitor_of(container_id)
    assert monitor is not None
    before = resident(monitor)
    for _ in range(10):
        assert vruntime("exec", container_id, "echo", "alive").stdout == b"alive\n"
    assert resident(monitor) - before < 8 << 20


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- state that cannot be trusted or kept ----------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "empty", "of another shape", "no text", "lost"])
def test_a_damaged_record(vruntime: Runtime, bundles: Bundles, damage: str) -> None:
    bundle = bundles.busybox("sleep", "1000")
    container_id = vruntime.start(bundle)
    record = vruntime.root / "containers" / container_id / "state.json"
    text = record.read_text()
    if damage == "lost":
        record.unlink()
    else:
        forms = {
            "truncated": text[: len(text) // 2],
            "empty": "",
            "of another shape": '{"id": [1]}',
            "no text": "\0\x7f",
        }
        record.write_text(forms[damage])
    result = vruntime("state", container_id, check=False)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    vruntime("list")
    assert vruntime("list", "--quiet").stdout.decode().split() == [container_id]
    vruntime("delete", "--force", container_id)
    assert_nothing_is_kept(vruntime)
    assert monitor_of(container_id) is None


@pytest.fixture
def small_root(vruntime: Runtime, tmp_path: Path) -> Iterator[Path]:
    """The runtime's root on a file system of 256 KiB."""
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", root], check=True)
    vruntime.root = root
    yield root
    vruntime.clean_up()
    vruntime.clean_up = lambda: None  # type: ignore[method-assign]
    subprocess.run(["umount", root], check=True)


def fill(root: Path, *, leave: int = 0) -> None:
    """Fills a file system but for `leave` bytes."""
    with open(root / "filler", "wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    os.truncate(root / "filler", (root / "filler").stat().st_size - leave)


def test_a_full_disk_fails_create_and_leaves_nothing(vruntime: Runtime, bundles: Bundles, small_root: Path) -> None:
    bundle = str(bundles.busybox("true"))
    codes = []
    for pages in range(20):
        fill(small_root, leave=pages * 4096)
        result = vruntime("run", "--bundle", bundle, vruntime.new_id(), check=False)
        codes.append(result.returncode)
        if result.returncode == 0:
            break
        assert len(result.stderr.splitlines()) == 1
        assert b"No space left on device" in result.stderr
        assert_nothing_is_kept(vruntime)
        assert not any(entry for name in ("containers", "sandboxes") for entry in (small_root / name).glob("*"))
    assert codes[0] == 1
    assert codes[-1] == 0


def test_a_disk_that_fills_under_a_container(
    vruntime: Runtime, bundles: Bundles, small_root: Path, subreaper: None
) -> None:
    container_id = vruntime.create(bundles.busybox("sh", "-c", "read x </gate; exit 3"))
    os.mkfifo(Path(vruntime.state(container_id)["rootfs"]) / "gate")
    vruntime("start", container_id)
    shim = vruntime.state(container_id)["pid"]
    fill(small_root)
    vruntime("exec", container_id, "sh", "-c", "echo >/gate", check=False)  # init's end may come before its own
    assert exit_code_of(shim) == 3
    assert_stopped(vruntime, container_id)
    vruntime("delete", container_id)
    assert_nothing_is_kept(vruntime)


def test_a_full_disk_refuses_the_start(vruntime: Runtime, bundles: Bundles, small_root: Path, subreaper: None) -> None:
    container_id = vruntime.create(bundles.busybox("sh", "-c", "exit 4"))
    shim = vruntime.state(container_id)["pid"]
    fill(small_root)
    refused = vruntime("start", container_id, check=False)
    assert refused.returncode == 1
    assert b"No space left on device" in refused.stderr
    assert vruntime.state(container_id)["status"] == "created"
    (small_root / "filler").unlink()
    vruntime("start", container_id)
    assert exit_code_of(shim) == 4
    vruntime("delete", "--force", container_id)


@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.parametrize("case", ["no directory", "no listener", "a directory"])
def test_a_pid_file_or_console_socket_that_cannot_be(
    vruntime: Runtime, bundles: Bundles, tmp_path: Path, verb: str, case: str
) -> None:
    path = {"no directory": "missing/pid", "no listener": "silent", "a directory": "."}[case]
    flag = "--console-socket" if case == "no listener" else "--pid-file"
    bundle = bundles.busybox("sleep", "1000", terminal=flag == "--console-socket")
    flags = ["--detach"] if verb == "run" else []
    result = vruntime(verb, *flags, flag, str(tmp_path / path), "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path / path).encode() in result.stderr
    assert_nothing_is_kept(vruntime)
