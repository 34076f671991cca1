"""From what a network namespace of the host holds to what the agent is told of it."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from vruntime.agent.proto import agent_pb2 as pb
from vruntime.network.description import Address, Description, Interface, Neighbour, Route


def to_proto(description: Description, name_servers: Sequence[str]) -> pb.Network:
    """The message; `name_servers` are the addresses at which the agent is to forward names."""
    return pb.Network(
        interfaces=[_interface(interface) for interface in description.interfaces],
        routes=[_route(route) for route in description.routes],
        neighbours=[_neighbour(neighbour) for neighbour in description.neighbours],
        name_servers=[_packed(server) for server in name_servers],
    )


def _interface(interface: Interface) -> pb.Interface:
    return pb.Interface(
        device=interface.device,
        name=interface.name,
        mac=_mac(interface.mac),
        mtu=interface.mtu,
        up=interface.up,
        no_arp=interface.no_arp,
        addresses=[_address(address) for address in interface.addresses],
        ipv6_settings=interface.ipv6_settings,
    )


def _address(address: Address) -> pb.Address:
    return pb.Address(
        address=_packed(address.address),
        prefix_length=address.prefix_length,
        peer=_packed(address.peer),
        broadcast=_packed(address.broadcast),
        scope=address.scope,
    )


def _route(route: Route) -> pb.Route:
    return pb.Route(
        destination=_packed(route.destination),
        prefix_length=route.prefix_length,
        gateway=_packed(route.gateway),
        interface=route.interface,
        source=_packed(route.source),
        metric=route.metric,
        table=route.table,
        protocol=route.protocol,
        scope=route.scope,
        type=route.type,
        on_link=route.on_link,
        ipv6=route.ipv6,
        mtu=route.mtu,
    )


def _neighbour(neighbour: Neighbour) -> pb.Neighbour:
    return pb.Neighbour(interface=neighbour.interface, address=_packed(neighbour.address), mac=_mac(neighbour.mac))


def _packed(address: str) -> bytes:
    if not address:
        return b""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
