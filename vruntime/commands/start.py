"""`start`: let the program of a created container run."""

from __future__ import annotations

import click

from vruntime.commands import flags
from vruntime.container import load
from vruntime.control import Connection
from vruntime.globals import Globals
from vruntime.store import Store


@click.command(context_settings=flags.CONTEXT, short_help="Start a created container.")
@flags.container_id
@click.pass_obj
def command(globals_: Globals, container_id: str) -> None:
    """Start the program of a created container."""
    store = Store(globals_.root)
    record = load(store, container_id)
    record.status.check_start()
    Connection.to(store.sandbox(record.sandbox)).request("start", id=record.id)
