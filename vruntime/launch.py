"""How a command makes a container: check, take the id, start shim and monitor, and wait until the guest has it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vruntime import accelerator, descriptors, namespaces, streams, terminal
from vruntime.cgroups.group import Group, is_rootless
from vruntime.cgroups.limits import Overhead
from vruntime.container import CONFIG_FILE, Record, now
from vruntime.control import TIMEOUT, Connection, MonitorSilent
from vruntime.errors import ContainerError, HostError, SandboxError, VruntimeError
from vruntime.globals import Globals
from vruntime.hooks import CREATING, Hooks
from vruntime.log import Log
from vruntime.monitor import turn
from vruntime.monitor.config import GUEST_NOTIFY_PATH, GUEST_PATH, LOG, Bind, Overlay, SandboxConfig
from vruntime.network import traces
from vruntime.network.namespace import Namespace
from vruntime.oci.config import NOTIFY_DIRECTORY, OciConfig, load_config
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
    overlay: Overlay | None = None
    """Of a bundle made from an image, which is removed with the container."""


@dataclass(frozen=True)
class Created:
    """A container in the guest that waits for its start."""

    record: Record
    connection: Connection
    caller: streams.Caller


class Monitor:
    """The sandbox's monitor: started at once, told only later what to run, and gone when it is told nothing."""

    def __init__(self, child: Child, connection: Connection, output: int) -> None:
        self.connection = connection
        self._child = child
        self._output = output
        self._launched = False

    @classmethod
    def start(cls, name: str) -> Monitor:
        """Starts it, without waiting for it."""
        ours, theirs = socket.socketpair()
        output = os.memfd_create(LOG, os.MFD_CLOEXEC)  # until it has a directory to log to
        argv = [sys.executable, "-I", "-m", "vruntime.monitor", name]
        with theirs:
            child = spawn("monitor", argv, fds={1: output, 2: output, 3: theirs.fileno()}, new_session=True)
        return cls(child, Connection(ours), output)

    @property
    def pid(self) -> int:
        """Its process, which is in the sandbox's mount namespace once it has launched."""
        return self._child.pid

    def launch(self, root: Path, sandbox: SandboxConfig, namespace: Namespace) -> None:
        """Has it launch the machine, without waiting for it; `root` is that of the state."""
        self._sandbox = sandbox
        with self._last_words():
            fds = namespace.fds
            self.connection.ask("launch", fds=fds, root=os.path.abspath(root), sandbox=sandbox.to_wire())
        namespace.close_given()

    def launched(self) -> None:
        """Waits until the sandbox's processes run and its mount namespace is there; the guest boots on."""
        if not self._launched:
            with self._last_words():
                self.connection.answer("launch", timeout=turn.TIMEOUT + TIMEOUT)
            self._launched = True

    def create(self, request: dict[str, Any], fds: Mapping[str, int]) -> dict[str, Any]:
        """Has it make the container; waits until the container is there."""
        timeout = turn.TIMEOUT + self._sandbox.boot_timeout + self._sandbox.request_timeout + MARGIN
        with suppress(MonitorSilent):  # a monitor that has hung up has said why, or its silence is told below
            self.connection.ask("create", timeout=timeout, fds=list(fds.values()), names=list(fds), **request)
        self.launched()
        with self._last_words():
            return self.connection.answer("create", timeout=timeout)

    def kill(self) -> None:
        """SIGKILL: the machine dies with it."""
        self._child.kill()

    def end(self) -> None:
        """Hangs up, on which it ends and takes back what it has begun; waits for that. No error when it has ended."""
        self.connection.close()
        if self._child.wait(END_TIMEOUT) is None:
            self._child.end()

    @contextmanager
    def _last_words(self) -> Iterator[None]:
        """Adds to an error of silence what it has logged."""
        try:
            yield
        except MonitorSilent as error:
            said = os.pread(self._output, 1 << 16, 0)
            with suppress(FileNotFoundError):
                said += (self._sandbox.directory / LOG).read_bytes()
            raise SandboxError(error.message, hint=" | ".join(console.tail(said)) or None) from error


def create(globals_: Globals, log: Log, container_id: str, options: Options, undo: ExitStack) -> Created:
    """Makes a container; `undo` takes everything back unless it is dismissed.

    Raises VruntimeError; nothing exists before config.json, the flags and the host have been checked.
    """
    began = time.monotonic()
    check_id(container_id)
    _refuse_socket_activation()
    preserved = descriptors.preserved(options.preserve_fds)
    monitor = Monitor.start(container_id)  # its interpreter starts beside our checks
    undo.callback(monitor.end)
    config = load_config(options.bundle / CONFIG_FILE)
    terminal.check_console(terminal=config.terminal, detach=options.detach, console_socket=options.console_socket)
    for warning in config.warnings:
        log.warning(warning)
    store = Store(globals_.root)
    sandbox = _sandbox_config(globals_.settings, store, container_id, config)
    group = _plan_group(globals_, sandbox, config)
    namespace = _network_namespace(globals_.settings, config)
    undo.callback(namespace.close)
    log.debug(f"phase validate: {_milliseconds(began)} ms")

    store.reserve(container_id)
    hooks = Hooks(_new_record(container_id, config), config.document)
    undo.callback(hooks.run_after_delete, log)  # when all is removed
    undo.callback(store.remove, container_id)
    if path := namespace.network.path:
        traces.save(store, container_id, path)
        undo.callback(_remove_traces, store, container_id, log)
    for warning in group.check(config.resources):
        log.warning(warning)
    undo.callback(_remove_group, group, log)
    undo.callback(monitor.end)  # before its state and its group are removed
    _write_state(store, hooks.record, config, options)
    group = _make_group(store, container_id, group, monitor, config)
    monitor.launch(store.root, replace(sandbox, group=group.paths, oom_kills=group.oom_kills()), namespace)
    caller = streams.prepare(
        wants_terminal=config.terminal,
        console_socket=options.console_socket,
        size=_console_size(config),
        preserved=preserved,
        command=config.process.args,
        shim_place=_namespaces_to_find(monitor if hooks.before_create else None, namespace),
        group=group.paths,
        undo=undo,
    )
    if hooks.before_create:
        hooks.run_before_create(caller.shim.pid, monitor.pid)
    network, listener = _join_network(namespace, config)
    request = _request(hooks.record, config, options, caller, sandbox.machine) | {"network": network}
    with listener:
        reply = monitor.create(request, caller.fds | {"network": listener.fileno()})
    caller.close_given()
    namespace.close()
    _log_phases(log, reply, sandbox.machine)
    log.debug(f"phase create: {_milliseconds(began)} ms in all")
    undo.callback(_take_back, store, container_id, monitor, log)
    return Created(hooks.record, monitor.connection, caller)


def _write_state(store: Store, record: Record, config: OciConfig, options: Options) -> None:
    if options.overlay is not None:
        store.link_layer(record.id, config.bundle)
    store.write(record.id, CONFIG_FILE, json.dumps(config.document))
    record.save(store)
    store.sandbox(record.sandbox).mkdir(mode=0o700)


def _make_group(store: Store, container_id: str, planned: Group, monitor: Monitor, config: OciConfig) -> Group:
    """Makes the control group with the monitor in it. What came to be: without privileges it may lack hierarchies."""
    planned.save(store, container_id)  # before it is made: whoever cleans up must find it
    group = planned.make(monitor.pid, config.resources)
    group.save(store, container_id)
    return group


def _log_phases(log: Log, reply: dict[str, Any], machine: Machine) -> None:
    for phase, milliseconds in reply["timings"].items():
        log.debug(f"phase {phase}: {milliseconds} ms after the monitor's start")
    guest = reply["guest"]
    log.debug(
        f"guest: kernel {guest['kernel_release']}, agent {guest['agent_version']}, accelerator"
        f" {machine.accelerator}, init after {guest['init_usec'] / 1000:.1f} ms, ready after"
        f" {guest['ready_usec'] / 1000:.1f} ms"
    )


def _refuse_socket_activation() -> None:
    sockets = os.environ.get("LISTEN_FDS", "0")
    if sockets != "0" and os.environ.get("LISTEN_PID") == str(os.getpid()):
        raise ContainerError(
            f"LISTEN_FDS={sockets}: a listening socket of the host cannot cross into a virtual machine",
            hint="start it without socket activation",
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


def _plan_group(globals_: Globals, sandbox: SandboxConfig, config: OciConfig) -> Group:
    vm, machine = globals_.settings.vm, sandbox.machine
    return Group.plan(
        config.cgroups_path,
        sandbox.id,
        Overhead(machine.memory, guest=vm.memory_overhead, helpers=vm.host_overhead, vcpus=machine.vcpus),
        systemd=globals_.systemd_cgroup,
        rootless=is_rootless(globals_.rootless),
    )


def _remove_group(group: Group, log: Log) -> None:
    """Takes back a group whose container has not come to be; what it cannot remove is said beside the cause."""
    try:
        group.remove()
    except HostError as error:
        log.warning(str(error))


def _remove_traces(store: Store, container_id: str, log: Log) -> None:
    try:
        traces.remove(store, container_id)
    except HostError as error:
        log.warning(str(error))


def _memory(vm: VmSettings, config: OciConfig) -> int:
    """The guest's memory: the container's limit and what the guest itself needs, at most what the host has."""
    if config.memory_limit is None:
        return vm.memory
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = max(LEAST_MEMORY, min(config.memory_limit + vm.memory_overhead, host))
    return -(-wanted >> 20) << 20


def _vcpus(vm: VmSettings, config: OciConfig) -> int:
    """Enough for what the container may use, at most what the host has."""
    if config.cpu_count is None:
        return vm.vcpus
    return max(1, min(config.cpu_count, os.cpu_count() or 1))


def _console_size(config: OciConfig) -> tuple[int, int] | None:
    size = config.process.document.get("consoleSize")
    return (size["height"], size["width"]) if size else None


def _network_namespace(settings: Settings, config: OciConfig) -> Namespace:
    path, hooks = config.network_namespace, any(config.hooks.get(kind) for kind in CREATING)
    return Namespace(
        path,
        # What fills a new namespace without a hook comes later, and is one interface (`ctr run --cni`).
        devices=settings.network.devices if path or hooks else 1,
        pinned=settings.network.pin_addresses,
        filled_by_hooks=hooks,
    )


def _join_network(namespace: Namespace, config: OciConfig) -> tuple[dict[str, Any], socket.socket]:
    """What the monitor is told of the network, and the socket that hears of changes since."""
    listener = namespace.listen()
    description = namespace.join()
    network = {"network": namespace.network.to_wire(), "description": description.to_wire()}
    return network | {"resolv_conf": config.resolv_conf}, listener


@contextmanager
def _namespaces_to_find(monitor: Monitor | None, namespace: Namespace) -> Iterator[None]:
    """What is found by the shim's pid is the sandbox's or the container's own, and nothing of the host.

    The network always: there are engines that fill it when the container has been made. The mounts, of the monitor,
    where there are hooks.
    """
    if monitor is not None:
        monitor.launched()
    mounts = nullcontext() if monitor is None else namespaces.mounts_of(monitor.pid)
    try:
        with namespaces.network(namespace.fd), mounts:
            yield
    except OSError as error:
        raise HostError(f"cannot make the namespaces that hooks find by the container's pid: {error}") from error


def _new_record(container_id: str, config: OciConfig) -> Record:
    return Record(
        id=container_id,
        bundle=str(config.bundle),
        rootfs=str(config.rootfs),
        created=now(),
        sandbox=container_id,
        annotations=dict(config.annotations),
        owner=os.geteuid(),
        creator=Identity.of(os.getpid()),
        notify=bool(os.environ.get("NOTIFY_SOCKET")),
        hooks=any(config.hooks.values()),
    )


def _take_back(store: Store, container_id: str, monitor: Monitor, log: Log) -> None:
    """Removes a container that was made already: its init is killed, and the sandbox ends with it."""
    try:
        Connection.to(store.sandbox(container_id)).kill(container_id)
    except VruntimeError:
        monitor.kill()
    remove(store, container_id, log)


def _request(
    record: Record, config: OciConfig, options: Options, caller: streams.Caller, machine: Machine
) -> dict[str, Any]:
    base = f"{GUEST_PATH}/{record.id}"
    binds = [
        Bind(
            mount.index,
            mount.source,
            readonly=mount.is_readonly,
            readonly_below=mount.is_readonly_below,
            recursive=mount.is_recursive,
            follows_host=mount.follows_host,
            id_mapping=mount.id_mapping,
        )
        for mount in config.mounts
        if mount.is_bind and mount.guest_device is None
    ]
    sources = {bind.index: f"{base}/mounts/{bind.index}" for bind in binds}
    notify = f"{GUEST_NOTIFY_PATH}/{record.id}" if record.notify else None
    destinations = _made_in_root(config)
    if record.notify:
        destinations.append((NOTIFY_DIRECTORY, True))
    overlay = {} if options.overlay is None else {"overlay": options.overlay.to_wire()}
    return overlay | {
        "id": record.id,
        "config": config.for_guest(f"{base}/rootfs", sources, vcpus=machine.vcpus, notify=notify).decode(),
        "readonly": config.readonly,
        "binds": [bind.to_wire() for bind in binds],
        "destinations": destinations,
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
