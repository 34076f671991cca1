"""How the guest's kernel treats a process: scheduling, I/O priority, CPUs, personality, clocks, limits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runtimes import Bundles, Runtime

FOREVER = ("sleep", "1000")
STATUS = """
cut -d' ' -f19,40,41 /proc/self/stat; ionice; cat /proc/self/personality; uname -m
grep Cpus_allowed_list /proc/self/status | cut -f2
"""
"""Nice value, real-time priority, policy; I/O class and priority; personality; machine; CPUs."""


def run(runtime: Runtime, bundle: Path) -> list[str]:
    return runtime("run", "--bundle", str(bundle), runtime.new_id()).stdout.decode().splitlines()


def test_scheduling(vruntime: Runtime, bundles: Bundles) -> None:
    """Of the container's process; an exec has the same, but for what its own file says."""

    def edit(config: dict[str, Any]) -> None:
        config["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
        config["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
        config["linux"]["personality"] = {"domain": "LINUX32"}

    bundle = bundles.busybox("sh", "-c", f"{STATUS} sleep 1000", edit=edit)
    container = vruntime.start(bundle)
    script = ("sh", "-c", STATUS)
    inherited = vruntime("exec", container, *script).stdout.decode().splitlines()
    assert inherited == ["7 0 3", "best-effort: prio 6", "00000008", "i686", "0"]
    assert (bundle / "create.log").read_text().splitlines() == inherited

    described = json.loads((bundle / "config.json").read_text())["process"] | {
        "args": script,
        "scheduler": {"policy": "SCHED_RR", "priority": 42, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
    }
    (bundle / "process.json").write_text(json.dumps(described))
    own = vruntime("exec", "--process", str(bundle / "process.json"), container).stdout.decode().splitlines()
    # The shell has it; what it has forked begins anew, as the flag says.
    assert own == ["0 0 0", "idle", "00000008", "i686", "0"]
    described["args"] = ["cut", "-d ", "-f19,40,41", "/proc/self/stat"]
    (bundle / "process.json").write_text(json.dumps(described))
    assert vruntime("exec", "--process", str(bundle / "process.json"), container).stdout == b"0 42 2\n"


def test_deadline_scheduling(vruntime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["process"]["scheduler"] = {
            "policy": "SCHED_DEADLINE",
            "flags": ["SCHED_FLAG_DL_OVERRUN"],
            "runtime": 10_000_000,
            "deadline": 30_000_000,
            "period": 30_000_000,
        }

    assert run(vruntime, bundles.busybox("cut", "-d ", "-f41", "/proc/self/stat", edit=edit)) == ["6"]


def test_what_the_kernel_refuses_is_told(vruntime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["process"]["scheduler"] = {"policy": "SCHED_FIFO", "priority": 100}

    result = vruntime("run", "--bundle", str(bundles.busybox("true", edit=edit)), vruntime.new_id(), check=False)
    assert result.returncode == 1
    assert b"error setting scheduler SCHED_FIFO: invalid argument" in result.stderr


def test_cpus_of_an_exec(vruntime: Runtime, bundles: Bundles) -> None:
    """The machine has two for this quota; init keeps both."""

    def edit(config: dict[str, Any]) -> None:
        config["linux"]["resources"] = {"cpu": {"quota": 200_000, "period": 100_000}}
        config["process"]["execCPUAffinity"] = {"initial": "0", "final": "1"}

    show = "grep Cpus_allowed_list /proc/self/status | cut -f2"
    bundle = bundles.busybox("sh", "-c", f"{show}; sleep 1000", edit=edit)
    container = vruntime.start(bundle)
    assert vruntime("exec", container, "sh", "-c", show).stdout == b"1\n"
    assert (bundle / "create.log").read_text() == "0-1\n"
    for affinity, expected in [({"final": "0"}, b"0\n"), ({"initial": "1"}, b"0-1\n"), ({"final": "0, 1,7"}, b"0-1\n")]:
        process = {"args": ["sh", "-c", show], "cwd": "/", "env": ["PATH=/bin"], "execCPUAffinity": affinity}
        (bundle / "process.json").write_text(json.dumps(process))
        assert vruntime("exec", "--process", str(bundle / "process.json"), container).stdout == expected
    process["execCPUAffinity"] = {"final": "5"}
    (bundle / "process.json").write_text(json.dumps(process))
    result = vruntime("exec", "--process", str(bundle / "process.json"), container, check=False)
    assert (result.returncode, b"error setting CPU affinity to 5: invalid argument" in result.stderr) == (255, True)


def test_clocks_of_a_time_namespace(vruntime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {
            "monotonic": {"secs": 86400, "nanosecs": 500},
            "boottime": {"secs": 1_000_000},
        }

    script = "cut -d. -f1 /proc/uptime; date +%s; cat /proc/self/timens_offsets"
    bundle = bundles.busybox("sh", "-c", f"{script}; sleep 1000", edit=edit)
    container = vruntime.start(bundle)
    uptime, now, *offsets = vruntime("exec", container, "sh", "-c", script).stdout.decode().splitlines()
    assert 1_000_000 <= int(uptime) < 1_001_000
    assert abs(int(now) - time.time()) < 60, "the wall clock is nobody's own"
    assert [line.split() for line in offsets] == [["monotonic", "86400", "500"], ["boottime", "1000000", "0"]]


LIMITS = {
    "AS": "address space", "CORE": "core file size", "CPU": "cpu time", "DATA": "data size", "FSIZE": "file size",
    "LOCKS": "file locks", "MEMLOCK": "locked memory", "MSGQUEUE": "msgqueue size", "NICE": "nice priority",
    "NOFILE": "open files", "NPROC": "processes", "RSS": "resident set", "RTPRIO": "realtime priority",
    "RTTIME": "realtime timeout", "SIGPENDING": "pending signals", "STACK": "stack size",
}  # fmt: skip


def test_all_rlimits(vruntime: Runtime, bundles: Bundles) -> None:
    """Up to any value: the guest's kernel asks nobody of the host."""
    wanted = {name: (1_000_000_000 + index, 2_000_000_000 + index) for index, name in enumerate(sorted(LIMITS))}
    wanted |= {"NOFILE": (100, 200), "NICE": (10, 20), "RTPRIO": (30, 40)}

    def edit(config: dict[str, Any]) -> None:
        config["process"]["rlimits"] = [
            {"type": f"RLIMIT_{name}", "soft": soft, "hard": hard} for name, (soft, hard) in wanted.items()
        ]

    lines = run(vruntime, bundles.busybox("cat", "/proc/self/limits", edit=edit))
    found = {}
    for name, text in LIMITS.items():
        (line,) = (line for line in lines if line.lower().startswith(f"max {text}"))
        found[name] = tuple(map(int, line[len(f"max {text}") :].split()[:2]))
    assert found == wanted


@pytest.mark.parametrize("args", [[], [""]])
def test_no_program(vruntime: Runtime, bundles: Bundles, args: list[str]) -> None:
    bundle = bundles.busybox("true", edit=lambda config: config["process"].update(args=args))
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert result.returncode == 1
    assert (b"process.args" in result.stderr) if not args else (b"executable file not found in $PATH" in result.stderr)
