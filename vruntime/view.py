"""What the host's tools find in the mount namespace of a container's pid: its own files, and nothing of the host's.

There are engines that copy into a running container by this way. Without, they would write to the host's files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from vruntime import linux, namespaces
from vruntime.errors import HostError
from vruntime.monitor import share
from vruntime.monitor.config import Bind
from vruntime.oci.config import OciConfig

_IN_ROOT = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS


def show(pid: int, config: OciConfig, binds: Iterable[Bind]) -> None:
    """Makes the container's root that of a process, which has a mount namespace of its own and opens no more files."""
    try:
        with namespaces.mounts_of(pid):
            mounts = share.detached(str(config.rootfs), binds)
            try:
                _arrange(config, binds, mounts)
            finally:
                for mount in mounts.values():
                    os.close(mount)
    except OSError as error:
        raise HostError(f"cannot show the files of the container to the host's tools: {error}") from error


def _arrange(config: OciConfig, binds: Iterable[Bind], mounts: dict[str, int]) -> None:
    for mount in mounts.values():  # nothing of it is for the host to execute
        linux.mount_setattr(mount, attributes=share.HOST_ATTRIBUTES, recursive=True)
    root = mounts["rootfs"]
    linux.move_mount(root, str(config.rootfs))
    destinations = {mount.index: mount.destination for mount in config.mounts}
    for bind in binds:
        try:
            target = linux.openat2(root, destinations[bind.index].lstrip("/"), flags=os.O_PATH, resolve=_IN_ROOT)
        except OSError:  # the guest has it in a mount of its own, such as /dev
            continue
        try:
            linux.move_mount(mounts[str(bind.index)], target)
        finally:
            os.close(target)
        if bind.readonly:
            linux.mount_setattr(mounts[str(bind.index)], attributes=linux.MOUNT_ATTR_RDONLY)
    if config.readonly:
        linux.mount_setattr(root, attributes=linux.MOUNT_ATTR_RDONLY)
    os.fchdir(root)
    linux.pivot_root(".", ".")
    linux.umount(".", flags=linux.MNT_DETACH)
