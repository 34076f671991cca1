"""How a container that has stopped is removed from the host."""

from __future__ import annotations

import signal

from vruntime.container import Record, Status, load
from vruntime.control import Connection
from vruntime.errors import HostError, VruntimeError
from vruntime.store import Store

# A monitor whose last container has ended shuts its machine down within this, in seconds, or is killed.
END_TIMEOUT = 15.0
KILL_TIMEOUT = 10.0


def kill(store: Store, record: Record) -> None:
    """Kills a container that may run, through its monitor, or with its monitor when that does not answer."""
    try:
        Connection.to(store.sandbox(record.sandbox)).request(
            "kill", id=record.id, signal=int(signal.SIGKILL), all=False, timeout=KILL_TIMEOUT
        )
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
            raise HostError(
                f"cannot delete container {container_id}: process {process.pid} does not end"
            )
    store.remove(container_id)


def force_remove(store: Store, container_id: str) -> None:
    """Kills when needed, and removes."""
    record = load(store, container_id)
    if record.status is not Status.STOPPED:
        kill(store, record)
    remove(store, container_id)
