"""The network namespace of a container on the host: one that an engine has made, or a new one."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vruntime import namespaces
from vruntime.errors import ConfigError, HostError
from vruntime.linux import CLONE_NEWNET
from vruntime.network import events, tap
from vruntime.network.description import Description
from vruntime.network.tap import Tap

_NS_GET_NSTYPE = 0xB703
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 0x1
_IFREQ = struct.Struct("16sH22x")


@dataclass(frozen=True)
class Network:
    """What the machine has in a network namespace."""

    path: str | None
    """Where the namespace is found; None: it is a new one, which goes with the last of our processes."""

    taps: tuple[Tap, ...]
    """In the order of its network devices."""

    pinned: bool
    """Whether the guest may speak with the addresses of its interfaces alone."""

    name_server: bool
    """Whether an engine's name server may live in the namespace, and ask others from there."""

    def to_wire(self) -> dict[str, Any]:
        """For the control socket."""
        return self.__dict__ | {"taps": [tap.to_wire() for tap in self.taps]}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Network:
        """The inverse of `to_wire`."""
        return cls(**{**wire, "taps": tuple(Tap.from_wire(tap) for tap in wire["taps"])})


class Namespace:
    """The namespace, held open with taps in it until they have been handed over."""

    def __init__(self, path: str | None, *, devices: int, pinned: bool, filled_by_hooks: bool) -> None:
        self._may_hold_more = path is not None or filled_by_hooks
        self.fd = _new() if path is None else _open(path)
        with namespaces.network(self.fd):
            if devices:
                _check_free(path)
            taps, self._taps = tap.create(devices, as_long_as_namespace=path is None)
        self.network = Network(path, taps, pinned, name_server=path is None and filled_by_hooks)

    @classmethod
    def without_devices(cls, path: str | None, *, filled_by_hooks: bool) -> Namespace:
        """One in which a machine has nothing."""
        return cls(path, devices=0, pinned=False, filled_by_hooks=filled_by_hooks)

    @property
    def fds(self) -> list[int]:
        """What the monitor is given: the namespace, and the taps."""
        return [self.fd, *self._taps]

    def listen(self) -> socket.socket:
        """Hears of changes from now on: see events.changed."""
        return events.listen(self.fd)

    def join(self) -> Description:
        """Joins its interfaces with the machine's; HostError."""
        if not self._may_hold_more:
            return Description()
        from vruntime.network import join  # noqa: PLC0415  heavy

        return join.join(self.fd, self.network, Description())

    def close(self) -> None:
        """Closes what is still open of it; no error when that has been done."""
        self.close_given()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close_given(self) -> None:
        """Closes what the monitor has a copy of by now."""
        while self._taps:
            os.close(self._taps.pop())


def _check_free(path: str | None) -> None:
    """Two machines cannot have the same interfaces; ConfigError when there is one that has them."""
    for _, name in socket.if_nameindex():
        if tap.is_name(name):
            raise ConfigError(
                f"network namespace {path} is in use by another virtual machine, whose tap {name} is in it"
            )


def _new() -> int:
    try:
        namespace = namespaces.new_network()
        with namespaces.network(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            _, flags = _IFREQ.unpack(fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0)))
            fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))
    except OSError as error:
        raise HostError(f"cannot make a network namespace: {error.strerror}") from error
    return namespace


def _open(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"network namespace {path}: {error.strerror}") from error
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise ConfigError(f"{path} is not a network namespace")
    if os.path.samestat(os.fstat(fd), os.stat("/proc/self/ns/net")):
        os.close(fd)
        raise ConfigError(
            f"network namespace {path} is the host's, which a virtual machine cannot share",
            hint="choose another network mode, and publish the ports that are wanted",
        )
    return fd
