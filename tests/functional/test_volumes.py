"""Files on a volume: what the container does to them the host sees, and the other way round, as with runc."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import volume_calls as calls
from inventory import Inventory, left_behind
from remote import Inside, bind, running_inside
from runtimes import RUNC, VRUNTIME, Bundles, Runtime
from waiting import becomes

MEBIBYTE = 1 << 20
USER = 1000

# How long the guest goes on believing what it was told of a file, in seconds; beyond, what a loaded host may take.
BELIEF = 0.1
PATIENCE = 0.5


@dataclass
class Place:
    """A directory of one test on a volume: where the host has it, and where the container has it."""

    host: Path
    path: str
    inside: Inside

    def __call__(self, name: str) -> str:
        """A file's path in the container."""
        return f"{self.path}/{name}"

    def file(self, name: str, content: bytes = b"content", mode: int = 0o644) -> str:
        """Makes a file on the host, and gives its path in the container."""
        (self.host / name).write_bytes(content)
        (self.host / name).chmod(mode)
        return self(name)

    def seen(self, name: str) -> os.stat_result:
        """What the host sees of a file."""
        return (self.host / name).lstat()

    def told(self, name: str) -> os.stat_result:
        """What the container sees of a file, once it no longer believes what it saw before."""
        time.sleep(BELIEF)
        result: os.stat_result = self.inside(os.lstat, self(name))
        return result


@dataclass
class Box:
    """A container with a volume on the host's disk, and one on a tmpfs of 16 MiB."""

    inside: Inside
    disk: Path
    small: Path


@pytest.fixture(scope="module", params=[VRUNTIME, RUNC], ids=["vruntime", "runc"])
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    directory = tmp_path_factory.mktemp("volumes")
    state = directory / "state"
    before = Inventory.take(state)
    runtime, bundles = Runtime(request.param, state), Bundles(directory)
    disk, small = directory / "disk", directory / "small"
    disk.mkdir()
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=0", "none", small], check=True)

    def edit(config: dict[str, Any]) -> None:
        config["mounts"] += [bind(disk, "/disk", "rw"), bind(small, "/small", "rw")]

    with running_inside(runtime, bundles, edit) as inside:
        yield Box(inside, disk, small)
    runtime.clean_up()
    subprocess.run(["umount", small], check=True)
    assert left_behind(before, state) == {}


@pytest.fixture
def place(box: Box, request: pytest.FixtureRequest) -> Place:
    name = f"{request.function.__name__}{len(os.listdir(box.disk))}"
    (box.disk / name).mkdir()
    return Place(box.disk / name, f"/disk/{name}", box.inside)


@pytest.fixture
def small(box: Box, request: pytest.FixtureRequest) -> Place:
    (box.small / request.function.__name__).mkdir()
    return Place(box.small / request.function.__name__, f"/small/{request.function.__name__}", box.inside)


# -- owners, modes, attributes ------------------------------------------------------------------------------------


def test_owner_and_mode(place: Place) -> None:
    path = place.file("file")
    place.inside(os.chown, path, 1234, 4321)
    place.inside(os.chmod, path, 0o6751)
    seen = place.seen("file")
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (1234, 4321, 0o6751)
    os.chown(place.host / "file", 7, 8)
    os.chmod(place.host / "file", 0o1640)
    told = place.told("file")
    assert (told.st_uid, told.st_gid, stat.S_IMODE(told.st_mode)) == (7, 8, 0o1640)


def test_setuid_bits_go_when_the_file_changes(place: Place) -> None:
    path = place.file("file", mode=0o6777)
    assert place.inside(calls.as_user, USER, USER, [], calls.write, path, b"another's") == 0
    assert stat.S_IMODE(place.seen("file").st_mode) == 0o777
    os.chmod(place.host / "file", 0o6777)
    place.inside(os.chown, path, 1, 1)
    assert stat.S_IMODE(place.seen("file").st_mode) == 0o777


def test_a_setgid_directory(place: Place) -> None:
    os.chown(place.host, 0, 777)
    os.chmod(place.host, 0o2777)
    assert place.inside(calls.as_user, USER, USER, [], calls.write, place("file"), b"") == 0
    place.inside(os.mkdir, place("directory"))
    assert (place.seen("file").st_uid, place.seen("file").st_gid) == (USER, 777)
    assert (place.seen("directory").st_gid, place.seen("directory").st_mode) == (777, 0o42755)


def test_a_sticky_directory(place: Place) -> None:
    os.chmod(place.host, 0o1777)
    path = place.file("of-root")
    assert place.inside(calls.as_user, USER, USER, [], os.unlink, path) == errno.EPERM


def test_permissions_hold_inside(place: Place) -> None:
    path = place.file("secret", b"secret", mode=0o400)
    assert place.inside(calls.read, path) == b"secret"
    assert place.inside(calls.as_user, USER, USER, [], calls.read, path) == errno.EACCES


def test_additional_groups(place: Place) -> None:
    os.chown(place.host, 0, 2000)
    os.chmod(place.host, 0o770)
    assert place.inside(calls.as_user, USER, USER, [2000], calls.write, place("file"), b"") == 0
    assert place.inside(calls.as_user, USER, USER, [], calls.write, place("other"), b"") == errno.EACCES
    assert (place.seen("file").st_uid, place.seen("file").st_gid) == (USER, USER)


def test_umask(place: Place) -> None:
    before = place.inside(os.umask, 0o027)
    try:
        place.inside(calls.write, place("file"), b"")
        place.inside(os.mkdir, place("directory"))
    finally:
        place.inside(os.umask, before)
    assert (place.seen("file").st_mode, place.seen("directory").st_mode) == (0o100640, 0o40750)


def test_extended_attributes(place: Place) -> None:
    path = place.file("file")
    file = place.host / "file"
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    place.inside(os.setxattr, path, "user.inside", b"1")
    place.inside(os.setxattr, path, "security.capability", capability)
    assert (os.getxattr(file, "user.inside"), os.getxattr(file, "security.capability")) == (b"1", capability)
    os.setxattr(file, "user.outside", b"2")
    assert place.inside(os.getxattr, path, "user.outside") == b"2"
    place.inside(os.removexattr, path, "user.inside")
    assert set(place.inside(os.listxattr, path)) == {"user.outside", "security.capability"}
    with pytest.raises(PermissionError):
        place.inside(os.setxattr, path, "trusted.x", b"")


def acl(user: int) -> bytes:
    """user::rw-, user:USER:r--, group::---, mask::r--, other::---, as the kernel has it in an attribute."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, 6, nobody), (0x02, 4, user), (0x04, 0, nobody), (0x10, 4, nobody), (0x20, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_access_control_lists(place: Place) -> None:
    """They are the host's, and hold inside."""
    path = place.file("file")
    place.inside(os.setxattr, path, "system.posix_acl_access", acl(USER))
    assert os.getxattr(place.host / "file", "system.posix_acl_access") == acl(USER)
    assert place.inside(calls.as_user, USER, USER, [], calls.read, path) == 0
    assert place.inside(calls.as_user, USER + 1, USER, [], calls.read, path) == errno.EACCES
    assert place.inside(calls.as_user, USER + 1, 0, [], calls.read, path) == errno.EACCES, "the mask is not the group's"


def test_default_access_control_lists(place: Place) -> None:
    os.setxattr(place.host, "system.posix_acl_default", acl(USER))
    place.inside(calls.write, place("file"), b"")
    assert os.getxattr(place.host / "file", "system.posix_acl_access") == acl(USER)
    assert place.seen("file").st_mode == 0o100640


def test_times(place: Place) -> None:
    path = place.file("file")
    place.inside(calls.set_times, path, 1_111_111_111_123_456_789, 1_234_567_890_987_654_321)
    seen = place.seen("file")
    assert (seen.st_atime_ns, seen.st_mtime_ns) == (1_111_111_111_123_456_789, 1_234_567_890_987_654_321)
    os.utime(place.host / "file", ns=(5, 1_000_000_007))
    assert place.told("file").st_mtime_ns == 1_000_000_007
    before = time.time()
    place.inside(calls.write, path, b"new")
    assert before - 1 <= place.seen("file").st_mtime <= time.time() + 1, "one clock"


# -- names --------------------------------------------------------------------------------------------------------


def test_hard_links(place: Place) -> None:
    path = place.file("file")
    place.inside(os.link, path, place("hard"))
    assert place.seen("hard").st_nlink == 2
    assert place.seen("hard").st_ino == place.seen("file").st_ino
    assert place.inside(os.stat, place("hard")).st_ino == place.inside(os.stat, path).st_ino
    for across in (os.link, os.rename):
        with pytest.raises(OSError) as caught:
            place.inside(across, path, "/elsewhere")
        assert caught.value.errno == errno.EXDEV


def test_symbolic_links(place: Place) -> None:
    """What they point to is looked for where they are looked at."""
    place.inside(os.symlink, "/tests/inside/serve_calls.py", place("from-inside"))
    assert os.readlink(place.host / "from-inside") == "/tests/inside/serve_calls.py"
    (place.host / "from-host").symlink_to("/tests/inside/serve_calls.py")
    assert place.inside(calls.read, place("from-host")).startswith(b'"""Runs in a container')


def test_rename_flags(place: Place) -> None:
    one, two = place.file("one", b"1"), place.file("two", b"2")
    with pytest.raises(FileExistsError):
        place.inside(calls.rename, one, two, calls.RENAME_NOREPLACE)
    place.inside(calls.rename, one, two, calls.RENAME_EXCHANGE)
    assert ((place.host / "one").read_bytes(), (place.host / "two").read_bytes()) == (b"2", b"1")
    assert place.inside(calls.read, one) == b"2"


def test_long_names(place: Place) -> None:
    place.inside(calls.write, place("n" * 255), b"")
    assert (place.host / ("n" * 255)).exists()
    with pytest.raises(OSError) as caught:
        place.inside(calls.write, place("n" * 256), b"")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_path_beyond_the_longest(place: Place) -> None:
    """40 names of 200 bytes."""
    place.inside(calls.descend, place.path, "d" * 200, 40)
    fd = os.open(place.host, os.O_RDONLY)
    for _ in range(40):
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    assert os.listdir(fd) == ["file"]
    os.close(fd)


def test_a_directory_of_100000_files(small: Place) -> None:
    small.file("0")
    for number in range(1, 100_000):
        os.link(small.host / "0", small.host / str(number))
    assert small.inside(calls.count, small.path) == (100_000, sum(range(100_000)))


# -- content ------------------------------------------------------------------------------------------------------


def test_sparse_files(place: Place) -> None:
    """Beyond 4 GiB."""
    path, end = place.file("sparse", b""), 5 << 30
    fd = place.inside(os.open, path, os.O_RDWR)
    place.inside(os.pwrite, fd, b"end", end - 3)
    assert place.inside(os.lseek, fd, 0, os.SEEK_HOLE) == 0
    data = place.inside(os.lseek, fd, 0, os.SEEK_DATA)
    assert end - MEBIBYTE < data <= end - 3
    place.inside(os.close, fd)
    assert place.seen("sparse").st_size == end
    assert place.inside(os.stat, path).st_blocks == place.seen("sparse").st_blocks < 200


def test_allocated_and_punched(place: Place) -> None:
    path = place.file("file", b"")
    fd = place.inside(os.open, path, os.O_RDWR)
    place.inside(os.posix_fallocate, fd, 0, MEBIBYTE)
    place.inside(os.close, fd)
    assert place.seen("file").st_size == MEBIBYTE
    assert place.seen("file").st_blocks * 512 >= MEBIBYTE
    (place.host / "file").write_bytes(b"x" * MEBIBYTE)
    place.inside(calls.punch_hole, path, 0, MEBIBYTE // 2)
    assert (place.host / "file").read_bytes() == bytes(MEBIBYTE // 2) + b"x" * (MEBIBYTE // 2)
    os.sync()
    assert place.seen("file").st_blocks * 512 < MEBIBYTE


def test_shared_mappings(place: Place) -> None:
    """What is written through one is on the host when it is flushed; two in the container are one memory."""
    path = place.file("file", b"-" * 8192)
    one, two = place.inside(calls.map_shared, path), place.inside(calls.map_shared, path)
    place.inside(calls.write_mapped, one, 4096, b"through a mapping")
    assert place.inside(calls.mapped, two, 4096, 4113) == b"through a mapping"
    assert (place.host / "file").read_bytes()[4096:4113] == b"through a mapping"
    for name in (one, two):
        place.inside(calls.unmap, name)


@pytest.mark.parametrize("how", ["flock", "fcntl"])
def test_locks(place: Place, how: str) -> None:
    """They hold among a container's processes. Those of the host, and of another guest, know nothing of them."""
    path = place.file("file")
    fd = place.inside(calls.lock, path, how)
    assert place.inside(calls.lock_elsewhere, path, how) == errno.EAGAIN
    expected = 0 if place.inside.is_virtual else errno.EAGAIN
    assert calls.lock_elsewhere(str(place.host / "file"), how) == expected
    place.inside(os.close, fd)
    assert place.inside(calls.lock_elsewhere, path, how) == 0


def test_direct_io(place: Place) -> None:
    content = os.urandom(16 * calls.BLOCK)
    place.inside(calls.direct_copy, place.file("file", content), place("copy"))
    assert (place.host / "copy").read_bytes() == content


@pytest.mark.parametrize("copy", ["copy_file_range", "sendfile"])
def test_copies_by_the_kernel(place: Place, copy: str) -> None:
    content = os.urandom(100_000)
    place.inside(calls.copy_by, copy, place.file("file", content), place("copy"))
    assert (place.host / "copy").read_bytes() == content


def test_unnamed_files(place: Place) -> None:
    """virtio-fs has none (in Linux 6.1): programs make one with a name then, and remove that."""
    if place.inside.is_virtual:
        with pytest.raises(OSError) as caught:
            place.inside(calls.link_unnamed, place.path, "named", b"content")
        assert caught.value.errno == errno.EOPNOTSUPP
        assert os.listdir(place.host) == []
        assert place.inside(calls.temporary_file, place.path, b"content") == b"content"
    else:
        place.inside(calls.link_unnamed, place.path, "named", b"content")
        assert (place.host / "named").read_bytes() == b"content"


@pytest.mark.parametrize("by", ["container", "host"])
def test_a_removed_file_that_is_open(place: Place, by: str) -> None:
    path = place.file("file", b"abc")
    fd = place.inside(os.open, path, os.O_RDWR)
    if by == "container":
        place.inside(os.unlink, path)
    else:
        (place.host / "file").unlink()
    assert os.listdir(place.host) == []
    place.inside(os.pwrite, fd, b"X", 1)
    place.inside(os.ftruncate, fd, 2)
    assert place.inside(os.pread, fd, 10, 0) == b"aX"
    assert place.inside(os.fstat, fd).st_nlink == 0
    place.inside(os.close, fd)


def test_both_sides_append(place: Place) -> None:
    fd = place.inside(os.open, place.file("log", b""), os.O_WRONLY | os.O_APPEND)
    with open(place.host / "log", "ab", buffering=0) as log:
        for _ in range(5):
            place.inside(os.write, fd, b"guest ")
            log.write(b"host ")
    place.inside(os.close, fd)
    assert (place.host / "log").read_bytes() == b"guest host " * 5


def is_on_disk(file: Path) -> bool:
    """Whether all of a file has its place on the disk; until it is flushed, ext4 and others choose none."""
    fs_ioc_fiemap, delayed, extents = 0xC020660B, 0x4, 8
    request = bytearray(struct.pack("=QQIIII", 0, 2**64 - 1, 0, 0, extents, 0) + bytes(56 * extents))
    with open(file, "rb") as opened:
        fcntl.ioctl(opened, fs_ioc_fiemap, request)
    (count,) = struct.unpack_from("=I", request, 20)
    flags = [struct.unpack_from("=I", request, 32 + 56 * number + 40)[0] for number in range(count)]
    return bool(flags) and not any(flag & delayed for flag in flags)


@pytest.mark.parametrize("flush", [os.fsync, os.fdatasync], ids=["fsync", "fdatasync"])
def test_flushed_to_the_disk(place: Place, flush: Any) -> None:
    path = place.file("file", b"")
    fd = place.inside(os.open, path, os.O_WRONLY)
    place.inside(os.write, fd, b"x" * 100_000)
    try:
        if is_on_disk(place.host / "file"):
            pytest.skip("the host's file system allocates at once")
    except OSError as error:
        pytest.skip(f"the host's file system does not tell where files are: {error}")
    place.inside(flush, fd)
    place.inside(os.close, fd)
    assert is_on_disk(place.host / "file")


def test_a_full_disk(small: Place) -> None:
    assert small.inside(calls.fill, small("file")) == errno.ENOSPC
    small.inside(os.unlink, small("file"))
    small.inside(calls.write, small("next"), b"fits")
    assert (small.host / "next").read_bytes() == b"fits"


def test_file_system_statistics(small: Place) -> None:
    """The host's own: of the file system that the volume is on, not of the shared directory."""
    small.file("file", bytes(MEBIBYTE))
    told, seen = small.inside(os.statvfs, small.path), os.statvfs(small.host)
    names = ("f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_namemax")
    assert [getattr(told, name) for name in names] == [getattr(seen, name) for name in names]


def test_many_open_files(small: Place) -> None:
    assert small.inside(calls.open_many, small.path, 2000) == 2000


# -- what is more than a file -------------------------------------------------------------------------------------


def test_a_named_pipe(place: Place) -> None:
    place.inside(os.mkfifo, place("fifo"))
    assert place.inside(calls.through_fifo, place("fifo"), b"through it") == b"through it"
    assert (place.host / "fifo").is_fifo()


def test_a_socket(place: Place) -> None:
    """Two processes of the container meet at it; one of the host cannot be met from another kernel."""
    assert place.inside(calls.through_socket, place("socket"), b"through it") == b"through it"
    assert (place.host / "socket").is_socket()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.host / "of-host"))
        listener.listen()
        if place.inside.is_virtual:
            with pytest.raises(ConnectionRefusedError):
                place.inside(calls.connect, place("of-host"))
        else:
            place.inside(calls.connect, place("of-host"))


def test_device_nodes(place: Place) -> None:
    """None is made on the host; one that is there opens a device of the guest, as far as the container may."""
    if place.inside.is_virtual:
        with pytest.raises(PermissionError):
            place.inside(os.mknod, place("null"), 0o20666, os.makedev(1, 3))
    os.mknod(place.host / "zero", 0o20666, os.makedev(1, 5))
    assert place.inside(calls.read_some, place("zero"), 3) == bytes(3)
    os.mknod(place.host / "memory", 0o20666, os.makedev(1, 1))
    with pytest.raises(PermissionError):
        place.inside(calls.read_some, place("memory"), 3)


# -- what the other side does -------------------------------------------------------------------------------------


def test_inotify(place: Place) -> None:
    """Of what the container does. Of what the host does virtio-fs cannot tell."""
    fd = place.inside(calls.watch, place.path)
    place.inside(calls.write, place("file"), b"content")
    place.inside(os.rename, place("file"), place("moved"))
    place.inside(os.unlink, place("moved"))
    assert place.inside(calls.events, fd, 5.0) == [
        ("create", "file"),
        ("modify", "file"),
        ("from", "file"),
        ("to", "moved"),
        ("delete", "moved"),
    ]
    place.file("of-host")
    expected = [] if place.inside.is_virtual else [("create", "of-host"), ("modify", "of-host")]
    assert place.inside(calls.events, fd, 0.5) == expected
    place.inside(os.close, fd)


def soon(place: Place, read: Any, expected: Any) -> None:
    """Within the time for which a guest believes what it was told; with runc at once."""
    if place.inside.is_virtual:
        becomes(read, expected, timeout=BELIEF + PATIENCE)
    else:
        assert read() == expected


def test_a_change_by_the_host(place: Place) -> None:
    path = place.file("file", b"old")
    assert place.inside(calls.read, path) == b"old"
    (place.host / "file").write_bytes(b"longer than before")
    soon(place, lambda: place.inside(calls.read, path), b"longer than before")
    os.chmod(place.host / "file", 0o600)
    soon(place, lambda: stat.S_IMODE(place.inside(os.stat, path).st_mode), 0o600)


def test_a_file_that_the_host_replaces(place: Place) -> None:
    """As editors and `git checkout` do it."""
    path = place.file("file", b"old")
    assert place.inside(calls.read, path) == b"old"
    place.file("new", b"replaced")
    (place.host / "new").rename(place.host / "file")
    soon(place, lambda: place.inside(calls.read, path), b"replaced")


def test_a_file_that_the_host_makes_and_removes(place: Place) -> None:
    """That something is missing is never believed; so a lock file is seen at once, and its end soon."""
    path = place("lock")
    assert not place.inside(os.path.exists, path)
    place.file("lock")
    assert place.inside(os.path.exists, path)
    assert place.inside(os.listdir, place.path) == ["lock"]
    (place.host / "lock").unlink()
    soon(place, lambda: place.inside(os.path.exists, path), False)
    assert place.inside(os.listdir, place.path) == []


def test_a_file_that_the_host_appends_to(place: Place) -> None:
    """As `tail -f` follows it."""
    fd = place.inside(os.open, place.file("log", b"first"), os.O_RDONLY)
    assert place.inside(os.read, fd, 100) == b"first"
    assert place.inside(os.read, fd, 100) == b""
    with open(place.host / "log", "ab") as log:
        log.write(b"second")
    soon(place, lambda: place.inside(os.read, fd, 100), b"second")
    place.inside(os.close, fd)


def test_a_mapping_of_what_the_host_changes(place: Place) -> None:
    """With a guest the mapping is renewed when the file is looked at."""
    path = place.file("file", b"old content")
    name = place.inside(calls.map_shared, path)
    assert place.inside(calls.mapped, name, 0, 3) == b"old"
    with open(place.host / "file", "r+b") as file:
        file.write(b"new")
    place.told("file")
    assert place.inside(calls.mapped, name, 0, 3) == b"new"
    place.inside(calls.unmap, name)


def test_changes_by_the_container(place: Place) -> None:
    """The host sees each at once."""
    fd = place.inside(os.open, place("file"), os.O_CREAT | os.O_WRONLY)
    for size in range(1, 4):
        place.inside(os.write, fd, b"x")
        assert place.seen("file").st_size == size
    place.inside(os.rename, place("file"), place("renamed"))
    assert os.listdir(place.host) == ["renamed"]
    place.inside(os.ftruncate, fd, 1)
    assert (place.host / "renamed").read_bytes() == b"x"
    place.inside(os.close, fd)
