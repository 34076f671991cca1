"""`vruntime spec`: write a config.json to start from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vruntime.errors import HostError, VruntimeError
from vruntime.oci.defaults import default_spec

CONFIG_FILE = "config.json"


@click.command("spec", short_help="Create a new specification file.")
@click.option(
    "-b",
    "--bundle",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Path to the root of the bundle directory.",
)
def command(bundle: Path) -> None:
    """Write a config.json that runs `sh` in the directory rootfs beside it.

    Edit it to say what to run. An existing file is left alone.
    """
    if not bundle.is_dir():
        raise HostError(f"chdir {bundle}: no such file or directory")
    try:
        with open(bundle / CONFIG_FILE, "x", encoding="utf-8") as file:
            file.write(json.dumps(default_spec(), indent="\t"))
    except FileExistsError:
        raise VruntimeError(f"File {CONFIG_FILE} exists. Remove it first") from None
    except OSError as error:
        raise HostError(f"{bundle / CONFIG_FILE} cannot be written: {error.strerror}") from error
