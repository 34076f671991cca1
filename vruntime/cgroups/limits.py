"""From `linux.resources` to what is written to the files of the host's control group. Pure functions.

The machine takes more than the container in it: `for_host` adds what it needs to the container's own limits, and the
rest follows runc: `on_v1` and `on_v2` give the files of the two versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vruntime.errors import ConfigError

Resources = Mapping[str, Any]

DEFAULT_PERIOD: Final = 100_000
"""Microseconds; the kernel's default for cpu.max."""

HELPER_THREADS: Final = 160
"""Most threads of the helpers beside the shims: QEMU's for requests alone are up to 64, the monitor's up to 40."""

DEVICES: Final = (
    "c 1:3 rwm",  # null
    "c 1:9 rm",  # urandom
    "c 10:232 rwm",  # kvm
    # The caller's terminal, of which the monitor opens a description of its own.
    *(f"c {major}:* rw" for major in (4, 5, *range(136, 144))),
)
"""All that a helper opens; a machine taken over can open no other."""

_MEMORY_KEYS: Final = ("memory.max", "memory.high", "memory.low", "memory.min")
_THROTTLES: Final = (
    ("throttleReadBpsDevice", "read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "write_iops_device", "wiops"),
)


@dataclass(frozen=True)
class Overhead:
    """What a machine takes beside its container's limits: its whole memory and what its helpers need, in bytes."""

    machine: int
    """The guest's memory, which cannot change any more."""

    guest: int
    """What of it the guest's own kernel and agent need."""

    helpers: int
    """What the helpers need beside."""

    vcpus: int
    """Threads that execute the guest."""

    @property
    def pids(self) -> int:
        """Threads of the helpers. Each process has a shim, and the container's own limit is room for those."""
        return HELPER_THREADS + self.vcpus


@dataclass(frozen=True)
class Setting:
    """A value of a file of one controller. `choices`: the first file that exists is written."""

    controller: str
    choices: tuple[tuple[str, str], ...]
    optional: bool = False
    """A file that the kernel does not have is no error: what it would limit is not there either."""

    unset: str = field(default="", compare=False)
    """For a file with a line for each device: what takes this device's line away."""


def for_host(resources: Resources, overhead: Overhead) -> dict[str, Any]:
    """The limits of the host's group: the container's, and what the machine takes beside.

    The memory of the machine is what counts, not the container's: a guest gives no memory back, so a limit lowered
    later holds in the guest alone.
    """
    host = dict(resources)
    if resources.get("memory"):
        host["memory"] = _memory_for_host(resources["memory"], overhead)
    limit = resources.get("pids", {}).get("limit", 0)
    if limit > 0:
        host["pids"] = {"limit": limit + overhead.pids}
    if resources.get("unified"):
        host["unified"] = {key: _unified_for_host(key, text, overhead) for key, text in resources["unified"].items()}
    return host


def _memory_for_host(memory: Resources, overhead: Overhead) -> dict[str, Any]:
    host = dict(memory)
    limit = memory.get("limit") or 0
    added = overhead.guest + overhead.helpers
    if limit > 0:
        host["limit"] = max(limit, overhead.machine) + overhead.helpers
        added = host["limit"] - limit
    for key in ("reservation", "swap"):
        if (memory.get(key) or 0) > 0:
            host[key] = memory[key] + added
    return host


def _unified_for_host(key: str, text: str, overhead: Overhead) -> str:
    if not text.strip().isdecimal():
        return text
    if key == "pids.max":
        return str(int(text) + overhead.pids)
    if key in ("memory.max", "memory.high"):
        return str(max(int(text), overhead.machine) + overhead.helpers)
    return str(int(text) + overhead.guest + overhead.helpers) if key in _MEMORY_KEYS else text


def on_v1(resources: Resources) -> list[Setting]:
    """The files of version 1's controllers, in runc's order; `unified` has no meaning there."""
    return [
        *_cpuset(resources.get("cpu", {}), "cpuset"),
        *_memory_v1(resources.get("memory", {})),
        *_cpu_v1(resources.get("cpu", {})),
        *_pids(resources.get("pids", {}), "pids"),
        *_block_io_v1(resources.get("blockIO", {})),
        *_network(resources.get("network", {})),
        *_rdma(resources.get("rdma", {}), "rdma"),
    ]


def on_v2(resources: Resources) -> list[Setting]:
    """The files of version 2; values of version 1 are converted as runc converts them. ConfigError in its words."""
    return [
        *_pids(resources.get("pids", {}), ""),
        *_memory_v2(resources.get("memory", {})),
        *_block_io_v2(resources.get("blockIO", {})),
        *_cpu_v2(resources.get("cpu", {})),
        *_cpuset(resources.get("cpu", {}), ""),
        *_rdma(resources.get("rdma", {}), ""),
        *(_one("", key, value) for key, value in resources.get("unified", {}).items()),
    ]


def device_rules() -> list[Setting]:
    """Version 1's list of devices that a helper may open: these and no others."""
    return [_one("devices", "devices.deny", "a"), *(_one("devices", "devices.allow", rule) for rule in DEVICES)]


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1 to 10000) for cpu.shares (2 to 262144); 0, unset, stays 0."""
    return 1 + (max(shares, 2) - 2) * 9999 // 262142 if shares else 0


def io_weight(weight: int) -> int:
    """io.weight (1 to 10000) for a blkio weight (10 to 1000); 0, unset, stays 0."""
    return 1 + (weight - 10) * 9999 // 990 if weight else 0


def swap_alone(swap: int, limit: int) -> int:
    """memory.swap.max for version 1's limit of memory and swap together; -1: no limit. ConfigError in runc's words."""
    if limit == -1 and swap == 0:
        return -1
    if swap in (-1, 0):
        return swap
    if limit in (-1, 0):
        raise ConfigError("unable to set swap limit without memory limit")
    if limit < 0:
        raise ConfigError(f"invalid memory value: {limit}")
    if swap < limit:
        raise ConfigError("memory+swap limit should be >= memory limit")
    return swap - limit


def _one(controller: str, file: str, value: object, *, optional: bool = False, unset: str = "") -> Setting:
    return Setting(controller, ((file, str(value)),), optional, unset)


def _memory_v1(memory: Resources) -> Iterator[Setting]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit:
        yield _one("memory", "memory.limit_in_bytes", limit)
    if swap:
        yield _one("memory", "memory.memsw.limit_in_bytes", swap)
    elif limit == -1:
        yield _one("memory", "memory.memsw.limit_in_bytes", -1, optional=True)
    if memory.get("reservation"):
        yield _one("memory", "memory.soft_limit_in_bytes", memory["reservation"])
    if memory.get("disableOOMKiller"):
        yield _one("memory", "memory.oom_control", 1)
    if memory.get("swappiness") is not None:
        yield _one("memory", "memory.swappiness", memory["swappiness"])


def _memory_v2(memory: Resources) -> Iterator[Setting]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    alone = swap_alone(swap, limit)
    if alone or swap > 0:
        yield _one("", "memory.swap.max", _or_max(alone), optional=alone <= 0)
    if limit:
        yield _one("", "memory.max", _or_max(limit))
    if memory.get("reservation"):
        yield _one("", "memory.low", _or_max(memory["reservation"]))


def _cpu_v1(cpu: Resources) -> Iterator[Setting]:
    # Real-time time first: without it a process with a real-time policy could not enter.
    for key, file in (
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
        ("shares", "cpu.shares"),
        ("period", "cpu.cfs_period_us"),
        ("quota", "cpu.cfs_quota_us"),
    ):
        if cpu.get(key):
            yield _one("cpu", file, cpu[key])
    for key, file in (("burst", "cpu.cfs_burst_us"), ("idle", "cpu.idle")):
        if cpu.get(key) is not None:
            yield _one("cpu", file, cpu[key])


def _cpu_v2(cpu: Resources) -> Iterator[Setting]:
    if cpu.get("idle") is not None:
        yield _one("", "cpu.idle", cpu["idle"])
    if cpu.get("shares"):
        yield _one("", "cpu.weight", weight_of_shares(cpu["shares"]))
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        yield _one("", "cpu.max", f"{quota if quota > 0 else 'max'} {period or DEFAULT_PERIOD}")
    if cpu.get("burst") is not None:
        yield _one("", "cpu.max.burst", cpu["burst"])


def _cpuset(cpu: Resources, controller: str) -> Iterator[Setting]:
    for key in ("cpus", "mems"):
        if cpu.get(key):
            yield _one(controller, f"cpuset.{key}", cpu[key])


def _pids(pids: Resources, controller: str) -> Iterator[Setting]:
    limit = pids.get("limit") or 0
    if limit:
        yield _one(controller, "pids.max", _or_max(limit))


def _block_io_v1(block_io: Resources) -> Iterator[Setting]:
    if weight := block_io.get("weight"):
        yield Setting("blkio", (("blkio.weight", str(weight)), ("blkio.bfq.weight", str(weight))))
    if weight := block_io.get("leafWeight"):
        yield _one("blkio", "blkio.leaf_weight", weight)
    for device in block_io.get("weightDevice", ()):
        key = _device(device)
        if weight := device.get("weight"):
            line = f"{key} {weight}"
            choices = (("blkio.weight_device", line), ("blkio.bfq.weight_device", line))
            yield Setting("blkio", choices, unset=f"{key} 0")
        if weight := device.get("leafWeight"):
            yield _one("blkio", "blkio.leaf_weight_device", f"{key} {weight}", unset=f"{key} 0")
    for member, file, _ in _THROTTLES:
        for device in block_io.get(member, ()):
            key = _device(device)
            yield _one("blkio", f"blkio.throttle.{file}", f"{key} {device.get('rate', 0)}", unset=f"{key} 0")


def _block_io_v2(block_io: Resources) -> Iterator[Setting]:
    if weight := block_io.get("weight"):
        yield Setting("", (("io.bfq.weight", str(weight)), ("io.weight", str(io_weight(weight)))))
    for device in block_io.get("weightDevice", ()):
        if weight := device.get("weight"):
            key = _device(device)
            choices = (("io.bfq.weight", f"{key} {weight}"), ("io.weight", f"{key} {io_weight(weight)}"))
            yield Setting("", choices, unset=f"{key} default")
    for member, _, name in _THROTTLES:
        for device in block_io.get(member, ()):
            key, rate = _device(device), device.get("rate", 0)
            yield _one("", "io.max", f"{key} {name}={rate}", unset=f"{key} {name}=max")


def _device(device: Resources) -> str:
    return f"{device['major']}:{device['minor']}"


def _network(network: Resources) -> Iterator[Setting]:
    if network.get("classID"):
        yield _one("net_cls", "net_cls.classid", network["classID"])
    for priority in network.get("priorities", ()):
        yield _one("net_prio", "net_prio.ifpriomap", f"{priority['name']} {priority['priority']}")


def _rdma(devices: Resources, controller: str) -> Iterator[Setting]:
    for name, limit in devices.items():
        parts = [
            f"{file}={limit[key]}"
            for key, file in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limit.get(key) is not None
        ]
        yield _one(controller, "rdma.max", " ".join([name, *parts]))


def _or_max(limit: int) -> str:
    """Version 2's word for no limit; runc takes any negative number of processes for one, too."""
    return "max" if limit < 0 else str(limit)
