"""The control group hierarchies of this host, by the mount table: version 1, version 2, or 2 beside 1 (hybrid)."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vruntime.cgroups.entry import UNIFIED
from vruntime.cgroups.path import Unit, clean
from vruntime.errors import HostError

ROOT: Final = "/sys/fs/cgroup"

SUBSYSTEMS: Final = (
    "cpuset", "devices", "memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "net_cls", "net_prio",
    "perf_event", "freezer", "rdma", "name=systemd", "misc",
)  # fmt: skip
"""What runc makes groups in on version 1, in its order."""


class Kind(StrEnum):
    """Which version controls."""

    V1 = "v1"
    HYBRID = "v1, with v2 beside it (hybrid)"
    V2 = "v2"


@dataclass(frozen=True)
class Mount:
    """Where a hierarchy is mounted, and which of its directories is the mount's root."""

    point: str
    root: str


@dataclass(frozen=True)
class Layout:
    """The hierarchies, by the names of their controllers, and which group of each this process is in."""

    kind: Kind
    mounts: Mapping[str, Mount]
    own: Mapping[str, str]

    @classmethod
    def of_this_host(cls) -> Layout:
        """Read from /proc; HostError in runc's words when the host has none."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            found = read_mounts(mounts)
        return cls.of(found, groups_of("self"))

    @classmethod
    def of(cls, mounts: Mapping[str, Mount], own: Mapping[str, str]) -> Layout:
        """From the mounts, and the groups of this process."""
        unified = mounts.get(UNIFIED)
        if unified is not None and unified.point == ROOT:
            return cls(Kind.V2, {UNIFIED: unified}, own)
        if not any(name != UNIFIED for name in mounts):
            raise HostError("no cgroup mount found in mountinfo", hint=f"mount cgroup2 on {ROOT}")
        if "devices" not in mounts:
            raise HostError("mountpoint for devices not found")
        return cls(Kind.HYBRID if unified else Kind.V1, mounts, own)

    @property
    def names(self) -> tuple[str, ...]:
        """The hierarchies in which a container has a group, in runc's order."""
        wanted = (UNIFIED,) if self.kind is Kind.V2 else (*SUBSYSTEMS, UNIFIED)
        return tuple(name for name in wanted if name in self.mounts)

    def points(self) -> list[str]:
        """Where the hierarchies are mounted."""
        return sorted({self.mounts[name].point for name in self.names})

    def controllers(self) -> frozenset[str]:
        """Those that can limit a container here."""
        if self.kind is not Kind.V2:
            return frozenset(self.names)
        with open(f"{self.mounts[UNIFIED].point}/cgroup.controllers", encoding="ascii") as names:
            return frozenset(names.read().split())

    def directories(self, inner: str) -> dict[str, str]:
        """The group of a container in each hierarchy; see path.inner_path for `inner`."""
        return {name: posixpath.normpath(self._directory(name, inner)) for name in self.names}

    def directories_of(self, unit: Unit, init: Mapping[str, str]) -> dict[str, str]:
        """The group of a unit of systemd in each hierarchy; `init` has the groups of PID 1."""
        if self.kind is Kind.V2:
            return {UNIFIED: self.mounts[UNIFIED].point + unit.path}
        return {
            name: posixpath.normpath(self.mounts[name].point + init[name].removesuffix("init.scope") + unit.path)
            for name in self.names
            if name in init
        }

    def _directory(self, name: str, inner: str) -> str:
        mount = self.mounts[name]
        if inner.startswith("/"):
            return mount.point + inner
        # Cleaned: a group of ours outside of what is mounted has no path there.
        own = clean("/" + posixpath.relpath(self.own.get(name, "/"), mount.root))
        if self.kind is Kind.V2:
            # Beside, not below: a group with processes, as ours, cannot have controllers for its children.
            own = posixpath.dirname(own)
        return f"{mount.point}/{own}/{inner}"


def read_mounts(lines: Iterable[str]) -> dict[str, Mount]:
    """The hierarchies of a mountinfo, by controller: those in the usual place before others (proc(5))."""
    found: dict[str, Mount] = {}
    for line in lines:
        fields, _, described = line.partition(" - ")
        kind, _, options = described.split(maxsplit=2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, point = (_unescaped(field) for field in fields.split()[3:5])
        for name in (UNIFIED,) if kind == "cgroup2" else options.strip().split(","):
            known = found.get(name)
            if known is None or (name == UNIFIED and point == ROOT) or not known.point.startswith(ROOT):
                found[name] = Mount(point, root)
    return {name: mount for name, mount in found.items() if name in (*SUBSYSTEMS, UNIFIED)}


def groups_of(pid: int | str) -> dict[str, str]:
    """The group of a process in each hierarchy, by controller (cgroups(7), "/proc files")."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as groups:
        entries = [line.rstrip("\n").split(":", 2) for line in groups]
    return {name: path for _, names, path in entries for name in names.split(",")}


def _unescaped(field: str) -> str:
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        field = field.replace(code, character)
    return field
