"""How a container that has stopped is removed from the host."""

from __future__ import annotations

import signal
from contextlib import suppress

from vruntime.container import Record, Status, load
from vruntime.control import Connection
from vruntime.errors import HostError, VruntimeError
from vruntime.store import Store

# A monitor whose last container has ended shuts its machine down within this, in seconds, or is killed.
END_TIMEOUT = 15.0


def kill(store: Store, record: Record) -> None:
    """Kills a container that may run, through its monitor, or with its monitor when that does not answer."""
    try:
        Connection.to(store.sandbox(record.sandbox)).kill(record.id)
    except VruntimeError:
        if record.monitor is not None:
            record.monitor.signal(signal.SIGKILL)


def remove(store: Store, container_id: str) -> None:
    """Waits until the sandbox of a container that has ended is gone, and forgets the container."""
    record = load(store, container_id)
    for process in (record.monitor, record.shim):
        if process is None or process.wait(END_TIMEOUT):
            continue
        process.signal(signal.SIGKILL)
        if not process.wait(END_TIMEOUT):
            raise HostError(f"cannot delete container {container_id}: process {process.pid} does not end")
    store.remove(container_id)


def force_remove(store: Store, container_id: str) -> None:
    """Kills when needed, and removes; a container whose record is damaged too."""
    try:
        record = load(store, container_id)
    except HostError:
        _kill_by_id(store, container_id)
        store.remove(container_id)
        return
    if record.status is not Status.STOPPED:
        kill(store, record)
    remove(store, container_id)


def _kill_by_id(store: Store, container_id: str) -> None:
    with suppress(VruntimeError):  # nobody listens: nothing runs
        Connection.to(store.sandbox(container_id)).kill(container_id)
