"""The proof that nothing is left behind is itself proved: it must see each kind of thing that could be."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import inventory
import pytest
from inventory import Inventory, left_behind
from waiting import eventually


@contextmanager
def a_process(_: Path) -> Iterator[None]:
    with subprocess.Popen(["qemu-system-x86_64", "1000"], executable="/usr/bin/sleep") as process:
        eventually(lambda: "qemu" in Path(f"/proc/{process.pid}/cmdline").read_text())
        try:
            yield
        finally:
            process.kill()


@contextmanager
def a_shim(root: Path) -> Iterator[None]:
    program = root / "vruntime-shim"
    program.symlink_to("/usr/bin/sleep")
    with subprocess.Popen(["sh", "1000"], executable=program) as process:
        eventually(lambda: "shim" in Path(f"/proc/{process.pid}/comm").read_text())
        try:
            yield
        finally:
            process.kill()


@contextmanager
def a_mount(root: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", root], check=True)


@contextmanager
def a_cgroup(_: Path) -> Iterator[None]:
    made = next(path for path, _, files in os.walk("/sys/fs/cgroup") if "cgroup.procs" in files) + "/left-behind"
    os.mkdir(made)
    try:
        yield
    finally:
        os.rmdir(made)


@contextmanager
def a_network_namespace(_: Path) -> Iterator[None]:
    made = Path("/run/netns/left-behind")
    made.parent.mkdir(exist_ok=True)
    made.touch()
    try:
        yield
    finally:
        made.unlink()


@contextmanager
def a_link(_: Path) -> Iterator[None]:
    subprocess.run(["ip", "link", "add", "leftbehind", "type", "bridge"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "del", "leftbehind"], check=True)


@contextmanager
def a_namespace_without_name(_: Path) -> Iterator[None]:
    with subprocess.Popen(["unshare", "--net", "sleep", "1000"]) as process:
        ours = os.readlink("/proc/self/ns/net")
        eventually(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != ours)
        try:
            yield
        finally:
            process.kill()


@contextmanager
def a_socket(root: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "s"))
        yield


@contextmanager
def a_container(root: Path) -> Iterator[None]:
    (root / "containers/left-behind").mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(root / "containers")


@contextmanager
def a_sandbox(root: Path) -> Iterator[None]:
    (root / "sandboxes/left-behind").mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(root / "sandboxes")


@contextmanager
def shared_memory(_: Path) -> Iterator[None]:
    made = Path("/dev/shm/left-behind")
    made.touch()
    try:
        yield
    finally:
        made.unlink()


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        (a_process, "processes"),
        (a_shim, "processes"),
        (a_mount, "mounts"),
        (a_cgroup, "cgroups"),
        (a_network_namespace, "network_namespaces"),
        (a_namespace_without_name, "network_namespaces"),
        (a_link, "links"),
        (a_socket, "sockets"),
        (a_container, "state"),
        (a_sandbox, "state"),
        (shared_memory, "shared_memory"),
    ],
)
def test_what_is_left_behind_is_seen(
    thing: Callable[[Path], AbstractContextManager[None]],
    kind: str,
    state_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inventory, "SETTLE_SECONDS", 0.0)
    state_root.mkdir()
    before = Inventory.take(state_root)
    with thing(state_root):
        seen = left_behind(before, state_root)
        assert list(seen) == [kind]
        assert len(seen[kind]) == 1
    assert left_behind(before, state_root) == {}
