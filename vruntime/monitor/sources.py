"""Which sources of bind mounts are in the share already.

Containers of one machine that have the same directory of the host get it by one mount of the share. So it is one file
system in the guest, with one cache: a mapping that two of them have is shared, and a lock of one holds for the other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from vruntime.idmap import IdMapping
from vruntime.monitor.config import Bind


@dataclass(frozen=True)
class _Source:
    """A file or directory of the host, with all that makes a mount of it another one."""

    device: int
    inode: int
    recursive: bool
    follows_host: bool
    id_mapping: IdMapping | None
    readonly: bool
    readonly_below: bool


@dataclass
class Sources:
    """The mounts of the share, by their sources, and the containers that have them."""

    _targets: dict[_Source, Path] = field(default_factory=dict)
    _users: dict[Path, set[str]] = field(default_factory=dict)

    def find(self, source_fd: int, bind: Bind) -> Path | None:
        """Where a source is that is in the share already; one that can be written to does for reading, too.

        The guest itself keeps that one read-only: it can write to it, whatever this container may.
        """
        source = _source(source_fd, bind)
        target = self._targets.get(source)
        if target is None and not source.readonly_below:
            target = self._targets.get(replace(source, readonly=False))
        return target

    def use(self, name: str, source_fd: int, bind: Bind, target: Path) -> None:
        """A container has it there."""
        self._targets.setdefault(_source(source_fd, bind), target)
        self._users.setdefault(target, set()).add(name)

    def leave(self, name: str) -> list[Path]:
        """A container has nothing any more; gives what nobody has now."""
        for users in self._users.values():
            users.discard(name)
        unused = [target for target, users in self._users.items() if not users]
        for target in unused:
            del self._users[target]
        self._targets = {source: target for source, target in self._targets.items() if target in self._users}
        return unused


def _source(source_fd: int, bind: Bind) -> _Source:
    status = os.fstat(source_fd)
    return _Source(
        device=status.st_dev,
        inode=status.st_ino,
        recursive=bind.recursive,
        follows_host=bind.follows_host,
        id_mapping=bind.id_mapping,
        readonly=bind.readonly,
        readonly_below=bind.readonly_below,
    )
