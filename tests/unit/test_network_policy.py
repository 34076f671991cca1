"""What a guest may send: each filter is run by the kernel itself, on frames written out here."""

from __future__ import annotations

import ctypes
import socket
from ipaddress import ip_address

import pytest

from vruntime.network import policy
from vruntime.network.bpf import Program

MAC, OTHER_MAC = "02:42:ac:11:00:02", "02:42:ac:11:00:03"
BROADCAST = "ff:ff:ff:ff:ff:ff"
OWN4, OWN6, LINK_LOCAL = "10.0.0.2", "fd00::2", "fe80::42:acff:fe11:2"
OTHER4, OTHER6 = "10.0.0.3", "fd00::3"
ADDRESSES = (OWN4, "10.0.1.2", OWN6, LINK_LOCAL)

ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
ICMP, IGMP, TCP, UDP, ICMP6 = 1, 2, 6, 17, 58

SO_ATTACH_FILTER = 26


class SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def verdict(program: bytes, frame: bytes) -> int:
    """What the kernel's interpreter makes of a frame: 0, or not 0."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        attached = SockFprog(len(program) // 8, program)
        theirs.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(attached))
        theirs.setblocking(False)
        ours.setblocking(False)
        try:
            ours.send(frame)
            return len(theirs.recv(65536))
        except (BlockingIOError, PermissionError):  # the filter has dropped it, as sender and receiver see it
            return 0


def allowed(frame: bytes) -> bool:
    return bool(verdict(policy.from_guest(MAC, ADDRESSES), frame))


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(kind: int, payload: bytes, source: str = MAC) -> bytes:
    return mac(BROADCAST) + mac(source) + kind.to_bytes(2, "big") + payload


def arp(sender_mac: str, sender: str, *, target: str = OTHER4, source: str = MAC, operation: int = 1) -> bytes:
    head = b"\0\1\x08\0\6\4" + operation.to_bytes(2, "big")
    body = mac(sender_mac) + ip_address(sender).packed + bytes(6) + ip_address(target).packed
    return ethernet(ARP, head + body, source)


def ipv4(protocol: int, payload: bytes, *, source: str = OWN4, options: bytes = b"", fragment: int = 0) -> bytes:
    length = 5 + len(options) // 4
    head = bytes([0x40 | length, 0]) + bytes(4) + fragment.to_bytes(2, "big") + bytes([64, protocol]) + bytes(2)
    return ethernet(IPV4, head + ip_address(source).packed + ip_address(OTHER4).packed + options + payload)


def ipv6(following: int, payload: bytes, *, source: str = OWN6) -> bytes:
    head = bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([following, 255])
    return ethernet(IPV6, head + ip_address(source).packed + ip_address("ff02::1").packed + payload)


def ports(source: int, destination: int) -> bytes:
    return source.to_bytes(2, "big") + destination.to_bytes(2, "big") + bytes(8)


def icmp6(kind: int, target: str = "::") -> bytes:
    return bytes([kind]) + bytes(7) + ip_address(target).packed + bytes(16)


def hop_by_hop(following: int, payload: bytes) -> bytes:
    return bytes([following, 0, 5, 2, 0, 0, 1, 0]) + payload


def fragment6(following: int, payload: bytes, offset: int = 0) -> bytes:
    return bytes([following, 0]) + (offset | 1).to_bytes(2, "big") + bytes(4) + payload


@pytest.mark.parametrize(
    "frame",
    [
        arp(MAC, OWN4),
        arp(MAC, OWN4, operation=2),
        arp(MAC, "0.0.0.0", target=OWN4),
        ipv4(TCP, ports(80, 1024)),
        ipv4(TCP, ports(67, 1024)),
        ipv4(UDP, ports(53, 1024)),
        ipv4(UDP, ports(68, 67)),
        ipv4(UDP, ports(67, 68), fragment=100),  # no port at all: the middle of a larger packet
        ipv4(ICMP, bytes([8]) + bytes(7)),
        ipv4(ICMP, bytes([0]) + bytes(7), source="10.0.1.2"),
        ipv4(47, bytes(8)),
        ipv4(IGMP, bytes(8), options=b"\x94\4\0\0"),
        ipv4(UDP, ports(68, 67), source="0.0.0.0"),
        ipv4(IGMP, bytes(8), source="0.0.0.0", options=b"\x94\4\0\0"),
        ipv6(TCP, ports(80, 1024)),
        ipv6(UDP, ports(546, 547), source=LINK_LOCAL),
        ipv6(ICMP6, icmp6(128)),
        ipv6(ICMP6, icmp6(133), source=LINK_LOCAL),
        ipv6(ICMP6, icmp6(135, OTHER6)),
        ipv6(ICMP6, icmp6(136, OWN6)),
        ipv6(ICMP6, icmp6(136, LINK_LOCAL), source=LINK_LOCAL),
        ipv6(ICMP6, icmp6(135, OWN6), source="::"),
        ipv6(0, hop_by_hop(ICMP6, icmp6(143)), source=LINK_LOCAL),
        ipv6(0, hop_by_hop(ICMP6, icmp6(143)), source="::"),
        ipv6(44, fragment6(UDP, ports(53, 1024))),
        ipv6(44, fragment6(UDP, ports(547, 546), offset=64)),
        ipv6(44, fragment6(ICMP6, icmp6(128))),
        ipv6(50, bytes(16)),
    ],
)
def test_a_guest_may_speak_for_itself(frame: bytes) -> None:
    assert allowed(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(arp(MAC, OWN4, source=OTHER_MAC), id="another's frame"),
        pytest.param(arp(OTHER_MAC, OWN4), id="another's link-layer address in ARP"),
        pytest.param(arp(MAC, OTHER4, operation=2), id="another's address in ARP"),
        pytest.param(arp(MAC, "0.0.0.0"), id="a probe for another's address"),
        pytest.param(ethernet(ARP, b"\0\1\x86\xdd\6\x10" + bytes(60)), id="ARP of another kind"),
        pytest.param(ethernet(IPV4, bytes([0x45])), id="a torn packet"),
        pytest.param(ethernet(VLAN, b"\0\1\x08\0" + bytes(64)), id="a VLAN"),
        pytest.param(ethernet(0x0026, b"\x42\x42\x03" + bytes(35)), id="spanning tree"),
        pytest.param(ethernet(0x88CC, bytes(64)), id="link discovery"),
        pytest.param(ipv4(TCP, ports(80, 1024), source=OTHER4), id="another's address"),
        pytest.param(ipv4(TCP, ports(80, 1024), source="0.0.0.0"), id="no address"),
        pytest.param(ipv4(UDP, ports(67, 68)), id="a DHCP server"),
        pytest.param(ipv4(UDP, ports(67, 68), source="0.0.0.0"), id="a DHCP server without an address"),
        pytest.param(ipv4(UDP, ports(67, 68), options=bytes(4)), id="a DHCP server behind options"),
        pytest.param(ipv4(UDP, ports(67, 68), fragment=0x2000), id="a DHCP server in a first fragment"),
        pytest.param(ipv4(ICMP, bytes([5]) + bytes(7)), id="a redirect"),
        pytest.param(ipv6(TCP, ports(80, 1024), source=OTHER6), id="another's IPv6 address"),
        pytest.param(ipv6(ICMP6, icmp6(134), source=LINK_LOCAL), id="a router advertisement"),
        pytest.param(ipv6(ICMP6, icmp6(134), source="fe80::1"), id="another's router advertisement"),
        pytest.param(ipv6(0, hop_by_hop(ICMP6, icmp6(134)), source=LINK_LOCAL), id="one behind an option"),
        pytest.param(ipv6(60, hop_by_hop(ICMP6, icmp6(134)), source=LINK_LOCAL), id="one behind another option"),
        pytest.param(ipv6(44, fragment6(ICMP6, icmp6(134)), source=LINK_LOCAL), id="one in a fragment"),
        pytest.param(ipv6(44, fragment6(60, hop_by_hop(ICMP6, icmp6(134)))), id="one in a fragment behind an option"),
        pytest.param(ipv6(ICMP6, icmp6(137)), id="an IPv6 redirect"),
        pytest.param(ipv6(ICMP6, icmp6(136, OTHER6)), id="an advertisement for another's address"),
        pytest.param(ipv6(ICMP6, icmp6(135, OTHER6), source="::"), id="a probe for another's IPv6 address"),
        pytest.param(ipv6(ICMP6, icmp6(128), source="::"), id="an echo without an address"),
        pytest.param(ipv6(UDP, ports(547, 546)), id="a DHCPv6 server"),
        pytest.param(ipv6(44, fragment6(UDP, ports(547, 546))), id="a DHCPv6 server in a fragment"),
        pytest.param(ipv6(43, bytes(24)), id="a routing header"),
    ],
)
def test_a_guest_may_not_speak_for_others(frame: bytes) -> None:
    assert not allowed(frame)


def test_an_interface_without_addresses_may_ask_for_one() -> None:
    program = policy.from_guest(MAC, ())
    assert verdict(program, ipv4(UDP, ports(68, 67), source="0.0.0.0"))
    assert not verdict(program, ipv4(UDP, ports(68, 67)))


def test_many_addresses_fit_and_too_many_are_refused() -> None:
    many = [str(ip_address("10.1.0.0") + number) for number in range(900)]
    assert verdict(policy.from_guest(MAC, many), ipv4(TCP, ports(1, 2), source=many[-1]))
    with pytest.raises(ValueError, match="of which 4096 are possible"):
        policy.from_guest(MAC, [f"fd00::{number:x}" for number in range(1, 1000)])


@pytest.mark.parametrize(
    ("frame", "matches"),
    [
        (arp(OTHER_MAC, OTHER4, source=OTHER_MAC), True),
        (ipv6(ICMP6, icmp6(135), source=OTHER6), True),
        (ipv6(ICMP6, icmp6(136), source=OTHER6), True),
        (ipv6(ICMP6, icmp6(134), source=OTHER6), False),
        (ipv4(UDP, ports(53, 61000)), False),
    ],
)
def test_what_both_stacks_hear(frame: bytes, matches: bool) -> None:
    assert bool(verdict(policy.neighbours(), frame)) == matches


@pytest.mark.parametrize(
    ("frame", "to_the_guest"),
    [
        (ipv4(UDP, ports(53, 61000), source=OTHER4), False),
        (ipv4(TCP, ports(53, 65535), source=OTHER4), False),
        (ipv4(UDP, ports(53, 60999), source=OTHER4), True),
        (ipv4(UDP, ports(123, 61000), source=OTHER4), True),
        (ipv4(ICMP, ports(53, 61000), source=OTHER4), True),
        (ipv6(UDP, ports(53, 61000), source=OTHER6), True),
    ],
)
def test_what_the_own_stack_gets(frame: bytes, to_the_guest: bool) -> None:
    assert bool(verdict(policy.to_own_stack(), frame)) == to_the_guest


def test_a_jump_has_no_bound() -> None:
    program = Program()
    program.load(0, 1)
    for value in range(1, 600):
        program.if_equal(value, "far")
    program.give(0)
    program.label("far")
    program.give(-1)
    assert verdict(program.assemble(), b"\1")
    assert not verdict(program.assemble(), b"\0")
