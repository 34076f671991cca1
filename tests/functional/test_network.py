"""The network of a container: what its namespace on the host holds is there in the guest, and kept in step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from networks import INSIDE4, INSIDE6, OUTSIDE4, OUTSIDE6, Namespace, connect, run
from runtimes import Bundles, Edit, Runtime
from waiting import becomes, eventually

CAPABILITIES = ["CAP_NET_RAW", "CAP_NET_ADMIN"]


@pytest.fixture
def outside(nothing_left_behind: None) -> Iterator[Namespace]:
    """The world outside of containers."""
    namespace = Namespace()
    yield namespace
    namespace.remove()


@pytest.fixture
def inside(nothing_left_behind: None) -> Iterator[Namespace]:
    """The namespace that an engine has made for a container."""
    namespace = Namespace()
    yield namespace
    namespace.remove()


def in_namespace(path: Path | None = None, **hooks: Any) -> Edit:
    """A container with this network namespace, and the rights to use it in full."""

    def edit(config: dict[str, Any]) -> None:
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "network" and path is not None:
                namespace["path"] = str(path)
        if hooks:
            config["hooks"] = hooks

    return edit


def output(runtime: Runtime, container_id: str, *command: str, check: bool = True) -> str:
    return str(runtime("exec", container_id, *command, check=check).stdout.decode())


def pings(runtime: Runtime, container_id: str, address: str) -> bool:
    return runtime("exec", container_id, "ping", "-c", "1", "-W", "2", address, check=False).returncode == 0


def addresses(shown: str) -> set[str]:
    """The lines of `ip addr` that tell of an address, without what is a matter of who made it."""
    lines = (line.strip() for line in shown.splitlines())
    return {" ".join(line.split()[:2]) for line in lines if line.startswith("inet")}


def routes(shown: str) -> set[str]:
    return {" ".join(line.split()) for line in shown.splitlines() if not line.startswith(("fe80", "multicast"))}


def test_the_guest_has_what_the_namespace_has(
    any_runtime: Runtime, bundles: Bundles, outside: Namespace, inside: Namespace
) -> None:
    connect(outside, inside.name, 0, mtu=1400)
    connect(outside, inside.name, 1, name="lan")
    inside.ip("link", "set", "lan", "down")
    inside.ip("link", "set", "lan", "address", "02:00:00:00:77:02", "up")
    inside.ip("addr", "add", "10.78.0.9/32", "dev", "lan")
    inside.ip("addr", "replace", INSIDE6.format(1) + "/64", "dev", "lan", "nodad")
    inside.ip("route", "add", "default", "via", OUTSIDE4.format(0))
    inside.ip("-6", "route", "add", "default", "via", OUTSIDE6.format(1), "metric", "77")
    inside.ip("route", "add", "192.0.2.0/24", "via", "10.99.0.1", "dev", "lan", "onlink")
    inside.ip("route", "add", "blackhole", "198.51.100.0/24")
    inside.ip("neigh", "add", "10.77.0.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0", "nud", "permanent")
    container_id = any_runtime.start(bundles.busybox("sleep", "1000", edit=in_namespace(inside.path)))

    shown = output(any_runtime, container_id, "ip", "addr", "show", "up")
    assert "mtu 1400" in shown
    assert "02:00:00:00:77:02" in shown
    expected = addresses(inside.ip("addr", "show", "up"))
    assert {INSIDE4.format(0), "10.78.0.9"} <= {row.split()[1].split("/")[0] for row in expected}
    # The kernel makes those of the link alone when it has found a carrier.
    becomes(lambda: addresses(output(any_runtime, container_id, "ip", "addr", "show", "up")), expected)
    four = routes(output(any_runtime, container_id, "ip", "route"))
    assert {row for row in four if row.startswith(("default", "192.0.2.0", "blackhole"))} == {
        "default via 10.77.0.1 dev eth0",
        "192.0.2.0/24 via 10.99.0.1 dev lan onlink",
        "blackhole 198.51.100.0/24",
    }
    assert f"default via {OUTSIDE6.format(1)} dev lan metric 77" in routes(
        output(any_runtime, container_id, "ip", "-6", "route")
    )
    assert "02:00:00:00:00:09" in output(any_runtime, container_id, "cat", "/proc/net/arp")

    for address in (OUTSIDE4, OUTSIDE6):
        for number in (0, 1):
            assert pings(any_runtime, container_id, address.format(number))


def test_of_a_route_with_several_ways_the_first_is_taken(
    vruntime: Runtime, bundles: Bundles, outside: Namespace, inside: Namespace
) -> None:
    for number, name in enumerate(("eth0", "lan")):
        connect(outside, inside.name, number, name=name)
    for family, gateway in (("-4", OUTSIDE4), ("-6", OUTSIDE6)):
        ways = [f"nexthop via {gateway.format(number)} dev {name}" for number, name in enumerate(("eth0", "lan"))]
        inside.ip(family, "route", "add", "default", *" ".join(ways).split())
    container_id = vruntime.start(bundles.busybox("sleep", "1000", edit=in_namespace(inside.path)))
    assert f"default via {OUTSIDE4.format(0)} dev eth0" in routes(output(vruntime, container_id, "ip", "route"))
    six = routes(output(vruntime, container_id, "ip", "-6", "route"))
    assert "default via fd77::1 dev eth0 metric 1024" in six


def test_a_service_is_reached_from_outside_and_reaches_out(
    vruntime: Runtime, bundles: Bundles, outside: Namespace, inside: Namespace
) -> None:
    connect(outside, inside.name, 0)
    web = bundles.busybox("httpd", "-f", "-p", "8080", "-h", "/tmp", edit=in_namespace(inside.path))
    content = os.urandom(1 << 20)
    (web / "rootfs/tmp/file").write_bytes(content)
    container_id = vruntime.start(web)
    fetch = ("wget", "-q", "-O", "-")
    program = "import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen(sys.argv[1], timeout=5).read())"
    for address in (INSIDE4.format(0), f"[{INSIDE6.format(0)}]"):
        command = ["ip", "netns", "exec", outside.name, sys.executable, "-c", program, f"http://{address}:8080/file"]
        eventually(lambda command=command: subprocess.run(command, capture_output=True).stdout == content)
    served = outside.start(sys.executable, "-m", "http.server", "8000", "--directory", str(web / "rootfs/tmp"))
    try:
        url = f"http://{OUTSIDE4.format(0)}:8000/file"
        eventually(lambda: vruntime("exec", container_id, *fetch, url, check=False).stdout == content)
    finally:
        served.terminate()
        served.communicate()


def test_changes_at_run_time_are_carried_over(
    vruntime: Runtime, bundles: Bundles, outside: Namespace, inside: Namespace
) -> None:
    connect(outside, inside.name, 0)
    container_id = vruntime.start(bundles.busybox("sleep", "1000", edit=in_namespace(inside.path)))
    assert "eth1" not in output(vruntime, container_id, "ip", "link")

    connect(outside, inside.name, 1)
    eventually(lambda: pings(vruntime, container_id, OUTSIDE4.format(1)))
    inside.ip("addr", "add", "10.79.0.2/24", "dev", "eth1")
    inside.ip("route", "add", "192.0.2.0/24", "via", "10.79.0.1")
    eventually(lambda: "192.0.2.0/24 via 10.79.0.1" in output(vruntime, container_id, "ip", "route"))
    output(vruntime, container_id, "ip", "addr", "add", "10.80.0.2/24", "dev", "eth1")  # the container's own affair

    inside.ip("route", "del", "192.0.2.0/24")
    becomes(lambda: "192.0.2.0" in output(vruntime, container_id, "ip", "route"), False)
    assert "10.80.0.2" in output(vruntime, container_id, "ip", "addr")
    inside.ip("link", "set", "eth1", "down")
    becomes(lambda: "eth1" in output(vruntime, container_id, "ip", "link", "show", "up"), False)
    inside.ip("link", "del", "eth1")
    becomes(lambda: "eth1" in output(vruntime, container_id, "ip", "link"), False)
    assert pings(vruntime, container_id, OUTSIDE4.format(0))

    connect(outside, inside.name, 2)  # by the device that has become free
    eventually(lambda: pings(vruntime, container_id, OUTSIDE4.format(2)))


def test_a_macvlan_is_an_end_as_well(
    vruntime: Runtime, bundles: Bundles, outside: Namespace, inside: Namespace
) -> None:
    parent = Namespace()
    try:
        connect(outside, parent.name, 0)
        parent.ip("link", "add", "child", "link", "eth0", "type", "macvlan", "mode", "bridge")
        parent.ip("link", "set", "child", "netns", inside.name)
        inside.ip("addr", "add", "10.77.0.3/24", "dev", "child")
        inside.ip("link", "set", "child", "up")
        container_id = vruntime.start(bundles.busybox("sleep", "1000", edit=in_namespace(inside.path)))
        assert pings(vruntime, container_id, OUTSIDE4.format(0))
        outside("busybox", "ping", "-c", "1", "-W", "2", "10.77.0.3")
    finally:
        parent.remove()


def test_what_comes_between_create_and_start_is_there(
    any_runtime: Runtime, bundles: Bundles, outside: Namespace
) -> None:
    bundle = bundles.busybox("ip", "-4", "addr", "show", "dev", "eth0", edit=in_namespace())
    log = bundle / "create.log"
    container_id = any_runtime.create(bundle)
    connect(outside, str(any_runtime.state(container_id)["pid"]), 0)
    any_runtime("start", container_id)
    eventually(lambda: any_runtime.state(container_id)["status"] == "stopped")
    assert f"inet {INSIDE4.format(0)}/24" in log.read_text()


def test_what_a_hook_brings_is_there_before_the_sysctls(
    any_runtime: Runtime, bundles: Bundles, outside: Namespace
) -> None:
    def edit(config: dict[str, Any]) -> None:
        script = (
            "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/');"
            f" ip -n {outside.name} link add out0 type veth peer name eth0 netns $pid;"
            f" ip -n {outside.name} addr add {OUTSIDE4.format(0)}/24 dev out0;"
            f" ip -n {outside.name} link set out0 up;"
            f" nsenter -t $pid -n ip addr add {INSIDE4.format(0)}/24 dev eth0; nsenter -t $pid -n ip link set eth0 up"
        )
        hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": [f"PATH={os.environ['PATH']}"]}
        in_namespace(None, prestart=[hook])(config)
        config["linux"]["sysctl"] = {"net.ipv4.conf.eth0.accept_local": "1", "net.ipv4.ip_unprivileged_port_start": "7"}

    container_id = any_runtime.start(bundles.busybox("sleep", "1000", edit=edit))
    assert pings(any_runtime, container_id, OUTSIDE4.format(0))
    sysctl = "/proc/sys/net/ipv4/conf/eth0/accept_local", "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    assert output(any_runtime, container_id, "cat", *sysctl) == "1\n7\n"


SEND = """
import socket, sys
sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sender.bind(("eth0", 0))
for frame in sys.argv[1:]:
    sender.send(bytes.fromhex(frame))
"""
LISTEN = """
import socket, sys
listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
listener.bind(("out0", 0))
print("ready", flush=True)
while True:
    frame = listener.recv(65536)
    if frame[-8:-4] == b"MARK":
        print(frame[-4:].decode(), flush=True)
"""


def test_a_guest_speaks_with_its_own_addresses_alone(
    vruntime: Runtime, bundles: Bundles, outside: Namespace, inside: Namespace
) -> None:
    connect(outside, inside.name, 0)
    container_id = vruntime.start(bundles.debian("sleep", "1000", edit=in_namespace(inside.path)))
    (link,) = json.loads(inside.ip("-json", "link", "show", "eth0"))
    own = bytes.fromhex(link["address"].replace(":", ""))

    def ipv4(mac: bytes, source: str, mark: str) -> str:
        packet = bytes.fromhex("45000024000000004011") + bytes(2) + bytes(map(int, source.split("."))) + bytes(4)
        return (b"\xff" * 6 + mac + b"\x08\0" + packet + b"\x04\0\x08\0\0\x10\0\0MARK" + mark.encode()).hex()

    def router_advertisement(mark: str) -> str:
        head = bytes.fromhex("6000000000183aff") + bytes.fromhex("fe80" + "00" * 13 + "02") + bytes(16)
        return (b"\xff" * 6 + own + b"\x86\xdd" + head + b"\x86" + bytes(15) + b"MARK" + mark.encode()).hex()

    frames = [
        ipv4(own[:-1] + bytes([own[-1] ^ 1]), "10.77.0.2", "mac_"),
        ipv4(own, "10.77.0.3", "addr"),
        router_advertisement("ra__"),
        ipv4(own, "10.77.0.2", "good"),
    ]
    listener = outside.start(sys.executable, "-c", LISTEN)
    assert listener.stdout is not None
    try:
        assert listener.stdout.readline() == "ready\n"
        output(vruntime, container_id, "python3", "-c", SEND, *frames)
        assert listener.stdout.readline() == "good\n"  # those before it would have come first
    finally:
        listener.kill()
        listener.communicate()


@pytest.mark.parametrize("victim", ["monitor", "qemu"])
def test_no_trace_stays_in_a_namespace_of_an_engine(
    vruntime: Runtime, bundles: Bundles, outside: Namespace, inside: Namespace, victim: str
) -> None:
    connect(outside, inside.name, 0)

    def seen() -> tuple[str, set[str]]:
        return inside("tc", "qdisc", "show"), {link["ifname"] for link in json.loads(inside.ip("-json", "link"))}

    before = seen()
    container_id = vruntime.start(bundles.busybox("sleep", "1000", edit=in_namespace(inside.path)))
    assert "ingress" in inside("tc", "qdisc", "show")
    record = json.loads((vruntime.root / "containers" / container_id / "state.json").read_text())
    monitor = record["monitor"]["pid"]
    children = run("pgrep", "--parent", str(monitor), "qemu").split()
    os.kill(monitor if victim == "monitor" else int(children[0]), signal.SIGKILL)
    eventually(lambda: vruntime.state(container_id)["status"] == "stopped")
    vruntime("delete", container_id)
    assert seen() == before


def test_a_namespace_that_is_deleted_underneath(
    vruntime: Runtime, bundles: Bundles, outside: Namespace, inside: Namespace
) -> None:
    connect(outside, inside.name, 0)
    container_id = vruntime.start(bundles.busybox("sleep", "1000", edit=in_namespace(inside.path)))
    outside.ip("link", "del", "out0")
    inside.remove()
    becomes(lambda: "eth0" in output(vruntime, container_id, "ip", "link"), False)
    vruntime("kill", container_id, "KILL")
    eventually(lambda: vruntime.state(container_id)["status"] == "stopped")
    vruntime("delete", container_id)


def refusal(runtime: Runtime, bundle: Path) -> str:
    result = runtime("run", "--bundle", str(bundle), runtime.new_id(), check=False)
    assert result.returncode != 0
    assert not (runtime.root / "sandboxes").exists() or not list((runtime.root / "sandboxes").iterdir())
    return str(result.stderr.decode())


def test_what_is_no_namespace_for_a_machine_is_refused(
    vruntime: Runtime, bundles: Bundles, outside: Namespace, inside: Namespace
) -> None:
    for path, reason in (
        ("/proc/self/ns/net", "is the host's, which a virtual machine cannot share"),
        ("/proc/self/ns/mnt", "is not a network namespace"),
        ("/run/netns/none-such", "No such file or directory"),
        ("/etc/passwd", "is not a network namespace"),
    ):
        assert reason in refusal(vruntime, bundles.busybox("true", edit=in_namespace(Path(path))))

    for number in range(5):
        connect(outside, inside.name, number)
    too_many = refusal(vruntime, bundles.busybox("true", edit=in_namespace(inside.path)))
    assert "has 5 interfaces (eth0, eth1, eth2, eth3, eth4), and the machine 4 network devices" in too_many
    assert "network.devices" in too_many
    assert "ingress" not in inside("tc", "qdisc", "show")
