"""The control socket of a monitor: length-prefixed JSON both ways, with file descriptors beside it.

A request is `{"op": name, ...}`; its answer `{"ok": {...}}` or `{"error": ...}` (errors.to_wire). Requests on one
connection are answered in order. The socket lies in the sandbox's directory, which only root can enter.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vruntime.errors import SandboxError, from_wire
from vruntime.spawn import Identity

LIMIT = 16 << 20
MAX_FDS = 253  # the kernel's bound
TIMEOUT = 60.0
KILL_TIMEOUT = 10.0

_HEADER = struct.Struct("!I")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_FDS_SPACE = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class MonitorSilent(SandboxError):
    """The monitor does not answer: it is gone, or hangs."""


class MonitorEnded(MonitorSilent):
    """The monitor hung up in the middle of a request."""


class Connection:
    """A blocking connection to a monitor."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def to(cls, directory: Path) -> Connection:
        """Connects to the monitor of the sandbox in `directory`; SandboxError when none listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with short_path(directory, "control.sock") as path:
                sock.connect(path)
        except OSError as error:
            sock.close()
            raise MonitorSilent(f"sandbox {directory.name}: its monitor does not answer: {error.strerror}") from error
        return cls(sock)

    def request(
        self, op: str, *, fds: Sequence[int] = (), timeout: float | None = TIMEOUT, **body: Any
    ) -> dict[str, Any]:
        """Sends a request and gives its answer; raises the error that the monitor answered, or SandboxError."""
        self.ask(op, fds=fds, timeout=timeout, **body)
        return self.answer(op, timeout=timeout)

    def ask(self, op: str, *, fds: Sequence[int] = (), timeout: float | None = TIMEOUT, **body: Any) -> None:
        """Sends a request alone."""
        with self._telling(op, timeout):
            send(self._sock, {"op": op, **body}, fds)

    def answer(self, op: str, *, timeout: float | None = TIMEOUT) -> dict[str, Any]:
        """Waits for the answer to the oldest request that has none yet."""
        with self._telling(op, timeout):
            reply = self._receive()
        if "error" in reply:
            raise from_wire(reply["error"])
        return dict(reply["ok"])

    def fileno(self) -> int:
        """The socket's descriptor, readable when an answer has come."""
        return self._sock.fileno()

    @contextmanager
    def _telling(self, op: str, timeout: float | None) -> Iterator[None]:
        self._sock.settimeout(timeout)
        try:
            yield
        except TimeoutError as error:
            raise MonitorSilent(f"{op}: the monitor did not answer within {timeout:.0f} s") from error
        except OSError as error:
            raise MonitorSilent(f"{op}: the monitor hung up: {error.strerror}") from error

    def close(self) -> None:
        """Hangs up."""
        self._sock.close()

    def kill(self, container_id: str, *, everyone: bool = False) -> None:
        """Sends SIGKILL to a container's init, or to all its processes."""
        self.request("kill", id=container_id, signal=int(signal.SIGKILL), all=everyone, timeout=KILL_TIMEOUT)

    def monitor(self) -> Identity | None:
        """The monitor itself; None when it has ended."""
        credentials = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return Identity.of(_CREDENTIALS.unpack(credentials)[0])

    def _receive(self) -> dict[str, Any]:
        (length,) = _HEADER.unpack(self._exactly(_HEADER.size))
        return decode(self._exactly(check_length(length)))

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._sock.recv(min(count - len(parts), 1 << 20))
            if not part:
                raise MonitorEnded("the sandbox's monitor ended without an answer")
            parts += part
        return bytes(parts)


class short_path:
    """A path to `name` in a directory that always fits the 107 bytes of a socket's address."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name

    def __enter__(self) -> str:
        self._fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{self._name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Sends one message; the descriptors ride on its first byte."""
    data = encode(message)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], rights)
    sock.sendall(data[sent:])


def encode(message: dict[str, Any]) -> bytes:
    """A message with its length in front."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _HEADER.pack(check_length(len(body))) + body


def decode(body: bytes) -> dict[str, Any]:
    """The message of a body; SandboxError when it is none."""
    try:
        message = json.loads(body)
    except ValueError as error:
        raise SandboxError("the control socket carried something that is no message") from error
    if not isinstance(message, dict):
        raise SandboxError("the control socket carried something that is no message")
    return message


def check_length(length: int) -> int:
    """The length itself; SandboxError when it is over the limit."""
    if length > LIMIT:
        raise SandboxError(f"a message of {length} bytes is over the limit of {LIMIT}")
    return length


def header_length(header: bytes) -> int:
    """The length that a header announces."""
    return check_length(int(_HEADER.unpack(header)[0]))


HEADER_SIZE = _HEADER.size


def receive_some(sock: socket.socket, count: int) -> tuple[bytes, list[int]]:
    """One recvmsg(2): the bytes, and the descriptors that came with them, close-on-exec."""
    data, ancillary, _, _ = sock.recvmsg(count, _FDS_SPACE, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)
