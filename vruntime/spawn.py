"""The one place that starts child processes, and that owns their signals, waiting and end.

`os.posix_spawn` in place of the subprocess module: it neither copies this process's page tables nor costs the import.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from vruntime.errors import HostError

SETPRIV = "/usr/bin/setpriv"


@dataclass(frozen=True)
class Identity:
    """A process, told apart from a later one with the same pid by its start time (clock ticks since boot)."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this pid now; None when there is none, or a dead one waits to be reaped."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in (b"Z", b"X") else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Identity.of(self.pid) == self

    def pidfd(self) -> int | None:
        """A descriptor that becomes readable at the process's end; None when it has ended already."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():
            return fd
        os.close(fd)
        return None

    def signal(self, number: int) -> bool:
        """Signals this very process, never another with its pid; False when it has ended."""
        fd = self.pidfd()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True

    def wait(self, timeout: float) -> bool:
        """Waits for the end, at most `timeout` seconds; whether it has come. Works on any process, child or not."""
        fd = self.pidfd()
        if fd is None:
            return True
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(max(0, timeout) * 1000))
        finally:
            os.close(fd)


@dataclass(frozen=True)
class Child:
    """A process that we started; `pidfd` becomes readable when it ends."""

    name: str
    pid: int
    pidfd: int

    def kill(self) -> None:
        """SIGKILL; no error when it has ended already."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits at most `timeout` seconds, reaps, and gives the exit code; None: it still runs, or was reaped."""
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        while not poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000):
            if deadline is not None and time.monotonic() >= deadline:
                return None
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            return None
        return exit_code(status)

    def peek(self) -> int | None:
        """The exit code of a child that has ended and is yet to be reaped; None: it still runs."""
        info = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if info is None:
            return None
        return info.si_status if info.si_code == os.CLD_EXITED else 128 + info.si_status

    def end_session(self) -> None:
        """Kills and reaps the leader of a session, with what it has started. Not to be called after a `wait`."""
        os.killpg(self.pid, signal.SIGKILL)  # not reaped yet: the number is its own
        self.wait()

    def end(self) -> int | None:
        """Kills and reaps."""
        self.kill()
        return self.wait()


def exit_code(wait_status: int) -> int:
    """A wait status as a shell reports it: 0 to 255, or 128 + the signal's number."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    fds: Mapping[int, int] | None = None,
    new_session: bool = False,
    environment: Mapping[str, str] | None = None,
    program: str | None = None,
    directory: str | None = None,
) -> Child:
    """Starts a program that has exactly the descriptors in `fds` (its number there -> our number) and no others.

    Streams 0 to 2 not named are /dev/null. `program` is its path where that is not `argv[0]`; `directory` its working
    directory where that is not ours (not for a process with threads, which share it). Raises HostError that names the
    program.
    """
    path = argv[0] if program is None else program
    ours = dict(fds or {})
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    lifted: list[int] = []
    try:
        for standard in (0, 1, 2):
            ours.setdefault(standard, null)
        # Lifted above every target number, so that no dup2 overwrites a source still needed.
        above = max(ours) + 1
        actions: list[tuple[int, int, int]] = []
        for target, source in ours.items():
            high = _dup_above(source, above)
            lifted.append(high)
            actions.append((os.POSIX_SPAWN_DUP2, high, target))
        with _working_in(directory):
            pid = os.posix_spawn(
                path,
                list(argv),
                dict(environment if environment is not None else {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}),
                file_actions=actions,
                setsid=new_session,
                setsigmask=(),
                setsigdef=_catchable(),
            )
    except OSError as error:
        raise HostError(f"cannot start {name}: {error.filename or path}: {error.strerror}") from error
    finally:
        for fd in (*lifted, null):
            os.close(fd)
    return Child(name, pid, os.pidfd_open(pid))


def tied_to_us(
    argv: Sequence[str],
    *,
    user: int | None = None,
    groups: Sequence[int] = (),
    capabilities: Sequence[str] | None = None,
) -> list[str]:
    """The command line under setpriv(1): killed when we die, without new privileges.

    As `user` when given; with no other `capabilities` than these, in lower case and without `cap_`, when given.
    """
    command = [SETPRIV, "--pdeathsig", "KILL", "--no-new-privs"]
    if capabilities is not None:
        command += ["--bounding-set", ",".join(["-all", *(f"+{name}" for name in capabilities)])]
    if user is not None:
        command += [f"--reuid={user}", f"--regid={user}"]
        command += [f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]
    return [*command, "--", *argv]


def close_on_exec_from(first: int) -> None:
    """Marks every descriptor from `first` up close-on-exec: what a careless caller leaked to us goes no further."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= first:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the descriptor of the listing itself


def leave(code: int) -> NoReturn:
    """Ends this process at once: the kernel frees its memory faster than the interpreter takes itself apart."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it was closed when we started
                stream.flush()
        except BrokenPipeError:
            code = code or 1
    os._exit(code)


def open_closed_streams() -> None:
    """Makes /dev/null of the standard streams that the caller has closed: no other file may get their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


@contextmanager
def _working_in(directory: str | None) -> Iterator[None]:
    if directory is None:
        yield
        return
    ours = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.chdir(directory)
        yield
    finally:
        os.fchdir(ours)
        os.close(ours)


def _dup_above(fd: int, lowest: int) -> int:
    import fcntl  # noqa: PLC0415

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def _catchable() -> list[int]:
    return [n for n in range(1, signal.NSIG) if n not in (signal.SIGKILL, signal.SIGSTOP, 32, 33)]
