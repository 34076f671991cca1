"""A bundle's config.json: read, checked, and turned into what the host and the guest need."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Final

from vruntime.errors import ConfigError
from vruntime.idmap import IdMapping
from vruntime.oci import checks, cpuset, resources, schema, strict_json, support
from vruntime.oci.document import Json, array, json_path, mapping, member, string
from vruntime.oci.faults import refuse
from vruntime.oci.process import Process

NOTIFY_DIRECTORY: Final = "/run/notify"
"""Where a container finds its notification socket, as with runc."""

NOTIFY_SOCKET: Final = "notify.sock"
"""Its name there."""

DEFAULT_CPU_PERIOD: Final = 100_000
"""Microseconds; the kernel's default for cpu.max."""

_GUEST_LINUX_KEYS: Final[tuple[str, ...]] = (
    "resources", "rootfsPropagation", "maskedPaths", "readonlyPaths", "sysctl", "uidMappings", "gidMappings",
    "timeOffsets",
)  # fmt: skip
"""What the guest reads of `linux` as it stands."""

_GUEST_SECCOMP_KEYS: Final[tuple[str, ...]] = (
    "defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls",
)  # fmt: skip


_IDMAP_OPTIONS: Final = frozenset({"idmap", "ridmap"})


@dataclass(frozen=True)
class Mount:
    """An entry of `mounts`."""

    index: int
    """Its place in `mounts`."""

    destination: str
    """Absolute path in the container."""

    type: str
    """The file system; `bind` for a bind mount, whatever was written."""

    source: str
    """An absolute path of the host for a bind mount, else what the file system takes."""

    options: tuple[str, ...]

    id_mapping: IdMapping | None = None

    guest_device: str | None = None
    """The guest's own device that takes the place of the source of a bind mount, and is there already."""

    @property
    def is_bind(self) -> bool:
        """Whether the source is a file or directory of the host."""
        return self.type == "bind"

    @property
    def is_recursive(self) -> bool:
        """Whether mounts below the source come along."""
        return "rbind" in self.options

    @property
    def is_readonly(self) -> bool:
        """Whether nothing can be written through the mount."""
        return self._last("ro", "rw", "rro", "rrw") in ("ro", "rro")

    @property
    def is_readonly_below(self) -> bool:
        """Whether the same holds for the mounts below it that come along."""
        return self._last("rro", "rrw") == "rro"

    @property
    def follows_host(self) -> bool:
        """Whether what the host mounts below the source later appears; it does unless the options say otherwise."""
        kinds = ("shared", "slave", "private", "unbindable")
        last = self._last(*kinds, *(f"r{kind}" for kind in kinds))
        return last not in ("private", "rprivate", "unbindable", "runbindable")

    def _last(self, *options: str) -> str | None:
        return next((option for option in reversed(self.options) if option in options), None)


@dataclass(frozen=True)
class NamedNamespace:
    """An entry of `linux.namespaces` with a path."""

    index: int
    type: str
    path: str

    @property
    def json_path(self) -> str:
        """Where the path stands."""
        return json_path("linux", "namespaces", self.index, "path")


@dataclass(frozen=True)
class BoundSocket:
    """The place of a socket that config.json brings into the container by a bind mount."""

    destination: str
    """Its path in the container."""

    source: str
    """What is bound: a path of the host."""

    below: str
    """Its path from there, or empty where it is bound itself."""


@dataclass(frozen=True)
class OciConfig:
    """A config.json (runtime-spec 1.2, config.md) that has passed every check."""

    bundle: Path
    """The directory of config.json, absolute and without symlinks."""

    document: Json
    """What was read, without members that are null."""

    @property
    def oci_version(self) -> str:
        """The version of the specification that config.json names."""
        return str(self.document["ociVersion"])

    @property
    def rootfs(self) -> Path:
        """The root filesystem: an absolute path without symlinks."""
        return Path(checks.resolve_rootfs(self.document["root"]["path"], self.bundle))

    @property
    def readonly(self) -> bool:
        """Whether the container may not write to its root filesystem."""
        return bool(self.document["root"].get("readonly", False))

    @property
    def process(self) -> Process:
        """The container's first process."""
        return Process(self.document["process"])

    @property
    def terminal(self) -> bool:
        """Whether the first process gets a terminal."""
        return self.process.terminal

    @cached_property
    def mounts(self) -> tuple[Mount, ...]:
        """All mounts, in their order."""
        mounts = self.document.get("mounts", [])
        return tuple(self._mount(index, mount) for index, mount in enumerate(mounts))

    @property
    def hostname(self) -> str:
        """The container's host name, or empty."""
        return string(self.document, "hostname")

    @property
    def annotations(self) -> Mapping[str, str]:
        """Free-form labels; they configure nothing."""
        return mapping(self.document, "annotations")

    @property
    def network_namespace(self) -> str | None:
        """The path of the network namespace that an engine has made on the host; None: a new one."""
        listed = array(self.document, "linux", "namespaces")
        return next((entry.get("path") or None for entry in listed if entry["type"] == "network"), None)

    @property
    def named_namespaces(self) -> tuple[NamedNamespace, ...]:
        """The namespaces that are there already."""
        listed = enumerate(array(self.document, "linux", "namespaces"))
        return tuple(
            NamedNamespace(index, entry["type"], entry["path"]) for index, entry in listed if entry.get("path")
        )

    @property
    def resolv_conf(self) -> str | None:
        """The file of the host that the container has as its /etc/resolv.conf, if any."""
        mounts = (mount for mount in self.mounts if mount.destination == "/etc/resolv.conf" and mount.is_bind)
        return next((mount.source for mount in mounts), None)

    @property
    def notify_socket(self) -> BoundSocket | None:
        """Where a bind mount has the process's NOTIFY_SOCKET, if one does; whether a socket is there is not looked at.

        So does Podman let a container speak to its conmon.
        """
        path = self.process.environment.get("NOTIFY_SOCKET", "")
        above = [mount for mount in self.mounts if f"{path}/".startswith(f"{mount.destination.rstrip('/')}/")]
        if not path.startswith("/") or not above or not above[-1].is_bind:
            return None
        return BoundSocket(path, above[-1].source, path[len(above[-1].destination.rstrip("/")) + 1 :])

    @property
    def hooks(self) -> Mapping[str, list[Json]]:
        """The programs to be run at points of the container's life, by their kinds."""
        return mapping(self.document, "hooks")

    @property
    def cgroups_path(self) -> str:
        """Where the container's processes on the host are accounted, or empty."""
        return string(self.document, "linux", "cgroupsPath")

    @property
    def resources(self) -> Json:
        """The limits, as they are written (config-linux.md, "Control groups")."""
        return mapping(self.document, "linux", "resources")

    @property
    def cpu_quota(self) -> int | None:
        """Microseconds of CPU time per `cpu_period`, or None without a limit."""
        quota = member(self.document, "linux", "resources", "cpu", "quota")
        return quota if quota and quota > 0 else None

    @property
    def cpu_period(self) -> int:
        """Microseconds."""
        return member(self.document, "linux", "resources", "cpu", "period") or DEFAULT_CPU_PERIOD

    @property
    def cpu_count(self) -> int | None:
        """How many CPUs it may use, by its quota and its set of CPUs, or None without a limit."""
        listed = cpuset.size(string(self.document, "linux", "resources", "cpu", "cpus"))
        limits = [listed] if listed else []
        if self.cpu_quota is not None:
            limits.append(math.ceil(self.cpu_quota / self.cpu_period))
        return min(limits, default=None)

    @property
    def memory_limit(self) -> int | None:
        """Bytes, or None without a limit."""
        limit = member(self.document, "linux", "resources", "memory", "limit")
        return limit if limit and limit > 0 else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of config.json is ignored, as `path: reason`."""
        return tuple(support.config_ignored(self.document))

    def for_guest(
        self, rootfs: str, bind_sources: Mapping[int, str], *, vcpus: int = 1, notify: str | None = None
    ) -> bytes:
        """The config.json for the agent.

        `rootfs` is the guest's path of the root filesystem; `bind_sources` has the guest's path
        for the index of each bind mount that is shared; `vcpus` is the number of the machine's CPUs;
        `notify` is the guest's path of the directory with the container's notification socket, if it
        has one: that is mounted where the environment has it already, or is told of it. What concerns
        the host alone is left out.
        """
        guest: Json = {
            "ociVersion": self.oci_version,
            "root": {"path": rootfs, "readonly": self.readonly},
            "process": self.process.for_guest(),
            "mounts": [_guest_mount(mount, bind_sources) for mount in self.mounts],
            "linux": _guest_linux(self.document["linux"], vcpus),
        }
        guest |= {key: self.document[key] for key in ("hostname", "domainname") if key in self.document}
        if hooks := self.hooks.get("startContainer"):
            guest["hooks"] = {"startContainer": hooks}
        if notify is not None:
            bound = self.notify_socket
            places = (NOTIFY_DIRECTORY, notify) if bound is None else (bound.destination, f"{notify}/{NOTIFY_SOCKET}")
            guest["mounts"].append(_guest_notify_mount(*places))
            if bound is None:
                variable = f"NOTIFY_SOCKET={NOTIFY_DIRECTORY}/{NOTIFY_SOCKET}"
                guest["process"]["env"] = [*guest["process"].get("env", ()), variable]
        return json.dumps(guest, ensure_ascii=False, separators=(",", ":")).encode()

    def _mount(self, index: int, mount: Json) -> Mount:
        bind, source = checks.is_bind(mount), string(mount, "source")
        source = checks.resolve_source(source, self.bundle) if bind else source
        return Mount(
            index=index,
            destination=checks.resolve_destination(mount["destination"]),
            type="bind" if bind else mount["type"],
            source=source,
            options=tuple(mount.get("options", ())),
            id_mapping=self._id_mapping(mount),
            guest_device=checks.guest_device(source) if bind else None,
        )

    def _id_mapping(self, mount: Json) -> IdMapping | None:
        """The mount's own mappings, or with the option alone those of the container's user namespace."""
        options = _IDMAP_OPTIONS & set(mount.get("options", ()))
        own = mount.get("uidMappings") and mount.get("gidMappings")
        if not own and not options:
            return None
        given = mount if own else self.document["linux"]
        return IdMapping(
            uids=_ranges(given["uidMappings"]), gids=_ranges(given["gidMappings"]), recursive="ridmap" in options
        )


def load_config(path: Path) -> OciConfig:
    """Read and check a config.json, in its bundle and on this host.

    Raises ConfigError that names every fault with its JSON path.
    """
    try:
        document = strict_json.load(path)
    except FileNotFoundError:
        raise ConfigError(
            f"JSON specification file {path.name} not found",
            hint=f"looked in {path.parent.absolute()}; --bundle names another directory",
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    bundle = Path(os.path.realpath(path.parent))
    refuse(
        path.name,
        chain(
            schema.config_faults(document),
            checks.config_faults(document, bundle),
            support.config_refusals(document),
        ),
    )
    return OciConfig(bundle, document)


def _guest_mount(mount: Mount, bind_sources: Mapping[int, str]) -> Json:
    guest: dict[str, Any] = {"destination": mount.destination, "type": mount.type}
    options = [option for option in mount.options if option not in _IDMAP_OPTIONS]  # done on the host
    if mount.is_bind:
        guest["source"] = mount.guest_device or bind_sources[mount.index]
        if not {"bind", "rbind"} & set(options):
            options.insert(0, "bind")
    elif mount.source:
        guest["source"] = mount.source
    return guest | {"options": options}


def _ranges(mappings: list[Json]) -> tuple[tuple[int, int, int], ...]:
    return tuple((entry["containerID"], entry["hostID"], entry["size"]) for entry in mappings)


def _guest_notify_mount(destination: str, source: str) -> Json:
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    return {"destination": destination, "type": "bind", "source": source, "options": options}


def _guest_linux(linux: Json, vcpus: int) -> Json:
    guest: Json = {key: linux[key] for key in _GUEST_LINUX_KEYS if key in linux}
    if "resources" in linux:
        guest["resources"] = resources.for_guest(linux["resources"], vcpus)
    if "devices" in linux:
        guest["devices"] = [device for device in linux["devices"] if support.guest_has(device)]
    guest["namespaces"] = [{"type": namespace["type"]} for namespace in linux["namespaces"]]
    if "personality" in linux:
        guest["personality"] = {"domain": linux["personality"]["domain"]}
    if "seccomp" in linux:
        seccomp = linux["seccomp"]
        guest["seccomp"] = {key: seccomp[key] for key in _GUEST_SECCOMP_KEYS if key in seccomp}
        if "architectures" in seccomp:
            known = support.SECCOMP_ARCHITECTURES
            guest["seccomp"]["architectures"] = [name for name in seccomp["architectures"] if name in known]
    return guest
