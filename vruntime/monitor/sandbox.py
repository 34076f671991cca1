"""The virtual machine of a sandbox and its helpers, once launched: their death and its cause, their shutdown."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from vruntime.errors import AgentError, SandboxError
from vruntime.monitor.config import SandboxConfig
from vruntime.monitor.helpers import Helpers
from vruntime.monitor.readiness import readable
from vruntime.spawn import Child
from vruntime.vm import console, machine

if TYPE_CHECKING:
    from vruntime.agent.client import Agent, Greeting

T = TypeVar("T")

SHUTDOWN_TIMEOUT = 3.0
# How long an end that follows from another waits for that one to show, in seconds.
LAST_WORDS = 1.0


@dataclass(frozen=True)
class Output:
    """What a helper says: the reading end of its pipe, and the last that came."""

    reader: int
    said: console.Ring


class Sandbox:
    """One virtual machine, watched and ended within the event loop."""

    def __init__(self, config: SandboxConfig, helpers: Helpers) -> None:
        self.config = config
        self.share = helpers.share
        self.cause: str | None = None
        self.timings: dict[str, float] = {}
        self.agent: Agent
        self._console_socket = helpers.console
        self._console = console.Ring()
        self._qmp_socket = helpers.qmp
        self._qemu = helpers.qemu
        self._virtiofsd = helpers.virtiofsd
        self._output = {name: Output(fd, console.Ring(64 << 10)) for name, fd in helpers.output.items()}
        self._began = helpers.began
        self.namespace = helpers.namespace
        self._turn = helpers.turn
        self._ending = False
        self._oom_kills_before = config.oom_kills

    # -- life ---------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Begins to watch the helpers and to dial the agent; called once, first thing in the event loop."""
        from vruntime.agent.client import Agent  # noqa: PLC0415  heavy: the guest boots meanwhile

        loop = asyncio.get_running_loop()
        self.died: asyncio.Future[str] = loop.create_future()
        self._drain(self._console_socket.fileno(), self._console)
        for output in self._output.values():
            self._drain(output.reader, output.said)
        for helper in (self._qemu, self._virtiofsd):
            loop.add_reader(helper.pidfd, self._helper_ended, helper)
        self._directory_fd = os.open(self.config.directory, os.O_PATH | os.O_CLOEXEC)
        self.agent = Agent(f"/proc/self/fd/{self._directory_fd}/agent.sock", timeout=self.config.request_timeout)
        self._greeted = asyncio.create_task(self._greet())
        self._mark("imports")

    async def _greet(self) -> Greeting:
        timeout = self.config.boot_timeout
        try:
            greeting = await self.agent.configure(machine.SHARE_TAG, timeout=timeout)
        except AgentError as error:
            raise SandboxError(
                f"sandbox {self.config.id}: the guest did not come up: {error.message}",
                hint=self._console_hint(),
            ) from error
        finally:
            os.close(self._turn)
        self._mark("guest")
        return greeting

    async def up(self) -> Greeting:
        """Waits until the guest has greeted; SandboxError with the cause when it dies or stays silent."""
        return await self.guard(asyncio.shield(self._greeted))

    async def guard(self, call: Awaitable[T]) -> T:
        """Awaits a call to the guest; when the machine dies first, or made it fail, SandboxError with the cause."""
        task = asyncio.ensure_future(call)
        try:
            either: set[asyncio.Future[Any]] = {task, self.died}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not self.died.done() and task.done() and isinstance(task.exception(), AgentError):
                # A broken channel is often the first sign of a death that is about to show.
                await asyncio.wait({self.died}, timeout=0.2)
            if self.died.done():
                raise self.death()
            return task.result()
        finally:
            task.cancel()
            if task.done() and not task.cancelled():
                task.exception()

    def death(self) -> SandboxError:
        """The error that tells of the machine's death."""
        return SandboxError(
            f"sandbox {self.config.id}: the virtual machine died: {self.cause}",
            hint=self._console_hint(),
        )

    def obituary(self) -> str | None:
        """The same as a text for the record; None while the machine lives."""
        return str(self.death()) if self.died.done() else None

    def kill(self, why: str) -> None:
        """Kills the machine at once."""
        self.cause = self.cause or why
        self._qemu.kill()

    def _helper_ended(self, helper: Child) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(helper.pidfd)
        code = helper.peek()
        if helper is self._virtiofsd and code == 0:
            # It ends with its one client: QEMU's own end, about to show, has the cause.
            loop.call_later(LAST_WORDS, self._machine_died, helper, code)
        else:
            self._machine_died(helper, code)

    def _machine_died(self, helper: Child, code: int | None) -> None:
        if self._ending or self.died.done():
            return
        self._read_what_is_left()
        if helper is self._qemu and code and code < 128 and (first := self._virtiofsd.peek()):
            helper, code = self._virtiofsd, first  # QEMU fails for want of it
        self.cause = self.cause or self._find_cause(helper, code)
        self.died.set_result(self.cause)

    def _find_cause(self, helper: Child, code: int | None) -> str:
        said = console.cause(self._console.contents())
        if helper.name == "qemu" and said:
            return said
        if code == 128 + signal.SIGKILL and self._oom_kills() > self._oom_kills_before:
            return f"{helper.name} was killed by the host's OOM killer: the container's cgroup there is out of memory"
        if code is not None and 128 < code <= 128 + 64:
            return f"{helper.name} was killed by {_signal_name(code - 128)}"
        last = console.tail(self._output[helper.name].said.contents())[-1:]
        if code:
            return f"{helper.name} ended with exit code {code}" + (f": {last[0]}" if last else "")
        return "the guest reset itself" if helper.name == "qemu" else f"{helper.name} ended"

    def disregard_oom_kills(self) -> None:
        """What the kernel has killed in the group so far does not explain a death."""
        self._oom_kills_before = self._oom_kills()

    def _oom_kills(self) -> int:
        from vruntime.cgroups import cgroupfs  # noqa: PLC0415  rarely needed

        return cgroupfs.oom_kills(self.config.group)

    def _console_hint(self) -> str | None:
        lines = console.tail(self._console.contents())
        return f"console: {' | '.join(lines)}" if lines else None

    def _drain(self, fd: int, ring: console.Ring) -> None:
        os.set_blocking(fd, False)

        def read() -> None:
            data = _read_some(fd)
            if data:
                ring.write(data)
            else:
                loop.remove_reader(fd)

        loop = asyncio.get_running_loop()
        loop.add_reader(fd, read)

    def _read_what_is_left(self) -> None:
        said = [(output.reader, output.said) for output in self._output.values()]
        for fd, ring in [(self._console_socket.fileno(), self._console), *said]:
            while data := _read_some(fd):
                ring.write(data)

    # -- end ----------------------------------------------------------------------------------------------------

    async def shutdown(self) -> None:
        """Ends the machine, and proves the end. What the guest had to write is on the host once the agent has answered.

        Its way through the kernel's own shutdown, which the agent begins then, is not waited for.
        """
        if self._ending:
            return
        self._ending = True
        self._greeted.cancel()
        lives = not self.died.done() and self._greeted.done() and not self._greeted.cancelled()
        if lives and self._greeted.exception() is None and not await self._ask_agent():
            await self._ask_qemu()
        await self.agent.close()
        self._unwatch(self._qemu)
        self._qemu.end()
        await self._outlives(self._virtiofsd, SHUTDOWN_TIMEOUT)  # it ends with its one client
        self._virtiofsd.end_session()

    async def _ask_agent(self) -> bool:
        try:
            await self.agent.shutdown(timeout=SHUTDOWN_TIMEOUT)
        except AgentError:
            return False
        return True

    async def _ask_qemu(self) -> None:
        from vruntime.vm import qmp  # noqa: PLC0415  rarely needed

        await qmp.quit_machine(self._qmp_socket, timeout=1.0)
        await self._outlives(self._qemu, 1.0)

    @staticmethod
    def _unwatch(helper: Child) -> None:
        """Its death is not out of turn any more."""
        asyncio.get_running_loop().remove_reader(helper.pidfd)

    async def _outlives(self, helper: Child, timeout: float) -> bool:
        self._unwatch(helper)
        try:
            await asyncio.wait_for(readable(helper.pidfd), timeout)
        except TimeoutError:
            return True
        return False

    def _mark(self, phase: str) -> None:
        self.timings[phase] = round((time.monotonic() - self._began) * 1000, 1)


def _read_some(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
