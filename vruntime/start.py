"""How the program of a created container is started, with what its config and its caller want around that."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vruntime.container import Record, load
from vruntime.control import TIMEOUT, Connection
from vruntime.errors import ContainerError, HookError, VruntimeError
from vruntime.store import Store

if TYPE_CHECKING:
    from vruntime.notify import ServiceManager


def start(store: Store, record: Record, connection: Connection, *, main_pid: int) -> ServiceManager | None:
    """Starts it; HookError when a hook fails: then the container is killed.

    Gives the service manager that waits for it, if any: it is told `main_pid` as soon as the container is ready, and
    our caller is to wait for that, unless it has this pid itself.
    """
    manager = _service_manager(record) if os.environ.get("NOTIFY_SOCKET") else None
    request: dict[str, Any] = {"id": record.id, "timeout": TIMEOUT}
    if manager is not None:
        request |= {"fds": [manager.fileno()], "names": ["notify"], "main_pid": main_pid, "starter": os.getpid()}
    if record.hooks:
        _start_with_hooks(store, record, connection, request)
    else:
        connection.request("start", **request)
    return manager


def _service_manager(record: Record) -> ServiceManager:
    from vruntime.notify import ServiceManager  # noqa: PLC0415  few containers have one

    if not record.notify:
        raise ContainerError(
            "NOTIFY_SOCKET is set, but was not when the container was created",
            hint="it has no socket to tell that it is ready; set it for both, or for neither",
        )
    return ServiceManager(os.environ["NOTIFY_SOCKET"])


def _start_with_hooks(store: Store, record: Record, connection: Connection, request: dict[str, Any]) -> None:
    from vruntime.hooks import Hooks  # noqa: PLC0415  few containers have them

    hooks = Hooks.kept(store, record)
    request["hooks_time"] = hooks.start_time()
    request["timeout"] = None if request["hooks_time"] is None else TIMEOUT + request["hooks_time"]
    connection.request("start", **request)
    try:
        hooks.run_after_start(load(store, record.id))
    except HookError:
        with suppress(VruntimeError):  # it has ended meanwhile
            connection.kill(record.id)
        raise
