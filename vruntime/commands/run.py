"""`run`: create and start a container, stay with it to its end, and delete it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from vruntime import launch
from vruntime.commands import flags
from vruntime.container import load
from vruntime.globals import Globals
from vruntime.remove import force_remove
from vruntime.store import Store


@click.command(context_settings=flags.CONTEXT, short_help="Create and run a container.")
@flags.creating
@click.option("-d", "--detach", is_flag=True, help="Detach from the container's process.")
@click.option("--keep", is_flag=True, help="Do not delete the container after it exits.")
@click.option("--no-subreaper", is_flag=True, help="Accepted: no subreaper is used.")
@click.pass_obj
def command(
    globals_: Globals,
    /,
    container_id: str,
    bundle: Path,
    console_socket: Path | None,
    pid_file: Path | None,
    preserve_fds: int,
    detach: bool,
    keep: bool,
    **_: bool,
) -> int:
    """Create and start a container from a bundle.

    Without --detach it stays until the container's program ends, and exits with its exit code.
    """
    options = launch.Options(bundle, console_socket, pid_file, preserve_fds, detach)
    log = globals_.logger
    with ExitStack() as undo:
        created = launch.create(globals_, log, container_id, options, undo)
        created.start()
        created.caller.write_pid_file(pid_file)
        undo.pop_all()
    if detach:
        return 0
    code = created.caller.wait()
    store = Store(globals_.root)
    record = load(store, container_id)
    if record.error is not None:
        log.error(f"vruntime run failed: {record.error}")
    if not keep:
        force_remove(store, container_id, log)
    return code
