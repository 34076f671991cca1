"""`image`: the images that `run --image` keeps unpacked."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from vruntime.commands import flags
from vruntime.errors import ImageError
from vruntime.globals import Globals
from vruntime.image import layer
from vruntime.image.cache import Cache

_HEADINGS = ("IMAGE ID", "SIZE", "UNPACKED", "IN USE", "FROM")


@click.group("image", context_settings=flags.CONTEXT, short_help="List and remove unpacked images.")
def command() -> None:
    """The images that `run --image` has unpacked and keeps, in the directory that image.directory sets."""


@command.command("list", context_settings=flags.CONTEXT)
@click.option("-q", "--quiet", is_flag=True, help="Print the ids alone.")
@click.pass_obj
def list_images(globals_: Globals, quiet: bool) -> None:
    """List the kept images."""
    cache = _cache(globals_)
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for entry in cache.entries():
        if quiet:
            click.echo(entry.id)
            continue
        about = entry.about
        unpacked = datetime.fromtimestamp(about.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        in_use = "yes" if cache.in_use(entry) else "no"
        rows.append((entry.id[:12], f"{about.size / 1e6:.1f} MB", unpacked, in_use, about.reference))
    if not quiet:
        _print(rows)


@command.command("remove", context_settings=flags.CONTEXT)
@click.argument("images", metavar="IMAGE-ID...", nargs=-1, required=True)
@click.pass_obj
def remove(globals_: Globals, images: tuple[str, ...]) -> None:
    """Remove kept images, by the beginning of their ids; one that a container uses is refused."""
    cache = _cache(globals_)
    for image_id in [cache.find(prefix) for prefix in images]:
        if not cache.remove(image_id):
            raise ImageError(f"image {image_id[:12]} is used by a container")
        click.echo(image_id)


@command.command("prune", context_settings=flags.CONTEXT)
@click.pass_obj
def prune(globals_: Globals) -> None:
    """Remove every image that no container uses, and what killed commands have left."""
    cache = _cache(globals_)
    for image_id in [entry.id for entry in cache.entries()]:
        if cache.remove(image_id):
            click.echo(image_id)
    cache.sweep()
    layer.sweep(globals_.settings.image.directory.resolve())


def _cache(globals_: Globals) -> Cache:
    return Cache(globals_.settings.image.directory.resolve())


def _print(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) + 3 for column in range(len(_HEADINGS) - 1)]
    for row in rows:
        click.echo("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1])
