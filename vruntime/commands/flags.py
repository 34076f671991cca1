"""The flags that several verbs share, worded as runc words them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

# runc stops reading flags at the first positional argument: what follows belongs to the program.
CONTEXT = {"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]}

container_id = click.argument("container_id", metavar="CONTAINER-ID")

console_socket = click.option(
    "--console-socket",
    type=click.Path(path_type=Path),
    help="Path of a unix socket that receives the master of the console's pseudoterminal.",
)

pid_file = click.option("--pid-file", type=click.Path(path_type=Path), help="File to write the process id to.")

preserve_fds = click.option(
    "--preserve-fds",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Carry what flows through the descriptors from 3 to N+2: pipes, connected stream sockets, files.",
)

bundle = click.option(
    "-b",
    "--bundle",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Root of the bundle directory [default: the current directory].",
)

_no_pivot = click.option("--no-pivot", is_flag=True, help="Accepted: the guest can always use pivot_root.")

_no_new_keyring = click.option("--no-new-keyring", is_flag=True, help="Accepted: a guest has no keyring of the caller.")


def creating(command: F) -> F:
    """The flags of `create` and `run`."""
    flags = (container_id, preserve_fds, _no_new_keyring, _no_pivot, pid_file, console_socket, bundle)
    for flag in flags:
        command = flag(command)
    return command


IMAGE_FLAGS = ("entrypoint", "env", "hostname", "interactive", "tty", "user", "workdir")
"""What `imaging` adds for images alone."""


def imaging(command: F) -> F:
    """The flags of `run` for an image in place of a bundle, worded as Podman words them."""
    flags = (
        click.option("--image", metavar="IMAGE", help="Run an image in place of a bundle."),
        click.option("--entrypoint", metavar="PROGRAM", help="In place of the image's entrypoint; empty: none."),
        click.option("-e", "--env", multiple=True, help="Set an environment variable: NAME=VALUE, or NAME to pass it."),
        click.option("--hostname", help="Host name [default: the container's id]."),
        click.option("-i", "--interactive", is_flag=True, help="Pass standard input on; --tty does, too."),
        click.option("-t", "--tty", is_flag=True, help="Allocate a pseudo-TTY."),
        click.option("-u", "--user", help="User of the image, as <name|uid>[:<group|gid>]."),
        click.option("-w", "--workdir", help="Working directory in the container."),
    )
    for flag in reversed(flags):
        command = flag(command)
    return command
