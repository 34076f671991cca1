"""The shims of the processes that were added to a container, until whoever waits for them has taken their exit codes.

As with runc the end of init is the last that shows: there the kernel holds it back until the others have been waited
for. An engine that hears of it first takes the others for gone, and does not tell their clients.
"""

from __future__ import annotations

import asyncio
import os
import signal

from vruntime.monitor.readiness import readable
from vruntime.spawn import Identity

# Of an engine that does not wait for a process at all, in seconds.
TIMEOUT = 2.0
# A pidfd tells the end of a process, but not on every kernel when it has been waited for.
PAUSE = 0.005


class Shims:
    """Those whose exit codes have not been taken."""

    def __init__(self) -> None:
        self._watched: dict[asyncio.Task[None], int] = {}

    def pids(self) -> list[int]:
        """Their pids, in the order in which they were added."""
        return list(self._watched.values())

    def add(self, shim: Identity) -> None:
        """Watches one; one that has ended already, and is waited for, is left out."""
        pidfd = shim.pidfd()
        if pidfd is None:
            return
        watch = asyncio.create_task(_taken(pidfd))
        self._watched[watch] = shim.pid
        watch.add_done_callback(self._watched.pop)

    async def taken(self) -> None:
        """Waits until the exit codes of all have been taken, or are not going to be."""
        if self._watched:
            await asyncio.wait(self._watched, timeout=TIMEOUT)


async def _taken(pidfd: int) -> None:
    try:
        await readable(pidfd)
        while _exists(pidfd):
            await asyncio.sleep(PAUSE)
    finally:
        os.close(pidfd)


def _exists(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    return True
