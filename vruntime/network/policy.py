"""What passes between an interface and the guest: the packet filters on both ends of a tap.

The guest is hostile to its neighbours, too. It speaks with the addresses that its interface has on the host and no
others, and of what hosts take orders from (router advertisements, redirects, answers of a DHCP server) it says nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

from vruntime.network.bpf import Program

MATCH: Final = -1
NO_MATCH: Final = 0
"""What a filter answers. One that loads what a packet does not have answers NO_MATCH, too."""

NEXT: Final = -1
PASS: Final = 0
DROP: Final = 2
"""What a filter answers that decides itself (TC_ACT_UNSPEC, TC_ACT_OK, TC_ACT_SHOT)."""

OWN_PORTS: Final = (61000, 65535)
"""Ports from which the namespace's own stack speaks where an engine's name server does: none that a guest chooses."""

_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_ICMP, _IGMP, _TCP, _UDP, _ICMP6 = 1, 2, 6, 17, 58
_HOP_BY_HOP, _FRAGMENT = 0, 44
# Behind these headers of IPv6 another may hide; none but routers and mobile hosts have a use for them.
_OTHER_HEADERS: Final = (43, 60, 135, 139, 140)
_DNS, _DHCP_SERVER, _DHCP_CLIENT, _DHCP6_SERVER = 53, 67, 68, 547
_ADVERTISEMENT_OF_ROUTER, _SOLICITATION, _ADVERTISEMENT, _REDIRECT6 = 134, 135, 136, 137
_MULTICAST_LISTENERS: Final = (131, 132, 143)
_REDIRECT4: Final = 5

# Where things are in a frame: of the Ethernet header, of ARP, IPv4 (without options) and IPv6 behind it.
_SOURCE_MAC, _TYPE = 6, 12
_ARP_FORMAT, _ARP_MAC, _ARP_ADDRESS, _ARP_TARGET = 14, 22, 28, 38
_IP4, _IP4_FRAGMENT, _IP4_PROTOCOL, _IP4_SOURCE, _IP4_PAYLOAD = 14, 20, 23, 26, 34
_IP6_NEXT, _IP6_SOURCE, _IP6_PAYLOAD = 20, 22, 54


def from_guest(mac: str, addresses: Iterable[str]) -> bytes:
    """Matches what the guest may send. `addresses` are those of the interface, of both families.

    ValueError when they are too many for one filter.
    """
    raw = [socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in addresses]
    program = Program()
    program.load_vlan()
    program.unless_equal(0, "drop")
    program.unless_bytes(_SOURCE_MAC, _mac(mac), "drop")
    program.load(_TYPE, 2)
    for kind, label in ((_ARP, "arp"), (_IPV4, "ipv4"), (_IPV6, "ipv6")):
        program.if_equal(kind, label)
    program.jump("drop")
    _arp(program, _mac(mac), [address for address in raw if len(address) == 4])
    _ipv4(program, [address for address in raw if len(address) == 4])
    _ipv6(program, [address for address in raw if len(address) == 16])
    program.label("accept")
    program.give(MATCH)
    program.label("drop")
    program.give(NO_MATCH)
    return program.assemble()


def _arp(program: Program, mac: bytes, addresses: Iterable[bytes]) -> None:
    program.label("arp")
    program.unless_bytes(_ARP_FORMAT, b"\0\1\x08\0\6\4", "drop")  # Ethernet and IPv4
    program.unless_bytes(_ARP_MAC, mac, "drop")
    program.load(_ARP_ADDRESS, 4)
    program.unless_equal(0, "arp own")
    program.load(_ARP_TARGET, 4)  # of a probe, whether the own address is free: who hears one for its own gives that up
    program.label("arp own")
    for address in addresses:
        program.if_equal(int.from_bytes(address, "big"), "accept")
    program.jump("drop")


def _ipv4(program: Program, addresses: Iterable[bytes]) -> None:
    program.label("ipv4")
    program.load(_IP4, 1)
    program.if_equal(0x45, "ipv4 source")
    program.unless_equal(0x46, "drop")  # options: routers drop them, but for the alert that IGMP has
    program.load(_IP4_PROTOCOL, 1)
    program.unless_equal(_IGMP, "drop")
    program.label("ipv4 source")
    program.load(_IP4_SOURCE, 4)
    for address in addresses:
        program.if_equal(int.from_bytes(address, "big"), "ipv4 content")
    program.unless_equal(0, "drop")
    program.load(_IP4_PROTOCOL, 1)
    program.if_equal(_IGMP, "accept")
    program.unless_equal(_UDP, "drop")
    _unless_fragment_at_start(program, "drop")
    program.unless_bytes(_IP4_PAYLOAD, _port(_DHCP_CLIENT) + _port(_DHCP_SERVER), "drop")
    program.jump("accept")
    program.label("ipv4 content")
    program.load(_IP4_PROTOCOL, 1)
    program.if_equal(_UDP, "ipv4 udp")
    program.unless_equal(_ICMP, "accept")
    _unless_fragment_at_start(program, "accept")
    program.load(_IP4_PAYLOAD, 1)
    program.if_equal(_REDIRECT4, "drop")
    program.jump("accept")
    program.label("ipv4 udp")
    _unless_fragment_at_start(program, "accept")
    program.load(_IP4_PAYLOAD, 2)
    program.if_equal(_DHCP_SERVER, "drop")
    program.jump("accept")


def _unless_fragment_at_start(program: Program, label: str) -> None:
    program.load(_IP4_FRAGMENT, 2)
    program.mask(0x1FFF)
    program.unless_equal(0, label)


def _ipv6(program: Program, addresses: list[bytes]) -> None:
    program.label("ipv6")
    for index, address in enumerate((*addresses, bytes(16))):
        unknown = f"ipv6 not {index}"
        program.unless_bytes(_IP6_SOURCE, address, unknown)
        program.jump("ipv6 content" if any(address) else "ipv6 unspecified")
        program.label(unknown)
    program.jump("drop")
    _ipv6_unspecified(program)
    program.label("ipv6 content")
    program.load(_IP6_NEXT, 1)
    known = {_UDP: "ipv6 udp", _ICMP6: "ipv6 icmp", _FRAGMENT: "ipv6 fragment", _HOP_BY_HOP: "ipv6 listeners"}
    for header, label in (*known.items(), *((header, "drop") for header in _OTHER_HEADERS)):
        program.if_equal(header, label)
    program.jump("accept")
    program.label("ipv6 udp")
    program.load(_IP6_PAYLOAD, 2)
    program.if_equal(_DHCP6_SERVER, "drop")
    program.jump("accept")
    _ipv6_icmp(program, addresses)
    _ipv6_fragment(program)
    program.label("ipv6 listeners")
    program.unless_bytes(_IP6_PAYLOAD, bytes([_ICMP6, 0]), "drop")
    program.load(_IP6_PAYLOAD + 8, 1)
    for kind in _MULTICAST_LISTENERS:
        program.if_equal(kind, "accept")
    program.jump("drop")


def _ipv6_unspecified(program: Program) -> None:
    """Without an address a host asks whether its own is free, and tells of the groups that it listens to."""
    program.label("ipv6 unspecified")
    program.load(_IP6_NEXT, 1)
    program.if_equal(_HOP_BY_HOP, "ipv6 listeners")
    program.unless_equal(_ICMP6, "drop")
    program.load(_IP6_PAYLOAD, 1)
    program.unless_equal(_SOLICITATION, "drop")
    program.jump("ipv6 about own")


def _ipv6_icmp(program: Program, addresses: Iterable[bytes]) -> None:
    program.label("ipv6 icmp")
    program.load(_IP6_PAYLOAD, 1)
    program.if_equal(_ADVERTISEMENT_OF_ROUTER, "drop")
    program.if_equal(_REDIRECT6, "drop")
    program.unless_equal(_ADVERTISEMENT, "accept")
    program.label("ipv6 about own")
    for index, address in enumerate(addresses):
        other = f"ipv6 not about {index}"
        program.unless_bytes(_IP6_PAYLOAD + 8, address, other)
        program.jump("accept")
        program.label(other)
    program.jump("drop")


def _ipv6_fragment(program: Program) -> None:
    program.label("ipv6 fragment")
    program.load(_IP6_PAYLOAD, 1)
    program.if_equal(_ICMP6, "ipv6 fragment of icmp")
    program.if_equal(_TCP, "accept")
    program.unless_equal(_UDP, "drop")
    program.load(_IP6_PAYLOAD + 2, 2)
    program.mask(0xFFF8)
    program.unless_equal(0, "accept")
    program.load(_IP6_PAYLOAD + 8, 2)
    program.if_equal(_DHCP6_SERVER, "drop")
    program.jump("accept")
    program.label("ipv6 fragment of icmp")
    program.load(_IP6_PAYLOAD + 2, 2)
    program.mask(0xFFF8)
    program.unless_equal(0, "accept")
    program.load(_IP6_PAYLOAD + 8, 1)
    for kind in (_ADVERTISEMENT_OF_ROUTER, _SOLICITATION, _ADVERTISEMENT, _REDIRECT6):
        program.if_equal(kind, "drop")
    program.jump("accept")


def neighbours() -> bytes:
    """Matches what tells of link-layer addresses (ARP, and its like in IPv6), which both stacks must hear."""
    program = Program()
    program.load(_TYPE, 2)
    program.if_equal(_ARP, "match")
    program.unless_equal(_IPV6, "other")
    program.load(_IP6_NEXT, 1)
    program.unless_equal(_ICMP6, "other")
    program.load(_IP6_PAYLOAD, 1)
    program.if_equal(_SOLICITATION, "match")
    program.unless_equal(_ADVERTISEMENT, "other")
    program.label("match")
    program.give(MATCH)
    program.label("other")
    program.give(NO_MATCH)
    return program.assemble()


def to_own_stack() -> bytes:
    """Decides that the namespace's own stack gets what name servers answer it: an engine's asks others from there."""
    program = Program()
    program.load(_TYPE, 2)
    program.unless_equal(_IPV4, "guest")
    program.load(_IP4, 1)
    program.unless_equal(0x45, "guest")
    program.load(_IP4_PROTOCOL, 1)
    program.if_equal(_UDP, "port")
    program.unless_equal(_TCP, "guest")
    program.label("port")
    _unless_fragment_at_start(program, "guest")
    program.load(_IP4_PAYLOAD, 2)
    program.unless_equal(_DNS, "guest")
    program.load(_IP4_PAYLOAD + 2, 2)
    program.unless_at_least(OWN_PORTS[0], "guest")
    program.give(PASS)
    program.label("guest")
    program.give(NEXT)
    return program.assemble()


def everything(answer: int) -> bytes:
    """Answers the same for every packet."""
    program = Program()
    program.give(answer)
    return program.assemble()


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big")
