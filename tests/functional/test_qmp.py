"""QEMU told to quit, as when the agent does not answer: a real QEMU, without a guest."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess

from vruntime.vm.qmp import quit_machine

QEMU = ("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S")


def started(given: socket.socket) -> subprocess.Popen[bytes]:
    fd = given.fileno()
    control = ("-chardev", f"socket,id=qmp,fd={fd}", "-mon", "chardev=qmp,mode=control")
    return subprocess.Popen([*QEMU, *control], pass_fds=[fd])


def test_qemu_quits() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        qemu = started(theirs)
    try:
        asyncio.run(quit_machine(ours, timeout=10))
        assert qemu.wait(10) == 0
    finally:
        qemu.kill()
        qemu.wait()
        ours.close()


def test_a_qemu_that_does_not_answer_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        qemu = started(theirs)
    try:
        qemu.send_signal(signal.SIGSTOP)
        asyncio.run(quit_machine(ours, timeout=0.5))
        assert qemu.poll() is None
    finally:
        qemu.kill()
        qemu.wait()
        ours.close()
