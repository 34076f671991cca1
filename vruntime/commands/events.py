"""`events`: what a container uses, and when it runs out of memory, as JSON."""

from __future__ import annotations

import json
import re
import select
import time
from typing import Any

import click

from vruntime.commands import flags
from vruntime.container import Record, Status, load
from vruntime.control import Connection
from vruntime.errors import ContainerError, VruntimeError
from vruntime.globals import Globals
from vruntime.store import Store

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_UNLIMITED = 2**64 - 1


@click.command(
    context_settings=flags.CONTEXT,
    short_help="Display container events such as OOM notifications, cpu, memory, and IO usage statistics.",
)
@click.option(
    "--interval", default="5s", show_default=True, help="Time between two statistics, such as 500ms or 1m30s."
)
@click.option("--stats", is_flag=True, help="Display the container's statistics once, and exit.")
@flags.container_id
@click.pass_obj
def command(globals_: Globals, container_id: str, interval: str, stats: bool) -> None:
    """Display what a container uses, and when it runs out of memory.

    Until the container ends, its use is told regularly, and each time that the kernel ends one of its processes for
    want of memory: one JSON object a line, in runc's form. The figures are those within its virtual machine.
    """
    seconds = parse_duration(interval)
    store = Store(globals_.root)
    record = load(store, container_id)
    if record.status is Status.STOPPED:
        raise ContainerError(f"container with id {container_id} is not running")
    if stats:
        _print_stats(store, record)
    else:
        _follow(store, record, seconds)


def _follow(store: Store, record: Record, interval: float) -> None:
    events = Connection.to(store.sandbox(record.sandbox))
    events.ask("event", id=record.id)
    poll = select.poll()
    poll.register(events.fileno(), select.POLLIN)
    due = time.monotonic() + interval
    while True:
        if not poll.poll(max(0.0, due - time.monotonic()) * 1000):
            due += interval
            try:
                _print_stats(store, record)
            except VruntimeError:
                if load(store, record.id).status is Status.STOPPED:
                    return
                raise
            continue
        event = events.answer("event")
        if not event:
            return
        if event["event"] == "oom":
            _print({"type": "oom", "id": record.id})
        events.ask("event", id=record.id, after=event["number"])


def _print_stats(store: Store, record: Record) -> None:
    used = Connection.to(store.sandbox(record.sandbox)).request("stats", id=record.id)
    _print({"type": "stats", "id": record.id, "data": runc_stats(used)})


def _print(event: dict[str, Any]) -> None:
    print(json.dumps(event, separators=(",", ":")), flush=True)


def parse_duration(text: str) -> float:
    """Seconds of a duration as Go writes it; ContainerError when it is none, or not above 0."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ContainerError(f"invalid duration {text!r}", hint="write 500ms, 5s or 1m30s")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise ContainerError("duration interval must be greater than 0")
    return seconds


def runc_stats(used: dict[str, Any]) -> dict[str, Any]:
    """The agent's answer as runc's events have it (its types/events.go) on a host with cgroup v2.

    Times are in nanoseconds, sizes in bytes; members that are 0 are left out where runc leaves them out.
    """
    memory, cpu, pids = used["memory"], used["cpu"], used["pids"]
    return {
        "cpu": {
            "usage": {
                **_present(total=cpu["usage_usec"] * 1000),
                "kernel": cpu["system_usec"] * 1000,
                "user": cpu["user_usec"] * 1000,
            },
            "throttling": _present(
                periods=cpu["periods"],
                throttledPeriods=cpu["throttled_periods"],
                throttledTime=cpu["throttled_usec"] * 1000,
            ),
        },
        "cpuset": dict.fromkeys(_CPUSET, 0),
        "memory": {
            **_present(cache=memory["details"].get("file", 0)),
            "usage": _memory(memory["limit_bytes"], memory["usage_bytes"], memory["peak_bytes"], memory["limit_hits"]),
            "swap": _memory(
                memory["limit_bytes"]
                and memory["swap_limit_bytes"]
                and memory["limit_bytes"] + memory["swap_limit_bytes"],
                memory["usage_bytes"] + memory["swap_bytes"],
                0,
                memory["swap_limit_hits"],
            ),
            "kernel": _memory(0, 0, 0, 0) | {"limit": 0},
            "kernelTCP": _memory(0, 0, 0, 0) | {"limit": 0},
            "raw": memory["details"],
        },
        "pids": _present(current=pids["current"], limit=pids["limit"]),
        "blkio": _block_io(used["io"]),
        "hugetlb": {
            pages["page_size"]: {**_present(usage=pages["usage_bytes"]), "failcnt": pages["limit_hits"]}
            for pages in used["huge_pages"]
        },
        "intel_rdt": {},
        "network_interfaces": None,
    }


_CPUSET = (
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
)


def _memory(limit: int, usage: int, peak: int, hits: int) -> dict[str, int]:
    return {"limit": limit or _UNLIMITED, **_present(usage=usage, max=peak), "failcnt": hits}


def _block_io(devices: list[dict[str, int]]) -> dict[str, Any]:
    def entries(**counters: str) -> list[dict[str, Any]]:
        return [
            {**_present(major=device["major"], minor=device["minor"]), "op": op, **_present(value=device[counter])}
            for device in devices
            for op, counter in counters.items()
        ]

    return _present(
        ioServiceBytesRecursive=entries(Read="read_bytes", Write="written_bytes"),
        ioServicedRecursive=entries(Read="reads", Write="writes"),
    )


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}
