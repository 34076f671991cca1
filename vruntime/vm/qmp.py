"""Control of QEMU by its machine protocol, over a socket pair that nobody else holds."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from qemu.qmp import QMPClient, QMPError


async def quit_machine(sock: socket.socket, *, timeout: float) -> bool:
    """Asks QEMU to quit, within `timeout` seconds; whether it said that it would."""
    client = QMPClient("vruntime")
    with suppress(QMPError, OSError, TimeoutError, EOFError):
        async with asyncio.timeout(timeout):
            await client.connect(sock)
            await client.execute("quit")
            return True
    return False
