"""`checkpoint`: known, so that whoever asks hears why it is refused."""

from __future__ import annotations

from typing import NoReturn

import click

from vruntime.commands import flags
from vruntime.container import load
from vruntime.errors import ContainerError
from vruntime.globals import Globals
from vruntime.store import Store


@click.command(
    context_settings={**flags.CONTEXT, "ignore_unknown_options": True},
    short_help="Not supported: a virtual machine cannot be checkpointed by CRIU.",
)
@click.argument("arguments", metavar="CONTAINER-ID", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def command(globals_: Globals, arguments: tuple[str, ...]) -> NoReturn:
    """Not supported: CRIU saves processes of the host's kernel, and those of a container run under another."""
    load(Store(globals_.root), arguments[-1])
    raise ContainerError("checkpoint is not supported: the processes run in a virtual machine, out of CRIU's reach")
