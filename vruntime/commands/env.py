"""`vruntime env`: the versions, files and settings in effect, as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import click

from vruntime import __version__, accelerator
from vruntime import settings as settings_module
from vruntime.errors import AcceleratorError, HostError
from vruntime.globals import Globals
from vruntime.oci.support import OCI_VERSION_MAX
from vruntime.programs import version_of
from vruntime.settings import Settings


@click.command("env", short_help="Show versions, paths and settings.")
@click.pass_obj
def command(globals_: Globals) -> None:
    """Show what this runtime is made of here: versions, files, accelerator and settings."""
    click.echo(json.dumps(environment(globals_), indent=4))


def environment(globals_: Globals) -> dict[str, Any]:
    """Everything a report of a fault should tell; raises SettingsError."""
    settings = globals_.settings
    return {
        "runtime": {
            "version": __version__,
            "ociVersion": OCI_VERSION_MAX,
            "python": platform.python_version(),
            "package": str(Path(settings_module.__file__).parent),
            "interpreter": sys.executable,
            "root": str(globals_.root),
        },
        "host": {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
        },
        "accelerator": _accelerator(settings),
        "qemu": _program(settings.vm.qemu),
        "virtiofsd": _program(settings.vm.virtiofsd),
        "guest": {
            "kernel": _file(settings.vm.kernel),
            "initramfs": _file(settings.vm.initramfs),
        },
        "settings": settings_module.describe(settings),
    }


def _accelerator(settings: Settings) -> dict[str, Any]:
    obstacle = accelerator.kvm_obstacle()
    try:
        chosen = accelerator.choose(settings)
    except AcceleratorError as error:
        return {"chosen": None, "secure": False, "reason": str(error)}
    reason = f"KVM cannot be used: {obstacle}" if obstacle else "KVM can be used"
    return {"chosen": str(chosen), "secure": chosen.secure, "reason": reason}


def _program(path: Path) -> dict[str, Any]:
    try:
        return {"path": str(path), "version": version_of(path)}
    except HostError as error:
        return {"path": str(path), "version": None, "error": str(error)}


def _file(path: Path) -> dict[str, Any]:
    from hashlib import file_digest  # noqa: PLC0415  10 ms, for this command alone

    try:
        with open(path, "rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
            return {"path": str(path), "size": os.fstat(file.fileno()).st_size, "sha256": digest}
    except OSError as error:
        return {"path": str(path), "size": None, "sha256": None, "error": error.strerror}
