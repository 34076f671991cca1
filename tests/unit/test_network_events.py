"""Which changes of a network namespace concern the guest: seen by a socket in a namespace of this thread's own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from vruntime import namespaces
from vruntime.network import events
from vruntime.network.description import Address, Description, Interface, Neighbour, Route


@pytest.fixture
def namespace() -> Iterator[int]:
    fd = namespaces.new_network()
    yield fd
    os.close(fd)


@pytest.fixture
def listener(namespace: int) -> Iterator[socket.socket]:
    """With an interface in the namespace that is known already."""
    ip(namespace, "link add eth0 type veth peer name peer0")
    with events.listen(namespace) as sock:
        yield sock


def ip(namespace: int, command: str) -> str:
    with namespaces.network(namespace):
        return subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True).stdout


def known(namespace: int) -> Description:
    """The interfaces as they are now."""
    links = json.loads(ip(namespace, "-json link show type veth"))
    interfaces = (
        Interface(number, link["ifindex"], link["ifname"], link["address"], link["mtu"], "UP" in link["flags"], False)
        for number, link in enumerate(links)
    )
    return Description(tuple(interfaces))


@pytest.mark.parametrize(
    "command",
    [
        "link add eth1 type veth peer name peer1",
        "link set eth0 up",
        "link set eth0 mtu 1400",
        "link set eth0 address 02:00:00:00:00:07",
        "link set eth0 name lan",
        "link del eth0",
        "addr add 10.0.0.2/24 dev eth0",
        "addr add fd00::2/64 dev eth0",
        "neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
        "route add blackhole 10.1.0.0/16",
    ],
)
def test_what_the_guest_is_told_of_is_a_change(namespace: int, listener: socket.socket, command: str) -> None:
    before = known(namespace)
    assert not events.changed(listener, before, ())
    ip(namespace, command)
    assert events.changed(listener, before, ())
    assert not events.changed(listener, before, ()), "a change is told once"


@pytest.mark.parametrize(
    "command",
    [
        "neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud stale",
        "link set eth0 alias other",
        "link set eth0 txqueuelen 100",
    ],
)
def test_what_it_is_not_told_of_is_none(namespace: int, listener: socket.socket, command: str) -> None:
    ip(namespace, command)
    assert not events.changed(listener, known(namespace), ())


def test_a_carrier_and_the_address_of_a_link_are_no_change(namespace: int, listener: socket.socket) -> None:
    ip(namespace, "link set eth0 up")
    before = known(namespace)
    events.changed(listener, before, ())
    (peer,) = (interface.index for interface in before.interfaces if interface.name == "peer0")
    ip(namespace, "link set peer0 up")  # with which eth0 has a carrier, and an address in fe80::/64
    assert not events.changed(listener, before, (peer,))


def test_our_own_links_are_no_change(namespace: int, listener: socket.socket) -> None:
    before = known(namespace)
    own = [interface.index for interface in before.interfaces]
    ip(namespace, "link set eth0 mtu 1300")
    assert not events.changed(listener, before, own)


def test_a_description_travels() -> None:
    interface = Interface(
        1, 7, "eth0", "02:00:00:00:00:07", 1400, True, False, (Address("10.0.0.2", 24),), {"accept_ra": 0}
    )
    description = Description((interface,), (Route("", 0, "eth0", "10.0.0.1"),), (Neighbour("eth0", "10.0.0.9", "x"),))
    assert Description.from_wire(json.loads(json.dumps(description.to_wire()))) == description
    assert description.devices == {7: 1}
