"""What is done to a control group through its directories: make, limit, look, remove; errors as of runc."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

from vruntime.cgroups.entry import PROCESSES, UNIFIED, Paths, reason, write
from vruntime.cgroups.limits import Setting
from vruntime.errors import HostError

_FORBIDDEN: Final = frozenset((errno.EPERM, errno.EACCES, errno.EROFS))
# A process that has just been told to end holds its group for a while: 2.5 s at most, in steps of doubled length.
_REMOVALS: Final = 9
_FIRST_PAUSE: Final = 0.01
# Version 1's word for no limit is the largest number of bytes in whole pages.
_UNLIMITED: Final = 1 << 62
_CPUSET_FILES: Final = ("cpuset.cpus", "cpuset.mems")


class Forbidden(HostError):
    """The group cannot be made, as this user, or on a host whose hierarchy is read-only."""


def make(name: str, directory: str) -> None:
    """Makes the group of one hierarchy, with the groups above it. HostError, or Forbidden, when it cannot be made."""
    if os.path.ismount(directory):
        return  # the hierarchy's root
    make(name, os.path.dirname(directory))
    if name == UNIFIED:
        _pass_controllers_on(os.path.dirname(directory))
    with suppress(FileExistsError), _applying(f"mkdir {directory}"):
        os.mkdir(directory, 0o755)
    if name == "cpuset":
        _inherit_cpuset(directory)


@contextmanager
def _applying(what: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        kind = Forbidden if error.errno in _FORBIDDEN else HostError
        raise kind(f"unable to apply cgroup configuration: {what}: {reason(error)}") from error


def _pass_controllers_on(group: str) -> None:
    """To the groups below; a controller that cannot be passed on shows in a limit that cannot be set."""
    with suppress(OSError):
        passed = set(_read(f"{group}/cgroup.subtree_control").split())
        for controller in set(_read(f"{group}/cgroup.controllers").split()) - passed:
            with suppress(OSError):
                write(f"{group}/cgroup.subtree_control", f"+{controller}")


def _inherit_cpuset(directory: str) -> None:
    """A new group of this hierarchy has no CPUs and no memory, and takes no process before it has: its parent's."""
    for file in _CPUSET_FILES:
        with _applying(f"write {directory}/{file}"):
            if not _read(f"{directory}/{file}").strip():
                write(f"{directory}/{file}", _read(f"{os.path.dirname(directory)}/{file}").strip())


class Limits:
    """Limits that are being set, so that those that were before can be set again."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._before: list[tuple[str, str]] = []

    def set(self, settings: Iterable[Setting]) -> None:
        """Sets them; HostError that names the first that cannot be.

        Some of one controller bound each other, such as memory and memory with swap, or period and quota: what fails at
        first is tried again when the others are set.
        """
        failed = [setting for setting in settings if not self._try(setting)]
        for setting in failed:
            self._set(setting)

    def _try(self, setting: Setting) -> bool:
        try:
            self._set(setting)
        except _Refused:
            return False
        return True

    def _set(self, setting: Setting) -> None:
        if setting.controller not in self._paths:
            raise HostError(
                f"error setting cgroup config for procHooks process: cannot set {setting.controller} limit:"
                " container could not join or create cgroup"
            )
        directory = self._paths[setting.controller]
        candidates = [(f"{directory}/{file}", value) for file, value in setting.choices]
        path, value = next((choice for choice in candidates if os.path.exists(choice[0])), candidates[-1])
        try:
            before = _current(path, setting)
            write(path, value)
        except FileNotFoundError as error:
            if not setting.optional:
                self._fail(f"openat2 {path}: {reason(error)}", error)
            return
        except OSError as error:
            raise _Refused(f'{_PROC_HOOKS}: failed to write "{value}": write {path}: {reason(error)}') from error
        self._before.append((path, before))
        if path.endswith("/cpu.shares"):
            _check_shares(path, int(value))

    @staticmethod
    def _fail(what: str, cause: OSError) -> NoReturn:
        raise HostError(f"{_PROC_HOOKS}: {what}") from cause

    def undo(self) -> None:
        """Sets again what was before, as far as the kernel lets us."""
        for _ in range(2):  # as those that bound each other
            for path, before in reversed(self._before):
                with suppress(OSError):
                    if before:
                        write(path, before)


class _Refused(HostError):
    """The kernel took a value for wrong, which may be so for now alone."""


_PROC_HOOKS: Final = "error setting cgroup config for procHooks process"


def _current(path: str, setting: Setting) -> str:
    """What a file has, in the form that it takes; of a file with a line for each device the line of this one."""
    if path.rsplit("/", 1)[1].startswith("devices."):
        return ""  # these are never changed later
    text = _read(path).strip()
    if not setting.unset:
        return text
    device = setting.unset.split()[0]
    return next((line for line in text.splitlines() if line.split()[0] == device), setting.unset)


def _check_shares(path: str, shares: int) -> None:
    """The kernel takes any number, and silently keeps to its bounds."""
    kept = int(_read(path))
    if shares != kept:
        bound = "maximum" if shares > kept else "minimum"
        raise HostError(f"{_PROC_HOOKS}: the {bound} allowed cpu-shares is {kept}")


def processes(directory: str) -> int:
    """How many processes a group and those below it hold; 0 when it does not exist."""
    count = 0
    for group, _, files in os.walk(directory):
        if PROCESSES in files:
            with suppress(OSError):  # it is being removed
                count += len(_read(f"{group}/{PROCESSES}").split())
    return count


def members(paths: Paths) -> set[int]:
    """The processes that are in the group in any hierarchy."""
    found: set[int] = set()
    for directory in paths.values():
        with suppress(OSError):  # it is being removed
            found |= {int(pid) for pid in _read(f"{directory}/{PROCESSES}").split()}
    return found


def is_frozen(paths: Paths) -> bool:
    """Whether whoever enters would stand still."""
    with suppress(OSError):
        if "freezer" in paths:
            return _read(f"{paths['freezer']}/freezer.state").strip() == "FROZEN"
        return _read(f"{paths[UNIFIED]}/cgroup.freeze").strip() == "1"
    return False


def oom_kills(paths: Paths) -> int:
    """How many processes of the group the kernel has killed for want of memory."""
    for name, file in (("memory", "memory.oom_control"), (UNIFIED, "memory.events")):
        if name in paths:
            with suppress(OSError):
                return next(int(count) for key, count in _pairs(f"{paths[name]}/{file}") if key == "oom_kill")
    return 0


def oom_limit(paths: Paths) -> int | None:
    """The bytes of memory at which the kernel kills in the group; None when there is no limit, or it does not kill."""
    with suppress(OSError):
        if "memory" in paths:
            kills = ("oom_kill_disable", "0") in _pairs(f"{paths['memory']}/memory.oom_control")
            limit = int(_read(f"{paths['memory']}/memory.limit_in_bytes"))
            return limit if kills and limit < _UNLIMITED else None
        if UNIFIED in paths:
            text = _read(f"{paths[UNIFIED]}/memory.max").strip()
            return int(text) if text.isdecimal() else None
    return None


def _pairs(path: str) -> Iterator[tuple[str, str]]:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        yield key, value


def remove(paths: Paths) -> None:
    """Removes the groups and those below them; what is not there is no error. HostError when one stays in use."""
    left = dict(paths)
    pause = _FIRST_PAUSE
    for attempt in range(_REMOVALS):
        left = {name: directory for name, directory in left.items() if not _removed(directory)}
        if not left or all(map(os.path.ismount, left.values())):
            break
        if attempt < _REMOVALS - 1:
            time.sleep(pause)
            pause *= 2
    if left:
        listed = " ".join(f"{name}:{directory}" for name, directory in sorted(left.items()))
        hint = "it is the root of a hierarchy, or holds processes that are not the container's"
        raise HostError(f"Failed to remove paths: map[{listed}]", hint=hint)


def _removed(directory: str) -> bool:
    """Whether it is gone. The root of a hierarchy stays, with all below it."""
    try:
        os.rmdir(directory)
    except OSError:
        if not os.path.lexists(directory):
            return True  # whatever the error: a read-only hierarchy says that it is one
        if os.path.ismount(directory):
            return False
    else:
        return True
    with suppress(OSError):
        below = [group.path for group in os.scandir(directory) if group.is_dir(follow_symlinks=False)]
        gone = [_removed(group) for group in below]
        if gone and all(gone):
            os.rmdir(directory)
            return True
    return False


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
