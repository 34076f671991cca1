"""What flows between a caller's descriptors and those of a process in the guest.

A caller's descriptor is never switched to non-blocking, since the caller and others share its file description. Pipes
and terminals are opened anew through /proc instead, which gives a description of our own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress

from vruntime.agent.client import Agent, Process
from vruntime.errors import AgentError, HostError
from vruntime.monitor.readiness import writable

STDIN, STDOUT, STDERR = range(3)

# The most that the agent takes as one message, in bytes.
READ_AHEAD = 1 << 20


class Closed(Exception):
    """Nobody reads any more what is written."""


class Endpoint:
    """One descriptor of the caller, which it takes over."""

    def __init__(self, fd: int, *, writing: bool) -> None:
        mode = os.fstat(fd).st_mode
        self._socket: socket.socket | None = None
        self._fd = fd
        self._ahead: ReadAhead | None = None
        self._waits = stat.S_ISFIFO(mode) or os.isatty(fd)
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=fd)
            self._waits = True
        elif self._waits:
            self._fd = _own_description(fd, writing=writing)

    def close(self) -> None:
        """Closes the descriptor, whose number the next one may get at once: so it is watched no longer."""
        if self._ahead is not None:
            self._ahead.close()
        if self._socket is not None:
            self._socket.close()
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def end_writing(self) -> None:
        """Tells the other side of a socket that nothing more comes."""
        if self._socket is not None:
            with suppress(OSError):  # it is gone
                self._socket.shutdown(socket.SHUT_WR)

    async def chunks(self) -> AsyncIterator[bytes]:
        """What comes in, until its end, in pieces of at most READ_AHEAD."""
        if not self._waits:
            with suppress(OSError):  # a directory, or a disk that fails
                while data := self._read(READ_AHEAD):
                    yield data
            return
        self._ahead = ReadAhead(self._fd, self._read)
        while data := await self._ahead.take():
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

    def _read(self, limit: int) -> bytes:
        if self._socket is not None:
            return self._socket.recv(limit, socket.MSG_DONTWAIT)
        return os.read(self._fd, limit)

    def _write(self, view: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return os.write(self._fd, view)


def _own_description(fd: int, *, writing: bool) -> int:
    flags = (os.O_WRONLY if writing else os.O_RDONLY) | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EIO):
            raise HostError(f"cannot open {os.readlink(f'/proc/self/fd/{fd}')}: {error.strerror}") from error
        # The other side of a pipe or a terminal is gone already: found out at the first write.
        return _broken_pipe() if writing else os.open(os.devnull, flags)
    finally:
        os.close(fd)


def _broken_pipe() -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.close(reader)
    return writer


class ReadAhead:
    """Reads on while the last piece is on its way: the slower the way, the larger the pieces."""

    def __init__(self, fd: int, read: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._read = read
        self._parts: list[bytes] = []
        self._room = READ_AHEAD
        self._ended = False
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read_some)

    async def take(self) -> bytes:
        """What has come since the last call, once there is something; nothing at the end."""
        while not self._parts and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        data = b"".join(self._parts)
        self._parts.clear()
        self._room = READ_AHEAD
        if not self._ended:
            self._loop.add_reader(self._fd, self._read_some)
        return data

    def close(self) -> None:
        """Reads no more."""
        self._loop.remove_reader(self._fd)

    def _read_some(self) -> None:
        try:
            data = self._read(self._room)
        except BlockingIOError:
            return
        except OSError:  # a terminal whose other side is gone
            data = b""
        if data:
            self._parts.append(data)
            self._room -= len(data)
        self._ended = not data
        if self._ended or not self._room:
            self.close()
        self._changed.set()


class Output:
    """Copies what a process writes to one of its descriptors to the caller.

    `caught_up` is set once all is written that the process itself wrote before its end.
    """

    def __init__(self, agent: Agent, process: Process, number: int, fd: int) -> None:
        self._agent = agent
        self._process = process
        self._number = number
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
                await self._agent.close_output(self._process, self._number)
        finally:
            self.caught_up.set()
            if self._number > STDERR:  # of which the other direction may still be read
                self._endpoint.end_writing()
            self._endpoint.close()

    async def _copy(self) -> None:
        async with aclosing(self._agent.output(self._process, self._number)) as chunks:
            async for chunk in chunks:
                await self._endpoint.write(chunk.data)
                self.written += len(chunk.data)
                if chunk.process_ended:
                    self.caught_up.set()


class Input:
    """Copies what comes from a descriptor of the caller to a process."""

    def __init__(self, agent: Agent, process: Process, number: int, fd: int) -> None:
        self._agent = agent
        self._process = process
        self._number = number
        self._endpoint = Endpoint(fd, writing=False)

    async def copy(self) -> None:
        """Copies until the caller's end of file, which the process then meets too, or until the process is gone."""
        try:
            with suppress(AgentError):
                await self._agent.input(self._process, self._number, self._endpoint.chunks())
        finally:
            self._endpoint.close()
