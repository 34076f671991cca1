"""`update`: change the limits of a container."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import click

from vruntime.commands import flags
from vruntime.container import CONFIG_FILE, load
from vruntime.control import Connection
from vruntime.errors import ContainerError
from vruntime.globals import Globals
from vruntime.oci import schema, strict_json
from vruntime.oci.faults import refuse
from vruntime.oci.resources import merged
from vruntime.store import Store

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", re.ASCII | re.IGNORECASE)

# The flag, and which member of the resources it changes.
_MEMBERS = {
    "blkio_weight": ("blockIO", "weight"),
    "cpu_period": ("cpu", "period"),
    "cpu_quota": ("cpu", "quota"),
    "cpu_burst": ("cpu", "burst"),
    "cpu_share": ("cpu", "shares"),
    "cpu_rt_period": ("cpu", "realtimePeriod"),
    "cpu_rt_runtime": ("cpu", "realtimeRuntime"),
    "cpuset_cpus": ("cpu", "cpus"),
    "cpuset_mems": ("cpu", "mems"),
    "memory": ("memory", "limit"),
    "memory_reservation": ("memory", "reservation"),
    "memory_swap": ("memory", "swap"),
    "pids_limit": ("pids", "limit"),
    "cpu_idle": ("cpu", "idle"),
}


def parse_size(text: str) -> int:
    """Bytes of a size such as 512m, 1.5g or 1000; -1, no limit, stays what it is."""
    if text == "-1":
        return -1
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > 32:
        raise ContainerError(f"invalid size {text[:64]!r}", hint="write bytes, or a number with k, m, g, t or p")
    number, unit = match.groups()
    factor = 1 << (10 * " kmgtp".index(unit.lower() or " "))
    return math.floor(float(number) * factor) if "." in number else int(number) * factor


@click.command(context_settings=flags.CONTEXT, short_help="Update container resource constraints.")
@click.option(
    "-r",
    "--resources",
    "file",
    help="JSON file with the resources to change, in the form of config.json's linux.resources; - is standard input. "
    "All other options are ignored then.",
)
@click.option("--blkio-weight", type=int, help="Weight of block I/O, 10 to 1000.")
@click.option("--cpu-period", type=int, help="CPU CFS period, in microseconds.")
@click.option("--cpu-quota", type=int, help="CPU time in a period, in microseconds; -1: no limit.")
@click.option("--cpu-burst", type=int, help="CPU time that may be saved up, in microseconds.")
@click.option("--cpu-share", type=int, help="CPU shares, relative to other containers.")
@click.option("--cpu-rt-period", type=int, help="Accepted without effect, as in runc on cgroup v2.")
@click.option("--cpu-rt-runtime", type=int, help="Accepted without effect, as in runc on cgroup v2.")
@click.option("--cpuset-cpus", help="CPUs of the guest to use.")
@click.option("--cpuset-mems", help="Memory nodes of the guest to use.")
@click.option("--memory", type=parse_size, metavar="BYTES", help="Memory limit; at most what the virtual machine has.")
@click.option(
    "--memory-reservation", type=parse_size, metavar="BYTES", help="Memory that is not taken away before others'."
)
@click.option("--memory-swap", type=parse_size, metavar="BYTES", help="Memory and swap together; -1: no limit.")
@click.option("--kernel-memory", type=parse_size, metavar="BYTES", help="Accepted without effect, as in runc.")
@click.option(
    "--kernel-memory-tcp", type=parse_size, metavar="BYTES", help="Accepted without effect, as in runc on cgroup v2."
)
@click.option("--pids-limit", type=int, help="Most processes; -1: no limit.")
@click.option("--cpu-idle", type=int, help="1: run only when nothing else does.")
@click.option("--l3-cache-schema", help="Not supported: the guest has no Intel RDT.")
@click.option("--mem-bw-schema", help="Not supported: the guest has no Intel RDT.")
@flags.container_id
@click.pass_obj
def command(
    globals_: Globals,
    /,
    container_id: str,
    file: str | None,
    l3_cache_schema: str | None,
    mem_bw_schema: str | None,
    **limits: int | str | None,
) -> None:
    """Change the limits of a container, all or none. What is not named, or 0, stays as it is."""
    store = Store(globals_.root)
    record = load(store, container_id)
    record.status.check_kill()
    if l3_cache_schema or mem_bw_schema:
        raise ContainerError("Intel RDT is not supported: the guest has none")
    document = store.read(container_id, CONFIG_FILE)
    linux = document["linux"]
    changes = from_flags(limits) if file is None else _from_file(file)
    current = linux.get("resources", {})
    linux["resources"] = changes  # alone first: what is found is theirs
    refuse("the resources", schema.config_faults(document))
    linux["resources"] = merged(current, changes)
    Connection.to(store.sandbox(record.sandbox)).request("update", id=record.id, resources=linux["resources"])


def from_flags(limits: dict[str, int | str | None]) -> dict[str, Any]:
    """The resources that the flags name."""
    changes: dict[str, Any] = {}
    for flag, value in limits.items():
        if value is not None and flag in _MEMBERS:
            section, key = _MEMBERS[flag]
            changes.setdefault(section, {})[key] = value
    return changes


def _from_file(name: str) -> Any:
    if name == "-":
        return strict_json.loads(sys.stdin.buffer.read(strict_json.SIZE_LIMIT + 1), "standard input")
    try:
        return strict_json.load(Path(name))
    except OSError as error:
        raise ContainerError(f"open {name}: {error.strerror}") from error
