"""Networks for tests, as engines make them: a namespace of the container, and one that stands for the world outside."""

from __future__ import annotations

import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path

OUTSIDE4, INSIDE4 = "10.77.{}.1", "10.77.{}.2"
OUTSIDE6, INSIDE6 = "fd77:{}::1", "fd77:{}::2"


def run(*command: str, check: bool = True, **options: object) -> str:
    """What a command prints."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert not check or result.returncode == 0, f"{command}: {result.returncode}: {result.stderr}"
    return str(result.stdout)


@dataclass
class Namespace:
    """A network namespace with a name."""

    name: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    @property
    def path(self) -> Path:
        """Where its namespace is found."""
        return Path("/run/netns") / self.name

    def ip(self, *arguments: str) -> str:
        """Runs ip(8) on it."""
        return run("ip", "-n", self.name, *arguments)

    def __call__(self, *command: str, check: bool = True) -> str:
        """Runs a command in it."""
        return run("ip", "netns", "exec", self.name, *command, check=check)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Starts a command in it."""
        enter = ["ip", "netns", "exec", self.name]
        return subprocess.Popen([*enter, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def remove(self) -> None:
        """Removes its name; the namespace goes with the last that uses it."""
        run("ip", "netns", "del", self.name, check=False)


def connect(outside: Namespace, target: str, number: int, *, name: str = "", mtu: int = 1500) -> None:
    """A veth pair from outside into another namespace (a name, or a pid), with addresses of either family on both."""
    ours, theirs = f"out{number}", name or f"eth{number}"
    outside.ip("link", "add", ours, "mtu", str(mtu), "type", "veth", "peer", "name", theirs, "netns", target)
    inside = ("ip", "-n", target) if not target.isdigit() else ("nsenter", "-t", target, "-n", "ip")
    run(*inside, "link", "set", theirs, "mtu", str(mtu))
    for end, device, four, six in (
        (("ip", "-n", outside.name), ours, OUTSIDE4, OUTSIDE6),
        (inside, theirs, INSIDE4, INSIDE6),
    ):
        run(*end, "addr", "add", f"{four.format(number)}/24", "brd", "+", "dev", device)
        run(*end, "addr", "add", f"{six.format(number)}/64", "dev", device, "nodad")
        run(*end, "link", "set", device, "up")
