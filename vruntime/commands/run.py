"""`run`: create and start a container, stay with it to its end, and delete it."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from vruntime import descriptors
from vruntime.commands import flags
from vruntime.container import load
from vruntime.errors import ContainerError, ContainerExists, NoSuchContainer
from vruntime.globals import Globals
from vruntime.monitors import Monitor
from vruntime.remove import force_remove
from vruntime.start import start
from vruntime.store import Store

if TYPE_CHECKING:
    from vruntime.monitor.config import Overlay


@click.command(context_settings=flags.CONTEXT, short_help="Create and run a container.")
@flags.creating
@click.option("-d", "--detach", is_flag=True, help="Detach from the container's process.")
@click.option("--keep", is_flag=True, help="Do not delete the container after it exits.")
@click.option("--no-subreaper", is_flag=True, help="Accepted: no subreaper is used.")
@flags.imaging
@click.argument("args", metavar="[COMMAND [ARG]...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(
    context: click.Context,
    /,
    container_id: str,
    bundle: Path,
    console_socket: Path | None,
    pid_file: Path | None,
    preserve_fds: int,
    detach: bool,
    keep: bool,
    image: str | None,
    **rest: Any,
) -> int:
    """Create and start a container from a bundle, or with --image from an image.

    Without --detach it stays until the container's program ends, and exits with its exit code.

    An image is oci:DIR[:TAG], docker-archive:FILE[:REF], dir:DIR or a directory that is a root filesystem. It is
    unpacked once and kept (see `vruntime image`). COMMAND stands in place of the image's own.
    """
    preserved = descriptors.preserved(preserve_fds)
    globals_: Globals = context.obj
    log = globals_.logger
    store = Store(globals_.root)
    _check_usage(context, image)
    with ExitStack() as undo:
        overlay = None
        if image is not None:
            from vruntime import terminal  # noqa: PLC0415

            terminal.check_console(terminal=rest["tty"], detach=detach, console_socket=console_socket)
            bundle, overlay = _from_image(globals_, store, container_id, image, rest, undo)
        monitor = Monitor.start(container_id, undo)
        from vruntime import launch  # noqa: PLC0415  heavy: the monitor starts meanwhile

        options = launch.Options(bundle, console_socket, pid_file, preserved, detach, overlay)
        created = launch.create(globals_, log, container_id, options, monitor, undo)
        main_pid = created.caller.shim.pid if detach else os.getpid()
        manager = start(store, created.record, created.connection, main_pid=main_pid)
        created.caller.write_pid_file(pid_file)
        undo.pop_all()
    if detach:
        if manager is not None:
            manager.wait_until_ready(created.connection, container_id, log)
        return 0
    code = created.caller.wait()
    with suppress(NoSuchContainer):  # another command has deleted it
        if error := load(store, container_id).error:
            log.error(f"vruntime run failed: {error}")
    if not keep:
        force_remove(store, container_id, log)
    return code


def _check_usage(context: click.Context, image: str | None) -> None:
    def given(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    if image is not None:
        if given("bundle"):
            raise click.UsageError("--image and --bundle exclude each other.", context)
        return
    for name in flags.IMAGE_FLAGS:
        if given(name):
            raise click.UsageError(f"--{name} needs --image.", context)
    if context.params["args"]:
        raise click.UsageError(f"Got unexpected extra argument ({context.params['args'][0]})", context)


def _from_image(
    globals_: Globals, store: Store, container_id: str, image: str, rest: dict[str, Any], undo: ExitStack
) -> tuple[Path, Overlay]:
    from vruntime.image.conversion import Overrides  # noqa: PLC0415  bundles do without
    from vruntime.image.prepare import prepare  # noqa: PLC0415
    from vruntime.image.reference import parse_reference  # noqa: PLC0415

    state = store.container(container_id)
    if state.exists():  # before minutes of unpacking; who comes first is decided later
        raise ContainerExists("container with given ID already exists")
    if rest["user"] == "":
        raise ContainerError("--user is empty")
    if not (rest["interactive"] or rest["tty"]):
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
    overrides = Overrides(
        args=rest["args"],
        entrypoint=rest["entrypoint"],
        env=rest["env"],
        user=rest["user"],
        workdir=rest["workdir"],
        hostname=rest["hostname"],
        terminal=rest["tty"],
    )
    prepared = prepare(globals_.settings.image, globals_.logger, parse_reference(image), overrides, state, undo)
    return prepared.bundle, prepared.overlay
