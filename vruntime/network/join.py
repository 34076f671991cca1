"""Joins the interfaces of a network namespace with the taps of a machine, and keeps them in step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from vruntime.errors import HostError
from vruntime.network import policy
from vruntime.network.description import Description, Interface
from vruntime.network.namespace import Network
from vruntime.network.rtnetlink import Link, Stack

_CONF = Path("/proc/sys/net")


def join(namespace: int, network: Network, before: Description) -> Description:
    """Joins what is new in the namespace since `before`, parts what is gone, and says what is there now.

    HostError when the machine has fewer devices than the namespace has interfaces.
    """
    with Stack.of(namespace) as stack:
        links = stack.links()
        ends = [link for link in links if _is_end(link)]
        devices = _assign(ends, len(network.taps), before.devices)
        now = stack.describe(devices, ends)
        _part(stack, network, set(before.devices.values()) - set(devices.values()))
        old = {interface.index: interface for interface in before.interfaces}
        for interface in now.interfaces:
            if interface != old.get(interface.index):
                _join(stack, network, interface)
        if network.name_server and not before.interfaces:
            (_CONF / "ipv4/ip_local_port_range").write_text("{} {}".format(*policy.OWN_PORTS))
    return now


def _is_end(link: Link) -> bool:
    """Whether a link leads out of the namespace: it is no tap, of ours or of another, nor the port of a bridge."""
    return link.is_ethernet and link.kind != "tun" and not link.master


def _assign(ends: Sequence[Link], count: int, before: Mapping[int, int]) -> dict[int, int]:
    """A device for each end, by its index: that which it has had, or a free one."""
    devices = {end.index: before[end.index] for end in ends if end.index in before}
    free = [device for device in range(count) if device not in devices.values()]
    new = [end for end in ends if end.index not in devices]
    if len(new) > len(free):
        raise HostError(
            f"the network namespace has {len(ends)} interfaces ({', '.join(end.name for end in ends)}), and the"
            f" machine {count} network devices",
            hint="raise network.devices in the settings",
        )
    return devices | {end.index: device for end, device in zip(new, free, strict=False)}


def _join(stack: Stack, network: Network, interface: Interface) -> None:
    """Both ways. What is changed at run time loses the packets of a moment, and lets none of the guest's pass by."""
    end, tap = interface.index, network.taps[interface.device].index
    stack.set_link(tap, state="down")
    stack.renew_ingress(tap)
    stack.renew_ingress(end)
    if network.pinned:
        stack.redirect(tap, 1, _allowed(interface), end)
        stack.decide(tap, 2, policy.everything(policy.DROP))
    else:
        stack.redirect(tap, 1, policy.everything(policy.MATCH), end)
    if network.name_server:
        stack.redirect(end, 1, policy.neighbours(), tap, copy=True)
        stack.decide(end, 2, policy.to_own_stack())
    stack.redirect(end, 3, policy.everything(policy.MATCH), tap)
    _silence(network.taps[interface.device].name)
    stack.set_link(tap, mtu=interface.mtu, state="up")


def _allowed(interface: Interface) -> bytes:
    addresses = {address.address for address in interface.addresses} | {_link_local(interface.mac)}
    try:
        return policy.from_guest(interface.mac, sorted(addresses))
    except ValueError as error:
        raise HostError(f"interface {interface.name} has too many addresses: {error}") from error


def _link_local(mac: str) -> str:
    """The address that IPv6 makes of a link-layer address (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return "fe80::" + identifier.hex(":", 2)


def _silence(tap: str) -> None:
    """Keeps the namespace's own stack from speaking to the guest."""
    setting = _CONF / "ipv6/conf" / tap / "disable_ipv6"
    if setting.exists():  # a kernel without IPv6 has none
        setting.write_text("1")


def _part(stack: Stack, network: Network, devices: Collection[int]) -> None:
    for device in devices:
        stack.remove_ingress(network.taps[device].index)
        stack.set_link(network.taps[device].index, state="down")
