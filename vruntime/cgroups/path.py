"""Where a container's control group lies, read from `linux.cgroupsPath` as runc reads it. Pure: no file is touched."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Final

from vruntime.errors import ConfigError

DEFAULT_SLICE: Final = "system.slice"
DEFAULT_PREFIX: Final = "runc"

_SLICE: Final = ".slice"


def clean(path: str) -> str:
    """A path that cannot leave what it is joined to: `..` ends at the root; empty stays empty, relative stays relative.

    runc's CleanPath: `/../a` becomes `/a`, `../../a` becomes `a`, and `..` becomes `.`.
    """
    if not path:
        return ""
    inside = posixpath.normpath("/" + path.lstrip("/"))
    return inside if path.startswith("/") else inside.lstrip("/") or "."


def inner_path(cgroups_path: str, container_id: str) -> str:
    """The path below a hierarchy: absolute as it stands, relative below the caller's own group, by default the id."""
    return clean(cgroups_path) or clean(container_id)


@dataclass(frozen=True)
class Unit:
    """A transient unit of systemd: a scope, or a slice when the name says so."""

    name: str
    slice: str
    description: str

    @property
    def is_slice(self) -> bool:
        """Whether it is a slice, which holds other units, and no process of its own."""
        return self.name.endswith(_SLICE)

    @property
    def path(self) -> str:
        """Its group below the root of systemd's hierarchy."""
        return posixpath.join(expand_slice(self.slice), self.name)


def unit(cgroups_path: str, container_id: str) -> Unit:
    """The unit of `slice:prefix:name`, or of a container without a cgroupsPath. ConfigError in runc's words."""
    parts = cgroups_path.split(":") if cgroups_path else ["", DEFAULT_PREFIX, container_id]
    if len(parts) != 3:
        raise ConfigError(
            'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups,'
            f' got "{cgroups_path}" instead'
        )
    parent, prefix, name = parts
    if "/" in prefix + name:
        raise ConfigError(f"invalid unit name: {prefix}-{name}.scope")
    full = name if name.endswith(_SLICE) else f"{prefix}-{name}.scope"
    made = Unit(full, parent or DEFAULT_SLICE, f"libcontainer container {name}")
    expand_slice(made.slice)  # a slice that is none is refused here, before anything is made
    return made


def expand_slice(name: str) -> str:
    """The path of a slice: `a-b.slice` lies in `a.slice`. ConfigError in runc's words (systemd.slice(5))."""
    stem = name.removesuffix(_SLICE)
    parts = stem.split("-")
    if stem == "-" and name == "-.slice":
        return "/"
    if stem == name or "/" in name or not all(parts):
        raise ConfigError(f"invalid slice name: {name}")
    return "".join(f"/{'-'.join(parts[:count])}{_SLICE}" for count in range(1, len(parts) + 1))
