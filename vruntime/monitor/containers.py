"""The containers of a sandbox, and the processes in them, as the monitor keeps them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import termios
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from vruntime import descriptors
from vruntime.agent.client import Agent, Process
from vruntime.agent.proto import agent_pb2 as pb
from vruntime.cgroups import entry
from vruntime.container import CONFIG_FILE, Record, Status
from vruntime.descriptors import Kind
from vruntime.errors import AgentError, AgentSilent, ContainerError, HostError, SandboxError, VruntimeError
from vruntime.monitor.events import EventLog
from vruntime.monitor.network import ContainerNetwork
from vruntime.monitor.oom import HostOom
from vruntime.monitor.sandbox import Sandbox
from vruntime.monitor.shims import Shims
from vruntime.monitor.stdio import STDERR, STDIN, STDOUT, Input, Output
from vruntime.oci import resources as oci_resources
from vruntime.spawn import Identity
from vruntime.store import Store

T = TypeVar("T")

INIT = "init"
SHIM_KILLED = "the process's shim was killed before the process began"
KILLED = 128 + signal.SIGKILL
# An exit is not held back longer than this for a reader that has stopped reading, in seconds.
STALLED_READER = 10.0
KILL_TIMEOUT = 5.0
# More than a process can have written before its end that its reader does not have yet: pipes, windows, buffers. Bytes.
MOST_IN_FLIGHT = 16 << 20

_KINDS = {
    Kind.NULL: pb.Stdio.NULL,
    Kind.INPUT: pb.Stdio.INPUT,
    Kind.OUTPUT: pb.Stdio.OUTPUT,
    Kind.SOCKET: pb.Stdio.SOCKET,
}


class Shim:
    """Our end of the link to a process's shim (see shim.py)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Waits for the shim's first word."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._sock, limit=4096)
        if await self._reader.readline() != b"ready\n":
            raise SandboxError(SHIM_KILLED)

    async def words(self) -> list[str] | None:
        """The next line of the shim, split; None when it is gone."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError):
            return None
        return line.decode().split() or None

    def exit(self, code: int) -> None:
        """Tells the shim to exit with a code."""
        if self._writer is not None:
            with suppress(ConnectionError):
                self._writer.write(b"exit %d\n" % code)
                self._writer.close()

    def close(self) -> None:
        """Hangs up without a word."""
        if self._writer is None:
            self._sock.close()
        else:  # which is watched, and whose number the next one may get
            self._writer.transport.abort()


class GuestProcess:
    """One process in the guest, with its shim and its streams on the host."""

    def __init__(
        self,
        sandbox: Sandbox,
        process: Process,
        fds: dict[str, int],
        *,
        terminal: bool,
        on_oom: Callable[[], Awaitable[None]],
    ) -> None:
        self.process = process
        self.exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._sandbox = sandbox
        self._fds = dict(fds)
        fds.clear()  # they are ours
        self._terminal = terminal
        self._on_oom = on_oom
        self._shim = Shim(socket.socket(fileno=self._fds.pop("shim")))
        self._size: tuple[int, int] | None = None
        self._begun = False
        self._ended = asyncio.Event()
        self._outputs: list[Output] = []
        self._copying: list[asyncio.Task[None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def _agent(self) -> Agent:
        return self._sandbox.agent

    def stdio(self) -> pb.Stdio:
        """Which descriptors the guest must provide."""
        further = [_KINDS[descriptors.kind(fd)] for fd in self._further().values()]
        if self._terminal:
            rows, columns = termios.tcgetwinsize(self._fds["terminal"])
            return pb.Stdio(stdin=True, stdout=True, rows=rows, columns=columns, further=further)
        standard = {name: name in self._fds for name in ("stdin", "stdout", "stderr")}
        return pb.Stdio(**standard, further=further)

    def _further(self) -> dict[int, int]:
        """The descriptors beyond the standard streams: ours by the process's number."""
        return {int(name): fd for name, fd in self._fds.items() if name.isdigit()}

    async def meet_shim(self) -> None:
        """Waits for the shim, and from then on carries out what it says."""
        await asyncio.wait_for(self._shim.open(), timeout=10)
        self._obeying = asyncio.create_task(self._obey_shim())
        self._tasks.append(self._obeying)

    async def while_shim_lives(self, call: Awaitable[T]) -> T:
        """Awaits a step of the process's making; SandboxError when its shim is killed first."""
        task = asyncio.ensure_future(call)
        try:
            await asyncio.wait({task, self._obeying}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise SandboxError(SHIM_KILLED)
            return task.result()
        finally:
            task.cancel()

    async def begin(self) -> None:
        """Connects the streams of the process, which now exists in the guest, and waits for its end beside us."""
        self._begun = True
        if self._terminal:
            terminal = self._fds.pop("terminal")
            self._copy_input(STDIN, os.dup(terminal))
            self._copy_output(STDOUT, terminal)
        if "stdin" in self._fds:
            self._copy_input(STDIN, self._fds.pop("stdin"))
        for name, number in (("stdout", STDOUT), ("stderr", STDERR)):
            if name in self._fds:
                self._copy_output(number, self._fds.pop(name))
        for number in self._further():
            self._copy_further(number, self._fds.pop(str(number)))
        self._tasks.append(asyncio.create_task(self._await_end()))
        if self._size is not None:
            await self._resize(*self._size)
        if self._obeying.done():
            await self.signal(signal.SIGKILL)

    def _copy_further(self, number: int, fd: int) -> None:
        match descriptors.kind(fd):
            case Kind.INPUT:
                self._copy_input(number, fd)
            case Kind.OUTPUT:
                self._copy_output(number, fd)
            case Kind.SOCKET:
                self._copy_input(number, os.dup(fd))
                self._copy_output(number, fd)
            case Kind.NULL:
                os.close(fd)

    def _copy_input(self, number: int, fd: int) -> None:
        self._tasks.append(asyncio.create_task(Input(self._agent, self.process, number, fd).copy()))

    def _copy_output(self, number: int, fd: int) -> None:
        output = Output(self._agent, self.process, number, fd)
        self._outputs.append(output)
        self._copying.append(asyncio.create_task(output.copy()))

    async def _await_end(self) -> None:
        try:
            ended = await self._sandbox.guard(self._agent.wait(self.process))
        except (AgentError, SandboxError):
            code = KILLED  # the machine died with it; the sandbox knows why
        else:
            code = ended.exit_code
            self._ended.set()
            await self._drain()
            if ended.oom_killed:
                await self._on_oom()  # before the exit, as it comes from a kernel
        self.exit_code.set_result(code)

    async def _drain(self) -> None:
        """Waits until all that the process wrote has reached its reader, or a reader no longer reads."""
        waiting = [asyncio.create_task(output.caught_up.wait()) for output in self._outputs]
        before, written = self._written(), -1
        while waiting and written != (written := self._written()) and written - before <= MOST_IN_FLIGHT:
            _, pending = await asyncio.wait(waiting, timeout=STALLED_READER)
            if not pending:
                return
        for task in waiting:
            task.cancel()

    def _written(self) -> int:
        return sum(output.written for output in self._outputs)

    async def _obey_shim(self) -> None:
        while (words := await self._shim.words()) is not None:
            with suppress(AgentError, SandboxError):
                match words:
                    case ["signal", number]:
                        await self.signal(int(number))
                    case ["resize", rows, columns]:
                        await self._resize(int(rows), int(columns))
        if not self.exit_code.done():
            with suppress(AgentError, SandboxError):
                await self.signal(signal.SIGKILL)

    async def signal(self, number: int, *, everyone: bool = False) -> None:
        """Signals the process. A guest that does not take a SIGKILL is itself killed."""
        if not self._begun:
            return
        call = self._sandbox.guard(self._agent.signal(self.process, number, everyone=everyone))
        if number != signal.SIGKILL:
            await call
            return
        try:
            await asyncio.wait_for(call, KILL_TIMEOUT)
        except (TimeoutError, AgentSilent) as error:
            if self.process.process_id != INIT:
                raise AgentError("the guest does not answer") from error
            self._sandbox.kill("its agent did not take a SIGKILL")
        else:
            if self.process.process_id == INIT:
                self._tasks.append(asyncio.create_task(self._see_end()))

    async def _see_end(self) -> None:
        """Kills the machine of an init that a SIGKILL does not end, as when it waits for a host that is stuck."""
        try:
            await asyncio.wait_for(self._ended.wait(), KILL_TIMEOUT)
        except TimeoutError:
            self._sandbox.kill("a SIGKILL did not end the container's init")

    async def _resize(self, rows: int, columns: int) -> None:
        self._size = (rows, columns)
        if self._begun:
            await self._sandbox.guard(self._agent.resize(self.process, rows, columns))

    def finish(self, code: int) -> None:
        """Lets the shim exit: the end of the process to the engine. Its children may go on writing."""
        self._shim.exit(code)
        for task in self._tasks:
            task.cancel()

    async def streams_end(self) -> None:
        """Waits until the last child has closed what it inherited."""
        for result in await asyncio.gather(*self._copying, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, AgentError):
                traceback.print_exception(result)  # a defect of ours: the monitor's log tells it

    def abandon(self) -> None:
        """The process never came to be."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        for task in self._tasks:
            task.cancel()
        self._shim.close()


class Container:
    """One container: its record on disk is kept true by us alone from here on."""

    def __init__(self, sandbox: Sandbox, store: Store, record: Record) -> None:
        self.record = record
        self._sandbox = sandbox
        self._store = store
        self._processes: dict[str, GuestProcess] = {}
        self._shims = Shims()
        self._next = 1
        self._before_pause = record.status
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._host_oom = HostOom(entry.paths_of(store, record.id))
        self.events = EventLog(sandbox.agent, record.id, on_oom=self._show_oom)
        self.network: ContainerNetwork | None = None

    @property
    def id(self) -> str:
        """The container's id."""
        return self.record.id

    def note(self, **changes: Any) -> None:
        """Changes the record on disk."""
        self.record = self.record.update(self._store, **changes)

    def _process(self, process_id: str, fds: dict[str, int], *, terminal: bool) -> GuestProcess:
        process = Process(self.id, process_id)
        return GuestProcess(self._sandbox, process, fds, terminal=terminal, on_oom=self._show_oom)

    async def _show_oom(self) -> None:
        await self._host_oom.show()
        self._sandbox.disregard_oom_kills()

    async def create(
        self,
        config: bytes,
        fds: dict[str, int],
        *,
        terminal: bool,
        hook_state: bytes,
        network: ContainerNetwork | None,
        joined: Mapping[str, str],
    ) -> None:
        """Makes the container in the guest, with its init waiting for start; takes the descriptors over.

        `network` is one that it brings; `joined` are the namespaces that it shares, as in Agent.create.
        """
        init = self._process(INIT, fds, terminal=terminal)
        try:
            await init.meet_shim()
            await init.while_shim_lives(self._sandbox.up())
            making = self._sandbox.agent.create(
                self.id,
                config,
                init.stdio(),
                notify=self.record.notify,
                hook_state=hook_state,
                network=None if network is None else network.wanted(),
                joined=joined,
            )
            await init.while_shim_lives(self._sandbox.guard(making))
        except BaseException:
            init.abandon()
            raise
        if network is not None:
            self.network = network
            network.watch()
        await init.begin()
        self._processes[INIT] = init
        self.note(status=Status.CREATED)
        if self.record.notify or self._host_oom.is_possible:
            self.events.follow()  # before it can be ready, or out of memory

    def share_network(self, owner: Container, *, resolv_conf: str | None) -> None:
        """The network is that of another container."""
        if owner.network is not None:
            self.network = owner.network
            self.network.share(self.id, resolv_conf=resolv_conf)

    async def start(self, *, hooks_time: float | None) -> None:
        """Starts the program of the container, after its startContainer hooks, which have that many seconds."""
        self.record.status.check_start()
        if self.network is not None:
            await self.network.settle()  # what an engine has set up since the container was made
        self.note(status=Status.RUNNING)  # first: a program that runs must not be left with a record that cannot say so
        try:
            await self._sandbox.guard(self._sandbox.agent.start(self.id, hooks_time=hooks_time))
        except BaseException:
            if self.record.status is Status.RUNNING:
                self.note(status=Status.CREATED)
            raise

    async def exec(
        self, oci_process: bytes, fds: dict[str, int], *, terminal: bool, wait_for_resume: bool, shim: Identity
    ) -> None:
        """Adds a process, which then lives by itself; to a paused container once it goes on, if that is wanted.

        Takes the descriptors over.
        """
        guest = self._process(f"exec-{self._next}", fds, terminal=terminal)
        process = guest.process
        self._next += 1
        try:
            await guest.meet_shim()
            if wait_for_resume:
                await guest.while_shim_lives(self._goes_on.wait())
            self.record.status.check_exec()
            await self._sandbox.guard(self._sandbox.agent.exec(process, oci_process, guest.stdio()))
        except BaseException:
            guest.abandon()
            raise
        await guest.begin()
        self._processes[process.process_id] = guest
        self._shims.add(shim)
        guest.exit_code.add_done_callback(lambda _: asyncio.ensure_future(self._reap(guest)))

    async def _reap(self, guest: GuestProcess) -> None:
        guest.finish(guest.exit_code.result())
        self._processes.pop(guest.process.process_id, None)
        await guest.streams_end()
        with suppress(AgentError, SandboxError):
            await self._sandbox.guard(self._sandbox.agent.forget(guest.process))

    async def signal(self, number: int, *, everyone: bool = False) -> None:
        """Signals the container's init, or all its processes."""
        self.record.status.check_kill()
        await self._processes[INIT].signal(number, everyone=everyone)

    async def pause(self) -> None:
        """Stops every process."""
        self.record.status.check_pause()
        await self._sandbox.guard(self._sandbox.agent.pause(self.id))
        self._before_pause = self.record.status
        self._goes_on.clear()
        self.note(status=Status.PAUSED)

    async def resume(self) -> None:
        """Lets every process go on."""
        self.record.status.check_resume()
        await self._sandbox.guard(self._sandbox.agent.resume(self.id))
        self.note(status=self._before_pause)
        self._goes_on.set()

    async def update(self, resources: Mapping[str, Any]) -> None:
        """Sets the limits of the OCI's `resources` on the host, in the guest, and in the kept config: all or none."""
        from vruntime.cgroups import group as groups  # noqa: PLC0415  most containers are never updated

        self.record.status.check_kill()
        self._check_memory(resources)
        config = self._store.read(self.id, CONFIG_FILE)
        before = config["linux"].get("resources", {})
        group = groups.load(self._store, self.id)
        # In a thread: systemd may take its time.
        undo_on_host = None if group is None else await asyncio.to_thread(group.change, resources, before)
        config["linux"]["resources"] = resources
        self._store.write(self.id, CONFIG_FILE, json.dumps(config))
        try:
            await self._set_limits(resources)
        except VruntimeError:
            if undo_on_host is not None:
                await asyncio.to_thread(undo_on_host)
            config["linux"]["resources"] = before
            self._store.write(self.id, CONFIG_FILE, json.dumps(config))
            with suppress(VruntimeError):  # the first error is the one to tell
                await self._set_limits(before)
            raise

    def _check_memory(self, resources: Mapping[str, Any]) -> None:
        limit, memory = resources.get("memory", {}).get("limit", 0), self._sandbox.config.machine.memory
        if limit > memory:
            raise ContainerError(
                f"memory.limit {limit}: the container's virtual machine has {memory} bytes, which cannot grow",
                hint="a container that is to grow must be created with the higher limit, and can be limited then",
            )

    async def _set_limits(self, resources: Mapping[str, Any]) -> None:
        for_guest = oci_resources.for_guest(dict(resources), self._sandbox.config.machine.vcpus)
        await self._sandbox.guard(self._sandbox.agent.update(self.id, json.dumps(for_guest).encode()))

    async def stats(self) -> dict[str, Any]:
        """What the container has used."""
        self.record.status.check_kill()
        return await self._sandbox.guard(self._sandbox.agent.stats(self.id))

    def pids(self) -> list[int]:
        """The pids on the host of the processes that it was asked to run."""
        init = [] if self.record.shim is None else [self.record.shim.pid]
        return [*init, *self._shims.pids()]

    async def processes(self) -> list[dict[str, Any]]:
        """The container's processes."""
        return await self._sandbox.guard(self._sandbox.agent.processes(self.id))

    async def ended(self) -> None:
        """Waits for the end of init, and records it."""
        init = self._processes[INIT]
        code = await init.exit_code
        self._goes_on.set()
        if others := [guest.exit_code for guest in self._processes.values() if guest is not init]:
            await asyncio.wait(others, timeout=KILL_TIMEOUT)
        await self._shims.taken()
        try:
            self.note(status=Status.STOPPED, exit_code=code, error=self._sandbox.obituary())
        except HostError as error:  # a full disk, say: that we are gone will show that the container has stopped
            with suppress(OSError):  # our log may lie on that disk too
                print(error, file=sys.stderr)
        if self.network is not None:
            self.network.leave(self.id)

    async def leave(self) -> None:
        """Kills what is left of it in the guest, where others go on, and gives back what it had there."""
        with suppress(AgentError, SandboxError):  # the machine is about to be found dead, or nothing had come to be
            await self._sandbox.guard(self._sandbox.agent.delete(self.id))

    def finish(self) -> None:
        """Lets the end show to the engine."""
        init = self._processes[INIT]
        init.finish(init.exit_code.result())
