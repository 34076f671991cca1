"""`start`: let the program of a created container run."""

from __future__ import annotations

import click

from vruntime.commands import flags
from vruntime.container import load
from vruntime.control import Connection
from vruntime.globals import Globals
from vruntime.start import start
from vruntime.store import Store


@click.command(context_settings=flags.CONTEXT, short_help="Start a created container.")
@flags.container_id
@click.pass_obj
def command(globals_: Globals, container_id: str) -> None:
    """Start the program of a created container."""
    store = Store(globals_.root)
    record = load(store, container_id)
    record.status.check_start()
    connection = Connection.to(store.sandbox(record.sandbox))
    manager = start(store, record, connection, main_pid=record.shim.pid if record.shim else 0)
    if manager is not None:
        manager.wait_until_ready(connection, record.id, globals_.logger)
