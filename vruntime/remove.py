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
    """Waits until a container that has ended is gone, with its sandbox unless others are in it, and forgets it."""
    record = load(store, container_id)
    others = _living(store, store.others_in_sandbox_of(container_id))
    if record.monitor is not None and not others:
        _see_end(record.monitor, container_id, END_TIMEOUT)
    if record.shim is not None:
        _see_end(record.shim, container_id, END_TIMEOUT if others else SHIM_TIMEOUT)
    if record.monitor is not None and others:
        _hand_over(store, record, record.monitor, others)
    _forget(store, container_id, log)


def _living(store: Store, container_ids: list[str]) -> list[str]:
    living = []
    for container_id in container_ids:
        with suppress(HostError, NoSuchContainer):  # of a damaged record nothing is known
            if load(store, container_id).status is not Status.STOPPED:
                living.append(container_id)
    return living


def _hand_over(store: Store, record: Record, monitor: Identity, others: list[str]) -> None:
    """The machine in which others go on is moved to the group of one of them, if it is in that of this one."""
    from vruntime.cgroups import group as groups  # noqa: PLC0415  few machines have several containers

    ours = groups.load(store, record.id)
    theirs = next(filter(None, (groups.load(store, other) for other in others)), None)
    if ours is not None and theirs is not None and ours.holds(monitor.pid):
        ours.hand_over(theirs)


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
    """Removes the traces of its sandbox in the network, the group on the host, and the state.

    As in runc a group that stays in use is logged, and no failure.
    """
    from vruntime.cgroups.group import load as load_group  # noqa: PLC0415  `kill` imports this module, and needs none
    from vruntime.network import traces  # noqa: PLC0415

    try:
        sandbox_id = store.sandbox_of(container_id)
        if sandbox_id is not None and not store.others_in_sandbox_of(container_id):
            traces.remove(store.sandbox(sandbox_id))
        group = load_group(store, container_id)
        if group is not None:
            group.remove()
    except HostError as error:
        log.error(str(error))
    store.remove(container_id)


def _kill_by_id(store: Store, container_id: str) -> None:
    """Kills a container that has no readable record; who listens at the socket of its sandbox is its monitor."""
    sandbox_id = store.sandbox_of(container_id)
    if sandbox_id is None:
        return  # there is no such container; one of its id may have been in the sandbox of this id
    try:
        connection = Connection.to(store.sandbox(sandbox_id))
    except MonitorSilent:
        return  # nobody listens: nothing runs
    monitor = connection.monitor()
    with suppress(VruntimeError):  # a monitor that does not see to it is ended itself
        connection.kill(container_id)
    if monitor is not None and not _living(store, store.others_in_sandbox_of(container_id)):
        _see_end(monitor, container_id, END_TIMEOUT)


def _see_end(process: Identity, container_id: str, timeout: float) -> None:
    if process.wait(timeout):
        return
    process.signal(signal.SIGKILL)
    if not process.wait(END_TIMEOUT):
        raise HostError(f"cannot delete container {container_id}: process {process.pid} does not end")
