"""Messages of the control socket (see control.py) within the event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from vruntime import control
from vruntime.monitor.readiness import readable


async def send(sock: socket.socket, message: dict[str, Any]) -> None:
    """Sends one message."""
    await asyncio.get_running_loop().sock_sendall(sock, control.encode(message))


async def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and the descriptors that came with it; EOFError at the end."""
    fds: list[int] = []
    try:
        length = control.header_length(await _exactly(sock, control.HEADER_SIZE, fds))
        return control.decode(await _exactly(sock, length, fds)), fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


async def _exactly(sock: socket.socket, count: int, fds: list[int]) -> bytes:
    data = bytearray()
    while len(data) < count:
        try:
            part, received = control.receive_some(sock, count - len(data))
        except BlockingIOError:
            await readable(sock.fileno())
            continue
        fds += received
        if not part:
            raise EOFError
        data += part
    return bytes(data)
