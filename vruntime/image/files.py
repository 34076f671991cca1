"""Reading what others made: bounded, and never what is no plain file. And directories for ourselves alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vruntime.errors import HostError, ImageError


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; ImageError that says why not."""
    try:
        probe = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    return read_probed(probe, str(path), limit)


def read_probed(probe: int, name: str, limit: int) -> bytes:
    """The same for an O_PATH descriptor, which is closed: opening a FIFO would wait, opening a device can act."""
    try:
        if not stat.S_ISREG(os.fstat(probe).st_mode):
            raise ImageError(f"{name} is not a regular file")
        with open(f"/proc/self/fd/{probe}", "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror}") from error
    finally:
        os.close(probe)
    if len(content) > limit:
        raise ImageError(f"{name} is larger than {limit >> 10} KiB, the most that is read")
    return content


def private_directory(path: Path) -> Path:
    """Makes a directory for root alone, where it is missing; HostError when others can enter it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(path)
    except OSError as error:
        raise HostError(
            f"cannot keep images in {path}: {error.strerror}", hint="image.directory names another directory"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise HostError(f"{path} is not a directory for root alone", hint=f"chown root: {path}; chmod 700 {path}")
    return path
