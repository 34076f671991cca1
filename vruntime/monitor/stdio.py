"""What flows between a caller's standard streams and those of a process in the guest.

A caller's descriptor is never switched to non-blocking, since the caller and others share its file description. Pipes
and terminals are opened anew through /proc instead, which gives a description of our own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

from vruntime.agent.client import Agent, Process
from vruntime.errors import AgentError
from vruntime.monitor.readiness import readable, writable

READ_SIZE = 256 << 10


class Closed(Exception):
    """Nobody reads any more what is written."""


class Endpoint:
    """One standard stream of the caller; takes over the descriptor."""

    def __init__(self, fd: int, *, writing: bool) -> None:
        mode = os.fstat(fd).st_mode
        self._socket: socket.socket | None = None
        self._fd = fd
        self._waits = stat.S_ISFIFO(mode) or os.isatty(fd)
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=fd)
            self._waits = True
        elif self._waits:
            self._fd = _own_description(fd, writing=writing)

    def close(self) -> None:
        """Closes the descriptor."""
        if self._socket is not None:
            self._socket.close()
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    async def chunks(self) -> AsyncIterator[bytes]:
        """What comes in, until its end."""
        while True:
            try:
                data = self._read()
            except BlockingIOError:
                await readable(self._fd)
                continue
            except OSError:  # a terminal whose other side is gone
                return
            if not data:
                return
            yield data

    async def write(self, data: bytes) -> None:
        """Writes everything, as fast as the reader takes it; Closed when the reader is gone."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._write(view) :]
            except BlockingIOError:
                await writable(self._fd)
            except OSError as error:
                raise Closed from error

    def _read(self) -> bytes:
        if self._socket is not None:
            return self._socket.recv(READ_SIZE, socket.MSG_DONTWAIT)
        return os.read(self._fd, READ_SIZE)

    def _write(self, view: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return os.write(self._fd, view)


def _own_description(fd: int, *, writing: bool) -> int:
    flags = (os.O_WRONLY if writing else os.O_RDONLY) | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:  # a pipe whose reader is gone already: found out at the first write
        return os.open(os.devnull, flags) if not writing else _broken_pipe()
    finally:
        os.close(fd)


def _broken_pipe() -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.close(reader)
    return writer


class Output:
    """Copies one output stream of a process to the caller.

    `caught_up` is set once all is written that the process itself wrote before its end.
    """

    def __init__(self, agent: Agent, process: Process, fd: int, *, stderr: bool) -> None:
        self._agent = agent
        self._process = process
        self._stderr = stderr
        self._is_terminal = os.isatty(fd)
        self._endpoint = Endpoint(fd, writing=True)
        self.caught_up = asyncio.Event()
        self.written = 0

    async def copy(self) -> None:
        """Copies until the stream ends, or the reader is gone: then the process's next write fails, as on a pipe."""
        try:
            await self._copy()
        except Closed:
            if not self._is_terminal:  # whose shim has been sent a SIGHUP
                await self._agent.close_output(self._process, stderr=self._stderr)
        finally:
            self.caught_up.set()
            self._endpoint.close()

    async def _copy(self) -> None:
        async with aclosing(self._agent.output(self._process, stderr=self._stderr)) as chunks:
            async for chunk in chunks:
                await self._endpoint.write(chunk.data)
                self.written += len(chunk.data)
                if chunk.process_ended:
                    self.caught_up.set()


class Input:
    """Copies the caller's standard input to a process."""

    def __init__(self, agent: Agent, process: Process, fd: int) -> None:
        self._agent = agent
        self._process = process
        self._endpoint = Endpoint(fd, writing=False)

    async def copy(self) -> None:
        """Copies until the caller's end of file, which closes the process's stdin too, or until the process is gone."""
        try:
            with suppress(AgentError):
                await self._agent.input(self._process, self._endpoint.chunks())
        finally:
            self._endpoint.close()
