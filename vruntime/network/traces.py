"""What a machine leaves in a network namespace that is not its own, and its removal: the ingress qdiscs of interfaces.

A tap goes with the machine, and a namespace of our own with the last of our processes. But an interface whose ingress
leads to a tap that is gone drops all that arrives. Done without pyroute2, which a `delete` has no time to import.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

from vruntime import namespaces
from vruntime.errors import HostError
from vruntime.store import replace_file

FILE = "network.json"

_DELETE_QDISC = 37
_REQUEST_AND_ACKNOWLEDGE = 0x1 | 0x4
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_TRAFFIC_CONTROL = struct.Struct("=BxxxiIII")  # tcmsg
_INGRESS_HANDLE, _INGRESS_PARENT = 0xFFFF0000, 0xFFFFFFF1


def save(sandbox: Path, path: str) -> None:
    """Keeps in which namespace there will be something to remove; `sandbox` is the sandbox's directory. HostError."""
    try:
        inode = os.stat(path).st_ino
    except OSError as error:
        raise HostError(f"network namespace {path}: {error.strerror}") from error
    replace_file(sandbox / FILE, json.dumps({"namespace": path, "inode": inode}))


def remove(sandbox: Path) -> None:
    """Removes what a sandbox has left; no error when there is nothing, or the namespace is gone. HostError."""
    try:
        kept = json.loads((sandbox / FILE).read_text())
    except (OSError, ValueError):
        return
    with suppress(FileNotFoundError):
        namespace = os.open(kept["namespace"], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if os.fstat(namespace).st_ino == kept["inode"]:  # another may have its name by now
                _remove_ingresses(namespace)
        except OSError as error:
            raise HostError(f"network namespace {kept['namespace']}: {error.strerror}") from error
        finally:
            os.close(namespace)


def _remove_ingresses(namespace: int) -> None:
    with namespaces.network(namespace), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        for interface, _ in socket.if_nameindex():
            body = _TRAFFIC_CONTROL.pack(0, interface, _INGRESS_HANDLE, _INGRESS_PARENT, 0)
            sock.send(_HEADER.pack(_HEADER.size + len(body), _DELETE_QDISC, _REQUEST_AND_ACKNOWLEDGE, 1, 0) + body)
            sock.recv(4096)  # an error means that it has none
