"""What the host holds: taken before and after a test, so that what a container left behind shows by name.

What an engine holds in namespaces of its own is seen `within` a process that lives there.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

SETTLE_SECONDS = 5.0

_OURS = re.compile(r"qemu-system|virtiofsd|vruntime|umoci|skopeo|containerd-shim|conmon|docker-proxy|aardvark")
_OWN = "self"


@dataclass(frozen=True)
class Inventory:
    """Names of things, by kind; two are equal when nothing was left behind."""

    processes: frozenset[str]
    mounts: frozenset[str]
    network_namespaces: frozenset[str]
    links: frozenset[str]
    traffic_control: frozenset[str]
    cgroups: frozenset[str]
    sockets: frozenset[str]
    state: frozenset[str]
    shared_memory: frozenset[str]

    @classmethod
    def take(cls, *state_roots: Path, within: str = _OWN) -> Inventory:
        """What is there now, in the namespaces of the process `within`; `state_roots` are directories of runtimes."""
        process = Path("/proc", within)
        return cls(
            processes=_processes(),
            mounts=_column(process / "mountinfo", 4),
            network_namespaces=_entries(Path("/run/netns")) | _network_namespaces(process),
            links=_column(process / "net/dev", 0),
            traffic_control=_traffic_control(process),
            cgroups=_cgroups(process / "root/sys/fs/cgroup"),
            sockets=frozenset(s for s in _column(process / "net/unix", 7) if s.startswith(_names(state_roots))),
            state=frozenset[str]().union(*map(_state, state_roots)),
            shared_memory=_entries(Path("/dev/shm")),
        )

    def added_since(self, before: Inventory) -> dict[str, list[str]]:
        """What is here and was not in `before`, by kind."""
        added = {field.name: sorted(getattr(self, field.name) - getattr(before, field.name)) for field in fields(self)}
        return {kind: names for kind, names in added.items() if names}


def left_behind(before: Inventory, *state_roots: Path, within: str = _OWN) -> dict[str, list[str]]:
    """What is still there, and was not before, when the host has had time to settle."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        added = Inventory.take(*state_roots, within=within).added_since(before)
        if not added or time.monotonic() > deadline:
            return added
        time.sleep(0.05)


def _processes() -> frozenset[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(FileNotFoundError, ProcessLookupError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            program = command.split(" ", 2)
            shown = (entry / "comm").read_text()  # which is the shim's own, where its command line is the container's
            ours = _OURS.search(shown + " ".join(program[:2])) or "vruntime.monitor" in command
            if ours and not _waits_for_init(entry):
                found.add(f"{entry.name} {command[:120]}")
    return frozenset(found)


def _waits_for_init(process: Path) -> bool:
    """Whether it has ended, and the host's first process takes its time to notice."""
    state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
    return (state, parent) == ("Z", "1")


def _column(path: Path, column: int) -> frozenset[str]:
    rows = (line.split() for line in path.read_text().splitlines())
    return frozenset(row[column] for row in rows if len(row) > column)


def _names(paths: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(str(path) for path in paths)


def _entries(directory: Path) -> frozenset[str]:
    with suppress(FileNotFoundError):
        return frozenset(entry.name for entry in directory.iterdir())
    return frozenset()


def _directories(parent: Path) -> frozenset[str]:
    with suppress(FileNotFoundError):
        return frozenset(entry.name for entry in parent.iterdir() if entry.is_dir())
    return frozenset()


def _state(root: Path) -> frozenset[str]:
    """What a runtime keeps below its root: runc a directory a container, ours one more level, and the turns to boot."""
    ours = {"containers", "sandboxes"}
    return (_directories(root) - ours - {"boot"}).union(*(_directories(root / name) for name in ours))


def _network_namespaces(within: Path) -> frozenset[str]:
    """Those that a process is in, and those that a mount keeps."""
    found = {row for row in _column(within / "mountinfo", 3) if row.startswith("net:")}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                found.add(os.readlink(entry / "ns/net"))
    return frozenset(found)


def _traffic_control(within: Path) -> frozenset[str]:
    """Links that have what filters are attached to. Where no link can have any, no program is started."""
    if _column(within / "net/dev", 0) <= {"Inter-|", "face", "lo:"}:
        return frozenset()
    enter = [] if within.name == _OWN else ["nsenter", f"--net={within}/ns/net"]
    shown = subprocess.run([*enter, "tc", "qdisc", "show"], capture_output=True, text=True, check=True)
    return frozenset(line for line in shown.stdout.splitlines() if line.startswith(("qdisc ingress", "qdisc clsact")))


def _cgroups(mounted: Path) -> frozenset[str]:
    return frozenset(root.removeprefix(str(mounted.parents[2])) for root, _, _ in os.walk(mounted))
