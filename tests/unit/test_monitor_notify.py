"""What a container may say to a service manager, and for whom the monitor speaks."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest

from vruntime.monitor.notify import ServiceManager, allowed

Sockets = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize(
    ("datagram", "lines"),
    [
        (b"READY=1", [b"READY=1"]),
        (b"READY=1\nSTATUS=all is well\n", [b"READY=1", b"STATUS=all is well"]),
        (b"READY=2\nREADY=\nREADY\nready=1\n READY=1", []),
        (b"MAINPID=1\nFDSTORE=1\nBARRIER=1\nNOTIFYACCESS=all\nMAINPIDFDID=1\nWATCHDOG_USEC=1\nFDPOLL=0", []),
        (b"STATUS=\xc3\xa4\nSTATUS=\xff\nSTATUS=a\x1b[31m\nSTATUS=\xc2\x85", [b"STATUS=\xc3\xa4"]),
        (b"STATUS=" + b"x" * 1025, []),
        (b"STATUS=", [b"STATUS="]),
        (b"ERRNO=5\nERRNO=-5\nERRNO=99999", [b"ERRNO=5"]),
        (b"WATCHDOG=1\nWATCHDOG=trigger\nWATCHDOG=0", [b"WATCHDOG=1", b"WATCHDOG=trigger"]),
        (b"EXTEND_TIMEOUT_USEC=1000\nEXTEND_TIMEOUT_USEC=1 ", [b"EXTEND_TIMEOUT_USEC=1000"]),
        (b"EXTEND_TIMEOUT_USEC=" + b"9" * 20, []),
        (b"BUSERROR=org.freedesktop.DBus.Error.Failed", [b"BUSERROR=org.freedesktop.DBus.Error.Failed"]),
        (b"\0\n\n=\n==", []),
        (b"", []),
    ],
)
def test_what_may_be_passed_on(datagram: bytes, lines: list[bytes]) -> None:
    assert allowed(datagram) == lines


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """The monitor's and the manager's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        yield ours, theirs


def received(sock: socket.socket) -> list[tuple[int, bytes]]:
    found = []
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(4096, 64, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        found.append((struct.unpack("3i", ancillary[0][2])[0], data))


def test_the_starter_speaks_until_the_container_is_ready_and_then_the_main_process(sockets: Sockets) -> None:
    ours, theirs = sockets

    async def speak() -> None:
        manager = ServiceManager(ours, starter=os.getpid(), main_pid=1)
        for datagram in (b"STATUS=a\nMAINPID=2", b"READY=1", b"READY=1\nSTATUS=b", b"FDSTORE=1"):
            await manager.tell(datagram)

    asyncio.run(speak())
    assert received(theirs) == [
        (os.getpid(), b"STATUS=a"),
        (os.getpid(), b"READY=1\nMAINPID=1"),
        (1, b"READY=1\nSTATUS=b"),
    ]


def test_a_manager_that_does_not_read_loses_all_but_the_readiness(sockets: Sockets) -> None:
    ours, theirs = sockets
    filled = 0
    ours.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            ours.send(b"x")
            filled += 1

    async def speak() -> None:
        manager = ServiceManager(ours, starter=os.getpid(), main_pid=1)
        await manager.tell(b"STATUS=lost")
        telling = asyncio.create_task(manager.tell(b"READY=1"))
        await asyncio.sleep(0)
        assert not telling.done()
        for _ in range(filled):
            theirs.recv(1)
        await asyncio.wait_for(telling, 5)

    asyncio.run(speak())
    assert [data for _, data in received(theirs)] == [b"READY=1\nMAINPID=1"]


def test_one_process_that_has_ended_does_not_silence_the_container(sockets: Sockets) -> None:
    ours, theirs = sockets

    async def speak() -> None:
        await ServiceManager(ours, starter=(1 << 22) + 1, main_pid=1).tell(b"STATUS=a")

    asyncio.run(speak())
    assert received(theirs) == [(os.getpid(), b"STATUS=a")]
