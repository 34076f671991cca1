"""The shared directory of a sandbox: what virtiofsd serves to the guest.

It is built in a mount namespace of the monitor's own, and so disappears with its last process:

    build/   a tmpfs, writable by the monitor alone
    share/   the same tmpfs, bound read-only: what virtiofsd serves; the guest can neither write, rename nor plant here

A container is a directory in it, named after its id or, if it joins others, anew each time: a mount on a name that the
guest has looked up before does not appear to it. It has `rootfs`, and `mounts/<n>` for the bind mount with index n in
config.json, unless its source is in the share already (see sources.py).
Each is a bind mount; as `build` and `share` are peers, it appears in both, and in virtiofsd's namespace, at any time.
A container that joins brings its mounts along, since those made after us need not have spread to our namespace: engines
keep theirs private.
The overlay of a container that is made from an image is mounted in this namespace too, and what it is made of is locked
as long as we live.

On the host every such mount is nodev, nosuid and noexec, which costs nothing to the guest: its own kernel decides.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vruntime import linux
from vruntime.errors import HostError
from vruntime.idmap import IdMapping
from vruntime.monitor.config import GUEST_PATH, Bind, Overlay
from vruntime.monitor.sources import Sources

HOST_ATTRIBUTES = linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC
_READ_ONLY = linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
_IN_ROOT = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS


@dataclass
class Added:
    """What has come of a container's mounts."""

    mount_points: list[str] = field(default_factory=list)
    """Those that had to be made in the root filesystem."""

    elsewhere: dict[int, str] = field(default_factory=dict)
    """Where the guest has the source of a mount, by its index, that is not in the container's own directory."""


class Share:
    """The shared directory below `directory`; to be made by the process that stays in its mount namespace."""

    def __init__(self, directory: Path) -> None:
        self._build = directory / "build"
        self.path = directory / "share"
        self._held: list[int] = []
        self._sources = Sources()

    def make(self) -> None:
        """Enters a mount namespace of our own, a slave of the host's, and makes the empty directory in it."""
        self._build.mkdir(mode=0o700)
        self.path.mkdir(mode=0o700)
        try:
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount("none", "/", flags=linux.MS_SLAVE | linux.MS_REC)
            linux.mount(
                "vruntime",
                str(self._build),
                fstype="tmpfs",
                flags=linux.MS_NOSUID | linux.MS_NODEV,
                data="mode=0755,size=1m",
            )
            linux.mount("none", str(self._build), flags=linux.MS_SHARED)
            linux.mount(str(self._build), str(self.path), flags=linux.MS_BIND)
            linux.mount("none", str(self.path), flags=_READ_ONLY)
        except OSError as error:
            raise HostError(f"cannot make the shared directory: {error}") from error

    def add(
        self,
        name: str,
        rootfs: str,
        *,
        readonly: bool,
        binds: Sequence[Bind],
        destinations: Iterable[tuple[str, bool]],
        brought: Mapping[str, int],
    ) -> Added:
        """Binds a container's rootfs and mounts in a directory of this name.

        `destinations` are the mount points of config.json and the working directory, each with whether it is a
        directory: in a read-only rootfs, where the guest cannot, those that are missing are made here, as runc makes
        them. `brought` are mounts of their sources, as `detached` makes them, by their names; all or none.
        """
        added = Added()
        base = self._build / name
        mounts = base / "mounts"
        mounts.mkdir(parents=True)
        root_fd = os.dup(brought["rootfs"]) if brought else _open_source(rootfs, os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if readonly:
                for destination, is_directory in destinations:
                    if _make_mount_point(root_fd, destination, is_directory=is_directory):
                        added.mount_points.append(destination)
            root = Bind(0, rootfs, readonly=readonly, readonly_below=False, recursive=True, follows_host=True)
            self._bind(root_fd, base / "rootfs", root, is_detached=bool(brought))
        finally:
            os.close(root_fd)
        for bind in binds:
            source_fd = os.dup(brought[str(bind.index)]) if brought else _open_source(bind.source, 0)
            try:
                target = self._sources.find(source_fd, bind)
                if target is None:
                    target = mounts / str(bind.index)
                    self._bind(source_fd, target, bind, is_detached=bool(brought))
                else:
                    added.elsewhere[bind.index] = f"{GUEST_PATH}/{target.relative_to(self._build)}"
                self._sources.use(name, source_fd, bind, target)
            finally:
                os.close(source_fd)
        return added

    def remove(self, name: str) -> None:
        """Takes back what has been added; the guest may hold on to what it has seen of it until the sandbox ends."""
        for target in [*self._sources.leave(name), self._build / name / "rootfs"]:
            with suppress(OSError):  # it was not mounted: else it stays in use
                linux.umount(str(target), flags=linux.MNT_DETACH)
            with suppress(FileNotFoundError):
                target.rmdir() if target.is_dir() else target.unlink()
            for directory in target.parents[: -len(self._build.parts)]:
                with suppress(OSError):  # others have something in it
                    directory.rmdir()

    def mount_overlay(self, rootfs: str, overlay: Overlay) -> None:
        """Mounts an overlay at a rootfs, seen by us alone."""
        self._held += [_hold(directory) for directory in overlay.held]
        layers = [
            _open_source(path, os.O_DIRECTORY | os.O_NOFOLLOW) for path in (overlay.lower, overlay.upper, overlay.work)
        ]
        try:
            # By descriptors, as a path may have the colons and commas that part these options. What an image's own
            # attributes ask of overlayfs is not done, whatever the host's defaults are.
            names = ("lowerdir", "upperdir", "workdir")
            options = [f"{name}=/proc/self/fd/{fd}" for name, fd in zip(names, layers, strict=True)]
            options += ["redirect_dir=nofollow", "metacopy=off", "index=off"]
            linux.mount(
                "overlay",
                rootfs,
                fstype="overlay",
                flags=linux.MS_NODEV | linux.MS_NOSUID | linux.MS_NOEXEC,
                data=",".join(options),
            )
        except OSError as error:
            raise HostError(
                f"cannot mount an overlay of {overlay.lower} at {rootfs}: {error.strerror}",
                hint="image.directory must be on a file system that can be an overlay's upper one, such as ext4 or xfs",
            ) from error
        finally:
            for fd in layers:
                os.close(fd)

    @staticmethod
    def _bind(source_fd: int, target: Path, bind: Bind, *, is_detached: bool) -> None:
        if stat.S_ISDIR(os.fstat(source_fd).st_mode):
            target.mkdir()
        else:
            target.touch()
        try:
            mount_fd = os.dup(source_fd) if is_detached else linux.open_tree(source_fd, recursive=bind.recursive)
            try:
                # Before it enters the tree: what has spread to virtiofsd's namespace keeps the attributes it had then.
                linux.mount_setattr(mount_fd, attributes=HOST_ATTRIBUTES, recursive=bind.recursive)
                if bind.readonly:
                    linux.mount_setattr(mount_fd, attributes=linux.MOUNT_ATTR_RDONLY, recursive=bind.readonly_below)
                if not bind.follows_host:
                    linux.set_propagation(mount_fd, linux.MS_PRIVATE)
                if bind.id_mapping is not None:
                    _map_ids(mount_fd, source_fd, bind.id_mapping)
                linux.move_mount(mount_fd, str(target))
            finally:
                os.close(mount_fd)
        except OSError as error:
            raise HostError(f"cannot share {_path_of(source_fd)}: {error}") from error


def detached(rootfs: str, binds: Iterable[Bind]) -> dict[str, int]:
    """The mounts of a container as they are in the namespace of this process: what a monitor needs of another one.

    They follow what the host mounts below them later, and not the other way.
    """
    mounts: dict[str, int] = {}
    try:
        mounts["rootfs"] = _detached(rootfs, os.O_DIRECTORY | os.O_NOFOLLOW, recursive=True)
        for bind in binds:
            mounts[str(bind.index)] = _detached(bind.source, 0, recursive=bind.recursive)
    except BaseException:
        for mount in mounts.values():
            os.close(mount)
        raise
    return mounts


def _detached(path: str, flags: int, *, recursive: bool) -> int:
    source_fd = _open_source(path, flags)
    try:
        mount = linux.open_tree(source_fd, recursive=recursive)
        linux.set_propagation(mount, linux.MS_SLAVE)
    except OSError as error:
        raise HostError(f"cannot share {path}: {error}") from error
    finally:
        os.close(source_fd)
    return mount


def _map_ids(mount_fd: int, source_fd: int, id_mapping: IdMapping) -> None:
    """On the host, as virtio-fs in the guest knows no id-mapped mounts: virtiofsd sees and sets the ids as shown."""
    namespace = id_mapping.open_namespace()
    try:
        linux.map_ids(mount_fd, namespace, recursive=id_mapping.recursive)
    except OSError as error:
        unfit = error.errno == errno.EINVAL
        why = "this kernel cannot id-map its file system" if unfit else f"cannot id-map it: {error.strerror}"
        raise HostError(f"cannot share {_path_of(source_fd)}: {why}") from error
    finally:
        os.close(namespace)


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def _hold(directory: str) -> int:
    fd = _open_source(directory, os.O_DIRECTORY | os.O_NOFOLLOW, access=os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise HostError(f"{directory} is being removed") from error
    return fd


def _open_source(path: str, flags: int, *, access: int = os.O_PATH) -> int:
    try:
        return os.open(path, access | os.O_CLOEXEC | flags)
    except OSError as error:
        raise HostError(f"cannot share {path}: {error.strerror}") from error


def _make_mount_point(root_fd: int, destination: str, *, is_directory: bool) -> bool:
    """Makes what is missing of a path, one component after the other, each looked up within the root alone.

    Tells whether anything was missing.
    """
    missing = False
    parts = [part for part in destination.split("/") if part not in ("", ".")]
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        try:
            os.close(linux.openat2(root_fd, path, flags=os.O_PATH, resolve=_IN_ROOT))
            continue
        except FileNotFoundError:
            missing = True
        except OSError as error:
            raise HostError(f"cannot make mount point {destination}: {error.strerror}") from error
        above = "/".join(parts[: depth - 1]) or "."
        try:
            parent = linux.openat2(root_fd, above, flags=os.O_PATH | os.O_DIRECTORY, resolve=_IN_ROOT)
        except OSError as error:
            raise HostError(f"cannot make mount point {destination}: /{above}: {error.strerror}") from error
        try:
            if depth < len(parts) or is_directory:
                os.mkdir(parts[depth - 1], 0o755, dir_fd=parent)
            else:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(parts[depth - 1], flags, 0o644, dir_fd=parent))
        except FileExistsError:
            pass  # a dangling symlink, or a race: the guest will say what is wrong with it
        except OSError as error:
            if error.errno != 30:  # EROFS: the image itself is read-only; so will be the guest's answer
                raise HostError(f"cannot make mount point {destination}: {error.strerror}") from error
        finally:
            os.close(parent)
    return missing
