"""The group as a transient unit of systemd, through its own `busctl` and `systemctl`.

Every host with systemd has the two. They are run for containers that ask for systemd alone, which then need neither a
D-Bus library in every installation nor its import.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vruntime.cgroups import limits
from vruntime.cgroups.path import Unit
from vruntime.errors import HostError
from vruntime.programs import run

Resources = Mapping[str, Any]

NO_LIMIT: Final = 2**64 - 1
TIMEOUT: Final = 30.0
"""Seconds for systemd to carry out a job."""

_BUSCTL: Final = "/usr/bin/busctl"
_SYSTEMCTL: Final = "/usr/bin/systemctl"
_RUNNING: Final = "/run/systemd/system"
_MANAGER: Final = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_UNIT_EXISTS: Final = "already exists"
_NOT_LOADED: Final = 5
"""What systemctl exits with for a unit that systemd does not know."""


@dataclass(frozen=True)
class Property:
    """A property of a unit: its name, its value's D-Bus signature, and the value as busctl reads it."""

    name: str
    signature: str
    values: tuple[str, ...]

    @classmethod
    def boolean(cls, name: str, *, value: bool) -> Property:
        """A property that is true or false."""
        return cls(name, "b", ("true" if value else "false",))

    @classmethod
    def number(cls, name: str, value: int) -> Property:
        """A size, a count or a time: any negative value is no limit."""
        return cls(name, "t", (str(value if value >= 0 else NO_LIMIT),))

    @classmethod
    def text(cls, name: str, value: str) -> Property:
        """A text."""
        return cls(name, "s", (value,))

    @property
    def arguments(self) -> tuple[str, ...]:
        """As arguments of busctl for a value of `(sv)`."""
        return (self.name, self.signature, *self.values)


def is_running() -> bool:
    """sd_booted(3): whether systemd is this host's init."""
    try:
        return stat.S_ISDIR(os.lstat(_RUNNING).st_mode)
    except OSError:
        return False


def check_running() -> None:
    """HostError in runc's words when it is not."""
    if not is_running():
        raise HostError("systemd not running on this host, cannot use systemd cgroups manager")


def unit_properties(unit: Unit, pid: int, *, v2: bool) -> list[Property]:
    """What a unit is made with (org.freedesktop.systemd1(5)): its place, first process, and accounting."""
    properties = [Property.text("Description", unit.description)]
    if unit.is_slice:
        properties.append(Property("Wants", "as", ("1", unit.slice)))
    else:
        properties += [
            Property.text("Slice", unit.slice),
            Property.boolean("Delegate", value=True),
            Property("PIDs", "au", ("1", str(pid))),
        ]
    accounted = ("Memory", "CPU", "IO" if v2 else "BlockIO", "Tasks")
    properties += [Property.boolean(f"{what}Accounting", value=True) for what in accounted]
    return [*properties, Property.boolean("DefaultDependencies", value=False)]


def resource_properties(resources: Resources, *, v2: bool) -> list[Property]:
    """The limits that systemd knows, so that it does not undo them; the others are the group's files alone."""
    memory, cpu, pids = (resources.get(section, {}) for section in ("memory", "cpu", "pids"))
    properties = _memory_v2(memory) if v2 else _numbers(("MemoryLimit", memory.get("limit")))
    if v2:
        properties += _numbers(("CPUWeight", limits.weight_of_shares(cpu.get("shares") or 0)))
    else:
        properties += _numbers(("CPUShares", cpu.get("shares")))
    properties += _cpu_quota(cpu.get("quota") or 0, cpu.get("period") or 0)
    if not v2:
        properties += _numbers(("BlockIOWeight", resources.get("blockIO", {}).get("weight")))
    limit = pids.get("limit") or 0
    properties += _numbers(("TasksMax", limit if limit > 0 or limit == -1 else None))
    properties += _sets(cpu)
    if v2:
        properties += _of_unified(resources.get("unified", {}))
    return properties


def _numbers(*pairs: tuple[str, int | None]) -> list[Property]:
    return [Property.number(name, value) for name, value in pairs if value]


def _memory_v2(memory: Resources) -> list[Property]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    alone = limits.swap_alone(swap, limit)
    return _numbers(("MemoryMax", limit), ("MemoryLow", memory.get("reservation")), ("MemorySwapMax", alone))


def _cpu_quota(quota: int, period: int) -> list[Property]:
    properties = _numbers(("CPUQuotaPeriodUSec", period))
    if not quota and not period:
        return properties
    per_second = -1
    if quota > 0:
        per_second = quota * 1_000_000 // (period or limits.DEFAULT_PERIOD)
        per_second = -(-per_second // 10_000) * 10_000  # systemd keeps whole hundredths
    return [*properties, Property.number("CPUQuotaPerSecUSec", per_second)]


def _sets(cpu: Resources) -> list[Property]:
    pairs = (("AllowedCPUs", cpu.get("cpus")), ("AllowedMemoryNodes", cpu.get("mems")))
    return [_bits(name, text) for name, text in pairs if text]


def _bits(name: str, text: str) -> Property:
    """A list such as `0-3,8` as bytes, least significant first."""
    number = 0
    for entry in text.split(","):
        first, _, last = entry.strip().partition("-")
        for bit in range(int(first), int(last or first) + 1):
            number |= 1 << bit
    data = number.to_bytes((number.bit_length() + 7) // 8, "little")
    return Property(name, "ay", (str(len(data)), *map(str, data)))


_UNIFIED: Final = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
}


def _of_unified(unified: Mapping[str, str]) -> list[Property]:
    properties = []
    for key, text in unified.items():
        if key in _UNIFIED and (text == "max" or text.isdecimal()):
            properties.append(Property.number(_UNIFIED[key], -1 if text == "max" else int(text)))
        elif key == "cpu.max":
            quota, _, period = text.partition(" ")
            properties += _cpu_quota(-1 if quota == "max" else int(quota), int(period or limits.DEFAULT_PERIOD))
        elif key in ("cpuset.cpus", "cpuset.mems"):
            properties += _sets({key.removeprefix("cpuset."): text})
    return properties


def start(unit: Unit, properties: Sequence[Property]) -> None:
    """Has systemd make the unit, and waits until it has. HostError with systemd's own words."""
    # No auxiliary units: an empty a(sa(sv)).
    call = ["ssa(sv)a(sa(sv))", unit.name, "replace", *_arguments(properties), "0"]
    code, said = _manager("StartTransientUnit", call)
    if code != 0 and _UNIT_EXISTS not in said:
        raise HostError(f'unable to start unit "{unit.name}": {said}')
    code, said = _systemctl("start", unit.name)  # joins the call's job, and waits for its end
    if code != 0:
        _systemctl("reset-failed", unit.name)
        raise HostError(f"error creating systemd unit `{unit.name}`: {said}")


def set_limits(name: str, properties: Sequence[Property]) -> None:
    """Changes properties of a unit that is there."""
    if not properties:
        return
    code, said = _manager("SetUnitProperties", ["sba(sv)", name, "true", *_arguments(properties)])
    if code != 0:
        raise HostError(f'unable to set unit properties of "{name}": {said}')


def stop(name: str) -> None:
    """Has systemd forget the unit; one that it does not know is no error."""
    code, said = _systemctl("stop", name)
    if code not in (0, _NOT_LOADED):
        raise HostError(f'unable to stop unit "{name}": {said}')
    _systemctl("reset-failed", name)


def _arguments(properties: Sequence[Property]) -> list[str]:
    """As arguments of busctl for a value of `a(sv)`."""
    return [str(len(properties)), *(argument for one in properties for argument in one.arguments)]


def _manager(method: str, call: Sequence[str]) -> tuple[int, str]:
    return _run([_BUSCTL, "--", "call", *_MANAGER, method, *call])


def _systemctl(verb: str, name: str) -> tuple[int, str]:
    return _run([_SYSTEMCTL, verb, "--", name])


def _run(command: Sequence[str]) -> tuple[int, str]:
    code, said = run(command, TIMEOUT)
    return code, " ".join(said.split())
