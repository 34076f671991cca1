"""Id-mapped mounts: how the ids of files are shown, and the user namespace by which the kernel is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from vruntime.errors import HostError
from vruntime.spawn import Child, spawn

_UNSHARE: Final = "/usr/bin/unshare"
_CAT: Final = "/bin/cat"
# The two programs need a few milliseconds.
_TIMEOUT: Final = 10.0

Ranges = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class IdMapping:
    """How the ids of files are shown through an id-mapped mount: ranges of (id on disk, id shown, how many)."""

    uids: Ranges
    gids: Ranges

    recursive: bool
    """Whether the mounts below are mapped as well."""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> IdMapping:
        """One that has been JSON, which has lists in place of tuples."""
        uids, gids = (tuple(tuple(entry) for entry in wire[key]) for key in ("uids", "gids"))
        return cls(uids, gids, wire["recursive"])

    def open_namespace(self) -> int:
        """A descriptor of a new user namespace with these mappings, which nobody is in.

        It is made by a short-lived process, since we have threads, and with them could not enter it ourselves.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                command = [_UNSHARE, "--user", "--", _CAT]
                child = spawn("unshare", command, fds={0: theirs.fileno(), 1: theirs.fileno()})
            try:
                _await(ours)
                return self._open(child)
            except OSError as error:
                raise HostError(f"cannot make a user namespace for an id-mapped mount: {error}") from error
            finally:
                child.end()

    def _open(self, child: Child) -> int:
        for name, ranges in (("uid_map", self.uids), ("gid_map", self.gids)):
            lines = "".join(f"{on_disk} {shown} {count}\n" for on_disk, shown, count in ranges)
            with open(f"/proc/{child.pid}/{name}", "w", encoding="ascii", buffering=len(lines) + 1) as file:
                file.write(lines)  # the kernel takes all at one go, or nothing
        return os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _await(echo: socket.socket) -> None:
    """Waits until cat runs: it is in the new namespace then."""
    echo.settimeout(_TIMEOUT)
    echo.sendall(b"?")
    if not echo.recv(1):
        raise HostError(f"cannot make a user namespace for an id-mapped mount: {_UNSHARE} has failed")
