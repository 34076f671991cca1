"""`pause`: stop the processes of a container."""

from __future__ import annotations

import click

from vruntime.commands import flags
from vruntime.container import load
from vruntime.control import Connection
from vruntime.globals import Globals
from vruntime.store import Store


@click.command(context_settings=flags.CONTEXT, short_help="Suspend all processes inside a container.")
@flags.container_id
@click.pass_obj
def command(globals_: Globals, container_id: str) -> None:
    """Stop every process of a container, until `resume`. Meanwhile it takes no signal but SIGKILL."""
    store = Store(globals_.root)
    record = load(store, container_id)
    record.status.check_pause()
    Connection.to(store.sandbox(record.sandbox)).request("pause", id=record.id)
