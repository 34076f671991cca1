"""A network for measurements: a namespace of a container, and one with a server, joined by a veth pair."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vruntime import namespaces
from vruntime.network import tap

SERVER, CLIENT = "10.88.0.1", "10.88.0.2"


@dataclass(frozen=True)
class Wires:
    """Names of the two namespaces."""

    container: str
    server: str

    @property
    def path(self) -> str:
        """Where the container's is found."""
        return f"/run/netns/{self.container}"

    def serve(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts a command in the server's."""
        command = ("ip", "netns", "exec", self.server, *command)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    @contextmanager
    def tap(self) -> Iterator[int]:
        """A tap in the server's namespace that has the server's address meanwhile: the shortest way to a machine."""
        namespace = os.open(f"/run/netns/{self.server}", os.O_RDONLY | os.O_CLOEXEC)
        with namespaces.network(namespace):
            (made,), (fd,) = tap.create(1)
        ip("-n", self.server, "addr", "del", f"{SERVER}/24", "dev", "server")
        ip("-n", self.server, "addr", "add", f"{SERVER}/24", "dev", made.name)
        ip("-n", self.server, "link", "set", made.name, "up")
        try:
            yield fd
        finally:
            os.close(fd)
            os.close(namespace)
            ip("-n", self.server, "addr", "add", f"{SERVER}/24", "dev", "server")


@contextmanager
def wires() -> Iterator[Wires]:
    """Makes them, and removes them at the end."""
    made = Wires(f"bench-container-{os.getpid()}", f"bench-server-{os.getpid()}")
    names = (made.container, made.server)
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ends = ("server", "type", "veth", "peer", "name", "eth0", "netns", made.container)
        ip("-n", made.server, "link", "add", *ends)
        for name, end, address in ((made.server, "server", SERVER), (made.container, "eth0", CLIENT)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
        yield made
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def ip(*arguments: str) -> None:
    """Runs ip(8)."""
    subprocess.run(["ip", *arguments], check=True, stdin=subprocess.DEVNULL)
