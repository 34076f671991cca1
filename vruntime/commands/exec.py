"""`exec`: run another process in a container."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import click

from vruntime import descriptors, streams, terminal
from vruntime.cgroups import entry
from vruntime.commands import flags
from vruntime.container import CONFIG_FILE, Record, Status, load
from vruntime.control import TIMEOUT, Connection
from vruntime.globals import Globals
from vruntime.oci.process import Process, load_process, process_from_exec_flags
from vruntime.store import Store


@click.command(context_settings=flags.CONTEXT, short_help="Execute a new process in a container.")
@flags.console_socket
@click.option("--cwd", help="Current working directory in the container.")
@click.option("-e", "--env", multiple=True, help="Set an environment variable.")
@click.option("-t", "--tty", is_flag=True, help="Allocate a pseudo-TTY.")
@click.option("-u", "--user", help="UID, as <uid>[:<gid>].")
@click.option("-g", "--additional-gids", type=int, multiple=True, help="Additional gids.")
@click.option("-p", "--process", type=click.Path(path_type=Path), help="Path of a process.json.")
@click.option("-d", "--detach", is_flag=True, help="Detach from the process.")
@flags.pid_file
@click.option("--process-label", help="SELinux label; the guest has no SELinux.")
@click.option("--apparmor", help="AppArmor profile; the guest has no AppArmor.")
@click.option("--no-new-privs", is_flag=True, help="Set no_new_privs for the process.")
@click.option("-c", "--cap", multiple=True, help="Add a capability to the bounding set.")
@flags.preserve_fds
@click.option("--ignore-paused", is_flag=True, help="In a paused container, wait until it goes on.")
@flags.container_id
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(
    globals_: Globals,
    container_id: str,
    args: tuple[str, ...],
    console_socket: Path | None,
    cwd: str | None,
    env: tuple[str, ...],
    tty: bool,
    user: str | None,
    additional_gids: tuple[int, ...],
    process: Path | None,
    detach: bool,
    pid_file: Path | None,
    process_label: str | None,
    apparmor: str | None,
    no_new_privs: bool,
    cap: tuple[str, ...],
    preserve_fds: int,
    ignore_paused: bool,
) -> int:
    """Run a command in a running container, or with --process the process that a file describes.

    Without --detach it stays until the process ends, and exits with its exit code: 127 when there is no such program,
    126 when it cannot be executed.
    """
    preserved = descriptors.preserved(preserve_fds)
    store = Store(globals_.root)
    record = load(store, container_id)
    waits = ignore_paused and record.status is Status.PAUSED
    if not waits:
        record.status.check_exec()
    if process is not None:
        described = load_process(process)
    else:
        described = process_from_exec_flags(
            Process(store.read(container_id, CONFIG_FILE)["process"]),
            args,
            env=env,
            cwd=cwd,
            user=user,
            additional_gids=additional_gids,
            capabilities=cap,
            no_new_privileges=no_new_privs,
            terminal=tty,
            apparmor_profile=apparmor,
            selinux_label=process_label,
        )
    for warning in described.warnings:
        globals_.logger.warning(warning)
    terminal.check_console(terminal=described.terminal, detach=detach, console_socket=console_socket)
    with ExitStack() as undo:
        caller = _begin(store, record, described, console_socket, preserved, undo, waits=waits)
        caller.write_pid_file(pid_file)
        undo.pop_all()
    return 0 if detach else caller.wait()


def _begin(
    store: Store,
    record: Record,
    process: Process,
    console_socket: Path | None,
    preserved: dict[str, int],
    undo: ExitStack,
    *,
    waits: bool,
) -> streams.Caller:
    caller = streams.prepare(
        wants_terminal=process.terminal,
        console_socket=console_socket,
        size=None,
        given=preserved,
        command=process.args,
        group=entry.paths_of(store, record.id),
        undo=undo,
    )
    Connection.to(store.sandbox(record.sandbox)).request(
        "exec",
        id=record.id,
        process=json.dumps(process.for_guest()),
        fds=list(caller.fds.values()),
        names=list(caller.fds),
        shim=caller.identity,
        wait_for_resume=waits,
        timeout=None if waits else TIMEOUT,
    )
    caller.close_given()
    return caller
