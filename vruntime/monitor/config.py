"""What a command tells the monitor about the sandbox to make. Free of the event loop, as commands import it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vruntime.accelerator import Accelerator
from vruntime.idmap import IdMapping
from vruntime.vm.machine import Machine

LOG = "monitor.log"
"""What the monitor has to say, in the sandbox's directory."""

GUEST_PATH = "/run/vruntime/share"
"""Where the guest has the shared directory."""

GUEST_NOTIFY_PATH = "/run/vruntime/notify"
"""Where the guest has a directory with the notification socket of each container that has one."""


@dataclass(frozen=True)
class Bind:
    """A bind mount of config.json: its index there, its source on the host, and what the host itself enforces."""

    index: int
    source: str
    readonly: bool
    readonly_below: bool
    """Whether the mounts below it are read-only as well."""

    recursive: bool
    follows_host: bool
    """Whether what the host mounts below the source later appears."""

    id_mapping: IdMapping | None = None

    def to_wire(self) -> dict[str, Any]:
        """For the control socket."""
        wire = dict(self.__dict__)
        wire["id_mapping"] = self.id_mapping and dict(self.id_mapping.__dict__)
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Bind:
        """The inverse of `to_wire`."""
        mapping = wire["id_mapping"]
        return cls(**{**wire, "id_mapping": mapping and IdMapping.from_wire(mapping)})


@dataclass(frozen=True)
class Overlay:
    """What is mounted at the rootfs of a container that is made from an image: three directories of the host."""

    lower: str
    """The image, which is not written to."""

    upper: str
    work: str
    held: tuple[str, ...]
    """Directories to be locked (flock(2), shared) as long as the sandbox lives."""

    def to_wire(self) -> dict[str, Any]:
        """For the control socket."""
        return dict(self.__dict__)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Overlay:
        """The inverse of `to_wire`."""
        return cls(**{**wire, "held": tuple(wire["held"])})


@dataclass(frozen=True)
class SandboxConfig:
    """What a sandbox is made of; sizes in bytes, times in seconds."""

    id: str
    directory: Path
    machine: Machine
    virtiofsd: str
    boot_timeout: float
    request_timeout: float

    group: Mapping[str, str] = field(default_factory=dict)
    """The control group that holds the helpers: its directory in each hierarchy, by controller."""

    oom_kills: int = 0
    """How many processes of the group the kernel had killed before."""

    def to_wire(self) -> dict[str, Any]:
        """For the control socket."""
        wire = dict(self.__dict__)
        wire["directory"] = str(self.directory)
        wire["machine"] = dict(self.machine.__dict__)
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> SandboxConfig:
        """The inverse of `to_wire`."""
        described = dict(wire["machine"])
        described["accelerator"] = Accelerator(described["accelerator"])
        return cls(
            **{
                **wire,
                "directory": Path(wire["directory"]),
                "machine": Machine(**described),
            }
        )
