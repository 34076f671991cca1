"""The network of a sandbox, kept in step with its namespace on the host as long as it lives."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from vruntime.agent.network import to_proto
from vruntime.agent.proto import agent_pb2 as pb
from vruntime.errors import HostError, SandboxError, VruntimeError, from_wire
from vruntime.monitor import messages
from vruntime.monitor.names import Names
from vruntime.monitor.readiness import readable
from vruntime.monitor.resolv_conf import ResolvConf
from vruntime.monitor.sandbox import Sandbox
from vruntime.network import events, traces
from vruntime.network.description import Description
from vruntime.network.namespace import Network
from vruntime.spawn import Child, spawn

# An engine changes several things at once: what follows within this time is carried over together, in seconds.
LULL = 0.05
SYNC_TIMEOUT = 30.0
# How long the end of a helper that has been killed is waited for, in seconds.
END_TIMEOUT = 5.0


class ContainerNetwork:
    """The network that a container has brought; `listener` hears of changes in its namespace on the host.

    Others may share it. It ends with the last that has it.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        container_id: str,
        request: Mapping[str, Any],
        listener: int,
        *,
        resolv_conf: str | None,
    ) -> None:
        self._sandbox = sandbox
        self._users = {container_id: ResolvConf(resolv_conf)}  # the first of them speaks for all
        self._network = Network.from_wire(request["network"])
        self._description = Description.from_wire(request["description"])
        self._namespace = sandbox.namespace
        self._listener = socket.socket(fileno=listener)
        self._told = self.wanted()
        self._change: asyncio.TimerHandle | None = None
        self._syncing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._names: Names | None = None

    def wanted(self) -> pb.Network:
        """What the guest is to have."""
        return to_proto(self._description, self._name_servers())

    def watch(self) -> None:
        """Follows the changes from now on; the guest has what was wanted."""
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._heard)
        self._serve_names()

    async def settle(self) -> None:
        """Carries over at once what has changed by now."""
        async with self._syncing:
            if self._change is not None or self._is_changed():
                await self._sync()

    def share(self, container_id: str, *, resolv_conf: str | None) -> None:
        """One more container has it."""
        self._users[container_id] = ResolvConf(resolv_conf)

    def leave(self, container_id: str) -> None:
        """One that has it has ended."""
        spoke = container_id == self._speaker
        self._users.pop(container_id).close()
        if not self._users:
            self._close()
        elif spoke and self._names is not None:
            self._names.close()
            self._names = None
            self._serve_names()

    @property
    def _speaker(self) -> str:
        """By whose id the guest is told of the network."""
        return next(iter(self._users))

    def _close(self) -> None:
        """Ends the watch, and takes away what would outlive the machine."""
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        if self._names is not None:
            self._names.close()
        if self._change is not None:
            self._change.cancel()
        for task in self._tasks:
            task.cancel()
        try:
            traces.remove(self._sandbox.config.directory)
        except HostError as error:
            print(error, file=sys.stderr, flush=True)

    def _heard(self) -> None:
        if self._is_changed() and self._change is None:
            self._change = asyncio.get_running_loop().call_later(LULL, self._follow)

    def _is_changed(self) -> bool:
        return events.changed(self._listener, self._description, [tap.index for tap in self._network.taps])

    def _follow(self) -> None:
        task = asyncio.create_task(self._settle_alone())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle_alone(self) -> None:
        try:
            await self.settle()
        except VruntimeError as error:
            print(f"the network could not be brought into step: {error}", file=sys.stderr, flush=True)

    async def _sync(self) -> None:
        if self._change is not None:
            self._change.cancel()
            self._change = None
        try:
            self._description = await asyncio.wait_for(self._join(), SYNC_TIMEOUT)
        except TimeoutError as error:
            raise SandboxError(f"the network namespace could not be read within {SYNC_TIMEOUT:.0f} s") from error
        wanted = self.wanted()
        if wanted != self._told:
            call = self._sandbox.agent.configure_network(self._speaker, wanted)
            await self._sandbox.guard(call)
            self._told = wanted
        self._serve_names()

    def _serve_names(self) -> None:
        if self._names is None and self._told.name_servers:
            self._names = Names(self._sandbox, self._speaker, self._namespace, self._name_servers)

    async def _join(self) -> Description:
        """In a process of its own: see vruntime/network/__main__.py."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                argv = [sys.executable, "-I", "-m", "vruntime.network"]
                helper = spawn("network", argv, fds={2: 2, 3: theirs.fileno(), 4: self._namespace})
            ours.setblocking(False)
            try:
                request = {"network": self._network.to_wire(), "before": self._description.to_wire()}
                await messages.send(ours, request)
                reply, _ = await messages.receive(ours)
            except (OSError, EOFError) as error:
                raise SandboxError("the network's helper ended without an answer") from error
            finally:
                await _end(helper)
        if "error" in reply:
            raise from_wire(reply["error"])
        return Description.from_wire(reply["ok"])

    def _name_servers(self) -> list[str]:
        return self._users[self._speaker].loopback_servers() if self._network.name_server else []


async def _end(helper: Child) -> None:
    """Kills and reaps it; not one that the kernel does not let go of in time."""
    helper.kill()
    with suppress(TimeoutError):
        await asyncio.wait_for(readable(helper.pidfd), END_TIMEOUT)
    helper.wait(0)
    os.close(helper.pidfd)
