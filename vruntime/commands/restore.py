"""`restore`: known, so that whoever asks hears why it is refused."""

from __future__ import annotations

from typing import NoReturn

import click

from vruntime.commands import flags
from vruntime.errors import ContainerError


@click.command(
    context_settings={**flags.CONTEXT, "ignore_unknown_options": True},
    short_help="Not supported, as there are no checkpoints.",
)
@click.argument("_arguments", metavar="CONTAINER-ID", nargs=-1, required=True, type=click.UNPROCESSED)
def command(_arguments: tuple[str, ...]) -> NoReturn:
    """Not supported: there are no checkpoints to restore from."""
    raise ContainerError("restore is not supported: there are no checkpoints of containers in virtual machines")
