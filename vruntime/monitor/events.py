"""What has happened to a container, kept for commands that follow it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

from vruntime.agent.client import Agent
from vruntime.errors import AgentError
from vruntime.monitor.notify import SAYS_READY, ServiceManager

# Who follows reads at once; a guest that makes more than these meanwhile gains nothing by it.
KEPT = 256

# The longest notification that the agent passes on, in bytes.
LONGEST = 4096

OOM = "oom"
READY = "ready"


class EventLog:
    """The last events of one container, each with its number, from 1."""

    def __init__(self, agent: Agent, container_id: str, on_oom: Callable[[], Awaitable[None]]) -> None:
        self._on_oom = on_oom
        self._agent = agent
        self._container_id = container_id
        self._kept: deque[str] = deque(maxlen=KEPT)
        self._changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._manager: ServiceManager | None = None
        self.last = 0
        """The number of the last event."""

    def follow(self) -> None:
        """Begins to follow the container, if that has not begun."""
        if self._following is None:
            self._following = asyncio.create_task(self._follow())

    async def after(self, number: int) -> tuple[int, str] | None:
        """The event after the one with this number, or the oldest that is kept; None when the container has ended."""
        self.follow()
        while number >= self.last and not self._ended():
            self._changed.clear()
            await self._changed.wait()
        if number >= self.last:
            return None
        number = max(number, self.last - len(self._kept))
        return number + 1, self._kept[number - self.last]

    def _ended(self) -> bool:
        return self._following is not None and self._following.done()

    async def _follow(self) -> None:
        try:
            # A connection that breaks off ends it too: then the machine is about to be found dead.
            with suppress(AgentError):
                async with aclosing(self._agent.events(self._container_id)) as events:
                    async for event in events:
                        if event.HasField("oom"):
                            self._add(OOM)
                            await self._on_oom()
                        else:
                            await self._notified(event.notification)
        finally:
            asyncio.get_running_loop().call_soon(self._changed.set)

    def forward(self, manager: ServiceManager) -> None:
        """From now on the container's notifications go to a service manager."""
        self._manager = manager

    async def _notified(self, datagram: bytes) -> None:
        if len(datagram) > LONGEST:
            return  # of no agent of ours, and costly to look at
        if self._manager is not None:
            await self._manager.tell(datagram)
        if SAYS_READY in datagram.split(b"\n"):
            self._add(READY)

    def _add(self, event: str) -> None:
        self._kept.append(event)
        self.last += 1
        self._changed.set()
