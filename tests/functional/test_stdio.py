"""Standard streams: byte-exact, separate, in step with their readers, and nothing lost at the end."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually, settled

if TYPE_CHECKING:
    from runtimes import Bundles, Runtime

MEBIBYTE = 1 << 20
EVERY_BYTE = bytes(range(256)) * 300
DEADLINE = 30.0


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def hundred_megabytes() -> bytes:
    return os.urandom(100 * MEBIBYTE)


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the background, killed when the test leaves it running."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def test_streams_are_exact_and_separate(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("sh", "-c", "tee /proc/self/fd/2; printf out; printf err >&2; exit 3")
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), input=EVERY_BYTE, check=False)
    assert result.returncode == 3
    assert result.stdout == EVERY_BYTE + b"out"
    assert result.stderr == EVERY_BYTE + b"err"


def test_100_mb_through_pipes(vruntime: Runtime, bundles: Bundles, hundred_megabytes: bytes) -> None:
    bundle = bundles.busybox("cat")
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), input=hundred_megabytes)
    assert sha256(result.stdout) == sha256(hundred_megabytes)
    assert result.stderr == b""


def test_100_mb_through_files(vruntime: Runtime, bundles: Bundles, hundred_megabytes: bytes, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"skipped" + hundred_megabytes)
    command = vruntime.command("run", "--bundle", str(bundles.busybox("cat")), vruntime.new_id())
    with open(source, "rb") as stdin, open(target, "wb") as stdout:
        os.lseek(stdin.fileno(), 7, os.SEEK_SET)  # a file is read and written from where the caller stands in it
        os.write(stdout.fileno(), b"before")
        subprocess.run(command, stdin=stdin, stdout=stdout, check=True, timeout=DEADLINE)
    assert sha256(target.read_bytes()) == sha256(b"before" + hundred_megabytes)


def test_100_mb_through_sockets(vruntime: Runtime, bundles: Bundles, hundred_megabytes: bytes) -> None:
    bundle = bundles.busybox("sh", "-c", "cat; printf err >&2")
    ours, theirs = socket.socketpair()
    errors, their_errors = socket.socketpair()
    command = vruntime.command("run", "--bundle", str(bundle), vruntime.new_id())

    def feed() -> None:
        ours.sendall(hundred_megabytes)
        ours.shutdown(socket.SHUT_WR)

    with ours, errors, running(command, stdin=theirs, stdout=theirs, stderr=their_errors) as process:
        theirs.close()
        their_errors.close()
        feeder = threading.Thread(target=feed)
        feeder.start()
        assert sha256(_read_all(ours)) == sha256(hundred_megabytes)
        feeder.join()
        assert _read_all(errors) == b"err"
        assert process.wait(DEADLINE) == 0


def _read_all(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as file:
        return file.read()


def test_input_and_output_flow_in_step_until_stdin_is_closed(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("sh", "-c", "cat; echo after")
    command = any_runtime.command("run", "--bundle", str(bundle), any_runtime.new_id())
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        flags = fcntl.fcntl(process.stdout, fcntl.F_GETFL)
        for line in (b"one\n", b"two\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == line
        assert fcntl.fcntl(process.stdout, fcntl.F_GETFL) == flags  # others share the caller's descriptions
        process.stdin.close()
        assert process.stdout.read() == b"after\n"
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("redirection", ["<&-", "</dev/null"])
def test_a_closed_stdin_is_as_dev_null(any_runtime: Runtime, bundles: Bundles, redirection: str) -> None:
    bundle = bundles.busybox("sh", "-c", "cat; echo $?; echo err >&2")
    command = any_runtime.command("run", "--bundle", str(bundle), any_runtime.new_id())
    result = _redirected(command, redirection)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"0\n", b"err\n")


@pytest.mark.parametrize(
    ("redirection", "stdout", "stderr"),
    [(">&-", b"", b"err\n"), ("2>&-", b"out\n", b""), ("<&- >&- 2>&-", b"", b"")],
)
def test_closed_outputs_are_as_dev_null(
    vruntime: Runtime, bundles: Bundles, redirection: str, stdout: bytes, stderr: bytes
) -> None:
    bundle = bundles.busybox("sh", "-c", "echo out && echo err >&2 && exit 5")
    command = vruntime.command("run", "--bundle", str(bundle), vruntime.new_id())
    result = _redirected(command, redirection)
    assert (result.returncode, result.stdout, result.stderr) == (5, stdout, stderr)


def _redirected(command: list[str], redirection: str) -> subprocess.CompletedProcess[bytes]:
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command]
    return subprocess.run(shell, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)


def test_a_writer_ends_when_its_reader_has_gone(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("sh", "-c", "yes; echo $? >&2")
    command = any_runtime.command("run", "--bundle", str(bundle), any_runtime.new_id())
    with running(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(MEBIBYTE) == b"y\n" * (MEBIBYTE // 2)
        process.stdout.close()
        assert process.stderr.read() == b"141\n"  # 128 + SIGPIPE
        assert process.wait(DEADLINE) == 0


def test_a_writer_waits_for_a_reader_that_does_not_read(vruntime: Runtime, bundles: Bundles) -> None:
    script = "i=0; while [ $i -lt 48 ]; do i=$((i+1)); cat /block; echo $i >/progress; done"
    bundle = bundles.busybox("sh", "-c", script)
    block = os.urandom(MEBIBYTE)
    (bundle / "rootfs/block").write_bytes(block)
    progress = bundle / "rootfs/progress"
    progress.write_text("0\n")
    container_id = vruntime.new_id()
    command = vruntime.command("run", "--bundle", str(bundle), container_id)
    with running(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        eventually(lambda: progress.read_text().strip() not in ("", "0"), DEADLINE)
        before = _resident(_monitor(container_id))
        assert int(settled(progress.read_text, DEADLINE)) < 24
        assert _resident(_monitor(container_id)) - before < 32 * MEBIBYTE
        assert vruntime("exec", container_id, "echo", "alive").stdout == b"alive\n"
        assert sha256(process.stdout.read()) == sha256(block * 48)
        assert process.wait(DEADLINE) == 0


def test_a_reader_that_does_not_read_cannot_keep_a_container_alive(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = vruntime.new_id()
    command = vruntime.command("run", "--bundle", str(bundles.busybox("yes")), container_id)
    with running(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\n"
        vruntime("kill", container_id, "KILL")
        assert process.wait(DEADLINE) == 137


def _monitor(container_id: str) -> int:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        arguments = entry.read_bytes().split(b"\0")
        if b"vruntime.monitor" in arguments and container_id.encode() in arguments:
            return int(entry.parent.name)
    raise AssertionError(f"{container_id} has no monitor")


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _run_into_a_pipe(command: list[str]) -> bytes:
    """What lies in the pipe at the very moment when the command has ended: later is too late."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, MEBIBYTE)
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=writer, timeout=DEADLINE)
        assert result.returncode == 7
        os.set_blocking(reader, False)
        return os.read(reader, MEBIBYTE)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.timeout(900)
def test_100_short_containers_lose_no_byte(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("sh", "-c", "cat /megabyte; exit 7")
    megabyte = os.urandom(1_000_000)
    (bundle / "rootfs/megabyte").write_bytes(megabyte)
    for number in range(100):
        assert _run_into_a_pipe(vruntime.command("run", "--bundle", str(bundle), f"short-{number}")) == megabyte


def test_100_short_execs_lose_no_byte(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("sleep", "1000")
    megabyte = os.urandom(1_000_000)
    (bundle / "rootfs/megabyte").write_bytes(megabyte)
    container_id = vruntime.start(bundle)
    for _ in range(100):
        command = vruntime.command("exec", container_id, "sh", "-c", "cat /megabyte; exit 7")
        assert _run_into_a_pipe(command) == megabyte


def test_execs_whose_stdin_stays_open_lose_no_byte(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = vruntime.start(bundles.busybox("sleep", "1000"))
    command = vruntime.command("exec", container_id, "sh", "-c", "head -c 1000000 /dev/zero; exit 7")
    for _ in range(20):
        with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.read() == bytes(1_000_000)
            assert process.wait(DEADLINE) == 7


def test_an_exec_ends_before_the_child_that_keeps_its_stdout(vruntime: Runtime, bundles: Bundles) -> None:
    container_id, command = _exec_that_leaves_a_child(vruntime, bundles)
    with running(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.wait(DEADLINE) == 5
        assert process.stdout.readline() == b"early\n"
        vruntime("exec", container_id, "sh", "-c", "echo >/gate")
        assert process.stdout.read() == b"late\n"


def test_a_child_that_outlives_a_detached_exec_keeps_its_stdout(any_runtime: Runtime, bundles: Bundles) -> None:
    container_id, command = _exec_that_leaves_a_child(any_runtime, bundles, "--detach")
    with running(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.wait(DEADLINE) == 0
        assert process.stdout.readline() == b"early\n"
        any_runtime("exec", container_id, "sh", "-c", "echo >/gate")
        assert process.stdout.read() == b"late\n"


def _exec_that_leaves_a_child(runtime: Runtime, bundles: Bundles, *flags: str) -> tuple[str, list[str]]:
    bundle = bundles.busybox("sleep", "1000")
    os.mkfifo(bundle / "rootfs/gate")
    container_id = runtime.start(bundle)
    script = "(read x </gate; echo late) & echo early; exit 5"
    return container_id, runtime.command("exec", *flags, container_id, "sh", "-c", script)


@pytest.mark.parametrize("detached", ["create", "run"])
def test_a_detached_container_writes_on_after_its_command(
    any_runtime: Runtime, bundles: Bundles, detached: str
) -> None:
    bundle = bundles.busybox("sh", "-c", "cat; echo out; echo err >&2")
    container_id = any_runtime.new_id()
    flags = ["--detach"] if detached == "run" else []
    command = any_runtime.command(detached, *flags, "--bundle", str(bundle), container_id)
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(DEADLINE) == 0
        if detached == "create":
            any_runtime("start", container_id)
        assert process.communicate(b"in\n", timeout=DEADLINE) == (b"in\nout\n", b"err\n")
