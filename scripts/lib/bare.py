"""The machine of a container without what the runtime adds: what its figures are measured against."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc

from vruntime import accelerator, settings
from vruntime.agent.proto import agent_pb2, agent_pb2_grpc
from vruntime.monitor.helpers import virtiofsd_command
from vruntime.vm import machine

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
DEADLINE = 120.0

# The first process of the bare machine; a kernel without ACPI ends by a reset.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t virtiofs {tag} /volume
ip link set lo up
( {script} )
reboot -f
"""


def bare_machine(configured: settings.Settings, chosen: accelerator.Accelerator) -> machine.Machine:
    """The machine that the runtime makes by default."""
    return machine.Machine(
        name="floor",
        qemu=str(configured.vm.qemu),
        kernel=str(configured.vm.kernel),
        initramfs=str(configured.vm.initramfs),
        accelerator=chosen,
        memory=configured.vm.memory,
        vcpus=configured.vm.vcpus,
        tsc_khz=accelerator.tsc_khz(),
    )


@contextmanager
def bare_qemu(bare: machine.Machine, directory: Path, extra: list[str]) -> Iterator[tuple[socket.socket, float]]:
    """QEMU with kernel, initramfs and the agent's port alone; a connection to the agent, and when it was started."""
    with ExitStack() as stack:
        path = str(directory / "floor.sock")
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        stack.callback(os.unlink, path)
        listener.listen(1)
        argv = machine.bare_command_line(bare, agent=listener.fileno())
        began = time.monotonic()
        qemu = subprocess.Popen(
            [*argv, *extra], pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        stack.callback(qemu.wait)
        stack.callback(qemu.kill)
        agent = stack.enter_context(socket.socket(socket.AF_UNIX))
        agent.settimeout(DEADLINE)
        agent.connect(path)
        yield agent, began


def time_to_ready(bare: machine.Machine, directory: Path) -> float:
    """Seconds from QEMU's start to the agent's first byte."""
    with bare_qemu(bare, directory, []) as (agent, began):
        agent.sendall(PREFACE)
        assert agent.recv(1)
        return time.monotonic() - began


def guest_nanoseconds(bare: machine.Machine, directory: Path, extra: list[str]) -> float:
    """The guest's clock at its readiness; with -icount shift=0 an instruction takes a nanosecond."""
    with bare_qemu(bare, directory, extra) as (agent, _):
        agent.close()
        options = [("grpc.default_authority", "agent")]
        with grpc.insecure_channel(f"unix:{directory}/floor.sock", options=options) as channel:
            stub = agent_pb2_grpc.SandboxStub(channel)
            request = agent_pb2.ConfigureRequest(wall_clock_ns=time.time_ns(), entropy=os.urandom(64))
            reply = stub.Configure(request, timeout=DEADLINE, wait_for_ready=True)
            return float(reply.ready_usec * 1000)


def run_script(
    bare: machine.Machine, virtiofsd: str, volume: Path, script: str, *, programs: Sequence[str] = (), tap: int = -1
) -> str:
    """What a shell script prints that runs in the machine, with a directory of the host at /volume.

    `programs` of the host are there as well, and a network device on a tap when one is given, by its descriptor.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        console, console_end = (stack.enter_context(end) for end in socket.socketpair())
        _, qmp_end = (stack.enter_context(end) for end in socket.socketpair())
        agent = _listen(stack, directory / "agent.sock")
        listener = _listen(stack, directory / "virtiofsd.sock")
        files = stack.enter_context(socket.socket(socket.AF_UNIX))
        files.connect(listener.getsockname())
        _start(stack, virtiofsd_command(virtiofsd, volume, listener=listener.fileno()), listener)
        given = (console_end, qmp_end, agent, files)
        taps = () if tap < 0 else (tap,)
        fds = machine.Descriptors(*(end.fileno() for end in given), taps=taps)
        initramfs = _initramfs(directory, script, programs)
        _start(stack, machine.command_line(replace(bare, initramfs=initramfs), fds), *given, *taps)
        console_end.close()
        console.settimeout(DEADLINE)
        return b"".join(iter(lambda: console.recv(65536), b"")).decode(errors="replace")


def _listen(stack: ExitStack, path: Path) -> socket.socket:
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(path))
    listener.listen()
    return listener


def _start(stack: ExitStack, argv: list[str], *given: socket.socket | int) -> None:
    fds = [end if isinstance(end, int) else end.fileno() for end in given]
    process = subprocess.Popen(argv, pass_fds=fds, stdin=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)


def copy_program(program: str, root: Path) -> None:
    """Copies a program of the host, and the libraries that it needs, to the same places below another root."""
    linked = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for path in [program, *re.findall(r"(/\S+) \(0x", linked)]:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _initramfs(directory: Path, script: str, programs: Sequence[str]) -> str:
    """Busybox and other programs, and the script as the first process."""
    root = directory / "root"
    for name in ("bin", "dev", "proc", "tmp", "volume"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    for program in programs:
        copy_program(program, root)
    (root / "init").write_text(INIT.format(tag=machine.SHARE_TAG, script=script))
    (root / "init").chmod(0o755)
    archive = directory / "initramfs.cpio"
    with open(archive, "wb") as output:
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*"))).encode()
        subprocess.run(
            ["cpio", "--create", "--format=newc", "--quiet"], cwd=root, input=names, stdout=output, check=True
        )
    return str(archive)
