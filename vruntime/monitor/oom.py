"""An OOM kill in the guest, shown to whoever watches the container's control group on the host.

Engines learn of a container's OOM kills from the host's kernel alone: an eventfd (version 1) or memory.events (version
2) of its group. The guest's kernel has killed, and the host's knows of nothing. So it is given something to kill: a
program of ours joins the group and takes what that has left of its memory. That is the container's own to use, and
the kernel's choice is this program, whatever else the group holds.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from vruntime.cgroups import cgroupfs
from vruntime.cgroups.entry import PROCESSES, UNIFIED, Paths
from vruntime.errors import HostError
from vruntime.monitor.readiness import readable
from vruntime.spawn import spawn, tied_to_us

BALLAST = Path(__file__).with_name("ballast.py")
# With swap, what the group has left takes a while to use up; in seconds.
TIMEOUT = 10.0


class HostOom:
    """The OOM kill in a container's group: at most one in its life, as engines remember only that there was one."""

    def __init__(self, group: Paths) -> None:
        self._group = group
        self._showing: asyncio.Task[None] | None = None

    @property
    def is_possible(self) -> bool:
        """Whether the group has a limit, and the kernel may kill there."""
        return cgroupfs.oom_limit(self._group) is not None

    async def show(self) -> None:
        """Returns when whoever watches has been told, or cannot be."""
        if self._showing is None:
            self._showing = asyncio.create_task(self._use_up())
        await asyncio.shield(self._showing)

    async def _use_up(self) -> None:
        limit = cgroupfs.oom_limit(self._group)
        if limit is None:
            return
        directory = self._group.get("memory") or self._group[UNIFIED]
        argv = [sys.executable, "-I", "-S", str(BALLAST), f"{directory}/{PROCESSES}", str(limit)]
        try:
            ballast = spawn("ballast", tied_to_us(argv))
        except HostError as error:
            print(error, file=sys.stderr)  # the monitor's log
            return
        try:
            await asyncio.wait_for(readable(ballast.pidfd), TIMEOUT)
        except TimeoutError:
            print(f"no OOM kill in {directory} within {TIMEOUT} s", file=sys.stderr)
        finally:
            ballast.end()
