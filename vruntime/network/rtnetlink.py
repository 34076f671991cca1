"""The network stack of a namespace, read and set through pyroute2."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, Final

from vruntime import namespaces
from vruntime.errors import HostError
from vruntime.network.description import Address, Description, Interface, Neighbour, Route


def _import_part() -> None:
    """Makes pyroute2 a package whose parts are imported one by one: the whole takes 150 ms more, and we need one."""
    if "pyroute2" in sys.modules:
        return
    spec = PathFinder.find_spec("pyroute2")
    if spec is None:
        raise HostError("pyroute2 is not installed", hint="install vruntime anew")
    sys.modules["pyroute2"] = module_from_spec(spec)  # not executed


_import_part()
from pyroute2.iproute.linux import IPRoute  # noqa: E402
from pyroute2.netlink import nla  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402
from pyroute2.netlink.rtnl import tcmsg  # noqa: E402
from pyroute2.netlink.rtnl.tcmsg import common_act, sched_bpf  # noqa: E402

_ETHERNET: Final = 1
_UP, _NOARP = 0x1, 0x80
_TABLE_LOCAL: Final = 255
_KERNEL: Final = 2
_ON_LINK: Final = 4
_PERMANENT: Final = 0x80
_IPV6: Final = 10
_INGRESS: Final = 0xFFFF0000
_ALL_PROTOCOLS: Final = 0x0003
_DIRECT_ACTION: Final = 1

IPV6_SETTINGS: Final = ("disable_ipv6", "addr_gen_mode", "accept_ra")
_CONF: Final = Path("/proc/sys/net/ipv6/conf")


@dataclass(frozen=True)
class Link:
    """An interface as the kernel lists it."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    flags: int
    is_ethernet: bool
    master: int


class Stack:
    """The network stack of the namespace that this thread is in while it is open. All raise HostError."""

    def __init__(self, netlink: IPRoute) -> None:
        self._netlink = netlink

    @classmethod
    @contextmanager
    def of(cls, namespace: int) -> Iterator[Stack]:
        """Enters the namespace of this descriptor meanwhile."""
        try:
            with namespaces.network(namespace), IPRoute() as netlink:
                yield cls(netlink)
        except NetlinkError as error:
            raise HostError(f"the network namespace cannot be read or set: {error.args[-1]}") from error
        except OSError as error:
            raise HostError(f"the network namespace cannot be read or set: {error.strerror}") from error

    def links(self) -> list[Link]:
        """All interfaces."""
        return [_link(message) for message in self._netlink.get_links()]

    def describe(self, devices: Mapping[int, int], links: Iterable[Link]) -> Description:
        """What the guest is to have of these links: each is given the device under its index."""
        chosen = {link.index: link for link in links if link.index in devices}
        addresses: dict[int, list[Address]] = {index: [] for index in chosen}
        for message in self._netlink.get_addr():
            if message["index"] in chosen:
                addresses[message["index"]].append(_address(message))
        interfaces = tuple(
            Interface(
                device=devices[link.index],
                index=link.index,
                name=link.name,
                mac=link.mac,
                mtu=link.mtu,
                up=bool(link.flags & _UP),
                no_arp=bool(link.flags & _NOARP),
                addresses=tuple(addresses[link.index]),
                ipv6_settings=_ipv6_settings(link.name),
            )
            for link in chosen.values()
        )
        names = {link.index: link.name for link in chosen.values()}
        routes = [_route(message, names) for message in self._netlink.get_routes()]
        neighbours = [_neighbour(message, names) for message in self._netlink.get_neighbours()]
        return Description(
            interfaces,
            tuple(sorted(filter(None, routes), key=lambda route: bool(route.gateway))),  # a gateway must be reachable
            tuple(filter(None, neighbours)),
        )

    def set_link(self, index: int, **settings: Any) -> None:
        """Changes an interface: `mtu`, `state`."""
        self._netlink.link("set", index=index, **settings)

    def renew_ingress(self, index: int) -> None:
        """Gives an interface an ingress qdisc without a filter; one that is there is what an earlier run has left."""
        self.remove_ingress(index)
        self._netlink.tc("add", "ingress", index)

    def remove_ingress(self, index: int) -> None:
        """Takes the ingress qdisc away; no error when there is none, or no interface any more."""
        with suppress(NetlinkError):
            self._netlink.tc("del", "ingress", index)

    def decide(self, index: int, preference: int, program: bytes) -> None:
        """Adds a filter at the ingress whose answer is the verdict. Those of a lower preference come before."""
        self._add_filter(index, preference, program, [["TCA_BPF_FLAGS", _DIRECT_ACTION]])

    def redirect(self, index: int, preference: int, program: bytes, target: int, *, copy: bool = False) -> None:
        """Adds a filter at the ingress: what matches leaves through another interface, with `copy` beside going on."""
        action = {
            "kind": "mirred",
            "direction": "egress",
            "action": "mirror" if copy else "redirect",
            "ifindex": target,
        }
        self._add_filter(index, preference, program, [["TCA_BPF_ACT", common_act.get_tca_action({"action": action})]])

    def _add_filter(self, index: int, preference: int, program: bytes, how: list[Any]) -> None:
        code = [["TCA_BPF_OPS_LEN", len(program) // 8], ["TCA_BPF_OPS", program]]
        self._netlink.tc(
            "add-filter",
            "bpf",
            index,
            parent=_INGRESS,
            protocol=_ALL_PROTOCOLS,
            prio=preference,
            attributes=[*code, *how],
        )


class _ClassicBpf:
    """The classifier bpf with a classic program, for which pyroute2 has no parameters."""

    parent = sched_bpf.parent
    fix_request = staticmethod(sched_bpf.fix_request)

    class options(sched_bpf.options):
        nla_map = (
            ("TCA_BPF_UNSPEC", "none"),
            ("TCA_BPF_ACT", "bpf_act"),
            ("TCA_BPF_POLICE", "police"),
            ("TCA_BPF_CLASSID", "uint32"),
            ("TCA_BPF_OPS_LEN", "uint16"),
            ("TCA_BPF_OPS", "cdata"),
            ("TCA_BPF_FD", "uint32"),
            ("TCA_BPF_NAME", "asciiz"),
            ("TCA_BPF_FLAGS", "uint32"),
        )

    @staticmethod
    def get_parameters(context: Mapping[str, Any]) -> dict[str, Any]:
        return {"attrs": context["attributes"]}


tcmsg.plugins["bpf"] = _ClassicBpf


def _link(message: nla) -> Link:
    information = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(information and information.get_attr("IFLA_INFO_KIND")) or "",
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU"),
        flags=message["flags"],
        is_ethernet=message["ifi_type"] == _ETHERNET,
        master=message.get_attr("IFLA_MASTER") or 0,
    )


def _address(message: nla) -> Address:
    local, other = message.get_attr("IFA_LOCAL"), message.get_attr("IFA_ADDRESS")
    return Address(
        address=local or other,
        prefix_length=message["prefixlen"],
        peer=other if local and local != other else "",
        broadcast=message.get_attr("IFA_BROADCAST") or "",
        scope=message["scope"],
    )


def _route(message: nla, names: Mapping[int, str]) -> Route | None:
    table = message.get_attr("RTA_TABLE") or message["table"]
    way = _first_way(message)
    out = way.get_attr("RTA_OIF") if way is message else way["oif"]
    destination = message.get_attr("RTA_DST") or ""
    ipv6 = message["family"] == _IPV6
    if table == _TABLE_LOCAL or (out is not None and out not in names):
        return None
    if ipv6 and message["proto"] == _KERNEL and destination.startswith(("fe80:", "ff00:")):
        return None  # the guest's own interfaces have them, too
    metrics = message.get_attr("RTA_METRICS")
    return Route(
        destination=destination,
        prefix_length=message["dst_len"],
        interface="" if out is None else names[out],
        gateway=way.get_attr("RTA_GATEWAY") or "",
        source=message.get_attr("RTA_PREFSRC") or "",
        metric=message.get_attr("RTA_PRIORITY") or 0,
        table=table,
        protocol=message["proto"],
        scope=message["scope"],
        type=message["type"],
        on_link=bool(way["flags"] & _ON_LINK),
        ipv6=ipv6,
        mtu=(metrics and metrics.get_attr("RTAX_MTU")) or 0,
    )


def _first_way(message: nla) -> nla:
    """Of a route that has several; of any other, itself."""
    ways = message.get_attr("RTA_MULTIPATH")
    return ways[0] if ways else message


def _neighbour(message: nla, names: Mapping[int, str]) -> Neighbour | None:
    name, mac = names.get(message["ifindex"]), message.get_attr("NDA_LLADDR")
    if name is None or not mac or not message["state"] & _PERMANENT:
        return None
    return Neighbour(name, message.get_attr("NDA_DST"), mac)


def _ipv6_settings(name: str) -> dict[str, int]:
    """Of the namespace that this thread is in, whatever network the mount of /proc was made in."""
    settings = {}
    for key in IPV6_SETTINGS:
        with suppress(FileNotFoundError, ValueError):
            settings[key] = int((_CONF / name / key).read_text())
    return settings
