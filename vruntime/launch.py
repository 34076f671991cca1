"""How a command makes a container: check, take the id, start shim and monitor, and wait until the guest has it."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vruntime import accelerator, streams, terminal
from vruntime.container import CONFIG_FILE, Record, now
from vruntime.control import Connection, MonitorSilent
from vruntime.errors import ContainerError, HostError, SandboxError, VruntimeError
from vruntime.globals import Globals
from vruntime.log import Log
from vruntime.monitor.config import GUEST_PATH, LOG, Bind, SandboxConfig
from vruntime.oci.config import OciConfig, load_config
from vruntime.remove import END_TIMEOUT, remove
from vruntime.settings import Settings, VmSettings
from vruntime.spawn import Child, Identity, spawn
from vruntime.store import Store, check_id
from vruntime.vm import console
from vruntime.vm.machine import Machine

# On top of the guest's own deadline: what the monitor needs to say what went wrong.
MARGIN = 15.0
# What the guest itself boots in, in bytes.
LEAST_MEMORY = 128 << 20


@dataclass(frozen=True)
class Options:
    """The flags that `create` and `run` share."""

    bundle: Path
    console_socket: Path | None
    pid_file: Path | None
    preserve_fds: int
    detach: bool


@dataclass(frozen=True)
class Created:
    """A container in the guest that waits for its start."""

    container_id: str
    connection: Connection
    caller: streams.Caller

    def start(self) -> None:
        """Starts its program."""
        self.connection.request("start", id=self.container_id)


class Monitor:
    """The sandbox's monitor: started at once, told only later what to run, and gone when it is told nothing."""

    def __init__(self, child: Child, connection: Connection, output: int) -> None:
        self.connection = connection
        self._child = child
        self._output = output

    @classmethod
    def start(cls, name: str) -> Monitor:
        """Starts it, without waiting for it."""
        ours, theirs = socket.socketpair()
        output = os.memfd_create(LOG, os.MFD_CLOEXEC)  # until it has a directory to log to
        argv = [sys.executable, "-I", "-m", "vruntime.monitor", name]
        with theirs:
            child = spawn("monitor", argv, fds={1: output, 2: output, 3: theirs.fileno()}, new_session=True)
        return cls(child, Connection(ours), output)

    def create(self, sandbox: SandboxConfig, request: dict[str, Any], caller: streams.Caller) -> dict[str, Any]:
        """Has it launch the machine and make the container; waits until the container is there."""
        timeout = sandbox.boot_timeout + sandbox.request_timeout + MARGIN
        try:
            return self.connection.request("create", timeout=timeout, fds=list(caller.fds.values()), **request)
        except MonitorSilent as error:
            raise SandboxError(error.message, hint=self._last_words(sandbox.directory) or None) from error

    def kill(self) -> None:
        """SIGKILL: the machine dies with it."""
        self._child.kill()

    def end(self) -> None:
        """Hangs up, on which it ends and takes back what it has begun; waits for that. No error when it has ended."""
        self.connection.close()
        if self._child.wait(END_TIMEOUT) is None:
            self._child.end()

    def _last_words(self, directory: Path) -> str:
        said = os.pread(self._output, 1 << 16, 0)
        with suppress(FileNotFoundError):
            said += (directory / LOG).read_bytes()
        return " | ".join(console.tail(said))


def create(globals_: Globals, log: Log, container_id: str, options: Options, undo: ExitStack) -> Created:
    """Makes a container; `undo` takes everything back unless it is dismissed.

    Raises VruntimeError; nothing exists before config.json, the flags and the host have been checked.
    """
    began = time.monotonic()
    check_id(container_id)
    _check_preserved(options.preserve_fds)
    monitor = Monitor.start(container_id)  # its interpreter starts beside our checks
    undo.callback(monitor.end)
    config = load_config(options.bundle / CONFIG_FILE)
    terminal.check_console(terminal=config.terminal, detach=options.detach, console_socket=options.console_socket)
    for warning in config.warnings:
        log.warning(warning)
    store = Store(globals_.root)
    sandbox = _sandbox_config(globals_.settings, store, container_id, config)
    log.debug(f"phase validate: {_milliseconds(began)} ms")

    store.reserve(container_id)
    undo.callback(store.remove, container_id)
    undo.callback(monitor.end)  # before its state is removed
    _first_record(store, container_id, config)
    sandbox.directory.mkdir(mode=0o700)
    caller = streams.prepare(
        wants_terminal=config.terminal,
        console_socket=options.console_socket,
        size=_console_size(config),
        undo=undo,
    )
    reply = monitor.create(sandbox, _request(globals_, sandbox, container_id, config, caller), caller)
    caller.close_given()
    for phase, milliseconds in reply["timings"].items():
        log.debug(f"phase {phase}: {milliseconds} ms after the monitor's start")
    guest = reply["guest"]
    log.debug(
        f"guest: kernel {guest['kernel_release']}, agent {guest['agent_version']}, accelerator"
        f" {sandbox.machine.accelerator}, init after {guest['init_usec'] / 1000:.1f} ms, ready after"
        f" {guest['ready_usec'] / 1000:.1f} ms"
    )
    log.debug(f"phase create: {_milliseconds(began)} ms in all")
    undo.callback(_take_back, store, container_id, monitor)
    return Created(container_id, monitor.connection, caller)


def _check_preserved(count: int) -> None:
    if count:
        raise ContainerError(
            f"--preserve-fds {count}: an open file of the host cannot cross into a virtual machine",
            hint="leave the flag out, or 0",
        )


def _check_installed(vm: VmSettings) -> None:
    for name in ("qemu", "kernel", "initramfs", "virtiofsd"):
        path: Path = getattr(vm, name)
        if not path.is_file():
            raise HostError(f"vm.{name}: {path} does not exist", hint="`vruntime check` tells how to mend the host")


def _sandbox_config(settings: Settings, store: Store, container_id: str, config: OciConfig) -> SandboxConfig:
    vm = settings.vm
    _check_installed(vm)
    return SandboxConfig(
        id=container_id,
        directory=store.sandbox(container_id),
        machine=Machine(
            name=container_id,
            qemu=str(vm.qemu),
            kernel=str(vm.kernel),
            initramfs=str(vm.initramfs),
            accelerator=accelerator.choose(settings),
            memory=_memory(vm, config),
            vcpus=_vcpus(vm, config),
            tsc_khz=accelerator.tsc_khz(),
            extra_kernel_parameters=vm.kernel_parameters,
        ),
        virtiofsd=str(vm.virtiofsd),
        boot_timeout=settings.agent.boot_timeout,
        request_timeout=settings.agent.request_timeout,
    )


def _memory(vm: VmSettings, config: OciConfig) -> int:
    """The guest's memory: the container's limit and what the guest itself needs, at most what the host has."""
    if config.memory_limit is None:
        return vm.memory
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = max(LEAST_MEMORY, min(config.memory_limit + vm.memory_overhead, host))
    return -(-wanted >> 20) << 20


def _vcpus(vm: VmSettings, config: OciConfig) -> int:
    """Enough for the container's quota, at most what the host has."""
    if config.cpu_quota is None:
        return vm.vcpus
    return max(1, min(math.ceil(config.cpu_quota / config.cpu_period), os.cpu_count() or 1))


def _console_size(config: OciConfig) -> tuple[int, int] | None:
    size = config.process.document.get("consoleSize")
    return (size["height"], size["width"]) if size else None


def _first_record(store: Store, container_id: str, config: OciConfig) -> None:
    store.write(container_id, CONFIG_FILE, json.dumps(config.document))
    Record(
        id=container_id,
        bundle=str(config.bundle),
        rootfs=str(config.rootfs),
        created=now(),
        sandbox=container_id,
        annotations=dict(config.annotations),
        owner=os.geteuid(),
        creator=Identity.of(os.getpid()),
    ).save(store)


def _take_back(store: Store, container_id: str, monitor: Monitor) -> None:
    """Removes a container that was made already: its init is killed, and the sandbox ends with it."""
    try:
        Connection.to(store.sandbox(container_id)).kill(container_id)
    except VruntimeError:
        monitor.kill()
    remove(store, container_id)


def _request(
    globals_: Globals,
    sandbox: SandboxConfig,
    container_id: str,
    config: OciConfig,
    caller: streams.Caller,
) -> dict[str, Any]:
    base = f"{GUEST_PATH}/{container_id}"
    binds = [
        Bind(mount.index, mount.source, mount.is_readonly, mount.is_recursive)
        for mount in config.mounts
        if mount.is_bind
    ]
    sources = {bind.index: f"{base}/mounts/{bind.index}" for bind in binds}
    return {
        "root": os.path.abspath(globals_.root),
        "sandbox": sandbox.to_wire(),
        "id": container_id,
        "config": config.for_guest(f"{base}/rootfs", sources).decode(),
        "readonly": config.readonly,
        "binds": [dict(bind.__dict__) for bind in binds],
        "destinations": _made_in_root(config),
        "names": list(caller.fds),
        "shim": caller.identity,
    }


def _made_in_root(config: OciConfig) -> list[tuple[str, bool]]:
    """What is made in the root filesystem where it is missing, each with whether it is a directory.

    Mount points, and the working directory unless it is in a mount.
    """
    made = [(mount.destination, not mount.is_bind or os.path.isdir(mount.source)) for mount in config.mounts]
    cwd = config.process.cwd
    if not any(f"{cwd}/".startswith(f"{mount.destination.rstrip('/')}/") for mount in config.mounts):
        made.append((cwd, True))
    return made


def _milliseconds(since: float) -> float:
    return round((time.monotonic() - since) * 1000, 1)
