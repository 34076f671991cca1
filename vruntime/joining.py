"""Which container's virtual machine a new one is to join: the one whose namespaces its config.json names.

Engines name a namespace by a path, which to them is that of a process or a mount on the host. Where it is that of a
container of ours, the namespace which is meant is in the guest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from vruntime.container import Record, Status, load
from vruntime.errors import ConfigError, HostError, NoSuchContainer
from vruntime.oci.config import OciConfig
from vruntime.oci.faults import refuse
from vruntime.store import Store

_OF_PROCESS = re.compile(r"/proc/([0-9]+)/ns/[a-z_]+")


@dataclass(frozen=True)
class Joined:
    """A container whose virtual machine is joined, and which namespaces are shared with whom: ids by their types."""

    neighbour: Record
    namespaces: Mapping[str, str]

    @property
    def sandbox(self) -> str:
        """The id of the sandbox."""
        return self.neighbour.sandbox

    @property
    def shares_network(self) -> bool:
        """Whether the container has no network of its own."""
        return "network" in self.namespaces


def find(store: Store, config: OciConfig) -> Joined | None:
    """The container that is joined, if any; ConfigError for a namespace that nobody in a virtual machine can share."""
    named = config.named_namespaces
    if not named:
        return None
    living = list(_living(store))
    owners = {place: _owner(living, place.type, place.path) for place in named}
    refuse(
        "config.json",
        (
            f"{place.json_path}: {place.path} is not a namespace of a running container of vruntime: a virtual machine"
            " cannot share it"
            for place, owner in owners.items()
            if owner is None and place.type != "network"  # what one on the host holds is carried into the guest
        ),
    )
    shared = {place.type: owner for place, owner in owners.items() if owner is not None}
    if not shared:
        return None
    neighbour = next(iter(shared.values()))
    for other in shared.values():
        if other.sandbox != neighbour.sandbox:
            raise ConfigError(
                f"linux.namespaces: containers {neighbour.id} and {other.id} are in two virtual machines, and no"
                " container can share namespaces with both"
            )
    return Joined(neighbour, {kind: owner.id for kind, owner in shared.items()})


def _living(store: Store) -> Iterator[Record]:
    for container_id in store.ids():
        with suppress(HostError, NoSuchContainer):  # damaged, or removed meanwhile
            record = load(store, container_id)
            if record.status in (Status.CREATED, Status.RUNNING, Status.PAUSED):
                yield record


def _owner(living: Iterable[Record], kind: str, path: str) -> Record | None:
    of_process = _OF_PROCESS.fullmatch(path)
    for record in living:
        if record.shim is None:
            continue
        if of_process and int(of_process[1]) == record.shim.pid:
            return record
        if kind == "network" and _is_same(path, f"/proc/{record.shim.pid}/ns/net"):
            return record
    return None


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
