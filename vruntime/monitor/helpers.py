"""The start of QEMU and virtiofsd, before the event loop is imported: the guest boots meanwhile."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vruntime.accelerator import Accelerator
from vruntime.control import short_path
from vruntime.monitor import turn
from vruntime.monitor.config import SandboxConfig
from vruntime.monitor.share import Share
from vruntime.spawn import Child, spawn, tied_to_us
from vruntime.vm import machine

# A sandbox's QEMU runs as a user of its own, found without a register: this plus the monitor's pid (at most 2^22).
FIRST_USER = 2_000_000_000
# The number of the first tap's descriptor in QEMU.
FIRST_TAP = 7


@dataclass(frozen=True)
class Helpers:
    """What has been started, and our ends of what joins us to it."""

    began: float
    """time.monotonic() at the start, in seconds."""

    share: Share
    virtiofsd: Child
    qemu: Child
    console: socket.socket
    qmp: socket.socket
    namespace: int
    """The network namespace of the taps."""

    turn: int
    """The descriptor to close when the guest is up: see turn.py."""

    output: dict[str, int]
    """What each helper says, by its name: the reading end of a pipe."""


def launch(config: SandboxConfig, namespace: int, taps: Sequence[int]) -> Helpers:
    """Makes the shared directory and starts virtiofsd and QEMU; neither is waited for. QEMU alone has the taps then."""
    boot_turn = turn.take()
    began = time.monotonic()
    share = Share(config.directory)
    share.make()
    output: dict[str, int] = {}
    with ExitStack() as given:  # closed once its process has it
        virtiofsd_said = _capture("virtiofsd", output, given)
        listener = _listen(config, "virtiofsd.sock", given)
        virtiofsd = _start_virtiofsd(config, share, listener, virtiofsd_said)
        console, console_end = _socket_pair(given)
        qmp, qmp_end = _socket_pair(given)
        fds = {
            1: (qemu_said := _capture("qemu", output, given)),
            2: qemu_said,
            3: console_end.fileno(),
            4: qmp_end.fileno(),
            5: _listen(config, "agent.sock", given).fileno(),
            6: _connect_once(config, "virtiofsd.sock", given).fileno(),
            **dict(enumerate(taps, FIRST_TAP)),
        }
        for tap in taps:
            given.callback(os.close, tap)
        qemu = _start_qemu(config, fds)
    return Helpers(began, share, virtiofsd, qemu, console, qmp, namespace, boot_turn, output)


def _start_virtiofsd(config: SandboxConfig, share: Share, listener: socket.socket, output: int) -> Child:
    argv = virtiofsd_command(config.virtiofsd, share.path, listener=3)
    fds = {1: output, 2: output, 3: listener.fileno()}
    # A session of its own: it forks the process that serves, which is to end with it.
    return spawn("virtiofsd", tied_to_us(argv), fds=fds, new_session=True)


def virtiofsd_command(program: str, directory: Path, *, listener: int) -> list[str]:
    """The argv of virtiofsd, which serves a directory to whoever dials the socket with this descriptor."""
    return [
        program,
        f"--fd={listener}",
        f"--shared-dir={directory}",
        "--sandbox=namespace",
        "--seccomp=kill",
        "--announce-submounts",
        "--inode-file-handles=never",
        "--posix-acl",  # and other extended attributes
        "--cache=auto",
        "--modcaps=-mknod",
        f"--rlimit-nofile={_open_files_limit()}",
        "--log-level=error",
    ]


def _start_qemu(config: SandboxConfig, fds: dict[int, int]) -> Child:
    taps = tuple(fd for fd in fds if fd >= FIRST_TAP)
    argv = machine.command_line(config.machine, machine.Descriptors(console=3, qmp=4, agent=5, virtiofs=6, taps=taps))
    user = FIRST_USER + os.getpid()
    return spawn("qemu", tied_to_us(argv, user=user, groups=_kvm_group(config)), fds=fds)


def _kvm_group(config: SandboxConfig) -> list[int]:
    return [os.stat("/dev/kvm").st_gid] if config.machine.accelerator is Accelerator.KVM else []


def _listen(config: SandboxConfig, name: str, given: ExitStack) -> socket.socket:
    """A listening socket in the sandbox's directory, ready to be dialled before its server runs."""
    listener = given.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    with short_path(config.directory, name) as path:
        listener.bind(path)
    listener.listen(1)
    return listener


def _connect_once(config: SandboxConfig, name: str, given: ExitStack) -> socket.socket:
    """A connection to a socket in the sandbox's directory, which is then closed to anyone else."""
    connection = given.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    with short_path(config.directory, name) as path:
        connection.connect(path)
        os.unlink(path)
    return connection


def _capture(name: str, output: dict[str, int], given: ExitStack) -> int:
    """A pipe for what a helper says, told apart from what the others say; gives its writing end."""
    output[name], writer = os.pipe2(os.O_CLOEXEC)
    given.callback(os.close, writer)
    return writer


def _socket_pair(given: ExitStack) -> tuple[socket.socket, socket.socket]:
    kept, other = socket.socketpair()
    return kept, given.enter_context(other)


def _open_files_limit() -> int:
    import resource  # noqa: PLC0415

    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1_000_000)
