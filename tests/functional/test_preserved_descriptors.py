"""Descriptors beyond the standard streams, which `--preserve-fds` gives to a process."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runtimes import Bundles, Runtime

# Bytes that no pipe or window of the way holds at once.
BULK = 3_000_000


def with_descriptors(runtime: Runtime, fds: list[int], *arguments: str) -> subprocess.Popen[bytes]:
    """Starts a verb with these descriptors as 3 and on."""
    redirections = " ".join(f"{number}<&{fd} {fd}<&-" for number, fd in enumerate(fds, start=3))
    command = ["bash", "-c", f'exec "$@" {redirections}', "bash", *runtime.command(*arguments)]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, pass_fds=fds, **pipes)


class Ends:
    """A pipe to the process, one from it, and a socket; our ends are closed at last, the others when it has them."""

    def __init__(self) -> None:
        self.input, writer = os.pipe()
        reader, self.output = os.pipe()
        self.writer, self.reader = os.fdopen(writer, "wb"), os.fdopen(reader, "rb")
        self.ours, self.socket = socket.socketpair()

    @property
    def given(self) -> list[int]:
        return [self.input, self.output, self.socket.fileno()]

    def close_given(self) -> None:
        os.close(self.input)
        os.close(self.output)
        self.socket.close()

    def converse(self) -> None:
        """What goes into the pipe comes out of the other, and what goes into the socket out of the socket."""
        self.writer.write(b"through a pipe")
        self.writer.close()
        assert self.reader.read(len(b"through a pipe")) == b"through a pipe"
        self.ours.sendall(b"through a socket")
        self.ours.shutdown(socket.SHUT_WR)
        assert self.ours.recv(100) == b"through a socket"

    def ended(self) -> bool:
        """Whether nobody holds the other ends any more."""
        return (self.reader.read(), self.ours.recv(100)) == (b"", b"")

    def close(self) -> None:
        self.writer.close()
        self.reader.close()
        self.ours.close()


@pytest.fixture
def ends() -> Any:
    """See Ends."""
    made = Ends()
    yield made
    made.close()


SCRIPT = "cat <&3 >&4; exec 3<&- 4>&-; cat <&5 >&5; exec 5>&-; ls /proc/self/fd | wc -l; exit 7"


def test_what_goes_through_pipes_and_sockets(any_runtime: Runtime, bundles: Bundles, ends: Ends) -> None:
    bundle = bundles.busybox("sh", "-c", SCRIPT)
    arguments = ("run", "--preserve-fds=3", "--bundle", str(bundle), any_runtime.new_id())
    process = with_descriptors(any_runtime, ends.given, *arguments)
    ends.close_given()
    ends.converse()
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output.strip(), errors) == (7, b"4", b"")
    assert ends.ended()


def test_exec_has_them_too(any_runtime: Runtime, bundles: Bundles, ends: Ends) -> None:
    container_id = any_runtime.start(bundles.busybox("sleep", "1000"))
    arguments = ("exec", "--preserve-fds", "3", container_id, "sh", "-c", SCRIPT)
    process = with_descriptors(any_runtime, ends.given, *arguments)
    ends.close_given()
    ends.converse()
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output.strip(), errors) == (7, b"4", b"")
    assert ends.ended()


def test_files_are_read_and_written_to_their_end(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    bulk = os.urandom(BULK)
    (tmp_path / "in").write_bytes(b"skipped" + bulk)
    bundle = bundles.busybox("sh", "-c", "cat <&3 >&4")
    with ExitStack() as files:
        source = files.enter_context(open(tmp_path / "in", "rb", buffering=0))
        target = files.enter_context(open(tmp_path / "out", "wb"))
        source.seek(len(b"skipped"))
        arguments = ("run", "--preserve-fds", "2", "--bundle", str(bundle), any_runtime.new_id())
        process = with_descriptors(any_runtime, [source.fileno(), target.fileno()], *arguments)
        assert process.communicate(timeout=60) == (b"", b"")
    assert (tmp_path / "out").read_bytes() == bulk


def test_a_reader_that_is_gone_is_a_broken_pipe(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("sh", "-c", "cat /dev/zero >&3; echo $?")
    reader, writer = os.pipe()
    arguments = ("run", "--preserve-fds", "1", "--bundle", str(bundle), any_runtime.new_id())
    process = with_descriptors(any_runtime, [writer], *arguments)
    os.close(writer)
    assert os.read(reader, 1) == b"\0"
    os.close(reader)
    output, _ = process.communicate(timeout=60)
    assert output in (b"141\n", b"1\n")


def test_what_cannot_cross_is_refused_by_name(vruntime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    bundle = bundles.busybox("true")
    with ExitStack() as open_files:
        listener = open_files.enter_context(socket.create_server(("127.0.0.1", 0)))
        datagrams = open_files.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        both = open_files.enter_context(open(tmp_path / "both", "w+b"))
        directory = os.open(tmp_path, os.O_RDONLY)
        open_files.callback(os.close, directory)
        for fd, what in (
            (listener.fileno(), "a listening socket"),
            (datagrams.fileno(), "a socket that is no stream"),
            (both.fileno(), "a file opened for both reading and writing"),
            (directory, "a directory"),
        ):
            arguments = ("run", "--preserve-fds", "1", "--bundle", str(bundle), vruntime.new_id())
            process = with_descriptors(vruntime, [fd], *arguments)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 1
            assert f"--preserve-fds 1: descriptor 3 is {what}, which cannot cross" in errors.decode()


def test_what_is_not_open_is_refused(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("true")
    result = vruntime("run", "--preserve-fds", "2", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert result.returncode == 1
    assert b"unable to stat preserved-fd 0 (of 2): it is not open (descriptor 3)" in result.stderr


@pytest.mark.parametrize("verb", ["run", "create"])
def test_what_we_open_ourselves_is_not_taken_for_the_callers(vruntime: Runtime, bundles: Bundles, verb: str) -> None:
    bundle = bundles.busybox("true")
    for count in (1, 3, 9):
        result = vruntime(verb, "--preserve-fds", str(count), "--bundle", str(bundle), vruntime.new_id(), check=False)
        assert b"unable to stat preserved-fd 0 (of %d): it is not open (descriptor 3)" % count in result.stderr
