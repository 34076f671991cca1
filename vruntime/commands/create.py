"""`create`: make a container, whose program waits for `start`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from vruntime import descriptors
from vruntime.commands import flags
from vruntime.globals import Globals
from vruntime.monitors import Monitor


@click.command(context_settings=flags.CONTEXT, short_help="Create a container.")
@flags.creating
@click.pass_obj
def command(
    globals_: Globals,
    /,
    container_id: str,
    bundle: Path,
    console_socket: Path | None,
    pid_file: Path | None,
    preserve_fds: int,
    **_: bool,
) -> None:
    """Create a container from a bundle, a directory with a config.json and a root filesystem.

    Its virtual machine is booted and its program is found, but not started before `start`.
    """
    preserved = descriptors.preserved(preserve_fds)
    with ExitStack() as undo:
        monitor = Monitor.start(container_id, undo)
        from vruntime import launch  # noqa: PLC0415  heavy: the monitor starts meanwhile

        options = launch.Options(bundle, console_socket, pid_file, preserved, detach=True)
        created = launch.create(globals_, globals_.logger, container_id, options, monitor, undo)
        created.caller.write_pid_file(pid_file)
        undo.pop_all()
