"""Terminals on the host: the pty pair between a caller and a guest's terminal, and the relay to the caller's own.

The guest's pty does the editing, the echo and the signals; the pair on the host is raw and only carries bytes and the
window's size. Its master goes to the engine through the console socket, or stays with the command in the foreground.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import termios
import tty
from contextlib import suppress
from pathlib import Path

from vruntime.control import short_path
from vruntime.errors import ContainerError, HostError
from vruntime.spawn import Child

STDIN, STDOUT = 0, 1


def check_console(*, terminal: bool, detach: bool, console_socket: Path | None) -> None:
    """Refuses, in runc's words, a terminal that nobody would hold, and a socket that would get none."""
    if detach and terminal and console_socket is None:
        raise ContainerError("cannot allocate tty if runc will detach without setting console socket")
    if console_socket is not None and not (detach and terminal):
        raise ContainerError("cannot use console socket if runc will not detach or allocate tty")


def open_pair(size: tuple[int, int] | None) -> tuple[int, int]:
    """A new raw pair, master and slave, of `size` (rows, columns) when given."""
    master, slave = os.openpty()
    tty.setraw(slave)
    if size is not None:
        termios.tcsetwinsize(master, size)
    return master, slave


def own_size() -> tuple[int, int] | None:
    """The window's size (rows, columns) of the terminal that we run on; None without one."""
    try:
        return termios.tcgetwinsize(STDIN)
    except termios.error:
        return None


def send_master(console_socket: Path, master: int) -> None:
    """Hands the master to whoever listens at the console socket, as runc does: one message, named /dev/ptmx."""
    try:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock,
            short_path(console_socket.parent, console_socket.name) as path,
        ):
            sock.connect(path)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))
            sock.sendmsg([b"/dev/ptmx"], [rights])
    except OSError as error:
        raise HostError(f"console socket {console_socket}: {error.strerror}") from error


class Relay:
    """Carries bytes between our own terminal, raw meanwhile, and the master of a pair."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._saved = termios.tcgetattr(STDIN) if os.isatty(STDIN) else None

    def run(self, process: Child) -> None:
        """Until `process` (the shim) ends, and then until what it had written is through."""
        if self._saved is not None:
            tty.setraw(STDIN)
            signal.signal(signal.SIGWINCH, lambda *_: self._copy_size())
            self._copy_size()
        try:
            self._copy(process)
        finally:
            if self._saved is not None:
                termios.tcsetattr(STDIN, termios.TCSAFLUSH, self._saved)

    def _copy_size(self) -> None:
        size = own_size()
        if size is not None:
            with suppress(termios.error):
                termios.tcsetwinsize(self._master, size)

    def _copy(self, process: Child) -> None:
        poll = select.poll()
        for fd in (STDIN, self._master, process.pidfd):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if STDIN in ready and not self._pass_on(STDIN, self._master):
                poll.unregister(STDIN)
            if self._master in ready and not self._pass_on(self._master, STDOUT):
                return
            if ready == {process.pidfd}:
                self._drain()
                return

    def _drain(self) -> None:
        while self._master in select.select([self._master], [], [], 0)[0]:
            if not self._pass_on(self._master, STDOUT):
                return

    @staticmethod
    def _pass_on(source: int, target: int) -> bool:
        try:
            data = os.read(source, 65536)
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
        except OSError:  # EIO: the last holder of the slave is gone
            return False
        return bool(data)


def is_null(fd: int) -> bool:
    """Whether a descriptor is /dev/null, or not open at all: nothing can flow through it."""
    try:
        info = os.fstat(fd)
    except OSError:
        return True
    return info.st_rdev == os.makedev(1, 3)
