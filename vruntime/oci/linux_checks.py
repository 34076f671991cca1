"""What a schema cannot say of the section `linux` of a config.json."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from vruntime.oci import cpuset
from vruntime.oci.document import array, json_path, mapping, member, places, quoted, string, strings

_ID_END: Final = 2**32
"""One more than the greatest user or group id."""

_CLOCKS: Final = ("boottime", "monotonic")
"""The clocks that a time namespace shifts."""

_IPC_SYSCTLS: Final = frozenset(
    f"kernel.{name}"
    for name in (
        "msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced",
    )
)  # fmt: skip

_EXCHANGED: Final = str.maketrans("./", "/.")


def faults(config: object) -> Iterator[str]:
    """What is wrong with `linux`, beyond its shape, and with what depends on its namespaces."""
    yield from _namespace_faults(config)
    yield from _mapping_faults(config)
    yield from _time_faults(config)
    yield from _sysctl_faults(config)
    yield from _path_faults(config)
    yield from _device_faults(array(config, "linux", "devices"))
    yield from _resource_faults(member(config, "linux", "resources"))
    yield from _seccomp_faults(member(config, "linux", "seccomp"))


def cpuset_faults(path: str, text: str) -> Iterator[str]:
    """What is wrong with a list of CPUs or memory nodes; an empty one is none."""
    if not cpuset.is_list(text):
        yield f"{path}: {quoted(text)} is not a list such as 0-3,7"


def _kinds(config: object) -> set[str]:
    return {string(namespace, "type") for namespace in array(config, "linux", "namespaces")}


def _namespace_faults(config: object) -> Iterator[str]:
    seen: set[str] = set()
    for index, namespace in enumerate(array(config, "linux", "namespaces")):
        kind = string(namespace, "type")
        if kind and kind in seen:
            yield f"{json_path('linux', 'namespaces', index)}: {quoted(kind)} is listed twice"
        seen.add(kind)
    if "uts" not in seen:
        for key in ("hostname", "domainname"):
            if string(config, key):
                yield f"{key}: cannot be set without a uts namespace"


def _sysctl_faults(config: object) -> Iterator[str]:
    """Only what is the container's own can be set; the rest of the kernel is the sandbox's."""
    namespaces = _kinds(config)
    for key in mapping(config, "linux", "sysctl"):
        name = _dotted(key)
        path = json_path("linux", "sysctl", key)
        if not _names_a_file(name):
            yield f"{path}: is not the name of a kernel parameter"
        elif name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            if "ipc" not in namespaces:
                yield f"{path}: needs an ipc namespace"
        elif name.startswith("net."):
            if "network" not in namespaces:
                yield f"{path}: needs a network namespace"
        elif name == "kernel.hostname" and "uts" in namespaces:
            yield f"{path}: conflicts with the property hostname"
        elif name != "kernel.domainname" or "uts" not in namespaces:
            yield f"{path}: is not in a separate kernel namespace"


def _dotted(key: str) -> str:
    """The dotted form of a sysctl key, whose other form has `/` and `.` exchanged (sysctl.d(5))."""
    first = next((character for character in key if character in "./"), ".")
    return key.translate(_EXCHANGED) if first == "/" else key


def _names_a_file(dotted: str) -> bool:
    """Whether a sysctl name stays below /proc/sys: `net.//.kernel` would be net/../kernel."""
    parts = dotted.translate(_EXCHANGED).split("/")
    return not {"", ".", ".."} & set(parts) and "\0" not in dotted


def _path_faults(config: object) -> Iterator[str]:
    for key in ("maskedPaths", "readonlyPaths"):
        for index, path in strings(config, "linux", key):
            if not path.startswith("/"):
                where = json_path("linux", key, index)
                yield f"{where}: {quoted(path)} is not an absolute path"
    for index, device in enumerate(array(config, "linux", "devices")):
        path = string(device, "path")
        if path and not path.startswith("/"):
            where = json_path("linux", "devices", index, "path")
            yield f"{where}: {quoted(path)} is not an absolute path"


def _mapping_faults(config: object) -> Iterator[str]:
    has_namespace = "user" in _kinds(config)
    for key in ("uidMappings", "gidMappings"):
        mappings = array(config, "linux", key)
        if mappings and not has_namespace:
            yield f"linux.{key}: needs a user namespace"
        if has_namespace and not mappings:
            yield f"linux.{key}: is required for a user namespace"
        yield from _overlaps(json_path("linux", key), mappings)
        if mappings and not any(_maps_root(entry) for entry in mappings):
            yield f"linux.{key}: the container's root, id 0, is not mapped"
    for index, mount in enumerate(array(config, "mounts")):
        lists = {key: array(mount, key) for key in ("uidMappings", "gidMappings")}
        for key, mappings in lists.items():
            yield from _overlaps(json_path("mounts", index, key), mappings)
            if not mappings and any(lists.values()):
                yield f"{json_path('mounts', index, key)}: is required, as the other kind of mappings is given"
        options = {option for _, option in strings(mount, "options")}
        by_option = bool({"idmap", "ridmap"} & options)
        if not by_option and not any(lists.values()):
            continue
        if not ({"bind", "rbind"} & options or string(mount, "type") == "bind"):
            yield f"{json_path('mounts', index)}: only a bind mount can be id-mapped"
        elif not any(lists.values()) and not has_namespace:
            needs = "the option idmap needs mappings of the mount, or of a user namespace of the container"
            yield f"{json_path('mounts', index, 'options')}: {needs}"


def _maps_root(entry: object) -> bool:
    size = member(entry, "size")
    return member(entry, "containerID") == 0 and isinstance(size, int) and size > 0


def _overlaps(path: str, mappings: list[Any]) -> Iterator[str]:
    """The kernel refuses ranges that share an id, on either side (user_namespaces(7))."""
    for side in ("containerID", "hostID"):
        ranges = sorted(
            (start, start + size)
            for start, size in ((member(entry, side), member(entry, "size")) for entry in mappings)
            if isinstance(start, int) and isinstance(size, int)
        )
        if any(end > _ID_END for _, end in ranges):
            yield f"{path}: a range of {side} goes beyond {_ID_END - 1}"
        if any(end > start for (_, end), (start, _) in pairwise(ranges)):
            yield f"{path}: ranges of {side} overlap"


def _time_faults(config: object) -> Iterator[str]:
    offsets = mapping(config, "linux", "timeOffsets")
    if offsets and "time" not in _kinds(config):
        yield "linux.timeOffsets: needs a time namespace"
    for clock in offsets:
        if clock not in _CLOCKS:
            yield f"{json_path('linux', 'timeOffsets', clock)}: is none of {', '.join(_CLOCKS)}"


def _device_faults(devices: list[Any]) -> Iterator[str]:
    """The same device may be listed twice; two of one path cannot both be there."""
    seen: dict[str, tuple[str, object, object]] = {}
    for index, device in enumerate(devices):
        path = string(device, "path")
        number = (string(device, "type"), member(device, "major"), member(device, "minor"))
        if path and seen.setdefault(path, number) != number:
            yield f"{json_path('linux', 'devices', index)}: another device has the path {quoted(path)}"


def _resource_faults(resources: object) -> Iterator[str]:
    for key in ("cpus", "mems"):
        yield from cpuset_faults(f"linux.resources.cpu.{key}", string(resources, "cpu", key))
    for keys in (("weight",), ("leafWeight",), ("weightDevice", "[]", "weight"), ("weightDevice", "[]", "leafWeight")):
        for path, weight in places(resources, "blockIO", *keys):
            if isinstance(weight, int) and 0 < weight < 10:
                yield f"linux.resources.{path}: {weight} is not 0 (unset) or from 10 to 1000"
    for name in mapping(resources, "unified"):
        if "/" in name or name in ("", ".", ".."):
            yield f"{json_path('linux', 'resources', 'unified', name)}: is not the name of a file of a cgroup"


def _seccomp_faults(seccomp: object) -> Iterator[str]:
    path = string(seccomp, "listenerPath")
    if path and not path.startswith("/"):
        yield f"linux.seccomp.listenerPath: {quoted(path)} is not an absolute path"
    if string(seccomp, "listenerMetadata") and not path:
        yield "linux.seccomp.listenerMetadata: needs a listenerPath"
