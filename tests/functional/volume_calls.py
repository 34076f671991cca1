"""What tests of volumes have done in a container, beyond what os has; each of these runs as well on the host."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
PUNCH_HOLE_KEEP_SIZE = 3
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400
BLOCK = 4096
EVENTS = {0x2: "modify", 0x40: "from", 0x80: "to", 0x100: "create", 0x200: "delete"}

_mappings: dict[int, mmap.mmap] = {}


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def write(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def punch_hole(path: str, offset: int, length: int) -> None:
    with open(path, "r+b") as file:
        size = ctypes.c_int64
        _checked(LIBC.fallocate(file.fileno(), PUNCH_HOLE_KEEP_SIZE, size(offset), size(length)))


def rename(old: str, new: str, flags: int) -> None:
    """renameat2(2)."""
    _checked(LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def replace(path: str) -> None:
    """As an editor does: another file takes the name."""
    Path(f"{path}.new").write_bytes(b"replaced")
    try:
        os.rename(f"{path}.new", path)
    except OSError:
        os.unlink(f"{path}.new")
        raise


def set_times(path: str, accessed: int, modified: int) -> None:
    """In nanoseconds."""
    os.utime(path, ns=(accessed, modified))


def count(directory: str) -> tuple[int, int]:
    """How many entries a directory has, which are numbers, and their sum."""
    names = [int(name) for name in os.listdir(directory)]
    return len(names), sum(names)


def read_some(path: str, length: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(length)


def temporary_file(directory: str, content: bytes) -> bytes:
    """What Python's own temporary file in a directory holds."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(content)
        file.seek(0)
        return file.read()


def copy_by(call: str, source: str, target: str) -> None:
    """With the call of this name."""
    with open(source, "rb") as reader, open(target, "wb") as writer:
        if call == "sendfile":
            while os.sendfile(writer.fileno(), reader.fileno(), None, 1 << 20):
                pass
        else:
            while os.copy_file_range(reader.fileno(), writer.fileno(), 1 << 20):
                pass


def map_shared(path: str) -> int:
    """Maps a file; gives what names the mapping."""
    with open(path, "r+b") as file:
        name = len(_mappings)
        _mappings[name] = mmap.mmap(file.fileno(), 0)
        return name


def mapped(name: int, start: int, stop: int) -> bytes:
    return _mappings[name][start:stop]


def write_mapped(name: int, start: int, content: bytes) -> None:
    _mappings[name][start : start + len(content)] = content
    _mappings[name].flush()


def unmap(name: int) -> None:
    _mappings[name].close()


def as_user(uid: int, gid: int, groups: list[int], function: Callable[..., Any], *arguments: Any) -> int:
    """Calls it in a child that is another user; gives the errno with which it fails, or 0."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            function(*arguments)
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def lock(path: str, how: str) -> int:
    """Locks a file for as long as the descriptor that is given is open."""
    fd = os.open(path, os.O_RDWR)
    try:
        {"flock": fcntl.flock, "fcntl": fcntl.lockf}[how](fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def lock_elsewhere(path: str, how: str) -> int:
    """The errno with which another process fails to lock a file, or 0."""
    return as_user(0, 0, [], lock, path, how)


def direct_copy(source: str, target: str) -> None:
    """Copies a file by blocks that pass the page cache by."""
    reader = os.open(source, os.O_RDONLY | os.O_DIRECT)
    writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    with mmap.mmap(-1, BLOCK) as block:
        while count := os.readv(reader, [block]):
            assert count == BLOCK
            os.writev(writer, [block])
    os.close(reader)
    os.close(writer)


def link_unnamed(directory: str, name: str, content: bytes) -> None:
    """O_TMPFILE, and the name that the file is given then."""
    fd = os.open(directory, os.O_RDWR | os.O_TMPFILE, 0o600)
    os.write(fd, content)
    flags = AT_SYMLINK_FOLLOW
    source = f"/proc/self/fd/{fd}".encode()
    _checked(LIBC.linkat(AT_FDCWD, source, AT_FDCWD, os.fsencode(f"{directory}/{name}"), flags))
    os.close(fd)


def watch(path: str) -> int:
    """An inotify descriptor that tells of what is made, changed, moved and removed in a directory."""
    fd = _checked(LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    _checked(LIBC.inotify_add_watch(fd, os.fsencode(path), sum(EVENTS)))
    return fd


def events(fd: int, timeout: float) -> list[tuple[str, str]]:
    """What has come on an inotify descriptor: what to which name; waits for the first, for so many seconds."""
    select.select([fd], [], [], timeout)
    told = []
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        data = b""
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        told.append((EVENTS[mask], data[16 : 16 + length].rstrip(b"\0").decode()))
        data = data[16 + length :]
    return told


def through_fifo(path: str, content: bytes) -> bytes:
    """What a process reads that another one writes into a named pipe."""
    if os.fork() == 0:
        with open(path, "wb") as writer:
            writer.write(content)
        os._exit(0)
    with open(path, "rb") as reader:
        received = reader.read()
    os.wait()
    return received


def through_socket(path: str, content: bytes) -> bytes:
    """What comes through a unix socket with a name."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        client.connect(path)
        client.sendall(content)
        with listener.accept()[0] as server:
            return server.recv(len(content))


def connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def descend(directory: str, name: str, depth: int) -> int:
    """Makes directories in each other beyond the length of a path; gives the depth at which a file is written."""
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    return depth


def open_many(directory: str, count: int) -> int:
    """How many files can be open at once."""
    fds = [os.open(f"{directory}/{n}", os.O_CREAT | os.O_RDWR) for n in range(count)]
    for fd in fds:
        os.write(fd, b"x")
        os.close(fd)
    return len(fds)


def fill(path: str) -> int:
    """Writes until it fails; gives the errno."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError as error:
            return error.errno or 0
