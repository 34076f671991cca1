"""The hooks of a container (runtime-spec 1.2, config.md, "POSIX-platform Hooks"): programs run at points of its life.

Those of kind startContainer run in the guest, by the agent; here is only how long they may take. The others run on the
host. What a hook is told, where it runs and how its failure reads is runc's. A hook has ended when its process has,
even if what it leaves running holds its streams open. One that fails or takes too long is killed with its session.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from vruntime.container import CONFIG_FILE, Record, Status
from vruntime.errors import HookError, HostError, NoSuchContainer
from vruntime.log import Log
from vruntime.spawn import Child, spawn
from vruntime.store import Store
from vruntime.vm.console import Ring, escape

CREATING = ("prestart", "createRuntime", "createContainer")
"""The kinds that `create` runs, in their order."""

# What is kept of each output of a hook, for its error: the last of it, in bytes.
KEPT = 4096
_PIPE_SIZE = 1 << 16
# The longest that poll(2) can be asked to wait, in seconds; then it is asked again.
_LONGEST_WAIT = 1e6
# As good as no limit, in seconds: clocks and calls take no number that is much larger.
_ENDLESS = 1e9


@dataclass(frozen=True)
class Hook:
    """One program."""

    path: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] | None
    """None: not named, so that it is whatever its runner has."""

    timeout: float | None
    """Seconds; None: it may take as long as it likes."""

    @classmethod
    def parse(cls, hook: Mapping[str, Any]) -> Hook:
        """From an entry of config.json that has passed the checks."""
        return cls(
            path=hook["path"],
            arguments=tuple(hook.get("args") or (hook["path"],)),
            environment=environment(hook["env"]) if "env" in hook else None,
            timeout=hook.get("timeout"),
        )


@dataclass(frozen=True)
class Hooks:
    """All hooks of a container, as its config.json had them at create."""

    record: Record
    document: Mapping[str, Any]

    @classmethod
    def kept(cls, store: Store, record: Record) -> Hooks:
        """From the config kept beside the record; HostError when that is damaged."""
        try:
            return cls(record, store.read(record.id, CONFIG_FILE))
        except (ValueError, NoSuchContainer) as error:
            raise HostError(f"{store.container(record.id) / CONFIG_FILE} is damaged: {error}") from error

    def of(self, kind: str) -> list[Hook]:
        """The hooks of a kind, in their order."""
        return [Hook.parse(hook) for hook in (self.document.get("hooks") or {}).get(kind) or ()]

    @property
    def before_create(self) -> bool:
        """Whether any comes before the container's process is made."""
        return any(self.of(kind) for kind in CREATING)

    def run_before_create(self, shim: int) -> None:
        """Runs those that come before the container's process is made. HookError at the first that fails.

        createContainer hooks have the container's environment, and the mount namespace of its pid: what they mount
        below the root filesystem, their working directory, is mounted in the container and nowhere else.
        """
        state = self._state(Status.CREATING, shim)
        try:
            for kind in ("prestart", "createRuntime"):
                _run_all(self.of(kind), state, directory=self.record.bundle)
            if container := self.of("createContainer"):
                inherited = environment(self.document["process"].get("env", ()))
                _run_all(container, state, directory=self.record.rootfs, inherited=inherited, among_mounts_of=shim)
        except HookError as error:
            raise HookError(f"unable to start container process: error during container init: {error}") from error

    def run_after_start(self, record: Record) -> None:
        """Runs the poststart hooks, told the status in `record`. HookError at the first that fails."""
        pid = record.shim.pid if record.shim and record.status is not Status.STOPPED else 0
        _run_all(self.of("poststart"), self._state(record.status, pid), directory=record.bundle)

    def run_after_delete(self, log: Log) -> None:
        """Runs the poststop hooks, each whatever becomes of those before: a failure is a warning."""
        state = self._state(Status.STOPPED, 0)
        directory = self.record.bundle if os.path.isdir(self.record.bundle) else None  # it may be gone by then
        for index, hook in enumerate(self.of("poststop")):
            try:
                _run(hook, state, directory=directory)
            except HookError as error:
                log.warning(f"error running hook #{index}: {error}")

    def start_time(self) -> float | None:
        """How long the startContainer hooks may take in all, in seconds; None when one of them is not limited."""
        total = sum(hook.timeout or _ENDLESS for hook in self.of("startContainer"))
        return total if total < _ENDLESS else None

    def _state(self, status: Status, pid: int) -> bytes:
        return json.dumps(self.record.hook_state(status, pid), ensure_ascii=False, separators=(",", ":")).encode()


def environment(entries: Sequence[str]) -> dict[str, str]:
    """`NAME=value` entries by their names; of one that comes again the last counts."""
    return dict(entry.split("=", 1) for entry in entries)


def _run_all(hooks: Sequence[Hook], state: bytes, **surroundings: Any) -> None:
    for index, hook in enumerate(hooks):
        try:
            _run(hook, state, **surroundings)
        except HookError as error:
            raise HookError(f"error running hook #{index}: {error}") from error


def _run(
    hook: Hook,
    state: bytes,
    *,
    directory: str | None = None,
    inherited: Mapping[str, str] = os.environ,
    among_mounts_of: int | None = None,
) -> None:
    """Runs one hook to its end; HookError when it fails, in runc's words."""
    with closing(_Talk(state)) as talk:
        child = _start(hook, talk, directory, inherited, among_mounts_of)
        talk.close_theirs()
        try:
            if not talk.until_end(child, hook.timeout):
                raise HookError(f"hook ran past specified timeout of {hook.timeout:.1f}s")
            if how := _failure(child):
                raise HookError(f"error running hook: {how}, {talk.transcript()}")
        except BaseException:
            child.end_session()
            raise
        else:
            child.wait()
        finally:
            os.close(child.pidfd)


def _start(
    hook: Hook, talk: _Talk, directory: str | None, inherited: Mapping[str, str], among_mounts_of: int | None
) -> Child:
    try:
        with nullcontext() if among_mounts_of is None else _mounts_of(among_mounts_of):
            return spawn(
                "hook",
                hook.arguments,
                program=hook.path,
                fds=talk.theirs,
                new_session=True,
                environment=inherited if hook.environment is None else hook.environment,
                directory=directory,
            )
    except HostError as error:
        raise HookError(_not_started(hook, error.__cause__)) from error
    except OSError as error:
        raise HookError(f"cannot enter the sandbox's mounts: {error.strerror}") from error


def _mounts_of(pid: int) -> AbstractContextManager[None]:
    from vruntime import namespaces  # noqa: PLC0415  few containers need it

    return namespaces.mounts_of(pid)


def _not_started(hook: Hook, cause: BaseException | None) -> str:
    """As Go words it."""
    if not isinstance(cause, OSError) or not cause.strerror:
        return f"fork/exec {hook.path}: {cause}"
    reason = cause.strerror[0].lower() + cause.strerror[1:]
    return f"fork/exec {hook.path}: {reason}" if cause.filename in (None, hook.path) else f"{cause.filename}: {reason}"


def _failure(child: Child) -> str | None:
    """How a child that has ended, and is yet to be reaped, has failed, in Go's words; None: it has not."""
    ended = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    if ended.si_code == os.CLD_EXITED:
        return f"exit status {ended.si_status}" if ended.si_status else None
    name = (signal.strsignal(ended.si_status) or f"signal {ended.si_status}").lower()
    return f"signal: {name}" + (" (core dumped)" if ended.si_code == os.CLD_DUMPED else "")


class _Talk:
    """What flows between us and a hook: the state to its standard input, and what it says on the other two streams."""

    def __init__(self, state: bytes) -> None:
        self._unsent = memoryview(state)
        stdin, self._stdin = os.pipe2(os.O_CLOEXEC)
        self._stdout, stdout = os.pipe2(os.O_CLOEXEC)
        self._stderr, stderr = os.pipe2(os.O_CLOEXEC)
        self._said = {self._stdout: Ring(KEPT), self._stderr: Ring(KEPT)}
        self.theirs = {0: stdin, 1: stdout, 2: stderr}
        """The hook's ends, by their numbers there."""
        self._ours = {self._stdin, self._stdout, self._stderr}
        for fd in self._ours:
            os.set_blocking(fd, False)

    def close_theirs(self) -> None:
        """Once the hook has them."""
        while self.theirs:
            os.close(self.theirs.popitem()[1])

    def close(self) -> None:
        """Ends it, whatever is still open."""
        self.close_theirs()
        while self._ours:
            os.close(self._ours.pop())

    def transcript(self) -> str:
        """The last that it has said, as one line."""
        stdout, stderr = (escape(self._said[fd].contents(), KEPT) for fd in (self._stdout, self._stderr))
        return f"stdout: {stdout}, stderr: {stderr}"

    def until_end(self, child: Child, timeout: float | None) -> bool:
        """Talks until the hook has ended; False when it has not within `timeout` seconds."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        poll = select.poll()
        poll.register(child.pidfd, select.POLLIN)
        poll.register(self._stdin, select.POLLOUT)
        for fd in self._said:
            poll.register(fd, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(min(left, _LONGEST_WAIT) * 1000)}
            for fd in ready & self._ours:
                if not (self._tell() if fd == self._stdin else self._hear(fd)):
                    poll.unregister(fd)
                    self._ours.remove(fd)
                    os.close(fd)
            if child.pidfd in ready:
                for fd in self._ours - {self._stdin}:
                    self._hear(fd)  # all that its pipe still holds, not what others may yet write
                return True
        return False

    def _tell(self) -> bool:
        """Writes what there is room for; False when there is no more to write, or nobody who reads."""
        with suppress(BlockingIOError):
            try:
                self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
            except BrokenPipeError:
                return False
        return bool(self._unsent)

    def _hear(self, fd: int) -> bool:
        """Reads what there is; False at the end of the stream."""
        with suppress(BlockingIOError):
            data = os.read(fd, _PIPE_SIZE)
            self._said[fd].write(data)
            return bool(data)
        return True
