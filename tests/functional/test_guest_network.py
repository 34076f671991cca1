"""The network of a container as the agent makes it: devices, addresses, routes and neighbours in a guest by itself."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from guests import Guest, guest, hub, initramfs

from vruntime.agent.proto import agent_pb2 as pb

DEVICES = 3


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest whose network devices are on one Ethernet."""
    directory = tmp_path_factory.mktemp("guest")
    with guest(directory, hub(DEVICES), initramfs(directory / "initramfs")) as running:
        yield running


@pytest.fixture
def nothing_left_behind() -> None:
    """The guest outlives a test: what is left of a container in it is looked for there."""


@pytest.fixture
def vm(machine: Guest) -> Iterator[Guest]:
    """The guest without a container, and with every device, before and after."""
    yield machine
    for name in ("a", "b"):
        try:
            machine.delete(name)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND
    everything = pb.Network(interfaces=[interface(number, f"n{number}", []) for number in range(DEVICES)])
    machine.run("a", everything)
    machine.delete("a")


def packed(address: str) -> bytes:
    """An address, or none, as the interface has it."""
    return ipaddress.ip_address(address).packed if address else b""


def address(text: str, **more: Any) -> pb.Address:
    """`10.0.0.1/24`."""
    own, length = text.split("/")
    return pb.Address(address=packed(own), prefix_length=int(length), **more)


def interface(device: int, name: str, addresses: list[str], **more: Any) -> pb.Interface:
    """An interface that is up."""
    values = {"mac": bytes([2, 66, 0, 0, 0, device & 255]), "mtu": 1500, "up": True, **more}
    return pb.Interface(device=device, name=name, addresses=[address(one) for one in addresses], **values)


def route(to: str, via: str = "", dev: str = "eth0", **more: Any) -> pb.Route:
    """A static route of the main table."""
    values = {"table": 254, "protocol": 4, "type": 1, "scope": 0 if via else 253, **more}
    destination, length = ("", "0") if to == "default" else to.split("/")
    return pb.Route(
        destination=packed(destination), prefix_length=int(length), gateway=packed(via), interface=dev, **values
    )


def network(*interfaces: pb.Interface, **more: Any) -> pb.Network:
    """With these interfaces."""
    return pb.Network(interfaces=interfaces, **more)


def first(number: int = 1, *, device: int = 0, **more: Any) -> pb.Network:
    """eth0 with 10.0.0.NUMBER and the route that leads to its neighbours."""
    own = f"10.0.0.{number}"
    here = route("10.0.0.0/24", source=packed(own), protocol=2)
    return network(interface(device, "eth0", [f"{own}/24", f"fd00::{number}/64"]), routes=[here], **more)


def names(vm: Guest, container: str) -> list[str]:
    return sorted(link["ifname"] for link in vm.ip(container, "link"))


def refusal(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    """How a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return caught.value.code(), caught.value.details()


def test_without_a_network_there_is_loopback_alone(vm: Guest) -> None:
    vm.run("a")
    (link,) = vm.ip("a", "address")
    assert link["ifname"] == "lo"
    assert {one["local"] for one in link["addr_info"]} == {"127.0.0.1", "::1"}
    assert vm.inside("a", "ls /sys/class/net") == "lo\n"


def test_an_interface_is_as_asked_for(vm: Guest) -> None:
    wanted = interface(1, "net-with.dots_15", ["192.168.7.2/16", "fd00:7::2/64"], mtu=1400, no_arp=True)
    wanted.name = "net-with.dots_1"
    wanted.ipv6_settings["accept_ra"] = 0
    wanted.ipv6_settings["accept_dad"] = 0
    wanted.addresses[0].broadcast = packed("192.168.255.255")
    wanted.addresses.append(address("10.9.9.9/32", peer=packed("10.9.9.10"), scope=253))
    vm.run("a", network(wanted))
    (link,) = (one for one in vm.ip("a", "address") if one["ifname"] != "lo")
    assert link["ifname"] == wanted.name
    assert link["address"] == "02:42:00:00:00:01"
    assert link["mtu"] == 1400
    assert {"UP", "NOARP"} <= set(link["flags"])
    keys = ("local", "prefixlen", "broadcast", "scope", "address")
    found = {one["local"]: {key: one[key] for key in keys if key in one} for one in link["addr_info"]}
    assert found["192.168.7.2"] == {
        "local": "192.168.7.2",
        "prefixlen": 16,
        "broadcast": "192.168.255.255",
        "scope": "global",
    }
    assert found["10.9.9.9"] == {"local": "10.9.9.9", "prefixlen": 32, "address": "10.9.9.10", "scope": "link"}
    assert found["fd00:7::2"]["prefixlen"] == 64
    assert not any(one.get("tentative") for one in link["addr_info"])
    assert vm.inside("a", f"cat /proc/sys/net/ipv6/conf/{wanted.name}/accept_ra") == "0\n"


def test_two_containers_reach_each_other(vm: Guest) -> None:
    vm.run("a", first(1, device=0))
    vm.run("b", first(2, device=1))
    vm.inside("a", "ping -c 1 -W 5 10.0.0.2")
    vm.configure("b", first(3, device=1))
    vm.inside("a", "ping -c 1 -W 5 10.0.0.3 && ! ping -c 1 -W 1 10.0.0.2")


def test_the_routes_are_the_hosts(vm: Guest) -> None:
    routes = [
        route("10.0.0.0/24", source=packed("10.0.0.1"), protocol=2),
        route("default", "10.0.0.254", metric=100, protocol=3),
        route("10.1.0.0/16", "10.0.0.253", mtu=1300),
        route("10.2.0.0/16", "172.16.0.1", on_link=True),
        route("10.3.0.0/16", dev="", type=6, scope=0),
        route("10.4.0.0/16", dev="", type=7, scope=0, metric=7),
        route("10.5.0.0/16", "10.0.0.252", table=1000),
        route("fd00::/64", protocol=2, metric=256, scope=0),
        route("default", "fd00::fe", metric=1024),
        route("fd01::/64", dev="lo", type=7, scope=0, metric=1024, ipv6=True),
    ]
    wanted = network(interface(0, "eth0", ["10.0.0.1/24", "fd00::1/64"]), routes=routes)
    vm.run("a", wanted)
    assert lines(vm, "ip -4 route show; ip -4 route show table 1000") == [
        "default via 10.0.0.254 dev eth0 metric 100",
        "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1",
        "10.1.0.0/16 via 10.0.0.253 dev eth0 proto static mtu 1300",
        "10.2.0.0/16 via 172.16.0.1 dev eth0 proto static onlink",
        "blackhole 10.3.0.0/16 proto static",
        "unreachable 10.4.0.0/16 proto static metric 7",
        "10.5.0.0/16 via 10.0.0.252 dev eth0 proto static",
    ]
    assert set(lines(vm, "ip -6 route show")) - {"fe80::/64 dev eth0 proto kernel metric 256 pref medium"} == {
        "fd00::/64 dev eth0 proto kernel metric 256 pref medium",
        "default via fd00::fe dev eth0 proto static metric 1024 pref medium",
        "unreachable fd01::/64 dev lo proto static metric 1024 pref medium",
    }
    vm.configure("a", wanted)
    vm.configure("a", network(interface(0, "eth0", ["10.0.0.1/24"]), routes=routes[:1]))
    assert lines(vm, "ip -4 route show; ip -4 route show table 1000") == [
        "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1"
    ]


def lines(vm: Guest, script: str) -> list[str]:
    return [" ".join(line.split()) for line in vm.inside("a", script).splitlines()]


def test_neighbours_are_permanent(vm: Guest) -> None:
    mac = bytes([2, 1, 2, 3, 4, 5])
    wanted = first()
    for one in ("10.0.0.77", "fd00::77"):
        wanted.neighbours.append(pb.Neighbour(interface="eth0", address=packed(one), mac=mac))
    vm.run("a", wanted)
    permanent = [one for one in vm.ip("a", "neighbour show nud permanent") if one["dst"].endswith("77")]
    assert {(one["dst"], one["lladdr"]) for one in permanent} == {
        ("10.0.0.77", "02:01:02:03:04:05"),
        ("fd00::77", "02:01:02:03:04:05"),
    }
    vm.configure("a", first())
    assert not [one for one in vm.ip("a", "neighbour show nud permanent") if one["dst"].endswith("77")]


def test_the_containers_own_changes_stay(vm: Guest) -> None:
    vm.run("a", first())
    vm.inside(
        "a", "ip address add 10.8.0.1/24 dev eth0; ip route add 10.9.0.0/16 via 10.0.0.9; ip link add dummy7 type dummy"
    )
    second = interface(1, "eth1", ["10.7.0.1/24"])
    vm.configure("a", network(*first().interfaces, second, routes=first().routes))
    assert names(vm, "a") == ["dummy7", "eth0", "eth1", "lo"]
    vm.configure("a", first())
    assert names(vm, "a") == ["dummy7", "eth0", "lo"]
    assert vm.inside("a", "ip address show dev eth0 | grep -c 10.8.0.1") == "1\n"
    assert vm.inside("a", "ip route | grep -c 10.9.0.0") == "1\n"


def test_a_connection_survives_a_change_of_another_interface(vm: Guest) -> None:
    vm.run("a", first(1, device=0))
    vm.run("b", first(2, device=1))
    vm.inside("b", "(nc -l -p 99 -e cat >/dev/null 2>&1 &) </dev/null; until netstat -tln | grep -q :99; do :; done")
    talk = "mkfifo /tmp/f; (nc 10.0.0.2 99 </tmp/f >/tmp/out 2>&1 &); (sleep 1000 >/tmp/f 2>&1 &); echo one >/tmp/f"
    vm.inside("a", f"{talk}; until grep -q one /tmp/out; do :; done")
    before = vm.inside("a", "ip -statistics link show dev eth0 | head -2")
    vm.configure("a", network(*first(1).interfaces, interface(2, "eth1", ["10.7.0.1/24"]), routes=first(1).routes))
    vm.inside("a", "echo two >/tmp/f; until grep -q two /tmp/out; do :; done")
    assert vm.inside("a", "ip -statistics link show dev eth0 | head -2") == before


def test_names_can_be_exchanged(vm: Guest) -> None:
    vm.run("a", network(interface(0, "x", ["10.0.1.1/24"]), interface(1, "y", ["10.0.2.1/24"])))
    vm.configure("a", network(interface(0, "y", ["10.0.1.1/24"]), interface(1, "x", ["10.0.2.1/24"])))
    addresses = {
        one["ifname"]: one["addr_info"][0]["local"] for one in vm.ip("a", "-4 address") if one["ifname"] != "lo"
    }
    assert addresses == {"y": "10.0.1.1", "x": "10.0.2.1"}


def test_a_device_that_the_container_has_renamed_is_found(vm: Guest) -> None:
    vm.run("a", first())
    vm.inside("a", "ip link set eth0 down; ip link set eth0 name mine address 02:99:00:00:00:01")
    vm.configure("a", first())
    assert names(vm, "a") == ["eth0", "lo"]
    assert vm.ip("a", "link show dev eth0")[0]["address"] == "02:42:00:00:00:00"
    assert vm.inside("a", "ip -4 route") == "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1 \n"


def test_a_device_comes_back_as_it_was(vm: Guest) -> None:
    """From a container that ends, one that lets go of it, and one that cannot be made."""
    vm.run("a", first())
    vm.inside("a", "ip link set eth0 mtu 1280; ip link property add dev eth0 altname other")
    code, message = refusal(vm.create, "b", first())
    assert (code, "network device 0 is not to be had" in message) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    vm.configure("a", network())
    assert names(vm, "a") == ["lo"]
    vm.run("b", first(2))
    assert vm.ip("b", "link show dev eth0")[0]["mtu"] == 1500
    vm.delete("b")
    code, message = refusal(vm.create, "b", network(*first().interfaces, routes=[route("10.1.0.0/16", "172.16.0.1")]))
    assert code is grpc.StatusCode.INTERNAL
    assert message.startswith("cannot add route 10.1.0.0/16 via 172.16.0.1 dev eth0: network is unreachable")
    vm.run("b", first(2))
    vm.inside("b", "kill -9 1")


def test_what_else_fails_meanwhile_is_told(vm: Guest) -> None:
    """The network is furnished while the file system is set up."""
    code, message = refusal(lambda: vm.create("a", first(), rootfsPropagation="odd"))
    assert (code, "odd" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True), message
    code, message = refusal(lambda: vm.create("a", first(), sysctl={"net.ipv4.conf.eth1.arp_notify": "1"}))
    assert code is grpc.StatusCode.INTERNAL
    assert "/proc/sys/net/ipv4/conf/eth1/arp_notify: no such file or directory" in message


def test_in_the_network_of_another_nothing_is_set(vm: Guest) -> None:
    vm.run("a", namespaces=[{"type": kind} for kind in ("pid", "mount", "ipc", "uts")])
    code, message = refusal(vm.configure, "a", first())
    assert (code, message) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        'container "a" has no network namespace',
    )


def test_with_a_user_namespace(vm: Guest) -> None:
    ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    kinds = ("pid", "mount", "ipc", "uts", "network", "user")
    vm.run("a", first(), namespaces=[{"type": kind} for kind in kinds], uidMappings=ids, gidMappings=ids)
    assert vm.inside("a", "ip -4 route") == "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1 \n"
    vm.inside("a", "ip link set eth0 mtu 1300")


def test_sysctls_of_an_interface(vm: Guest) -> None:
    vm.run("a", first(), sysctl={"net.ipv4.conf.eth0.arp_notify": "1", "net.ipv4.ip_forward": "1"})
    assert vm.inside("a", "cat /proc/sys/net/ipv4/conf/eth0/arp_notify /proc/sys/net/ipv4/ip_forward") == "1\n1\n"


def with_route(*more: Any, **values: Any) -> pb.Network:
    """eth0 with one more route than it needs."""
    return network(*first().interfaces, routes=[*first().routes, route(*more, **values)])


BAD: list[tuple[str, pb.Network]] = [
    ('interfaces[0]: name: "lo"', network(interface(0, "lo", []))),
    ('interfaces[0]: name: "a/b"', network(interface(0, "a/b", []))),
    ('interfaces[0]: name: "eth%d"', network(interface(0, "eth%d", []))),
    ('interfaces[0]: name: "0123456789abcdef"', network(interface(0, "0123456789abcdef", []))),
    ("interfaces[0]: mtu: 67", network(interface(0, "eth0", [], mtu=67))),
    ("interfaces[0]: mac: has 6 bytes, not 5", network(interface(0, "eth0", [], mac=bytes(5)))),
    ("interfaces[0]: device: 256", network(interface(256, "eth0", []))),
    ('interfaces[0]: ipv6_settings: "../x"', network(interface(0, "eth0", [], ipv6_settings={"../x": 1}))),
    ("interfaces[0]: addresses[0]: prefix_length: 33", network(interface(0, "eth0", ["10.0.0.1/33"]))),
    ("interfaces: device: 0 is there twice", network(interface(0, "a", []), interface(0, "b", []))),
    ('interfaces: name: "a" is there twice', network(interface(0, "a", []), interface(1, "a", []))),
    ('routes[1]: interface: there is no "eth1"', with_route("10.1.0.0/16", dev="eth1")),
    ("routes[1]: gateway: is of another family", with_route("10.1.0.0/16", "fd00::2")),
    ("routes[1]: table", with_route("10.1.0.0/16", table=0)),
    ("neighbours[0]: mac", first(neighbours=[pb.Neighbour(interface="eth0", address=bytes(4))])),
    ("name_servers[0]: 10.0.0.1 is not", network(name_servers=[packed("10.0.0.1")])),
    ("name_servers: 4 are more than 3", network(name_servers=[packed(f"127.0.0.{number}") for number in range(4)])),
]


@pytest.mark.parametrize(("message", "bad"), BAD, ids=[message for message, _ in BAD])
def test_what_cannot_be_is_refused(machine: Guest, message: str, bad: pb.Network) -> None:
    code, details = refusal(machine.create, "a", bad)
    assert (code, details[: len(message)]) == (grpc.StatusCode.INVALID_ARGUMENT, message)
