"""How a command makes a container: check, take the id, start shim and monitor, and wait until the guest has it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vruntime import joining, namespaces, plan, streams, terminal, view
from vruntime.cgroups.group import Group
from vruntime.container import CONFIG_FILE, Record, now
from vruntime.control import MAX_FDS, Connection
from vruntime.errors import ConfigError, ContainerError, HostError, VruntimeError
from vruntime.globals import Globals
from vruntime.hooks import CREATING, Hooks
from vruntime.joining import Joined
from vruntime.log import Log
from vruntime.monitor import share
from vruntime.monitor.config import GUEST_NOTIFY_PATH, GUEST_PATH, Bind, Overlay
from vruntime.monitors import Monitor, SharedMonitor
from vruntime.network import traces
from vruntime.network.namespace import Namespace
from vruntime.oci.config import NOTIFY_DIRECTORY, OciConfig, load_config
from vruntime.remove import remove
from vruntime.spawn import Identity
from vruntime.store import Store
from vruntime.vm.machine import Machine


@dataclass(frozen=True)
class Options:
    """The flags that `create` and `run` share."""

    bundle: Path
    console_socket: Path | None
    pid_file: Path | None
    preserved: dict[str, int]
    """The caller's descriptors beyond the standard streams, by their names: found before anything else was opened."""
    detach: bool
    overlay: Overlay | None = None
    """Of a bundle made from an image, which is removed with the container."""


@dataclass(frozen=True)
class Created:
    """A container in the guest that waits for its start."""

    record: Record
    connection: Connection
    caller: streams.Caller


@dataclass(frozen=True)
class _Order:
    """What is to be made, once it has been checked, and what takes it back."""

    globals_: Globals
    log: Log
    id: str
    options: Options
    given: dict[str, int]
    """Descriptors beyond the standard streams, by their names: the preserved ones, and a socket to be notified."""
    config: OciConfig
    store: Store
    undo: ExitStack


def create(
    globals_: Globals, log: Log, container_id: str, options: Options, monitor: Monitor, undo: ExitStack
) -> Created:
    """Makes a container; `undo` takes everything back unless it is dismissed.

    The monitor has been started, and waits beside our checks. Raises VruntimeError; nothing exists before config.json,
    the flags and the host have been checked.
    """
    began = time.monotonic()
    _refuse_socket_activation()
    config = load_config(options.bundle / CONFIG_FILE)
    terminal.check_console(terminal=config.terminal, detach=options.detach, console_socket=options.console_socket)
    for warning in config.warnings:
        log.warning(warning)
    given = options.preserved | _notify_socket(config)
    order = _Order(globals_, log, container_id, options, given, config, Store(globals_.root), undo)
    joined = joining.find(order.store, config)
    if joined is None:
        created = _create_alone(order, monitor)
    else:
        monitor.end()
        created = _create_beside(order, joined)
    log.debug(f"phase create: {_milliseconds(began)} ms in all")
    return created


def _notify_socket(config: OciConfig) -> dict[str, int]:
    """The one that config.json brings, unless our caller has one, which stands for the container's start too."""
    place = config.notify_socket
    if place is None or os.environ.get("NOTIFY_SOCKET"):
        return {}
    from vruntime.notify import connect_bound  # noqa: PLC0415  few containers have one

    connected = connect_bound(place)
    return {} if connected is None else {"notify": connected}


def _create_alone(order: _Order, monitor: Monitor) -> Created:
    """In a virtual machine of its own."""
    config, log, undo = order.config, order.log, order.undo
    sandbox = plan.sandbox(order.globals_.settings, config, order.id, order.store.sandbox(order.id))
    group = plan.group(order.globals_, config, order.id, sandbox.machine)
    namespace = _network_namespace(order)
    undo.callback(namespace.close)

    hooks = _begin_state(order)
    sandbox = replace(sandbox, id=hooks.record.sandbox, directory=order.store.sandbox(hooks.record.sandbox))
    if path := namespace.network.path:
        traces.save(sandbox.directory, path)
        undo.callback(_remove_traces, sandbox.directory, log)
    _check_group(order, group)
    undo.callback(monitor.end)  # before its state and its group are removed
    group = _make_group(order, group, monitor.pid)
    monitor.launch(order.store.root, replace(sandbox, group=group.paths, oom_kills=group.oom_kills()), namespace)
    caller = _prepare(order, namespace, group.paths)
    hooks.run_before_create(caller.shim.pid)
    network, listener = _join_network(namespace, config)
    request = _request(order, hooks.record, caller, sandbox.machine, share_name=order.id) | {"network": network}
    with listener, _mounts_to_bring(order, caller, wanted=hooks.before_create) as mounts:
        fds = _fds(caller, mounts) | {"network": listener.fileno()}
        reply = monitor.create(request | {"brought": list(mounts)}, fds)
    view.show(caller.shim.pid, config, _binds(config))
    caller.close_given()
    namespace.close()
    _log_phases(log, reply, sandbox.machine)
    undo.callback(_take_back, order, monitor)
    return Created(hooks.record, monitor.connection, caller)


def _create_beside(order: _Order, joined: Joined) -> Created:
    """In the virtual machine of another container: nothing is started for it but a shim, which is all of its group."""
    undo = order.undo
    monitor = SharedMonitor(order.store, joined.neighbour)
    undo.callback(monitor.end)
    machine = monitor.sandbox.machine
    _check_fits(order, joined, machine)
    group = plan.group(order.globals_, order.config, order.id, machine)
    path, hooks_fill = order.config.network_namespace, _has_early_hooks(order.config)
    namespace = Namespace.without_devices(path, filled_by_hooks=hooks_fill)
    undo.callback(namespace.close)

    hooks = _begin_state(order, joined.sandbox)
    _check_group(order, group)
    undo.callback(monitor.end)  # before its state and its group are removed
    caller = _prepare(order, namespace, {})
    _make_group(order, group, caller.shim.pid)
    hooks.run_before_create(caller.shim.pid)
    if not joined.shares_network:
        _check_empty(namespace, joined)
    request = _request(order, hooks.record, caller, machine, share_name=monitor.share)
    with _mounts_to_bring(order, caller, wanted=True) as mounts:
        request |= {"joined": dict(joined.namespaces), "brought": list(mounts)}
        monitor.create(request, _fds(caller, mounts))
    view.show(caller.shim.pid, order.config, _binds(order.config))
    caller.close_given()
    namespace.close()
    undo.callback(_take_back, order, monitor)
    return Created(hooks.record, monitor.connection, caller)


def _begin_state(order: _Order, joined: str | None = None) -> Hooks:
    """Takes the id, and begins the state on disk; gives the hooks, which run to their end when all is removed.

    `joined` is the sandbox of others, if it is to be in one.
    """
    sandbox_id = order.store.reserve(order.id, joined)
    hooks = Hooks(_new_record(order, sandbox_id), order.config.document)
    order.undo.callback(hooks.run_after_delete, order.log)
    order.undo.callback(order.store.remove, order.id)
    if order.options.overlay is not None:
        order.store.link_layer(order.id, order.config.bundle)
    order.store.write(order.id, CONFIG_FILE, json.dumps(order.config.document))
    hooks.record.save(order.store)
    return hooks


def _prepare(order: _Order, namespace: Namespace, group: Mapping[str, str]) -> streams.Caller:
    return streams.prepare(
        wants_terminal=order.config.terminal,
        console_socket=order.options.console_socket,
        size=_console_size(order.config),
        given=order.given,
        command=order.config.process.args,
        shim_place=_namespaces_to_find(namespace),
        group=group,
        undo=order.undo,
    )


@contextmanager
def _mounts_to_bring(order: _Order, caller: streams.Caller, *, wanted: bool) -> Iterator[dict[str, int]]:
    """The container's mounts as its hooks have left them, in the mount namespace of its shim."""
    if not wanted:
        yield {}
        return
    binds = _binds(order.config)
    others = len(caller.fds) + 2  # the root filesystem's, and the listener of the network
    if len(binds) + others > MAX_FDS:
        raise ContainerError(
            f"mounts: {len(binds)} bind mounts are more than can be brought where others are, or hooks change them",
            hint=f"at most {MAX_FDS - others} can",
        )
    try:
        with namespaces.mounts_of(caller.shim.pid):
            mounts = share.detached(str(order.config.rootfs), binds)
    except OSError as error:
        raise HostError(f"cannot enter the mount namespace of the container's shim: {error.strerror}") from error
    try:
        yield mounts
    finally:
        for mount in mounts.values():
            os.close(mount)


def _fds(caller: streams.Caller, mounts: Mapping[str, int]) -> dict[str, int]:
    return caller.fds | {f"mount:{name}": mount for name, mount in mounts.items()}


def _check_fits(order: _Order, joined: Joined, machine: Machine) -> None:
    limit = order.config.memory_limit or 0
    if limit > machine.memory:
        order.log.warning(
            f"linux.resources.memory.limit: {limit}: the virtual machine of container {joined.neighbour.id}, which is"
            f" shared, has {machine.memory} bytes"
        )


def _check_empty(namespace: Namespace, joined: Joined) -> None:
    try:
        namespace.join()
    except HostError as error:
        raise ConfigError(
            f"linux.namespaces: the virtual machine of container {joined.neighbour.id}, with which namespaces are to be"
            f" shared, cannot have a second network: {error.message}",
            hint="share its network as well, or have none",
        ) from error


def _check_group(order: _Order, group: Group) -> None:
    """And has what becomes of it be taken back."""
    for warning in group.check(order.config.resources):
        order.log.warning(warning)
    order.undo.callback(_remove_group, group, order.log)


def _make_group(order: _Order, planned: Group, pid: int) -> Group:
    """Makes the control group with a process in it. What came to be: without privileges it may lack hierarchies."""
    planned.save(order.store, order.id)  # before it is made: whoever cleans up must find it
    group = planned.make(pid, order.config.resources)
    group.save(order.store, order.id)
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


def _remove_group(group: Group, log: Log) -> None:
    """Takes back a group whose container has not come to be; what it cannot remove is said beside the cause."""
    try:
        group.remove()
    except HostError as error:
        log.warning(str(error))


def _remove_traces(directory: Path, log: Log) -> None:
    try:
        traces.remove(directory)
    except HostError as error:
        log.warning(str(error))


def _console_size(config: OciConfig) -> tuple[int, int] | None:
    size = config.process.document.get("consoleSize")
    return (size["height"], size["width"]) if size else None


def _has_early_hooks(config: OciConfig) -> bool:
    return any(config.hooks.get(kind) for kind in CREATING)


def _network_namespace(order: _Order) -> Namespace:
    settings, path, hooks = order.globals_.settings, order.config.network_namespace, _has_early_hooks(order.config)
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
    return network, listener


@contextmanager
def _namespaces_to_find(namespace: Namespace) -> Iterator[None]:
    """What is found by the shim's pid is the container's own, and nothing of the host.

    There are hooks that fill it before the container is made, and engines that do after.
    """
    try:
        with namespaces.network(namespace.fd), namespaces.new_mounts():
            yield
    except OSError as error:
        raise HostError(f"cannot make the namespaces that are found by the container's pid: {error}") from error


def _new_record(order: _Order, sandbox_id: str) -> Record:
    config = order.config
    return Record(
        id=order.id,
        bundle=str(config.bundle),
        rootfs=str(config.rootfs),
        created=now(),
        sandbox=sandbox_id,
        annotations=dict(config.annotations),
        owner=os.geteuid(),
        creator=Identity.of(os.getpid()),
        notify="notify" in order.given or bool(os.environ.get("NOTIFY_SOCKET")),
        hooks=any(config.hooks.values()),
    )


def _take_back(order: _Order, monitor: Monitor | SharedMonitor) -> None:
    """Removes a container that was made already: its init is killed, and the sandbox ends with it if it is alone."""
    try:
        monitor.connection.kill(order.id)
    except VruntimeError:
        monitor.kill()
    remove(order.store, order.id, order.log)


def _request(
    order: _Order, record: Record, caller: streams.Caller, machine: Machine, *, share_name: str
) -> dict[str, Any]:
    """The request for the container; `share_name` is that of its directory in the shared one."""
    config, overlay = order.config, order.options.overlay
    base = f"{GUEST_PATH}/{share_name}"
    binds = _binds(config)
    sources = {bind.index: f"{base}/mounts/{bind.index}" for bind in binds}
    notify = f"{GUEST_NOTIFY_PATH}/{record.id}" if record.notify else None
    destinations = _made_in_root(config)
    if record.notify:
        destinations.append((NOTIFY_DIRECTORY, True))
    return ({} if overlay is None else {"overlay": overlay.to_wire()}) | {
        "id": record.id,
        "share": share_name,
        "brought": [],
        "resolv_conf": config.resolv_conf,
        "config": config.for_guest(f"{base}/rootfs", sources, vcpus=machine.vcpus, notify=notify).decode(),
        "readonly": config.readonly,
        "binds": [bind.to_wire() for bind in binds],
        "destinations": destinations,
        "shim": caller.identity,
    }


def _binds(config: OciConfig) -> list[Bind]:
    return [
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
