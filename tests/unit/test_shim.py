"""The shim as a program of its own: it ends when its monitor does, however that was."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vruntime import shim

KILLED = 137

Started = tuple[subprocess.Popen[bytes], socket.socket]


@pytest.fixture
def started() -> Iterator[Started]:
    """A shim that is ready, and our end of its link."""
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-I", "-S", shim.__file__, str(theirs.fileno()), "-", "true"]
    with ours, subprocess.Popen(argv, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as process:
        theirs.close()
        assert ours.recv(64) == b"ready\n"
        yield process, ours
        process.kill()


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    _, error = process.communicate(timeout=10)
    return process.returncode, error


def test_it_exits_as_it_is_told(started: Started) -> None:
    process, link = started
    link.sendall(b"exit 7\n")
    assert end_of(process) == (7, b"")


def test_a_signal_is_passed_on(started: Started) -> None:
    process, link = started
    process.send_signal(signal.SIGUSR1)
    assert link.recv(64) == b"signal 10\n"


def test_a_monitor_that_is_gone(started: Started) -> None:
    process, link = started
    link.close()
    assert end_of(process) == (KILLED, b"")


def test_a_monitor_that_is_gone_with_a_word_unread(started: Started) -> None:
    process, link = started
    process.send_signal(signal.SIGUSR1)
    link.recv(1, socket.MSG_PEEK)
    link.close()
    assert end_of(process) == (KILLED, b"")


@pytest.mark.parametrize("word", [b"exit \n", b"exit x\n", b"\xff\n"])
def test_what_it_does_not_understand_ends_it_without_a_word(started: Started, word: bytes) -> None:
    process, link = started
    link.sendall(word)
    assert end_of(process) == (KILLED, b"")
