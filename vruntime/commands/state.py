"""`state`: print the state of a container."""

from __future__ import annotations

import json

import click

from vruntime.commands import flags
from vruntime.container import load
from vruntime.globals import Globals
from vruntime.store import Store


@click.command(context_settings=flags.CONTEXT, short_help="Print the state of a container.")
@flags.container_id
@click.pass_obj
def command(globals_: Globals, container_id: str) -> None:
    """Print the state of a container as JSON (runtime-spec, "State")."""
    state = load(Store(globals_.root), container_id).oci_state()
    click.echo(json.dumps(state, indent=2, ensure_ascii=False), nl=False)
