"""`delete`: remove a container that has ended."""

from __future__ import annotations

import click

from vruntime.commands import flags
from vruntime.container import load
from vruntime.globals import Globals
from vruntime.remove import force_remove
from vruntime.store import Store


@click.command(context_settings=flags.CONTEXT, short_help="Delete a container.")
@click.option("-f", "--force", is_flag=True, help="Kill the container first when it still runs.")
@flags.container_id
@click.pass_obj
def command(globals_: Globals, container_id: str, force: bool) -> None:
    """Remove what the host holds of a container that has stopped, or was never started."""
    store = Store(globals_.root)
    if not force:
        load(store, container_id).status.check_delete(container_id)
    force_remove(store, container_id, globals_.logger)
