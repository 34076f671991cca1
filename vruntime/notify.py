"""The service manager that waits for a container, by its NOTIFY_SOCKET (sd_notify(3)), as runc serves it."""

from __future__ import annotations

import array
import os
import select
import socket
from contextlib import ExitStack, suppress

from vruntime import linux
from vruntime.control import Connection, MonitorSilent
from vruntime.errors import HostError, NoSuchContainer
from vruntime.log import Log
from vruntime.oci.config import BoundSocket

# runc's patience with a service manager that does not acknowledge, in seconds.
_BARRIER_TIMEOUT = 30.0


def connect_bound(place: BoundSocket) -> int | None:
    """A descriptor of a socket that is connected to the one at that place, or None where none listens for datagrams.

    No symlink below what is bound is followed: a container may have left one there in an earlier life.
    """
    with ExitStack() as files, suppress(OSError):  # then the variable names just any path of a volume
        root = os.open(place.source, os.O_PATH | os.O_CLOEXEC)
        files.callback(os.close, root)
        found = root
        if place.below:
            resolve = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS
            found = linux.openat2(root, place.below, flags=os.O_PATH, resolve=resolve)
            files.callback(os.close, found)
        sock = files.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
        sock.connect(f"/proc/self/fd/{found}")
        return sock.detach()
    return None


class ServiceManager:
    """The other end of a NOTIFY_SOCKET; HostError when there is none."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(_raw(address))
        except OSError as error:
            self._socket.close()
            raise HostError(f"cannot notify the NOTIFY_SOCKET {address}: {error.strerror or error}") from error

    def fileno(self) -> int:
        """A datagram socket that is connected to it."""
        return self._socket.fileno()

    def wait_until_ready(self, connection: Connection, container_id: str, log: Log) -> None:
        """Returns when the container has said that it is ready, and the manager has taken note; or when it has ended.

        What it says is passed on by the monitor.
        """
        event = {"number": 0, "event": ""}
        try:
            while event and event["event"] != "ready":
                event = connection.request("event", timeout=None, id=container_id, after=event["number"])
        except (MonitorSilent, NoSuchContainer):
            return  # it has ended
        if event:
            self._await_barrier(log)

    def _await_barrier(self, log: Log) -> None:
        """The manager closes what it is sent once it has read all that came before; see sd_notify_barrier(3)."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs]))]
            try:
                self._socket.sendmsg([b"BARRIER=1"], rights)
            except OSError as error:
                raise HostError(f"cannot write to the NOTIFY_SOCKET: {error.strerror}") from error
            finally:
                os.close(theirs)
            poll = select.poll()
            poll.register(ours, select.POLLIN)
            if not poll.poll(_BARRIER_TIMEOUT * 1000):
                log.warning(f"Timeout after waiting {_BARRIER_TIMEOUT:.0f}s for barrier. Ignored.")
        finally:
            os.close(ours)


def _raw(address: str) -> bytes:
    """A path, or with @ in front a name in the abstract namespace."""
    raw = os.fsencode(address)
    if raw.startswith(b"@"):
        return b"\0" + raw[1:]
    if raw.startswith(b"/"):
        return raw
    raise OSError("neither an absolute path nor an abstract name")
