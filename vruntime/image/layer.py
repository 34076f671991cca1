"""What is one container's own when it is made from an image: its bundle, and the directories that it writes to.

containers/<id>-<random>/   its lock (flock(2)) is held by the command that makes the container, then by the monitor
    owner                   the directory of the container's state, whose link `layer` leads back here
    config.json, rootfs/    the bundle; the overlay is mounted at rootfs, in the monitor's mount namespace alone
    upper/, work/           the overlay's
    volumes/<n>/            the image's volumes
    hosts, hostname         mounted over those of the image in /etc

It is removed with the container's state. One that nobody holds and that no state leads to is what a killed command, or
a crash of the host, has left: the next run removes it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from vruntime import linux
from vruntime.errors import HostError, ImageError
from vruntime.image.files import private_directory
from vruntime.image.progress import Progress
from vruntime.monitor.config import Overlay
from vruntime.spawn import spawn, tied_to_us
from vruntime.store import LAYER_LINK, remove_tree

_CP: Final = "/bin/cp"
_HOSTS: Final = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{}\n"


class Layer:
    """The directory of one container; `close` gives up the lock, `remove` all of it."""

    def __init__(self, directory: Path, lock: int) -> None:
        self.directory = directory
        self._lock = lock

    @classmethod
    def make(cls, parent: Path, state: Path) -> Layer:
        """A new one for the container whose state will be in the directory `state`."""
        containers = private_directory(parent / "containers")
        while True:
            directory = containers / f"{state.name}-{os.urandom(4).hex()}"
            try:
                directory.mkdir(mode=0o700)
                lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(lock, fcntl.LOCK_SH)
                (directory / "owner").write_text(os.path.abspath(state))
            except FileNotFoundError:  # swept before it was locked
                continue
            except OSError as error:
                raise HostError(f"cannot make {directory}: {error.strerror}") from error
            return cls(directory, lock)

    def overlay(self, root_fd: int, lower: Path, held: Iterable[Path]) -> Overlay:
        """Makes the overlay's directories over `lower`, open at `root_fd`; `held` are further locks for the monitor."""
        upper, work = self.directory / "upper", self.directory / "work"
        try:
            for path in (upper, work, self.directory / "rootfs"):
                path.mkdir(mode=0o700)
            _copy_attributes(os.fstat(root_fd), upper)  # the root directory's own, in the container
        except OSError as error:
            raise HostError(f"cannot make the container's layer: {error}") from error
        return Overlay(str(lower), str(upper), str(work), (str(self.directory), *map(str, held)))

    def volumes(self, root_fd: int, paths: Sequence[str], progress: Progress) -> dict[str, str]:
        """A directory for each volume, with what the image has there; the directories by the volumes' paths."""
        made: dict[str, str] = {}
        if not paths:
            return made
        with progress:
            for number, path in enumerate(paths):
                target = self.directory / "volumes" / str(number)
                target.mkdir(mode=0o755, parents=True)
                _fill(root_fd, path, target)
                made[path] = str(target)
        return made

    def files(self, hostname: str) -> dict[str, str]:
        """/etc/hosts and /etc/hostname, which engines write, too."""
        contents = {"hosts": _HOSTS.format(hostname), "hostname": f"{hostname}\n"}
        for name, content in contents.items():
            path = self.directory / name
            path.write_text(content)
            path.chmod(0o644)
        return {f"/etc/{name}": str(self.directory / name) for name in contents}

    def remove(self) -> None:
        """Removes it, whoever holds it; no error when it is gone."""
        remove_tree(self.directory)


def sweep(parent: Path) -> None:
    """Removes the layers that nobody holds and that belong to no container."""
    with suppress(FileNotFoundError):
        for directory in sorted((parent / "containers").iterdir()):
            _sweep(directory)


def _sweep(directory: Path) -> None:
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _has_owner(directory):
            remove_tree(directory)
    except BlockingIOError:
        pass  # at work
    finally:
        os.close(lock)


def _has_owner(directory: Path) -> bool:
    with suppress(OSError):
        owner = (directory / "owner").read_text()
        return os.readlink(Path(owner, LAYER_LINK)) == str(directory)
    return False


def _fill(root_fd: int, path: str, target: Path) -> None:
    resolve = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
    try:
        source = linux.openat2(root_fd, path, flags=os.O_PATH, resolve=resolve)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ImageError(f"the image's volume {path}: {error.strerror}") from error
    try:
        status = os.fstat(source)
        if not stat.S_ISDIR(status.st_mode):
            raise ImageError(f"the image's volume {path} is not a directory in the image")
        command = [_CP, "--archive", "--reflink=auto", "--", "/proc/self/fd/3/.", str(target)]
        if spawn("cp", tied_to_us(command), fds={3: source}, new_session=True).wait():
            raise HostError(f"cannot copy the image's volume {path} to {target}")
        _copy_attributes(status, target)
    finally:
        os.close(source)


def _copy_attributes(status: os.stat_result, target: Path) -> None:
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
