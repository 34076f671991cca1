"""`vruntime features`: what the runtime recognises, as JSON."""

from __future__ import annotations

import json

import click

from vruntime.oci.features import features


@click.command("features", short_help="Show the enabled features.")
def command() -> None:
    """Show what this runtime supports, as a features document of the OCI specification."""
    click.echo(json.dumps(features(), indent=4))
