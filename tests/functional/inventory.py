"""What the host holds: taken before and after a test, so that what a container left behind shows by name."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

SETTLE_SECONDS = 5.0

_OURS = re.compile(r"qemu-system|virtiofsd|vruntime|shim\.py|umoci|skopeo")


@dataclass(frozen=True)
class Inventory:
    """Names of things, by kind; two are equal when nothing was left behind."""

    processes: frozenset[str]
    mounts: frozenset[str]
    network_namespaces: frozenset[str]
    links: frozenset[str]
    cgroups: frozenset[str]
    sockets: frozenset[str]
    state: frozenset[str]
    shared_memory: frozenset[str]

    @classmethod
    def take(cls, state_root: Path) -> Inventory:
        """What is there now."""
        return cls(
            processes=_processes(),
            mounts=_lines("/proc/self/mountinfo", 4),
            network_namespaces=_entries(Path("/run/netns")),
            links=_entries(Path("/sys/class/net")),
            cgroups=_directories(Path("/sys/fs/cgroup")),
            sockets=frozenset(s for s in _lines("/proc/net/unix", 7) if str(state_root) in s),
            state=_entries(state_root / "containers") | _entries(state_root / "sandboxes"),
            shared_memory=_entries(Path("/dev/shm")),
        )

    def added_since(self, before: Inventory) -> dict[str, list[str]]:
        """What is here and was not in `before`, by kind."""
        added = {field.name: sorted(getattr(self, field.name) - getattr(before, field.name)) for field in fields(self)}
        return {kind: names for kind, names in added.items() if names}


def left_behind(before: Inventory, state_root: Path) -> dict[str, list[str]]:
    """What is still there, and was not before, when the host has had time to settle."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        added = Inventory.take(state_root).added_since(before)
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
            if _OURS.search(" ".join(program[:2])) or "vruntime.monitor" in command:
                found.add(f"{entry.name} {command[:120]}")
    return frozenset(found)


def _lines(path: str, column: int) -> frozenset[str]:
    rows = (line.split() for line in Path(path).read_text().splitlines())
    return frozenset(row[column] for row in rows if len(row) > column)


def _entries(directory: Path) -> frozenset[str]:
    with suppress(FileNotFoundError):
        return frozenset(entry.name for entry in directory.iterdir())
    return frozenset()


def _directories(directory: Path) -> frozenset[str]:
    return frozenset(root for root, _, _ in os.walk(directory))
