"""`ps`: show the processes inside a container."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from vruntime.commands import flags
from vruntime.container import Record, Status, load
from vruntime.control import Connection
from vruntime.errors import ContainerError
from vruntime.globals import Globals
from vruntime.store import Store


@click.command(
    context_settings={**flags.CONTEXT, "ignore_unknown_options": True},
    short_help="Show the processes inside a container.",
)
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    help="Output format.",
)
@flags.container_id
@click.argument("ps_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(globals_: Globals, container_id: str, form: str, ps_options: tuple[str, ...]) -> None:
    """Show the processes inside a container.

    The table is that of `ps -ef`, or with `-o COLUMN,...` has the columns named; its pids are those in the guest. JSON
    has pids of the host, for engines: of what stands there for init and for each process of `exec`.
    """
    store = Store(globals_.root)
    record = load(store, container_id)
    columns = parse_ps_options(ps_options)
    if form == "json":
        click.echo(json.dumps(_asked(store, record, "pids") or None, separators=(",", ":")))
        return
    processes = sorted(_asked(store, record, "processes"), key=lambda process: int(process["pid"]))
    for line in table(processes, columns, now=time.time()):
        click.echo(line)


def _asked(store: Store, record: Record, what: str) -> list[Any]:
    """The `pids` of a container on the host or its `processes` in the guest; none of one that has stopped."""
    if record.status is Status.STOPPED:
        return []
    record.status.check_look()
    return list(Connection.to(store.sandbox(record.sandbox)).request(what, id=record.id)[what])


# A column of ps(1): its heading, its least width, and whether it is flush right.
_COLUMNS: dict[str, tuple[str, int, bool]] = {
    "user": ("USER", 8, False),
    "uid": ("UID", 8, False),
    "pid": ("PID", 7, True),
    "ppid": ("PPID", 7, True),
    "c": ("C", 2, True),
    "stime": ("STIME", 5, False),
    "tty": ("TTY", 8, False),
    "time": ("TIME", 8, True),
    "cmd": ("CMD", 0, False),
    "args": ("COMMAND", 0, False),
    "command": ("COMMAND", 0, False),
    "comm": ("COMMAND", 15, False),
}
_FULL = ("uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd")


def parse_ps_options(options: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that ps options ask for: those of -ef, or those that -o names."""
    if options in ((), ("-ef",), ("-f",), ("-e", "-f")):
        return _FULL
    columns: list[str] = []
    rest = list(options)
    while rest:
        option = rest.pop(0)
        if option in ("-e", "-A"):
            continue
        if not option.startswith("-o"):
            raise ContainerError(f"ps option {option!r} is not supported", hint="use -ef or -o")
        names = option[2:] or (rest.pop(0) if rest else "")
        columns += [name.strip() for name in names.split(",")]
    unknown = [name for name in columns if name not in _COLUMNS]
    if unknown or not columns:
        raise ContainerError(
            f"ps column {(unknown or [''])[0]!r} is not supported",
            hint=f"there are {', '.join(_COLUMNS)}",
        )
    return tuple(columns)


def table(processes: list[dict[str, Any]], columns: tuple[str, ...], *, now: float) -> list[str]:
    """The lines of the table, the heading first."""
    rows = [[_COLUMNS[column][0] for column in columns]]
    rows += [[_cell(process, column, now) for column in columns] for process in processes]
    widths = [max(_COLUMNS[column][1], *(len(row[n]) for row in rows)) for n, column in enumerate(columns)]
    return [_line(row, columns, widths) for row in rows]


def _line(row: list[str], columns: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.rjust(width) if _COLUMNS[column][2] else cell.ljust(width)
        for cell, column, width in zip(row, columns, widths, strict=True)
    ]
    return " ".join(cells).rstrip()


def _cell(process: dict[str, Any], column: str, now: float) -> str:
    match column:
        case "user" | "uid":
            return str(process["user"])
        case "c":
            return str(process["cpu"])
        case "stime":
            return _start(int(process["start"]), now)
        case "time":
            seconds = int(process["time"])
            return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        case "cmd" | "args" | "command":
            return str(process["command"])
        case "comm":
            return str(process["command"]).split(" ")[0].rpartition("/")[2][:15]
        case _:
            return str(process[column])


def _start(start: int, now: float) -> str:
    then, today = time.localtime(start), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    return time.strftime("%b%d" if then[0] == today[0] else "%Y", then)
