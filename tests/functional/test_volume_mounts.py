"""How volumes are put together: in each other, with what the host mounts and replaces, the same as with runc."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import volume_calls as calls
from inventory import Inventory, left_behind
from remote import Inside, bind, running_inside
from runtimes import RUNC, VRUNTIME, Bundles, Runtime
from waiting import becomes

USER = 1000


def entry(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def mounts(at: Path) -> list[dict[str, Any]]:
    """In the order in which engines give them: what is above comes first."""
    return [
        bind(at / "data", "/data", "rw"),
        bind(at / "read-only", "/read-only", "ro"),
        bind(at / "read-only", "/writable-in-read-only", "ro"),
        bind(at / "read-only/below", "/writable-in-read-only/below", "rw"),
        bind(at / "single", "/etc/single.conf", "rw"),
        bind(at / "secret", "/run/secrets/password", "ro"),
        bind(at / "outer", "/outer", "rw"),
        bind(at / "data", "/outer/there", "rw"),
        bind(at / "data", "/outer/made/for/it", "ro"),
        bind(at / "single", "/outer/file", "ro"),
        bind(at / "submounts", "/recursive", "rw"),
        bind(at / "submounts", "/flat", "rw") | {"options": ["bind", "rw"]},
        bind(at / "shared", "/slave", "rslave"),
        bind(at / "shared", "/private", "rprivate"),
        bind(at / "shared", "/unsaid"),
        bind(at / "shared/apart", "/apart", "rprivate"),
        bind(at / "submounts", "/all-read-only", "rro"),
        entry("/scratch", "tmpfs", "nosuid", "nodev", "noexec", "size=1m", "mode=1770", "uid=1000", "gid=7"),
        bind(at / "data", "/scratch/in/it", "rw"),
        entry("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=2m"),
        bind(at / "programs", "/programs", "ro"),
        bind(at / "programs", "/no-programs", "ro", "noexec"),
    ]


@dataclass
class Box:
    """A container with all of them, and the directory on the host where their sources are."""

    inside: Inside
    host: Path


def make_sources(at: Path, mounted: ExitStack) -> None:
    for name in ("data", "read-only/below", "outer/there", "submounts/below", "shared", "programs"):
        (at / name).mkdir(parents=True)
    (at / "data/file").write_text("in data")
    (at / "read-only/file").write_text("in read-only")
    (at / "outer/there/hidden").write_text("hidden")
    (at / "single").write_text("single")
    (at / "secret").write_text("secret")
    (at / "secret").chmod(0o400)
    os.chown(at / "secret", USER, USER)
    (at / "programs/script").write_text("#!/bin/sh\nexit 42\n")
    (at / "programs/script").chmod(0o755)
    mount(mounted, "-t", "tmpfs", "none", at / "submounts/below")
    (at / "submounts/below/file").write_text("in a submount")
    mount(mounted, "--bind", at / "shared", at / "shared")
    mount(mounted, "--make-shared", at / "shared", undo=False)
    (at / "shared/apart/later").mkdir(parents=True)


def mount(mounted: ExitStack, *arguments: object, undo: bool = True) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)
    if undo:
        # Lazily: a guest that has seen it holds it.
        mounted.callback(subprocess.run, ["umount", "--lazy", str(arguments[-1])], check=True)


@pytest.fixture(scope="module", params=[VRUNTIME, RUNC], ids=["vruntime", "runc"])
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    directory = tmp_path_factory.mktemp("volumes")
    before = Inventory.take(directory / "state")
    runtime, bundles = Runtime(request.param, directory / "state"), Bundles(directory)
    with ExitStack() as mounted:
        make_sources(directory, mounted)
        with running_inside(runtime, bundles, lambda config: config["mounts"].extend(mounts(directory))) as inside:
            yield Box(inside, directory)
        runtime.clean_up()
    assert left_behind(before, directory / "state") == {}


def fails(number: int, inside: Inside, function: Any, *arguments: Any) -> None:
    with pytest.raises(OSError) as caught:
        inside(function, *arguments)
    assert caught.value.errno == number


def test_read_only(box: Box) -> None:
    assert box.inside(calls.read, "/read-only/file") == b"in read-only"
    for function, *arguments in (
        (calls.write, "/read-only/new", b""),
        (calls.write, "/read-only/file", b""),
        (os.unlink, "/read-only/file"),
        (os.mkdir, "/read-only/directory"),
        (os.chmod, "/read-only/file", 0o777),
        (os.utime, "/read-only/file"),
    ):
        fails(errno.EROFS, box.inside, function, *arguments)
    assert (box.host / "read-only/file").read_text() == "in read-only"


def test_writable_within_read_only(box: Box) -> None:
    box.inside(calls.write, "/writable-in-read-only/below/new", b"by the container")
    assert (box.host / "read-only/below/new").read_bytes() == b"by the container"
    fails(errno.EROFS, box.inside, calls.write, "/writable-in-read-only/new", b"")


def test_a_volume_in_a_volume(box: Box) -> None:
    """Over a directory that is there, and over one that is made: it is made in the outer volume."""
    assert box.inside(calls.read, "/outer/there/file") == b"in data"
    assert box.inside(calls.read, "/outer/made/for/it/file") == b"in data"
    fails(errno.EROFS, box.inside, calls.write, "/outer/made/for/it/new", b"")
    box.inside(calls.write, "/outer/there/from-inside", b"")
    assert (box.host / "data/from-inside").exists()
    assert os.listdir(box.host / "outer/there") == ["hidden"]
    assert os.listdir(box.host / "outer/made/for/it") == []


def test_a_file_in_a_volume(box: Box) -> None:
    assert box.inside(calls.read, "/outer/file") == b"single"
    fails(errno.EROFS, box.inside, calls.write, "/outer/file", b"")
    assert (box.host / "outer/file").read_bytes() == b""
    for change in (os.unlink, calls.replace):
        fails(errno.EBUSY, box.inside, change, "/outer/file")


def test_one_source_at_several_places(box: Box) -> None:
    box.inside(calls.write, "/data/shared-by-all", b"x")
    names = [
        set(box.inside(os.listdir, at)) for at in ("/data", "/outer/there", "/outer/made/for/it", "/scratch/in/it")
    ]
    assert all("shared-by-all" in listed for listed in names)


def test_submounts_of_the_host(box: Box) -> None:
    """They are there with `rbind`, and not with `bind`."""
    assert box.inside(calls.read, "/recursive/below/file") == b"in a submount"
    assert box.inside(os.listdir, "/flat/below") == []
    box.inside(calls.write, "/recursive/below/new", b"from inside")
    assert (box.host / "submounts/below/new").read_bytes() == b"from inside"
    fails(errno.EROFS, box.inside, calls.write, "/all-read-only/below/new", b"")
    assert box.inside(os.stat, "/recursive").st_dev != box.inside(os.stat, "/recursive/below").st_dev


def test_what_the_host_mounts_later(box: Box) -> None:
    """It spreads to where the volume is a slave of the host's, and nowhere else."""
    (box.host / "shared/later").mkdir()
    with ExitStack() as mounted:
        mount(mounted, "-t", "tmpfs", "none", box.host / "shared/later")
        (box.host / "shared/later/file").write_text("mounted later")
        assert box.inside(calls.read, "/slave/later/file") == b"mounted later"
        assert box.inside(os.listdir, "/private/later") == []


def test_the_host_can_unmount_what_is_not_the_containers(box: Box) -> None:
    later = box.host / "shared/apart/later"
    subprocess.run(["mount", "-t", "tmpfs", "none", later], check=True)
    assert box.inside(os.listdir, "/apart/later") == []
    subprocess.run(["umount", later], check=True)


def test_a_source_that_the_host_replaces(box: Box) -> None:
    """The volume stays the directory that it was, whatever has its name."""
    (box.host / "data").rename(box.host / "renamed")
    (box.host / "data").mkdir()
    (box.host / "data/other").write_text("another")
    try:
        assert box.inside(calls.read, "/data/file") == b"in data"
        assert "other" not in box.inside(os.listdir, "/data")
        box.inside(calls.write, "/data/new", b"new")
        assert (box.host / "renamed/new").read_bytes() == b"new"
    finally:
        (box.host / "data/other").unlink()
        (box.host / "data").rmdir()
        (box.host / "renamed").rename(box.host / "data")


def test_a_single_file(box: Box) -> None:
    """It is the inode: written in place both see it, and another file of its name is another one."""
    assert box.inside(calls.read, "/etc/single.conf") == b"single"
    box.inside(calls.write, "/etc/single.conf", b"from inside")
    assert (box.host / "single").read_bytes() == b"from inside"
    (box.host / "single").write_bytes(b"from the host")
    becomes(lambda: box.inside(calls.read, "/etc/single.conf"), b"from the host", timeout=1.0)
    for change in (os.unlink, calls.replace):
        fails(errno.EBUSY, box.inside, change, "/etc/single.conf")
    (box.host / "edited").write_bytes(b"as an editor does")
    (box.host / "edited").rename(box.host / "single")
    becomes(lambda: box.inside(os.stat, "/etc/single.conf").st_nlink, 0, timeout=1.0)
    assert box.inside(calls.read, "/etc/single.conf") == b"from the host"


def test_a_secret(box: Box) -> None:
    status = box.inside(os.stat, "/run/secrets/password")
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (USER, 0o400)
    assert box.inside(calls.as_user, USER, USER, [], calls.read, "/run/secrets/password") == 0
    assert box.inside(calls.as_user, USER + 1, USER, [], calls.read, "/run/secrets/password") == errno.EACCES
    fails(errno.EROFS, box.inside, calls.write, "/run/secrets/password", b"")


@pytest.mark.parametrize(
    ("path", "size", "mode", "owner"), [("/scratch", 1, 0o1770, (1000, 7)), ("/dev/shm", 2, 0o1777, (0, 0))]
)
def test_tmpfs(box: Box, path: str, size: int, mode: int, owner: tuple[int, int]) -> None:
    statistics, status = box.inside(os.statvfs, path), box.inside(os.stat, path)
    assert statistics.f_blocks * statistics.f_frsize == size << 20
    assert statistics.f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
    assert (stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)) == (mode, owner)
    assert box.inside(calls.fill, f"{path}/file") == errno.ENOSPC
    assert box.inside(os.stat, f"{path}/file").st_size <= size << 20
    box.inside(os.unlink, f"{path}/file")


def test_shared_memory(box: Box) -> None:
    """POSIX shared memory is a file there."""
    box.inside(calls.write, "/dev/shm/segment", bytes(4096))
    one, two = (box.inside(calls.map_shared, "/dev/shm/segment") for _ in range(2))
    box.inside(calls.write_mapped, one, 0, b"seen")
    assert box.inside(calls.mapped, two, 0, 4) == b"seen"
    for name in (one, two):
        box.inside(calls.unmap, name)
    box.inside(os.unlink, "/dev/shm/segment")


def test_programs_on_a_volume(box: Box) -> None:
    assert box.inside(subprocess.call, ["/programs/script"]) == 42
    fails(errno.EACCES, box.inside, subprocess.call, ["/no-programs/script"])
