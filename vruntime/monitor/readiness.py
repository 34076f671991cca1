"""Waiting in the event loop until a descriptor is ready, one waiter a descriptor and direction."""

from __future__ import annotations

import asyncio


async def readable(fd: int) -> None:
    """Returns when a read would not block; a pidfd, when its process has ended."""
    loop = asyncio.get_running_loop()
    ready = _Wake(loop)
    loop.add_reader(fd, ready)
    try:
        await ready.future
    finally:
        loop.remove_reader(fd)


async def writable(fd: int) -> None:
    """Returns when a write would not block."""
    loop = asyncio.get_running_loop()
    ready = _Wake(loop)
    loop.add_writer(fd, ready)
    try:
        await ready.future
    finally:
        loop.remove_writer(fd)


class _Wake:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[None] = loop.create_future()

    def __call__(self) -> None:
        if not self.future.done():
            self.future.set_result(None)
