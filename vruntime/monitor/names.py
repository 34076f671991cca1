"""Name queries of a container, asked on its behalf where its engine's name server is: in its namespace on the host."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Collection
from contextlib import suppress

from vruntime import namespaces
from vruntime.agent.client import NameQuery
from vruntime.errors import AgentError, SandboxError
from vruntime.monitor.sandbox import Sandbox

PORT = 53
# As long as a resolver waits for one answer, and then some; in seconds.
TIMEOUT = 15.0
LONGEST = 65535

_LENGTH = struct.Struct("!H")


class Names:
    """Answers the queries of one container; `servers` are those that it may ask at the moment."""

    def __init__(
        self, sandbox: Sandbox, container_id: str, namespace: int, servers: Callable[[], Collection[str]]
    ) -> None:
        self._sandbox = sandbox
        self._container_id = container_id
        self._namespace = namespace
        self._servers = servers
        self._serving = asyncio.create_task(self._serve())

    def close(self) -> None:
        """Ends it, with all that is under way."""
        self._serving.cancel()

    async def _serve(self) -> None:
        try:
            await self._sandbox.guard(self._sandbox.agent.forward_names(self._container_id, self._ask))
        except (AgentError, SandboxError) as error:
            print(f"names are not forwarded any more: {error}", file=sys.stderr, flush=True)

    async def _ask(self, query: NameQuery) -> bytes:
        """The server's answer; empty when none is to be had."""
        if query.name_server not in self._servers():
            return b""
        with suppress(OSError, EOFError, TimeoutError):  # the guest's resolver asks again, or tells of it
            async with asyncio.timeout(TIMEOUT):
                return await (self._ask_tcp(query) if query.tcp else self._ask_udp(query))
        return b""

    async def _ask_udp(self, query: NameQuery) -> bytes:
        loop = asyncio.get_running_loop()
        with self._socket(socket.SOCK_DGRAM) as sock:
            await loop.sock_connect(sock, (query.name_server, PORT))
            await loop.sock_sendall(sock, query.message)
            return await loop.sock_recv(sock, LONGEST)

    async def _ask_tcp(self, query: NameQuery) -> bytes:
        loop = asyncio.get_running_loop()
        with self._socket(socket.SOCK_STREAM) as sock:
            await loop.sock_connect(sock, (query.name_server, PORT))
            await loop.sock_sendall(sock, _LENGTH.pack(len(query.message)) + query.message)
            (length,) = _LENGTH.unpack(await _exactly(sock, _LENGTH.size))
            return await _exactly(sock, length)

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        with namespaces.network(self._namespace):
            sock = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        return sock


async def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await asyncio.get_running_loop().sock_recv(sock, count - len(data))
        if not part:
            raise EOFError
        data += part
    return data
