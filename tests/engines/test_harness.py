"""The engines themselves: each runs a container under our runtime and under runc, and what is left within is seen."""

from __future__ import annotations

import subprocess

import inventory
import pytest
from engines import Containerd, Docker, Podman


@pytest.mark.parametrize("runtime", ["vruntime", "runc"])
def test_docker(docker: Docker, runtime: str) -> None:
    assert docker.using(runtime)("run", "--rm", docker.busybox(), "echo", "hello").stdout == "hello\n"


@pytest.mark.parametrize("runtime", ["vruntime", "runc"])
def test_podman(podman: Podman, runtime: str) -> None:
    command = ["run", "--rm", "--network", "none", podman.busybox(), "echo", "hello"]
    assert podman.using(runtime)(*command).stdout == "hello\n"


@pytest.mark.parametrize("runtime", ["vruntime", "runc"])
def test_containerd(ctr: Containerd, runtime: str) -> None:
    assert ctr.using(runtime)("run", "--rm", ctr.busybox(), "one", "echo", "hello").stdout == "hello\n"


def test_what_is_left_within_is_seen(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "SETTLE_SECONDS", 0.0)
    before = docker.inventory()
    within = docker.namespaces.command

    def run(script: str) -> None:
        subprocess.run(within("sh", "-ec", script), check=True)

    run("ip link add left type bridge; tc qdisc add dev left ingress; mkdir /run/left; mount -t tmpfs left /run/left")
    try:
        seen = docker.left_behind(before)
    finally:
        run("ip link delete left; umount /run/left; rmdir /run/left")
    assert set(seen) == {"links", "traffic_control", "mounts"}
    assert seen["mounts"] == ["/run/left"]
