"""`linux.resources` as the files of the container's cgroup (runtime-spec: config-linux.md, "Control groups").

The guest has cgroup v2, to which the values of config.json, made for v1, are converted as runc does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cases import Inside, Question
from edits import resources

if TYPE_CHECKING:
    from cases import Config
    from runtimes import Edit

MEBIBYTE = 1 << 20


def limit(controller: str, **values: Any) -> Edit:
    """Sets members of one controller's resources."""
    return lambda config: config["linux"]["resources"].setdefault(controller, {}).update(values)


def cgroup(name: str, edit: Edit, file: str, value: str, file_v1: str = "", value_v1: str | None = None) -> Question:
    """What a file of the cgroup holds: in version 2 and, where there is such a file, in version 1."""
    questions = (f"read /sys/fs/cgroup/{file}", *([f"read /sys/fs/cgroup/{file_v1}"] if file_v1 else []))

    def read(*answers: str) -> str:
        return next((answer for answer in answers if answer != "ENOENT"), "no such file")

    return Question(f"cgroup-{name}", value, questions, edit, read, on_cgroup_v1=value_v1 or "no such file")


def unchanged(config: Config) -> None:
    """Nothing is asked for."""


MEMORY_V1, SOFT_V1, SWAP_V1 = (f"memory/memory.{name}_in_bytes" for name in ("limit", "soft_limit", "memsw.limit"))
MOST_V1 = "9223372036854771712"
M32, M64, M96 = (32 * MEBIBYTE, 64 * MEBIBYTE, 96 * MEBIBYTE)


GROUPS = (
    Inside(
        "limits",
        cgroup(
            "memory-limit",
            limit("memory", limit=M64),
            "memory.max",
            "67108864",
            MEMORY_V1,
            "67108864",
        ),
        cgroup(
            "memory-reservation",
            limit("memory", reservation=M32),
            "memory.low",
            "33554432",
            SOFT_V1,
            "33554432",
        ),
        cgroup("cpu-shares", limit("cpu", shares=512), "cpu.weight", "20", "cpu/cpu.shares", "512"),
        cgroup(
            "cpu-quota-and-period",
            limit("cpu", quota=150000, period=200000),
            "cpu.max",
            "150000 200000",
            "cpu/cpu.cfs_quota_us",
            "150000",
        ),
        cgroup("cpus", limit("cpu", cpus="0"), "cpuset.cpus", "0", "cpuset/cpuset.cpus", "0"),
        cgroup("mems", limit("cpu", mems="0"), "cpuset.mems", "0", "cpuset/cpuset.mems", "0"),
        cgroup("pids", limit("pids", limit=77), "pids.max", "77", "pids/pids.max", "77"),
        Question("cgroup-cpus-hold", "0", "affinity"),
    ),
    Inside(
        "no limits",
        cgroup(
            "memory-unlimited",
            limit("memory", limit=-1),
            "memory.max",
            "max",
            MEMORY_V1,
            MOST_V1,
        ),
        cgroup("cpu-unlimited", limit("cpu", quota=-1), "cpu.max", "max 100000", "cpu/cpu.cfs_quota_us", "-1"),
        cgroup("cpu-shares-least", limit("cpu", shares=2), "cpu.weight", "1", "cpu/cpu.shares", "2"),
        cgroup("pids-unlimited", limit("pids", limit=-1), "pids.max", "max", "pids/pids.max", "max"),
    ),
    Inside(
        "defaults",
        cgroup("memory-default", unchanged, "memory.max", "max", MEMORY_V1, MOST_V1),
        cgroup("cpu-default", unchanged, "cpu.weight", "100", "cpu/cpu.shares", "1024"),
        cgroup("pids-default", unchanged, "pids.max", "max", "pids/pids.max", "max"),
        cgroup(
            "memory-low-default",
            unchanged,
            "memory.low",
            "0",
            SOFT_V1,
            MOST_V1,
        ),
        Question("cgroup-is-read-only", "EROFS", "make /sys/fs/cgroup/made", on_cgroup_v1="EACCES"),
    ),
    Inside(
        "most",
        cgroup("cpu-shares-most", limit("cpu", shares=262144), "cpu.weight", "10000", "cpu/cpu.shares", "262144"),
        cgroup(
            "cpu-period-alone", limit("cpu", period=50000), "cpu.max", "max 50000", "cpu/cpu.cfs_period_us", "50000"
        ),
    ),
    Inside(
        "a burst",
        cgroup(
            "cpu-quota-alone", limit("cpu", quota=50000), "cpu.max", "50000 100000", "cpu/cpu.cfs_quota_us", "50000"
        ),
        cgroup("cpu-burst", limit("cpu", burst=20000), "cpu.max.burst", "20000", "cpu/cpu.cfs_burst_us", "20000"),
    ),
    Inside("an idle group", cgroup("cpu-idle", limit("cpu", idle=1), "cpu.idle", "1", "cpu/cpu.idle", "1")),
    Inside(
        "swap",
        cgroup(
            "memory-swap",
            limit("memory", limit=M64, swap=M96),
            "memory.swap.max",
            "33554432",
            SWAP_V1,
            "100663296",
        ),
    ),
    Inside(
        "no swap",
        cgroup(
            "memory-swap-none",
            limit("memory", limit=M64, swap=M64),
            "memory.swap.max",
            "0",
            SWAP_V1,
            "67108864",
        ),
    ),
    Inside(
        "block I/O",
        cgroup("io-weight", limit("blockIO", weight=500), "io.weight", "default 4950", "blkio/blkio.bfq.weight", "500"),
    ),
    Inside(
        "huge pages",
        cgroup(
            "hugetlb",
            resources(hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MEBIBYTE}]),
            "hugetlb.2MB.max",
            "4194304",
            "hugetlb/hugetlb.2MB.limit_in_bytes",
            "4194304",
        ),
    ),
    Inside(
        "unified",
        cgroup("unified-memory-high", limit("unified", **{"memory.high": "50331648"}), "memory.high", "50331648"),
        cgroup("unified-cpu-weight", limit("unified", **{"cpu.weight": "77"}), "cpu.weight", "77"),
    ),
    Inside(
        "unified over",
        cgroup(
            "unified-overrules",
            lambda config: config["linux"]["resources"].update(pids={"limit": 50}, unified={"pids.max": "60"}),
            "pids.max",
            "60",
        ),
    ),
    Inside(
        "what version 2 has not",
        cgroup(
            "memory-swappiness",
            limit("memory", swappiness=10),
            "memory.swappiness",
            "no such file",
            "memory/memory.swappiness",
            "10",
        ),
        cgroup(
            "memory-oom-killer",
            limit("memory", disableOOMKiller=True),
            "memory.oom_control",
            "no such file",
            "memory/memory.oom_control",
            "oom_kill_disable 1\nunder_oom 0\noom_kill 0",
        ),
    ),
    Inside(
        "swap without a limit",
        Question("cgroup-swap-without-limit", "refused", "cwd", limit("memory", swap=M96)),
    ),
    Inside(
        "less swap than memory",
        Question("cgroup-swap-below-limit", "refused", "cwd", limit("memory", limit=M64, swap=M32)),
    ),
    Inside("CPUs that are not there", Question("cgroup-cpus-missing", "refused", "cwd", limit("cpu", cpus="900"))),
    Inside(
        "an unknown file", Question("unified-unknown-file", "refused", "cwd", resources(unified={"memory.none": "1"}))
    ),
    Inside(
        "a huge page of no size",
        Question("hugetlb-unknown-size", "refused", "cwd", resources(hugepageLimits=[{"pageSize": "3MB", "limit": 1}])),
    ),
)


def test_cgroups(seen: Any, expected: Any) -> None:
    assert seen == expected
