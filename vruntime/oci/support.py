"""What this runtime supports, ignores and refuses of a well-formed config.json.

Three rules decide: what a container in a virtual machine can have is given to it inside the guest;
what only adds to the wall that the machine already is (AppArmor, SELinux labels) is ignored with a
warning; what asks for a part of the host, or is not implemented, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vruntime.oci.document import array, json_path, mapping, member, places, quoted, string, strings

OCI_VERSION_MIN: Final = "1.0.0"
OCI_VERSION_MAX: Final = "1.2.0"

NAMESPACES: Final = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
"""The namespaces that a container gets of its own, inside the guest."""

JOINED_NAMESPACES: Final = ("cgroup", "ipc", "network", "pid", "time", "user", "uts")
"""Those of which an existing one can be named: another container's, or a network of the host, which is carried over."""

PRIVATE_NAMESPACES: Final = ("ipc", "mount", "network", "pid")
"""Those without which a container would share the host's, which a machine of its own cannot."""

MOUNT_TYPES: Final = (
    "bind", "bpf", "cgroup", "cgroup2", "devpts", "hugetlbfs", "mqueue", "proc", "ramfs", "securityfs", "sysfs",
    "tmpfs",
)  # fmt: skip

MOUNT_OPTIONS: Final = (
    "acl", "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "iversion",
    "lazytime", "loud", "mand", "noacl", "noatime", "nodev", "nodiratime", "noexec", "noiversion",
    "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private",
    "ratime", "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec", "ridmap", "rnoatime", "rnodev",
    "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro",
    "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid",
    "rsymfollow", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid",
    "symfollow", "sync", "tmpcopyup", "unbindable",
)  # fmt: skip
"""Options with a meaning of their own; any other is data for the file system."""

CAPABILITIES: Final = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
    "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
"""In the order of their numbers (capabilities(7))."""

SECCOMP_ACTIONS: Final = (
    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
)  # fmt: skip
"""All but SCMP_ACT_NOTIFY, whose supervisor would be a process of the host."""

SECCOMP_OPERATORS: Final = (
    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
)  # fmt: skip

SECCOMP_ARCHITECTURES: Final = ("SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64")
"""Those whose system calls the guest's kernel can receive; filters for others change nothing."""

SECCOMP_FLAGS: Final = (
    "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
)  # fmt: skip

DEVICES: Final = {
    ("c", 1, 3): "null", ("c", 1, 5): "zero", ("c", 1, 7): "full", ("c", 1, 8): "random",
    ("c", 1, 9): "urandom", ("c", 5, 0): "tty", ("c", 5, 2): "ptmx", ("c", 10, 200): "net/tun",
    ("c", 10, 229): "fuse",
}  # fmt: skip
"""The device numbers that mean in the guest what they mean on the host."""

_REFUSED: Final[dict[tuple[str, ...], str]] = {
    ("linux", "intelRdt"): "Intel RDT is not supported",
    ("linux", "memoryPolicy"): "NUMA policies are not supported",
    ("linux", "netDevices"): "moving network devices of the host is not supported",
    ("linux", "seccomp", "listenerPath"): "a process of the host cannot supervise system calls",
    ("linux", "seccomp", "listenerMetadata"): "a process of the host cannot supervise system calls",
    ("vm",): "hypervisor, kernel and image are the administrator's choice, not the bundle's",
}
"""Where anything but an empty value is refused, and why."""

_NOT_IN_CGROUP_V2: Final = "cgroup v2, which the guest has, knows nothing like it"

V1_RESOURCES: Final = (
    ("memory", "swappiness"),
    ("memory", "disableOOMKiller"),
    ("cpu", "realtimeRuntime"),
    ("cpu", "realtimePeriod"),
    ("blockIO", "leafWeight"),
    ("blockIO", "weightDevice", "[]", "leafWeight"),
    ("network",),
)
"""What of `linux.resources` cgroup v1 knows alone: a host that has it keeps them, and no guest does."""

_OTHER_PLATFORM: Final = "it is for another platform"

_IGNORED: Final[dict[tuple[str, ...], str]] = {
    ("linux", "mountLabel"): "the guest has no SELinux",
    ("linux", "personality", "flags"): "none is defined",
    ("linux", "resources", "memory", "kernel"): _NOT_IN_CGROUP_V2,
    ("linux", "resources", "memory", "kernelTCP"): _NOT_IN_CGROUP_V2,
    ("linux", "resources", "memory", "useHierarchy"): _NOT_IN_CGROUP_V2,
    ("linux", "resources", "memory", "checkBeforeUpdate"): "it concerns updates alone",
    ("freebsd",): _OTHER_PLATFORM,
    ("solaris",): _OTHER_PLATFORM,
    ("windows",): _OTHER_PLATFORM,
    ("zos",): _OTHER_PLATFORM,
}

_IGNORED_OF_PROCESS: Final = {
    "apparmorProfile": "the guest has no AppArmor",
    "selinuxLabel": "the guest has no SELinux",
    "commandLine": _OTHER_PLATFORM,
}


def refuses(*keys: str) -> bool:
    """Whether anything but an empty value at this place of a config.json is refused."""
    return keys in _REFUSED


def config_refusals(config: object) -> Iterator[str]:
    """What of a config.json is refused, as `path: reason`."""
    for keys, reason in _REFUSED.items():
        if member(config, *keys):
            yield f"{json_path(*keys)}: {reason}"
    yield from _namespace_refusals(array(config, "linux", "namespaces"))
    yield from _mount_refusals(array(config, "mounts"))
    if not _may_use_all_devices(config):
        yield from _device_refusals(array(config, "linux", "devices"))
    yield from _seccomp_refusals(mapping(config, "linux", "seccomp"))


def ignored_on_v2(resources: object) -> Iterator[str]:
    """What of `linux.resources` is ignored where the host has cgroup v2, as `path: reason`."""
    for keys in V1_RESOURCES:
        for path, value in places(resources, *keys):
            if value:
                yield f"linux.resources.{path}: ignored: cgroup v2 knows nothing like it"


def config_ignored(config: object) -> Iterator[str]:
    """What of a config.json is ignored with a warning, as `path: reason`."""
    for keys, reason in _IGNORED.items():
        for path, value in places(config, *keys):
            if value:
                yield f"{path}: ignored: {reason}"
    yield from process_ignored(member(config, "process"))
    yield from _devices_left_out(config)
    for index, mount in enumerate(array(config, "mounts")):
        destination = string(mount, "destination")
        if destination and not destination.startswith("/"):
            path = json_path("mounts", index, "destination")
            yield f"{path}: {quoted(destination)} is not absolute: it is taken as relative to /"
        if {"shared", "rshared"} & {option for _, option in strings(mount, "options")}:
            path = json_path("mounts", index, "options")
            yield f"{path}: mounts made in the guest do not appear on the host"


def _devices_left_out(config: object) -> Iterator[str]:
    left_out = sum(not guest_has(device) for device in array(config, "linux", "devices"))
    if left_out and _may_use_all_devices(config):
        yield f"linux.devices: ignored: {left_out} devices of the host, which the guest has not"


def process_ignored(process: object) -> Iterator[str]:
    """What of a process object is ignored with a warning."""
    for key, reason in _IGNORED_OF_PROCESS.items():
        if member(process, key):
            yield f"{json_path('process', key)}: ignored: {reason}"
    if member(process, "user", "username"):
        yield f"process.user.username: ignored: {_OTHER_PLATFORM}"
    unknown = {
        name
        for kind in mapping(process, "capabilities")
        for _, name in strings(process, "capabilities", kind)
        if name not in CAPABILITIES
    }
    if unknown:
        names = quoted(sorted(unknown))
        yield f"process.capabilities: ignoring unknown or unavailable capabilities: {names}"


def _namespace_refusals(namespaces: list[Any]) -> Iterator[str]:
    listed = set()
    for index, namespace in enumerate(namespaces):
        kind = string(namespace, "type")
        listed.add(kind)
        if member(namespace, "path") and kind not in JOINED_NAMESPACES:
            path = json_path("linux", "namespaces", index, "path")
            yield f"{path}: joining an existing {kind} namespace is not supported"
    for kind in PRIVATE_NAMESPACES:
        if kind not in listed:
            reason = f"no {kind} namespace is listed, and the host's cannot be shared"
            yield f"linux.namespaces: {reason}"


def _mount_refusals(mounts: list[Any]) -> Iterator[str]:
    for index, mount in enumerate(mounts):
        options = {option for _, option in strings(mount, "options")}
        kind = member(mount, "type")
        if not {"bind", "rbind"} & options and (kind is None or isinstance(kind, str)):
            if not kind:
                yield f"{json_path('mounts', index, 'type')}: is required without the option bind"
            elif kind not in MOUNT_TYPES:
                known = ", ".join(MOUNT_TYPES)
                path = json_path("mounts", index, "type")
                yield f"{path}: {quoted(kind)} is not supported (supported: {known})"


def guest_has(device: object) -> bool:
    """Whether an entry of `linux.devices` is a device of the guest too, or a FIFO, which it can make."""
    kind = "c" if string(device, "type") == "u" else string(device, "type")
    number = (kind, member(device, "major"), member(device, "minor"))
    return kind not in ("b", "c") or any(number == known for known in DEVICES)


def _may_use_all_devices(config: object) -> bool:
    """Whether the rules allow everything, as for a privileged container: engines list every device of the host then."""
    rules = array(config, "linux", "resources", "devices")
    last = next((rule for rule in reversed(rules) if _is_about_all(rule)), None)
    return member(last, "allow") is True and set(string(last, "access")) == set("rwm")


def _is_about_all(rule: object) -> bool:
    numbers = (member(rule, "major"), member(rule, "minor"))
    return string(rule, "type") in ("", "a") and all(number in (None, -1) for number in numbers)


def _device_refusals(devices: list[Any]) -> Iterator[str]:
    known = ", ".join(DEVICES.values())
    for index, device in enumerate(devices):
        if not guest_has(device):
            reason = f"is a device of the host, which cannot be given to the guest (it has its own {known})"
            yield f"{json_path('linux', 'devices', index)}: {quoted(string(device, 'path'))} {reason}"


def _seccomp_refusals(seccomp: dict[str, Any]) -> Iterator[str]:
    if seccomp.get("defaultAction") == "SCMP_ACT_NOTIFY":
        yield "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY is not supported"
    for index, rule in enumerate(array(seccomp, "syscalls")):
        if member(rule, "action") == "SCMP_ACT_NOTIFY":
            path = json_path("linux", "seccomp", "syscalls", index, "action")
            yield f"{path}: SCMP_ACT_NOTIFY is not supported"
    for index, flag in strings(seccomp, "flags"):
        if flag.startswith("SECCOMP_FILTER_FLAG_WAIT"):
            yield f"{json_path('linux', 'seccomp', 'flags', index)}: {flag} is not supported"
