"""Whether a network namespace has changed since it was read (rtnetlink(7))."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress

from vruntime import namespaces
from vruntime.network.description import Description, Interface

_NETLINK_ROUTE = 0
# RTMGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE.
_GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400

_NEW_LINK, _DELETED_LINK = 16, 17
_ADDRESSES, _ROUTES, _NEIGHBOURS = (20, 21), (24, 25), (28, 29)

_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_LINK = struct.Struct("=BxHiII")  # ifinfomsg
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg
_ATTRIBUTE = struct.Struct("=HH")  # nlattr

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_UP, _NO_ARP = 0x1, 0x80
_SCOPE_LINK, _TABLE_LOCAL, _KERNEL, _PERMANENT = 253, 255, 2, 0x80
_BUFFER = 1 << 16


def listen(namespace: int) -> socket.socket:
    """A socket to which the kernel tells every change in the namespace from now on."""
    with namespaces.network(namespace):
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
        sock.bind((0, _GROUPS))
    sock.setblocking(False)
    return sock


def changed(sock: socket.socket, known: Description, taps: Collection[int]) -> bool:
    """Whether any of the changes told so far concerns more than is known; `taps` are the indexes of our own links."""
    interfaces = {interface.index: interface for interface in known.interfaces}
    found = False
    with suppress(BlockingIOError):
        while True:
            try:
                data = sock.recv(_BUFFER)
            except OSError as error:
                if isinstance(error, BlockingIOError):
                    raise
                found = True  # ENOBUFS: some were lost
                continue
            for kind, body in _messages(data):
                found = found or _matters(kind, body, interfaces, taps)
    return found


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[max(_HEADER.size, -(-length // 4) * 4) :]


def _matters(kind: int, body: bytes, interfaces: dict[int, Interface], taps: Collection[int]) -> bool:
    if kind in (_NEW_LINK, _DELETED_LINK):
        index = _LINK.unpack_from(body)[2]
        return index not in taps and (kind == _DELETED_LINK or _differs(body, interfaces.get(index)))
    if kind in _ADDRESSES:
        scope, index = _ADDRESS.unpack_from(body)[3:]
        return bool(scope != _SCOPE_LINK) and index not in taps  # what the kernel makes of the link alone
    if kind in _ROUTES:
        table, protocol = _ROUTE.unpack_from(body)[4:6]
        return bool(table != _TABLE_LOCAL and protocol != _KERNEL)  # which follow an address
    if kind in _NEIGHBOURS:
        return bool(_NEIGHBOUR.unpack_from(body)[2] & _PERMANENT)
    return False


def _differs(body: bytes, known: Interface | None) -> bool:
    """Whether a link is not as it is known; its carrier and its statistics are not what the guest is told."""
    if known is None:
        return True
    flags = _LINK.unpack_from(body)[3]
    said = dict(_attributes(body[_LINK.size :]))
    return (
        bool(flags & _UP) != known.up
        or bool(flags & _NO_ARP) != known.no_arp
        or said.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode() != known.name
        or said.get(_IFLA_ADDRESS, b"").hex(":") != known.mac
        or int.from_bytes(said.get(_IFLA_MTU, b""), "little") != known.mtu
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[max(_ATTRIBUTE.size, -(-length // 4) * 4) :]
