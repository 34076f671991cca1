"""`resume`: let the processes of a paused container go on."""

from __future__ import annotations

import click

from vruntime.commands import flags
from vruntime.container import load
from vruntime.control import Connection
from vruntime.globals import Globals
from vruntime.store import Store


@click.command(context_settings=flags.CONTEXT, short_help="Resume all processes that have been paused.")
@flags.container_id
@click.pass_obj
def command(globals_: Globals, container_id: str) -> None:
    """Let every process of a paused container go on."""
    store = Store(globals_.root)
    record = load(store, container_id)
    record.status.check_resume()
    Connection.to(store.sandbox(record.sandbox)).request("resume", id=record.id)
