"""Being in other namespaces for a while, so that a child that is started meanwhile stays in them.

For a process with a single thread: the kernel lets no other change its mount namespace.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from vruntime import linux

_OWN_NETWORK = "/proc/thread-self/ns/net"


@contextmanager
def mounts_of(pid: int) -> Iterator[None]:
    """The mount namespace and the root directory of another process are ours meanwhile; OSError when it is gone."""
    with ExitStack() as opened:
        ours, theirs = _Mounts("self", opened), _Mounts(str(pid), opened)
        directory = _open(".", os.O_PATH, opened)
        try:
            theirs.enter()
            yield
        finally:
            ours.enter()
            os.fchdir(directory)


@contextmanager
def new_mounts() -> Iterator[None]:
    """A copy of our mount namespace is ours meanwhile: what is mounted in it is not seen here."""
    with ExitStack() as opened:
        ours = _Mounts("self", opened)
        directory = _open(".", os.O_PATH, opened)
        linux.unshare(linux.CLONE_NEWNS)
        try:
            linux.mount("none", "/", flags=linux.MS_SLAVE | linux.MS_REC)
            yield
        finally:
            ours.enter()
            os.fchdir(directory)


@contextmanager
def network(namespace: int) -> Iterator[None]:
    """The network namespace of this descriptor is that of this thread meanwhile."""
    with ExitStack() as opened:
        ours = _open(_OWN_NETWORK, os.O_RDONLY, opened)
        linux.setns(namespace, linux.CLONE_NEWNET)
        try:
            yield
        finally:
            linux.setns(ours, linux.CLONE_NEWNET)


def new_network() -> int:
    """A descriptor of a new network namespace with nothing in it; it goes with the last that is in it or holds it."""
    with ExitStack() as opened:
        ours = _open(_OWN_NETWORK, os.O_RDONLY, opened)
        linux.unshare(linux.CLONE_NEWNET)
        try:
            return os.open(_OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            linux.setns(ours, linux.CLONE_NEWNET)


class _Mounts:
    def __init__(self, process: str, opened: ExitStack) -> None:
        self._namespace = _open(f"/proc/{process}/ns/mnt", os.O_RDONLY, opened)
        self._root = _open(f"/proc/{process}/root", os.O_PATH | os.O_DIRECTORY, opened)

    def enter(self) -> None:
        linux.setns(self._namespace, linux.CLONE_NEWNS)
        os.fchdir(self._root)
        os.chroot(".")


def _open(path: str, flags: int, opened: ExitStack) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd
