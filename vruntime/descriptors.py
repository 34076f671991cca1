"""The descriptors that a process is given beyond the standard streams (`--preserve-fds`).

An open file of the host cannot cross into another kernel, but what flows through it can: through pipes, connected
stream sockets, and regular files that are read or written from where they stand.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from enum import Enum, auto

from vruntime.errors import ContainerError

FIRST = 3
# As many as the agent takes, with the standard streams 64.
MOST = 61

_NULL = os.makedev(1, 3)


class Kind(Enum):
    """What of a descriptor can be carried into a guest."""

    NULL = auto()
    INPUT = auto()
    OUTPUT = auto()
    SOCKET = auto()


def preserved(count: int) -> dict[str, int]:
    """The descriptors from 3 on that `--preserve-fds` counts, by their names in a request to the monitor.

    Raises ContainerError for one that is not open, or whose content cannot be carried into a guest.
    """
    if not 0 <= count <= MOST:
        raise ContainerError(f"--preserve-fds {count}: must be from 0 to {MOST}")
    numbers = range(FIRST, FIRST + count)
    for number in numbers:
        try:
            kind(number)
        except OSError as error:
            raise ContainerError(
                f"unable to stat preserved-fd {number - FIRST} (of {count}): it is not open (descriptor {number})"
            ) from error
        except ValueError as error:
            raise ContainerError(
                f"--preserve-fds {count}: descriptor {number} is {error}, which cannot cross into a virtual machine",
                hint="pipes, connected stream sockets, and files opened for reading or for writing can",
            ) from error
    return {str(number): number for number in numbers}


def kind(fd: int) -> Kind:
    """How a descriptor can be carried; ValueError that says what it is when it cannot."""
    status = os.fstat(fd)
    match stat.S_IFMT(status.st_mode):
        case stat.S_IFCHR if status.st_rdev == _NULL:
            return Kind.NULL
        case stat.S_IFSOCK:
            return _socket_kind(fd)
        case stat.S_IFIFO | stat.S_IFREG:
            return _direction(fd)
        case stat.S_IFDIR:
            raise ValueError("a directory")
        case stat.S_IFCHR | stat.S_IFBLK:
            raise ValueError("a terminal" if os.isatty(fd) else "a device")
        case _:
            raise ValueError(f"{os.readlink(f'/proc/self/fd/{fd}')}")


def _socket_kind(fd: int) -> Kind:
    with socket.socket(fileno=os.dup(fd)) as copy:
        if copy.type != socket.SOCK_STREAM:
            raise ValueError("a socket that is no stream")
        if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("a listening socket")
    return Kind.SOCKET


def _direction(fd: int) -> Kind:
    match fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE:
        case os.O_RDONLY:
            return Kind.INPUT
        case os.O_WRONLY:
            return Kind.OUTPUT
        case _:
            raise ValueError("a file opened for both reading and writing")
