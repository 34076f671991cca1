"""Docker's networks, as containers in virtual machines have them."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from engines import Docker
from waiting import becomes, eventually

SERVE = "echo served by $(hostname) >/index.html; exec httpd -f -p 8080 -h /"
ELSEWHERE = "192.0.2.7"
CROWD, SERVERS = 50, 20


@pytest.fixture
def network(docker: Docker) -> Iterator[str]:
    """A network of a user."""
    name = f"net-{uuid.uuid4().hex[:8]}"
    docker("network", "create", name)
    yield name
    docker.remove_all()


def run(docker: Docker, *arguments: str) -> str:
    """Starts a container, and gives its id."""
    return str(docker("run", "--detach", *arguments).stdout.strip())


def serve(docker: Docker, *flags: str) -> str:
    """Starts a web server."""
    return run(docker, *flags, docker.busybox(), "sh", "-c", SERVE)


def inside(docker: Docker, container: str, command: str, *, check: bool = True) -> str:
    """What a shell says in a container."""
    return str(docker("exec", container, "sh", "-c", command, check=check).stdout)


def fetch(docker: Docker, url: str) -> str:
    """What a web server says to the engine's host."""
    command = docker.namespaces.command("curl", "--silent", "--max-time", "5", url)
    return subprocess.run(command, capture_output=True, text=True).stdout


def published(docker: Docker, container: str, port: str = "8080/tcp") -> str:
    """Where a port of a container is found on the engine's host."""
    return str(docker("port", container, port).stdout.splitlines()[0]).replace("0.0.0.0", "127.0.0.1")


def address(docker: Docker, container: str, network: str) -> str:
    (described,) = json.loads(docker("inspect", container).stdout)
    return str(described["NetworkSettings"]["Networks"][network]["IPAddress"])


def test_the_default_bridge(docker: Docker) -> None:
    container = serve(docker, "--mac-address", "02:42:ac:11:00:77", "--publish", "8080")
    shown = inside(docker, container, "ip addr show eth0; ip route")
    assert f"inet {address(docker, container, 'bridge')}/16" in shown
    assert "02:42:ac:11:00:77" in shown
    assert "default via 172.17.0.1 dev eth0" in shown
    inside(docker, container, "ping -c 1 172.17.0.1")
    becomes(lambda: fetch(docker, published(docker, container)), f"served by {container[:12]}\n")


ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 5000))
while True:
    word, client = server.recvfrom(64)
    server.sendto(word, client)
"""
ASK = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(1)
client.sendto(b"word", (sys.argv[1], int(sys.argv[2])))
print(client.recv(64).decode())
"""


def test_a_published_port_of_datagrams(docker: Docker) -> None:
    container = run(docker, "--publish", "5000/udp", docker.debian(), "python3", "-c", ECHO)
    host, port = published(docker, container, "5000/udp").split(":")
    command = docker.namespaces.command(sys.executable, "-c", ASK, host, port)
    becomes(lambda: subprocess.run(command, capture_output=True, text=True).stdout, "word\n")


def test_names_on_a_network(docker: Docker, network: str) -> None:
    server = serve(docker, "--network", network, "--name", "web", "--network-alias", "www")
    client = run(docker, "--network", network, docker.busybox(), "sleep", "1000")
    assert "nameserver 127.0.0.11" in inside(docker, client, "cat /etc/resolv.conf")
    for name in ("web", "www"):
        assert f"Address: {address(docker, server, network)}" in inside(docker, client, f"nslookup {name}", check=False)
    eventually(lambda: "served by" in inside(docker, client, "wget -q -O - http://web:8080/", check=False))
    assert address(docker, client, network) in inside(docker, server, f"nslookup {client[:12]}", check=False)


def test_names_of_the_world(docker: Docker, network: str) -> None:
    """Docker's own name server asks others from the namespace of the container, whose interface is the guest's."""
    (described,) = json.loads(docker("network", "inspect", network).stdout)
    gateway = described["IPAM"]["Config"][0]["Gateway"]
    program = [sys.executable, str(Path(__file__).with_name("name_server.py")), gateway, ELSEWHERE]
    server = subprocess.Popen(docker.namespaces.command(*program), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        result = docker(
            "run", "--rm", "--network", network, "--dns", gateway, docker.busybox(), "nslookup", "far.example"
        )
        assert f"Address: {ELSEWHERE}" in result.stdout
    finally:
        server.kill()
        server.communicate()


def test_connect_and_disconnect_a_running_container(docker: Docker, network: str) -> None:
    serve(docker, "--network", network, "--name", "web")
    container = run(docker, docker.busybox(), "sleep", "1000")
    docker("network", "connect", "--alias", "late", network, container)
    eventually(lambda: "eth1" in inside(docker, container, "ip link"))
    eventually(lambda: "served by" in inside(docker, container, "wget -q -O - http://web:8080/", check=False))
    assert address(docker, container, network) in inside(docker, "web", "nslookup late", check=False)

    docker("network", "disconnect", "bridge", container)
    becomes(lambda: "eth0" in inside(docker, container, "ip link"), False)
    assert "default via" in inside(docker, container, "ip route show dev eth1")
    assert "served by" in inside(docker, container, "wget -q -O - http://web:8080/")
    docker("network", "disconnect", network, container)
    becomes(lambda: "eth1" in inside(docker, container, "ip link"), False)


def test_an_address_of_choice_and_ipv6(docker: Docker) -> None:
    subnets = ("--subnet", "10.123.0.0/24", "--ipv6", "--subnet", "fd12:3::/64")
    docker("network", "create", *subnets, "--opt", "com.docker.network.driver.mtu=1400", "six")
    addresses = ("--ip", "10.123.0.77", "--ip6", "fd12:3::77")
    container = run(docker, "--network", "six", *addresses, docker.busybox(), "sleep", "1000")
    shown = inside(docker, container, "ip addr show eth0; ip -6 route")
    for expected in ("inet 10.123.0.77/24", "inet6 fd12:3::77/64", "mtu 1400", "default via fd12:3::1 dev eth0"):
        assert expected in shown
    other = run(docker, "--network", "six", docker.busybox(), "sleep", "1000")
    inside(docker, other, "ping -c 1 -W 5 fd12:3::77")
    inside(docker, container, "ping -c 1 -W 5 fd12:3::1")


def test_a_macvlan_network(docker: Docker) -> None:
    for command in (
        ("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1"),
        ("ip", "addr", "add", "10.124.0.1/24", "dev", "lan1"),
        ("ip", "link", "set", "lan0", "up"),
        ("ip", "link", "set", "lan1", "up"),
    ):
        subprocess.run(docker.namespaces.command(*command), check=True)
    try:
        docker("network", "create", "--driver", "macvlan", "--subnet", "10.124.0.0/24", "--opt", "parent=lan0", "lan")
        container = run(docker, "--network", "lan", docker.busybox(), "sleep", "1000")
        inside(docker, container, "ping -c 1 -W 5 10.124.0.1")
        docker.remove_all()
    finally:
        subprocess.run(docker.namespaces.command("ip", "link", "del", "lan0"), check=True)


def test_the_network_of_another_container(docker: Docker) -> None:
    """Which is in the same machine then."""
    server = serve(docker)
    command = ("sh", "-c", "until wget -q -O - http://127.0.0.1:8080/; do :; done; cat /proc/sys/kernel/random/boot_id")
    result = docker("run", "--rm", "--network", f"container:{server}", docker.busybox(), *command)
    assert result.stdout == f"served by {server[:12]}\n" + inside(docker, server, "cat /proc/sys/kernel/random/boot_id")


def test_no_network(docker: Docker) -> None:
    result = docker("run", "--rm", "--network", "none", docker.busybox(), "ip", "-o", "link")
    assert [line.split(":")[1].strip() for line in result.stdout.splitlines()] == ["lo"]


def test_the_network_of_the_host_is_refused(docker: Docker) -> None:
    result = docker("run", "--rm", "--network", "host", docker.busybox(), "true", check=False)
    assert result.returncode == 125
    assert "is the host's, which a virtual machine cannot share (choose another network mode" in result.stderr


def test_a_restarted_container_has_its_network_again(docker: Docker, network: str) -> None:
    container = serve(docker, "--network", network, "--publish", "8080")
    becomes(lambda: fetch(docker, published(docker, container)), f"served by {container[:12]}\n")
    docker("restart", "--time", "0", container)
    becomes(lambda: fetch(docker, published(docker, container)), f"served by {container[:12]}\n")


@pytest.mark.timeout(600)
def test_a_crowd_at_once(docker: Docker) -> None:
    """So many containers are started at the same time; those that serve do so beside all the others."""
    image = docker.busybox()

    def start(number: int) -> str:
        flags = ("--publish", "8080") if number < SERVERS else ()
        command = ("sh", "-c", SERVE) if number < SERVERS else ("sleep", "1000")
        return str(docker("run", "--detach", *flags, image, *command, timeout=500).stdout.strip())

    with ThreadPoolExecutor(CROWD) as pool:
        containers = list(pool.map(start, range(CROWD)))
    assert len(docker("ps", "--quiet").stdout.split()) == CROWD
    servers = containers[:SERVERS]
    urls = [published(docker, server) for server in servers]
    for url, server in zip(urls, servers, strict=True):
        becomes(lambda url=url: fetch(docker, url), f"served by {server[:12]}\n", 60)  # type: ignore[misc]
    with ThreadPoolExecutor(SERVERS) as pool:
        assert list(pool.map(lambda url: fetch(docker, url), urls)) == [
            f"served by {server[:12]}\n" for server in servers
        ]
    docker("rm", "--force", *containers, timeout=300)
