"""System calls that Python 3.11's os module lacks, by ctypes; each raises OSError as the os module would."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

MNT_DETACH = 0x2

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
_MOUNT_ATTR_IDMAP = 0x100000

# The same numbers on every architecture.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 0x1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def unshare(flags: int) -> None:
    """See unshare(2) in the manual."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """See setns(2) in the manual. Into a mount namespace only a process with a single thread can go."""
    _check(_libc.setns(fd, flags), "setns")


def mount(source: str, target: str, *, fstype: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """See mount(2) in the manual."""

    def raw(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    _check(_libc.mount(raw(source), raw(target), raw(fstype), ctypes.c_ulong(flags), raw(data)), target)


def umount(target: str, *, flags: int = 0) -> None:
    """See umount2(2) in the manual."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """See pivot_root(2) in the manual."""
    _check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), "pivot_root")


def syncfs(fd: int) -> None:
    """Writes the file system that holds `fd` to its disk; see syncfs(2)."""
    _check(_libc.syncfs(ctypes.c_int(fd)), "syncfs")


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(dir_fd: int, path: str, *, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """The new descriptor, close-on-exec; see openat2(2) in the manual."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return _check(
        _libc.syscall(
            _SYS_OPENAT2,
            ctypes.c_int(dir_fd),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        ),
        path,
    )


def open_tree(fd: int, *, recursive: bool) -> int:
    """A detached copy of the mount that holds `fd` (an O_PATH descriptor), rooted at it; with `recursive` all below.

    See open_tree(2): what a bind mount is before it has a place.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    return _check(_libc.syscall(_SYS_OPEN_TREE, ctypes.c_int(fd), b"", ctypes.c_uint(flags)), "open_tree")


def move_mount(mount_fd: int, target: str | int) -> None:
    """Gives a detached mount its place, a path or what a descriptor stands for; see move_mount(2)."""
    directory, path = (_AT_FDCWD, target) if isinstance(target, str) else (target, "")
    _check(
        _libc.syscall(
            _SYS_MOVE_MOUNT,
            ctypes.c_int(mount_fd),
            b"",
            ctypes.c_int(directory),
            os.fsencode(path),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | (0 if path else _MOVE_MOUNT_T_EMPTY_PATH)),
        ),
        str(target),
    )


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount_setattr(mount_fd: int, *, attributes: int, recursive: bool = False) -> None:
    """Adds attributes to a mount, and with `recursive` to all below it; see mount_setattr(2)."""
    _mount_setattr(mount_fd, _MountAttr(attributes, 0, 0, 0), recursive=recursive)


def set_propagation(mount_fd: int, propagation: int) -> None:
    """Gives a mount and all below it a propagation (MS_PRIVATE and others); see mount_setattr(2)."""
    _mount_setattr(mount_fd, _MountAttr(0, 0, propagation, 0), recursive=True)


def map_ids(mount_fd: int, user_namespace: int, *, recursive: bool) -> None:
    """Id-maps a detached mount as a user namespace maps ids; see mount_setattr(2)."""
    _mount_setattr(mount_fd, _MountAttr(_MOUNT_ATTR_IDMAP, 0, 0, user_namespace), recursive=recursive)


def _mount_setattr(mount_fd: int, attr: _MountAttr, *, recursive: bool) -> None:
    _check(
        _libc.syscall(
            _SYS_MOUNT_SETATTR,
            ctypes.c_int(mount_fd),
            b"",
            ctypes.c_uint(_AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)),
            ctypes.byref(attr),
            ctypes.c_size_t(ctypes.sizeof(attr)),
        ),
        "mount_setattr",
    )
