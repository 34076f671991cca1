"""`list`: show the containers under the root."""

from __future__ import annotations

import json

import click

from vruntime.commands import flags
from vruntime.container import Record, load
from vruntime.errors import HostError, NoSuchContainer
from vruntime.globals import Globals
from vruntime.log import Log
from vruntime.store import Store

_HEADINGS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


@click.command(context_settings=flags.CONTEXT, short_help="List containers.")
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    help="Output format.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the ids alone.")
@click.pass_obj
def command(globals_: Globals, form: str, quiet: bool) -> None:
    """List the containers whose state is under --root."""
    store = Store(globals_.root)
    if quiet:
        for container_id in store.ids():
            click.echo(container_id)
        return
    records = _records(store, globals_.logger)
    if form == "json":
        items = [_item(record) for record in records] or None
        click.echo(json.dumps(items, separators=(",", ":"), ensure_ascii=False))
    else:
        _print_table(records)


def _records(store: Store, log: Log) -> list[Record]:
    records = []
    for container_id in store.ids():
        try:
            records.append(load(store, container_id))
        except NoSuchContainer:
            continue  # deleted meanwhile
        except HostError as error:
            log.error(str(error))
    return records


def _item(record: Record) -> dict[str, object]:
    return {**record.oci_state(), "owner": record.owner_name()}


def _print_table(records: list[Record]) -> None:
    """Columns as Go's tabwriter lays them out for runc: at least 12 wide, 3 apart."""
    rows = [_HEADINGS]
    for record in records:
        item = _item(record)
        rows.append(
            tuple(str(item[key]) for key in ("id", "pid", "status", "bundle", "created", "owner"))  # type: ignore[arg-type]
        )
    widths = [max(12, 3 + max(len(row[column]) for row in rows)) for column in range(5)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("".join(cells) + row[-1])
