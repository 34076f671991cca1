"""Taps: what the machine's network devices are to the host.

Each lasts as long as a descriptor of it is open, or its namespace. The kernel takes 15 ms for the removal of one, for
which its closing waits; what ends with a namespace is removed beside.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vruntime.errors import HostError

DEVICE = "/dev/net/tun"

# A pattern: the kernel puts the first number that is free in this namespace.
_NAME = b"vruntime%d"
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")


@dataclass(frozen=True)
class Tap:
    """A tap's interface in its namespace."""

    name: str
    index: int

    def to_wire(self) -> dict[str, Any]:
        """For the control socket."""
        return dict(self.__dict__)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Tap:
        """The inverse of `to_wire`."""
        return cls(**wire)


def is_name(name: str) -> bool:
    """Whether an interface has the name of a tap of a machine."""
    return re.fullmatch(r"vruntime\d+", name) is not None


def create(count: int, *, as_long_as_namespace: bool = False) -> tuple[tuple[Tap, ...], list[int]]:
    """Makes taps, which are down, in the network namespace of this thread: they and their descriptors. HostError."""
    taps: list[Tap] = []
    fds: list[int] = []
    try:
        for _ in range(count):
            fds.append(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
            request = _IFREQ.pack(_NAME, _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
            name = _IFREQ.unpack(fcntl.ioctl(fds[-1], _TUNSETIFF, request))[0].rstrip(b"\0").decode()
            if as_long_as_namespace:
                fcntl.ioctl(fds[-1], _TUNSETPERSIST, 1)
            taps.append(Tap(name, socket.if_nametoindex(name)))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise HostError(
            f"cannot make a tap by {DEVICE}: {error.strerror}",
            hint="the kernel module tun must be there, and the device in sight",
        ) from error
    return tuple(taps), fds
