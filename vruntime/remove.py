"""How a container that has stopped is removed from the host."""

from __future__ import annotations

import signal
from contextlib import suppress

from vruntime.container import Record, Status, load
from vruntime.control import Connection, MonitorSilent
from vruntime.errors import HostError, NoSuchContainer, VruntimeError
from vruntime.log import Log
from vruntime.spawn import Identity
from vruntime.store import Store

# A monitor whose last container has ended shuts its machine down within this, in seconds, or is killed.
END_TIMEOUT = 15.0
# A shim ends as soon as its monitor tells it to, or is gone.
SHIM_TIMEOUT = 2.0


def kill(store: Store, record: Record, *, everyone: bool = False) -> None:
    """Kills a container that runs, through its monitor, or with its monitor when that does not answer."""
    try:
        Connection.to(store.sandbox(record.sandbox)).kill(record.id, everyone=everyone)
    except MonitorSilent:
        if record.monitor is not None:
            record.monitor.signal(signal.SIGKILL)


def remove(store: Store, container_id: str, log: Log) -> None:
    """Waits until the sandbox of a container that has ended is gone, and forgets the container."""
    record = load(store, container_id)
    if record.monitor is not None:
        _see_end(record.monitor, container_id, END_TIMEOUT)
    if record.shim is not None:
        _see_end(record.shim, container_id, SHIM_TIMEOUT)
    _forget(store, container_id, log)


def force_remove(store: Store, container_id: str, log: Log) -> None:
    """Kills when needed, removes, and runs the poststop hooks; removes a container whose record is damaged too."""
    try:
        record = load(store, container_id)
    except (HostError, NoSuchContainer):
        _kill_by_id(store, container_id)
        _forget(store, container_id, log)
        return
    if record.status is not Status.STOPPED:
        with suppress(VruntimeError):  # it has ended meanwhile, or will be ended with its monitor
            kill(store, record)
    if not record.hooks:
        remove(store, container_id, log)
        return
    from vruntime.hooks import Hooks  # noqa: PLC0415  few containers have them

    try:
        hooks = Hooks.kept(store, record)
    except HostError as error:
        log.warning(f"the poststop hooks do not run: {error}")
        remove(store, container_id, log)
        return
    remove(store, container_id, log)
    hooks.run_after_delete(log)


def _forget(store: Store, container_id: str, log: Log) -> None:
    """Removes its traces in the network, the group on the host, and the state.

    As in runc a group that stays in use is logged, and no failure.
    """
    from vruntime.cgroups.group import load as load_group  # noqa: PLC0415  `kill` imports this module, and needs none
    from vruntime.network import traces  # noqa: PLC0415

    try:
        traces.remove(store, container_id)
        group = load_group(store, container_id)
        if group is not None:
            group.remove()
    except HostError as error:
        log.error(str(error))
    store.remove(container_id)


def _kill_by_id(store: Store, container_id: str) -> None:
    """Ends the sandbox of a container that has no readable record; who listens at its socket is its monitor."""
    try:
        connection = Connection.to(store.sandbox(container_id))
    except MonitorSilent:
        return  # nobody listens: nothing runs
    monitor = connection.monitor()
    with suppress(VruntimeError):  # a monitor that does not see to it is ended itself
        connection.kill(container_id)
    if monitor is not None:
        _see_end(monitor, container_id, END_TIMEOUT)


def _see_end(process: Identity, container_id: str, timeout: float) -> None:
    if process.wait(timeout):
        return
    process.signal(signal.SIGKILL)
    if not process.wait(END_TIMEOUT):
        raise HostError(f"cannot delete container {container_id}: process {process.pid} does not end")
