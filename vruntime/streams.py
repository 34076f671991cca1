"""The caller's end of a new process: its standard streams or its terminal, its shim, and its exit code."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from vruntime import shim as shim_program
from vruntime import terminal
from vruntime.cgroups import entry
from vruntime.errors import HostError
from vruntime.spawn import Child, Identity, spawn

_HERE: AbstractContextManager[None] = nullcontext()
_STANDARD = ("stdin", "stdout", "stderr")
# Of a command line, in bytes, this much is shown by the shim.
_SHOWN = 4096


@dataclass(frozen=True)
class Caller:
    """What a command hands to the monitor for one new process, and keeps of it."""

    shim: Child
    fds: dict[str, int]
    master: int | None

    @property
    def identity(self) -> dict[str, int]:
        """The shim, for the container's record."""
        identity = Identity.of(self.shim.pid)
        if identity is None:
            raise HostError("the process's shim was killed before the process began")
        return {"pid": identity.pid, "start_time": identity.start_time}

    def close_given(self) -> None:
        """Closes what the monitor has a copy of by now."""
        for name, fd in self.fds.items():
            if name not in _STANDARD:
                os.close(fd)

    def write_pid_file(self, path: Path | None) -> None:
        """Writes the pid that stands for the process on the host, so that a reader sees all of it or no file."""
        if path is None:
            return
        temporary = path.with_name(f".{path.name}")
        try:
            temporary.write_text(str(self.shim.pid))
            os.rename(temporary, path)
        except OSError as error:
            raise HostError(f"cannot write the pid file {path}: {error.strerror}") from error

    def wait(self) -> int:
        """Stays in the foreground until the process has ended: signals and terminal are passed on. Its exit code."""
        with _forwarding(self.shim):
            if self.master is not None:
                terminal.Relay(self.master).run(self.shim)
            code = self.shim.wait()
        return 128 + signal.SIGKILL if code is None else code


def prepare(
    *,
    wants_terminal: bool,
    console_socket: Path | None,
    size: tuple[int, int] | None,
    given: dict[str, int],
    command: Sequence[str],
    group: entry.Paths,
    shim_place: AbstractContextManager[None] = _HERE,
    undo: ExitStack,
) -> Caller:
    """Starts the shim, in the container's group on the host, and opens what the process needs.

    `undo` takes it back when the process does not come to be. `given` are descriptors beyond the
    standard streams, by their names; `command` is the process's command line. The shim is started within `shim_place`,
    whose namespaces are its own then.
    """
    fds = dict(given)
    master = None
    if wants_terminal:
        master, fds["terminal"] = terminal.open_pair(size or terminal.own_size())
        if console_socket is not None:
            terminal.send_master(console_socket, master)
            os.close(master)
            master = None
    else:
        fds |= {name: fd for fd, name in enumerate(_STANDARD) if not terminal.is_null(fd)}
    ours, theirs = socket.socketpair()
    fds["shim"] = ours.detach()
    with shim_place:
        shim = _start_shim(theirs, fds.get("terminal"), command)
    undo.callback(shim.end)
    entry.place(group, shim.pid)  # before the monitor hears of it: nothing of the guest reaches it yet
    return Caller(shim, fds, master)


def _start_shim(link: socket.socket, terminal_fd: int | None, command: Sequence[str]) -> Child:
    given = {3: link.fileno()}
    if terminal_fd is not None:
        given[4] = terminal_fd
    program = [sys.executable, "-I", "-S", shim_program.__file__]
    with link:
        return spawn(
            "shim",
            [*program, "3", "-" if terminal_fd is None else "4", *_shown(command)],
            fds=given,
            new_session=True,
        )


def _shown(command: Sequence[str]) -> list[str]:
    """As much of a command line as the shim shows."""
    shown, room = [], _SHOWN
    for word in command:
        shown.append(word[:room])
        room -= len(word)
        if room <= 0:
            break
    return shown


@contextmanager
def _forwarding(shim: Child) -> Iterator[None]:
    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(shim.pidfd, number)

    previous = {number: signal.signal(number, pass_on) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_FORWARDED = tuple(
    number
    for number in shim_program.FORWARDED
    if number not in (signal.SIGPIPE, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU, signal.SIGURG)
)
