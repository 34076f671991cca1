"""What a container says to its service manager (sd_notify(3)), passed on for as long as it lives.

The guest is hostile: of what it says only assignments that concern its own state are passed on, each of the form that
it must have, and no more of them than a service has use for. Who is the main process, which descriptors are kept, and
who else may speak is not for a container to say.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator

from vruntime.monitor.readiness import writable

_FORMS = {
    name.encode(): re.compile(form.encode())
    for name, form in {
        "READY": "1",
        "RELOADING": "1",
        "STOPPING": "1",
        "STATUS": "[^\\x00-\\x1f\\x7f]{0,1024}",
        "ERRNO": "[0-9]{1,4}",
        "BUSERROR": "[A-Za-z0-9._-]{1,255}",
        "EXIT_STATUS": "[0-9]{1,3}",
        "WATCHDOG": "1|trigger",
        "EXTEND_TIMEOUT_USEC": "[0-9]{1,19}",
        "MONOTONIC_USEC": "[0-9]{1,19}",
    }.items()
}
"""What a container may assign, and the form of the value."""

SAYS_READY = b"READY=1"
# The most datagrams passed on in a second; one that says READY always is, once.
_PER_SECOND = 32
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def allowed(datagram: bytes) -> list[bytes]:
    """The assignments of a datagram that may be passed on. A time of the guest's clock is given by the host's."""
    return list(_allowed(datagram))


def _allowed(datagram: bytes) -> Iterator[bytes]:
    for line in datagram.split(b"\n"):
        name, _, value = line.partition(b"=")
        form = _FORMS.get(name)
        if form is None or not form.fullmatch(value) or not _is_text(value):
            continue
        yield b"MONOTONIC_USEC=%d" % (time.monotonic_ns() // 1000) if name == b"MONOTONIC_USEC" else line


def _is_text(value: bytes) -> bool:
    try:
        return value.decode().isprintable()
    except UnicodeDecodeError:
        return False


class ServiceManager:
    """The manager at the other end of a socket.

    It takes what a process of the service says: until the container is ready that is the command that has started it,
    which waits for that, and from then on the one that is made the main process. Without these, one to which the
    container could speak itself, it is us.
    """

    def __init__(self, sock: socket.socket, starter: int | None = None, main_pid: int | None = None) -> None:
        self._socket = sock
        self._speaker = starter
        self._main_pid = main_pid
        self._ready = False
        self._second = 0
        self._passed_on = 0
        self._has_failed = False

    async def tell(self, datagram: bytes) -> None:
        """Passes on what the container says, as far as it may; what a manager does not read at once is dropped.

        Not so its readiness, with which goes the main process: that waits until the manager reads.
        """
        lines = allowed(datagram)
        if SAYS_READY in lines and not self._ready:
            if self._main_pid is not None:
                lines.append(b"MAINPID=%d" % self._main_pid)
            while not self._send(b"\n".join(lines)):
                await writable(self._socket.fileno())
            self._ready, self._speaker = True, self._main_pid
        elif lines and self._has_room():
            self._send(b"\n".join(lines))

    def _has_room(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._passed_on = second, 0
        self._passed_on += 1
        return self._passed_on <= _PER_SECOND

    def _send(self, datagram: bytes) -> bool:
        """Sends it for who speaks for the service; False when the manager has no room for it now."""
        speaker = os.getpid() if self._speaker is None else self._speaker
        rights = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, _CREDENTIALS.pack(speaker, 0, 0))
        for credentials in ([rights], []):  # for ourselves, where that process has ended, or we may not speak for it
            try:
                self._socket.sendmsg([datagram], credentials, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError as error:
                failure = error
            else:
                return True
        if not self._has_failed:  # or the guest would fill our log
            self._has_failed = True
            print(f"cannot notify the service manager: {failure.strerror}", file=sys.stderr)
        return True
