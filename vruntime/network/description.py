"""What a network namespace holds, as the guest is told of it: addresses are text, numbers are rtnetlink's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Address:
    """An address of an interface."""

    address: str
    prefix_length: int
    peer: str = ""
    broadcast: str = ""
    scope: int = 0


@dataclass(frozen=True)
class Interface:
    """An interface of the namespace, and which of the machine's network devices stands for it in the guest."""

    device: int
    index: int
    """On the host."""

    name: str
    mac: str
    mtu: int
    up: bool
    no_arp: bool
    addresses: tuple[Address, ...] = ()
    ipv6_settings: Mapping[str, int] = field(default_factory=dict)
    """As /proc/sys/net/ipv6/conf has them."""


@dataclass(frozen=True)
class Route:
    """A route of any table but that of local addresses."""

    destination: str
    """Empty: everything."""

    prefix_length: int
    interface: str
    gateway: str = ""
    source: str = ""
    metric: int = 0
    table: int = 254
    protocol: int = 0
    scope: int = 0
    type: int = 1
    on_link: bool = False
    ipv6: bool = False
    mtu: int = 0


@dataclass(frozen=True)
class Neighbour:
    """A neighbour whose link-layer address was set for good."""

    interface: str
    address: str
    mac: str


@dataclass(frozen=True)
class Description:
    """All of it."""

    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """For the control socket."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Description:
        """The inverse of `to_wire`."""

        def interface(described: Mapping[str, Any]) -> Interface:
            addresses = tuple(Address(**address) for address in described["addresses"])
            return Interface(**{**described, "addresses": addresses})

        return cls(
            tuple(interface(described) for described in wire["interfaces"]),
            tuple(Route(**route) for route in wire["routes"]),
            tuple(Neighbour(**neighbour) for neighbour in wire["neighbours"]),
        )

    @property
    def devices(self) -> dict[int, int]:
        """The devices that are in use, by the host's index of the interface."""
        return {interface.index: interface.device for interface in self.interfaces}
