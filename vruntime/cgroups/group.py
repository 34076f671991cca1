"""A container's control group on the host, from its plan to its removal, whoever manages it: the kernel or systemd."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from vruntime.cgroups import cgroupfs, entry, limits, path
from vruntime.cgroups.cgroupfs import Forbidden, Limits
from vruntime.cgroups.entry import FILE, NAMED, PROCESSES, UNIFIED
from vruntime.cgroups.layout import Layout, groups_of
from vruntime.cgroups.limits import Overhead
from vruntime.cgroups.path import Unit
from vruntime.errors import ContainerError, HostError, NoSuchContainer
from vruntime.oci.support import ignored_on_v2
from vruntime.store import Store

Resources = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Its directory in each hierarchy by the name of the controller, and the unit of systemd that it is, if any."""

    paths: dict[str, str]
    overhead: Overhead
    unit: Unit | None = None
    may_be_missing: bool = False
    """Without privileges, a container that asks for no group of its own needs none."""

    @classmethod
    def plan(cls, cgroups_path: str, container_id: str, overhead: Overhead, *, systemd: bool, rootless: bool) -> Group:
        """Where it is to be; nothing is made. ConfigError or HostError in runc's words."""
        if not systemd:
            inner = path.inner_path(cgroups_path, container_id)
            may_be_missing = rootless and not cgroups_path
            return cls(Layout.of_this_host().directories(inner), overhead, may_be_missing=may_be_missing)
        from vruntime.cgroups.systemd import check_running  # noqa: PLC0415  few containers need it

        unit = path.unit(cgroups_path, container_id)
        check_running()
        return cls(Layout.of_this_host().directories_of(unit, groups_of(1)), overhead, unit)

    @property
    def is_v2(self) -> bool:
        """Whether version 2 controls."""
        return set(self.paths) == {UNIFIED}

    def occupants(self) -> int:
        """How many processes it holds already: on version 1 as runc looks, by one hierarchy for all."""
        return cgroupfs.processes(self.paths.get("devices") or self.paths[UNIFIED])

    def check(self, resources: Resources) -> Iterator[str]:
        """Warnings about limits that do not hold here, and about a group that is there already.

        ContainerError or ConfigError, as runc words them, when it cannot be used, or limits cannot be expressed.
        """
        self._settings(limits.for_host(resources, self.overhead))
        count = self.occupants()
        if count and self.unit is not None:
            raise ContainerError(f"container's cgroup is not empty: {count} process(es) found")
        if count:
            yield f"container's cgroup is not empty: {count} process(es) found"
        if cgroupfs.is_frozen(self.paths):
            raise ContainerError("container's cgroup unexpectedly frozen")
        if self.is_v2:
            yield from ignored_on_v2(resources)
        elif resources.get("unified"):
            yield "linux.resources.unified: holds in the guest alone: the host has cgroup v1"

    def make(self, pid: int, resources: Resources) -> Group:
        """Makes and limits it, and moves the process into it: the first, before it starts others. What has been made.

        `resources` are those of config.json.
        """
        resources = limits.for_host(resources, self.overhead)
        is_shared = self.occupants() > 0
        if self.unit is not None:
            from vruntime.cgroups import systemd  # noqa: PLC0415

            properties = systemd.unit_properties(self.unit, pid, v2=self.is_v2)
            systemd.start(self.unit, [*properties, *systemd.resource_properties(resources, v2=self.is_v2)])
        made = replace(self, paths={name: where for name, where in self.paths.items() if self._make(name, where)})
        settings = self._settings(resources)
        if "devices" in made.paths and not is_shared:  # whoever is in it already may need others
            settings += limits.device_rules()
        Limits(made.paths).set(settings)
        entry.place(made.paths, pid)
        return made

    def _make(self, name: str, directory: str) -> bool:
        try:
            cgroupfs.make(name, directory)
        except Forbidden:
            if self.may_be_missing:
                return False
            raise
        except HostError:
            if name in NAMED and not self.is_v2:
                return False  # it limits nothing, and runc does without it
            raise
        return not self.may_be_missing or os.access(f"{directory}/{PROCESSES}", os.W_OK)

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        return cgroupfs.oom_kills(self.paths)

    def _settings(self, resources: Resources) -> list[limits.Setting]:
        return limits.on_v2(resources) if self.is_v2 else limits.on_v1(resources)

    def change(self, resources: Resources, before: Resources) -> Callable[[], None]:
        """Sets the limits for other resources of the container, all or none. What sets those of `before` again."""
        files = Limits(self.paths)

        def undo() -> None:
            files.undo()
            with suppress(HostError):  # the first error is the one to tell
                self._tell_systemd(before)

        try:
            files.set(self._settings(limits.for_host(resources, self.overhead)))
            self._tell_systemd(resources)
        except BaseException:
            undo()
            raise
        return undo

    def _tell_systemd(self, resources: Resources) -> None:
        if self.unit is not None:
            from vruntime.cgroups import systemd  # noqa: PLC0415

            host = limits.for_host(resources, self.overhead)
            systemd.set_limits(self.unit.name, systemd.resource_properties(host, v2=self.is_v2))

    def holds(self, pid: int) -> bool:
        """Whether a process is in it."""
        return pid in cgroupfs.members(self.paths)

    def hand_over(self, other: Group) -> None:
        """Moves its processes, with those that they start meanwhile, to another group."""
        ours = {name: directory for name, directory in self.paths.items() if name in other.paths}
        while pids := cgroupfs.members(ours):
            for pid in pids:
                entry.place(other.paths, pid)

    def remove(self) -> None:
        """Removes it with all groups below; what is not there is no error. HostError when it stays in use."""
        if self.unit is not None:
            from vruntime.cgroups import systemd  # noqa: PLC0415

            systemd.stop(self.unit.name)
        cgroupfs.remove(self.paths)

    def save(self, store: Store, container_id: str) -> None:
        """Writes it to the container's state."""
        unit = self.unit and dict(self.unit.__dict__)
        kept = {"paths": self.paths, "overhead": dict(self.overhead.__dict__), "unit": unit}
        store.write(container_id, FILE, json.dumps(kept))


def load(store: Store, container_id: str) -> Group | None:
    """The group of a container; None when it has none, or was not made so far."""
    try:
        kept = store.read(container_id, FILE)
        unit = kept["unit"] and Unit(**kept["unit"])
        return Group(dict(kept["paths"]), Overhead(**kept["overhead"]), unit)
    except NoSuchContainer:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise HostError(f"{store.container(container_id) / FILE} is damaged: {error}") from error


def is_rootless(flag: str) -> bool:
    """What `--rootless` says or, when it says auto, whether this user cannot be expected to make groups."""
    if flag != "auto":
        return flag == "true"
    if os.geteuid() != 0:
        return True
    with open("/proc/self/uid_map", encoding="ascii") as mapping:
        return mapping.read().split() != ["0", "0", "4294967295"]
