"""What a schema cannot say of an OCI document: each check yields its faults as `path: message`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

from vruntime.oci import linux_checks
from vruntime.oci.document import array, json_path, member, quoted, string, strings
from vruntime.oci.linux_checks import cpuset_faults
from vruntime.oci.support import CAPABILITIES, DEVICES

ARGUMENT_LIMIT: Final = 128 * 1024 - 1
"""Most bytes of one argument or environment entry (execve(2): MAX_ARG_STRLEN with its NUL)."""

ARGUMENTS_LIMIT: Final = 2 * 1024 * 1024
"""Most bytes of all of them together (execve(2): a quarter of the usual stack limit)."""

PATH_LIMIT: Final = 4095
"""Most bytes of a path (PATH_MAX without its NUL)."""

HOOKS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
"""The kinds of hooks, in the order in which they run."""

HOSTNAME_LIMIT: Final = 64
"""Most bytes of a host name or domain name (sethostname(2))."""


def config_faults(config: object, bundle: Path) -> Iterator[str]:
    """What is wrong with a config.json, beyond its shape, in this bundle on this host."""
    yield from _rootfs_faults(config, bundle)
    yield from process_faults(member(config, "process"))
    yield from _mount_faults(array(config, "mounts"), bundle)
    yield from _hook_faults(config)
    yield from linux_checks.faults(config)
    yield from _text_faults(config)


def process_faults(process: object) -> Iterator[str]:
    """What is wrong with a process object, beyond its shape."""
    cwd = string(process, "cwd")
    if cwd and not cwd.startswith("/"):
        yield f"process.cwd: {quoted(cwd)} is not an absolute path"
    yield from _too_long("process.cwd", cwd, PATH_LIMIT)
    yield from _nul_faults(process, "process")
    yield from _environment_faults(process, "process")
    yield from _argument_size_faults(process, "process")
    yield from _rlimit_faults(array(process, "rlimits"))
    yield from _capability_faults(process)
    yield from _scheduler_faults(member(process, "scheduler"))
    for key in ("initial", "final"):
        yield from _affinity_faults(f"process.execCPUAffinity.{key}", string(process, "execCPUAffinity", key))


def resolve_rootfs(path: str, bundle: Path) -> str:
    """The absolute path that `root.path` means; a relative one starts at the bundle."""
    return os.path.normpath(os.path.join(bundle, path))


def resolve_source(source: str, bundle: Path) -> str:
    """The absolute path that the source of a bind mount means."""
    return source if source.startswith("/") else os.path.normpath(os.path.join(bundle, source))


def resolve_destination(destination: str) -> str:
    """The absolute path in the container that a mount's destination means; a relative one starts at its root."""
    return destination if destination.startswith("/") else f"/{destination}"


def guest_device(source: str) -> str | None:
    """Where the guest has its own of a device that is the source of a bind mount; None for what is no such device."""
    try:
        status = os.stat(source)
    except OSError:
        return None
    number = (os.major(status.st_rdev), os.minor(status.st_rdev))
    name = DEVICES.get(("c", *number)) if stat.S_ISCHR(status.st_mode) else None
    return name and f"/dev/{name}"


def is_bind(mount: object) -> bool:
    """Whether a mount is a bind mount: its options decide; the type is enough without them."""
    options = {option for _, option in strings(mount, "options")}
    return bool({"bind", "rbind"} & options) or string(mount, "type") == "bind"


def _rootfs_faults(config: object, bundle: Path) -> Iterator[str]:
    path = string(config, "root", "path")
    if not path or "\0" in path:
        return
    rootfs = resolve_rootfs(path, bundle)
    if not path.startswith("/") and not rootfs.startswith(f"{bundle}/"):
        yield f"root.path: {quoted(path)} leaves the bundle (use an absolute path for that)"
        return
    try:
        mode = os.stat(rootfs).st_mode
        real = os.path.realpath(rootfs, strict=True)
    except OSError as error:
        yield f"root.path: invalid rootfs: stat {quoted(rootfs)}: {error.strerror}"
        return
    if real != rootfs:
        yield f"root.path: invalid rootfs: {quoted(rootfs)} is, or is reached through, a symlink"
    elif not stat.S_ISDIR(mode):
        yield f"root.path: invalid rootfs: {quoted(rootfs)} is not a directory"
    elif rootfs == "/":
        yield "root.path: invalid rootfs: the host's root directory"


def _environment_faults(program: object, place: str) -> Iterator[str]:
    for index, entry in strings(program, "env"):
        name, equals, _ = entry.partition("=")
        if not equals or not name:
            yield f"{place}.env[{index}]: {quoted(entry)} does not have the form NAME=VALUE"


def _argument_size_faults(program: object, place: str) -> Iterator[str]:
    total = 0
    for key in ("args", "env"):
        for index, text in strings(program, key):
            size = _size(text)
            total += size + 1
            if size > ARGUMENT_LIMIT:
                yield f"{place}.{key}[{index}]: has {size} bytes; execve(2) takes {ARGUMENT_LIMIT} at most"
    if total > ARGUMENTS_LIMIT:
        limit = f"execve(2) takes {ARGUMENTS_LIMIT} at most"
        yield f"{place}.args: args and env have {total} bytes together; {limit}"


def _rlimit_faults(rlimits: list[Any]) -> Iterator[str]:
    seen: set[str] = set()
    for index, rlimit in enumerate(rlimits):
        kind, soft, hard = string(rlimit, "type"), member(rlimit, "soft"), member(rlimit, "hard")
        if kind in seen:
            yield f"{json_path('process', 'rlimits', index)}: {quoted(kind)} occurs twice"
        if kind:
            seen.add(kind)
        if isinstance(soft, int) and isinstance(hard, int) and soft > hard:
            path = json_path("process", "rlimits", index, "soft")
            yield f"{path}: {soft} is more than the hard limit {hard}"


def _capability_faults(process: object) -> Iterator[str]:
    permitted = {name for _, name in strings(process, "capabilities", "permitted")}
    for index, name in strings(process, "capabilities", "effective"):
        if name in CAPABILITIES and name not in permitted:
            yield f"{json_path('process', 'capabilities', 'effective', index)}: {name} is not permitted"


def _scheduler_faults(scheduler: object) -> Iterator[str]:
    """The rules of runc 1.2."""
    policy, nice = string(scheduler, "policy"), member(scheduler, "nice")
    if policy in ("SCHED_OTHER", "SCHED_BATCH") and isinstance(nice, int) and not -20 <= nice <= 19:
        yield f"process.scheduler.nice: {nice} is not from -20 to 19"
    if member(scheduler, "priority") and policy not in ("SCHED_FIFO", "SCHED_RR"):
        yield "process.scheduler.priority: can only be set for SCHED_FIFO or SCHED_RR"
    for key in ("runtime", "deadline", "period"):
        if member(scheduler, key) and policy != "SCHED_DEADLINE":
            yield f"process.scheduler.{key}: can only be set for SCHED_DEADLINE"


def _affinity_faults(path: str, text: str) -> Iterator[str]:
    """A list of CPUs as for a cpuset, but without strides, which runc does not know there."""
    if ":" in text:
        yield f"{path}: {quoted(text)} is not a list such as 0-3,7"
    else:
        yield from cpuset_faults(path, text)


def _mount_faults(mounts: list[Any], bundle: Path) -> Iterator[str]:
    for index, mount in enumerate(mounts):
        destination = string(mount, "destination")
        yield from _too_long(json_path("mounts", index, "destination"), destination, PATH_LIMIT)
        if is_bind(mount):
            yield from _bind_source_faults(mount, index, bundle)


def _bind_source_faults(mount: object, index: int, bundle: Path) -> Iterator[str]:
    path = json_path("mounts", index, "source")
    source = string(mount, "source")
    if not source:
        yield f"{path}: is required for a bind mount"
        return
    if "\0" in source:
        return
    try:
        mode = os.stat(resolve_source(source, bundle)).st_mode
    except OSError as error:
        yield f"{path}: stat {quoted(source)}: {error.strerror}"
        return
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    if is_device and guest_device(resolve_source(source, bundle)) is None:
        yield f"{path}: {quoted(source)} is a device of the host, which a guest cannot use"


def _hook_faults(config: object) -> Iterator[str]:
    for kind in HOOKS:
        for index, hook in enumerate(array(config, "hooks", kind)):
            path, place = string(hook, "path"), json_path("hooks", kind, index)
            if path and not path.startswith("/"):
                yield f"{place}.path: {quoted(path)} is not an absolute path"
            yield from _too_long(f"{place}.path", path, PATH_LIMIT)
            yield from _environment_faults(hook, place)
            yield from _argument_size_faults(hook, place)


def _text_faults(config: object) -> Iterator[str]:
    for key in ("hostname", "domainname"):
        yield from _too_long(key, string(config, key), HOSTNAME_LIMIT)
    for key in ("root", "mounts", "hooks", "hostname", "domainname", "linux"):
        yield from _nul_faults(member(config, key), key)


def _nul_faults(value: object, *keys: str | int) -> Iterator[str]:
    """A NUL would end the string early wherever the kernel reads it."""
    if isinstance(value, str):
        if "\0" in value:
            yield f"{json_path(*keys)}: contains a NUL character"
    elif isinstance(value, dict | list):
        entries: Iterable[tuple[str | int, object]] = value.items() if isinstance(value, dict) else enumerate(value)
        yield from chain.from_iterable(_nul_faults(entry, *keys, key) for key, entry in entries)


def _too_long(path: str, text: str, limit: int) -> Iterator[str]:
    if _size(text) > limit:
        yield f"{path}: has {_size(text)} bytes; at most {limit} are possible"


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
