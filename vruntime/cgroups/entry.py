"""How a process enters a container's control group: all that `exec` needs to know of it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from typing import Final

from vruntime.errors import HostError, NoSuchContainer
from vruntime.store import Store

Paths = Mapping[str, str]
"""The group's directory in each hierarchy, by the name of its controller."""

UNIFIED: Final = ""
"""The name of version 2's hierarchy among the others, as the kernel has it in /proc/PID/cgroup."""

NAMED: Final = ("name=systemd", UNIFIED)
"""Hierarchies that limit nothing on a host with version 1: a group in them is made where it can be."""

FILE: Final = "cgroup.json"
"""Of a container's state: written before the group is made, so that whatever happens it can be removed."""

PROCESSES: Final = "cgroup.procs"

# A group that cannot take a process yet, as it is being made, says EINVAL.
_ENTRIES: Final = 5
_PAUSE: Final = 0.03


def paths_of(store: Store, container_id: str) -> Paths:
    """The group of a container; empty when it has none."""
    try:
        return dict(store.read(container_id, FILE)["paths"])
    except NoSuchContainer:
        return {}
    except (ValueError, TypeError, KeyError) as error:
        raise HostError(f"{store.container(container_id) / FILE} is damaged: {error}") from error


def place(paths: Paths, pid: int) -> None:
    """Moves a process into the group; no error when it has ended. HostError in runc's shape."""
    for name, directory in paths.items():
        try:
            _enter(f"{directory}/{PROCESSES}", pid)
        except ProcessLookupError:
            return
        except OSError as error:
            if name in NAMED and len(paths) > 1:
                continue  # it limits nothing, and runc does without it
            what = f"failed to write {pid}: write {directory}/{PROCESSES}: {reason(error)}"
            raise HostError(f"unable to apply cgroup configuration: {what}") from error


def _enter(file: str, pid: int) -> None:
    for _ in range(_ENTRIES):
        try:
            write(file, str(pid))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            time.sleep(_PAUSE)
        else:
            return
    write(file, str(pid))


def reason(error: OSError) -> str:
    """The system's words as Go has them, which runc's users know."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def write(path: str, text: str) -> None:
    """One write(2), without O_CREAT and without a buffer: each is a command to the kernel."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
