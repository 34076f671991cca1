"""Control of QEMU by its machine protocol, over a socket pair that nobody else holds."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from qemu.qmp import QMPClient, QMPError


async def quit_machine(sock: socket.socket, *, timeout: float) -> None:
    """Asks QEMU to quit, within `timeout` seconds. Whether it did shows in its end, not in its answer."""
    client = QMPClient("vruntime")
    with suppress(QMPError, OSError, TimeoutError, EOFError):
        await asyncio.wait_for(_quit(client, sock), timeout)
    with suppress(QMPError, OSError, EOFError, asyncio.CancelledError):
        await client.disconnect()


async def _quit(client: QMPClient, sock: socket.socket) -> None:
    await client.connect(sock)
    await client.execute("quit")
