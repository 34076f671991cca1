"""`kill`: signal a container."""

from __future__ import annotations

import re
import signal

import click

from vruntime.commands import flags
from vruntime.container import Status, load
from vruntime.control import Connection
from vruntime.errors import ContainerError
from vruntime.globals import Globals
from vruntime.remove import kill
from vruntime.store import Store

_REAL_TIME = re.compile(r"(SIGRTMIN|SIGRTMAX)([+-][0-9]{1,2})", re.ASCII)


@click.command(context_settings=flags.CONTEXT, short_help="Send a signal to a container.")
@click.option("-a", "--all", "everyone", is_flag=True, help="Send it to all processes inside.")
@flags.container_id
@click.argument("signal_name", metavar="[SIGNAL]", default="SIGTERM")
@click.pass_obj
def command(globals_: Globals, container_id: str, signal_name: str, everyone: bool) -> None:
    """Send a signal, by name or number, to the container's init [default: SIGTERM]."""
    number = parse_signal(signal_name)
    store = Store(globals_.root)
    record = load(store, container_id)
    if everyone and record.status is Status.STOPPED:
        return  # as runc: there is nobody left to signal
    record.status.check_kill()
    if number == 0:
        return  # as kill(2): only asks whether there is a process
    if number == signal.SIGKILL:
        kill(store, record, everyone=everyone)
        return
    Connection.to(store.sandbox(record.sandbox)).request("kill", id=record.id, signal=number, all=everyone)


def parse_signal(text: str) -> int:
    """A signal's number from a number (0 included), or a name with or without SIG, in any case, such as RTMIN+3."""
    if text.isascii() and text.isdigit():
        if len(text) <= 2 and int(text) <= 64:
            return int(text)
        raise ContainerError("unable to signal init: invalid argument")
    name = text.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if match := _REAL_TIME.fullmatch(name):
        number = signal.Signals[match[1]] + int(match[2])
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    elif name in signal.Signals.__members__:
        return int(signal.Signals[name])
    raise ContainerError(f'unknown signal "{text}"')
