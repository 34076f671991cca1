"""What the monitor reads of the descriptors that it is given, and that it lets go of their numbers."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from vruntime.monitor.containers import Shim
from vruntime.monitor.stdio import READ_AHEAD, Endpoint, ReadAhead


def with_pipe(work: Callable[[ReadAhead, int], Awaitable[None]]) -> None:
    """Runs `work` on the reading side of a pipe, and its writing end."""

    async def run() -> None:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        ahead = ReadAhead(reader, lambda limit: os.read(reader, limit))
        try:
            await asyncio.wait_for(work(ahead, writer), 10)
        finally:
            ahead.close()
            os.close(reader)

    asyncio.run(run())


async def turn_loop() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_what_comes_while_a_piece_is_on_its_way_goes_with_the_next() -> None:
    async def work(ahead: ReadAhead, writer: int) -> None:
        os.write(writer, b"first")
        assert await ahead.take() == b"first"
        for part in (b"and ", b"what ", b"follows"):
            os.write(writer, part)
            await turn_loop()
        assert await ahead.take() == b"and what follows"
        os.close(writer)
        assert await ahead.take() == b""

    with_pipe(work)


def test_the_end_comes_after_the_last_piece() -> None:
    async def work(ahead: ReadAhead, writer: int) -> None:
        os.write(writer, b"last")
        os.close(writer)
        await turn_loop()
        assert await ahead.take() == b"last"
        assert await ahead.take() == b""

    with_pipe(work)


def test_no_piece_is_larger_than_the_agent_takes_and_the_writer_is_held_back() -> None:
    async def work(ahead: ReadAhead, writer: int) -> None:
        written = 0
        for _ in range(1000):
            try:
                written += os.write(writer, bytes(64 << 10))
            except BlockingIOError:
                break
            await turn_loop()
        else:
            pytest.fail("the writer was never held back")
        assert written > READ_AHEAD
        assert len(await ahead.take()) == READ_AHEAD
        os.close(writer)
        rest = 0
        while data := await ahead.take():
            rest += len(data)
        assert READ_AHEAD + rest == written

    with_pipe(work)


async def assert_free(number: int, leftovers: list[object]) -> None:
    """The next descriptor with this number is heard of, even when what is left of the last one goes only then."""
    await turn_loop()
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    if reader != number:
        os.dup2(reader, number)
        os.close(reader)
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(number, arrived.set)
    leftovers.clear()
    await turn_loop()
    try:
        os.write(writer, b"x")
        await asyncio.wait_for(arrived.wait(), 5)
    finally:
        loop.remove_reader(number)
        os.close(number)
        os.close(writer)


def test_a_closed_stream_frees_its_number() -> None:
    """A generator of pieces that nobody asks any more is finalised late: it must not touch what has its number then."""

    async def run() -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        endpoint = Endpoint(reader, writing=False)
        pieces = endpoint.chunks()
        os.write(writer, b"x")
        assert await anext(pieces) == b"x"
        number = endpoint._fd
        endpoint.close()
        os.close(writer)
        leftovers: list[object] = [pieces]
        del pieces
        await assert_free(number, leftovers)

    asyncio.run(run())


def test_a_shim_that_was_hung_up_on_frees_its_number() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        number = ours.fileno()
        shim = Shim(ours)
        theirs.sendall(b"ready\n")
        await shim.open()
        shim.close()
        await turn_loop()
        assert theirs.recv(1) == b""
        theirs.close()
        await assert_free(number, [shim])

    asyncio.run(run())
