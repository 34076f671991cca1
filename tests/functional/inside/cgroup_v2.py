"""Runs in a container whose kernel has cgroup v2 with all controllers: what vruntime does on such a host, as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from vruntime.cgroups.group import Group
from vruntime.cgroups.limits import Overhead
from vruntime.errors import VruntimeError
from vruntime.monitor.oom import HostOom

ROOT = Path("/sys/fs/cgroup")
MEBIBYTE = 1 << 20
OVERHEAD = Overhead(machine=128 * MEBIBYTE, guest=64 * MEBIBYTE, helpers=256 * MEBIBYTE, vcpus=1)


def plan(cgroups_path: str) -> Group:
    return Group.plan(cgroups_path, "id", OVERHEAD, systemd=False, rootless=False)


def contents(directory: Path, *files: str) -> dict[str, str]:
    return {file: (directory / file).read_text().strip() for file in files}


def groups_left() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_dir())


def refused(cgroups_path: str, resources: dict[str, Any], pid: int) -> str:
    group = plan(cgroups_path)
    try:
        group.make(pid, resources)
    except VruntimeError as error:
        return error.message
    finally:
        place_back(pid)
        group.remove()
    return "nothing"


def place_back(pid: int) -> None:
    (ROOT / "home/cgroup.procs").write_text(str(pid))


def limits_and_life(pid: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    resources = {
        "memory": {"limit": 100 * MEBIBYTE, "swap": 150 * MEBIBYTE, "reservation": 10 * MEBIBYTE},
        "cpu": {"shares": 1024, "quota": 50_000, "cpus": "0"},
        "pids": {"limit": 10},
        "unified": {"memory.high": "max", "cpu.weight.nice": "3"},
    }
    group = plan("/x/a").make(pid, resources)
    directory = ROOT / "x/a"
    files = ("memory.max", "memory.low", "pids.max", "cpu.max", "cpuset.cpus", "cgroup.procs")
    told["set"] = contents(directory, *files)
    told["swap"] = [file.read_text().strip() for file in directory.glob("memory.swap.max")]
    told["group"] = Path(f"/proc/{pid}/cgroup").read_text().strip()
    told["occupants"] = group.occupants()
    before = resources
    undo = group.change(resources | {"pids": {"limit": 20}, "cpu": {"quota": 70_000}}, before)
    told["changed"] = contents(directory, "pids.max", "cpu.max")
    undo()
    told["undone"] = contents(directory, "pids.max", "cpu.max")
    try:
        group.change({"pids": {"limit": 30}, "cpu": {"cpus": "900"}}, before)
    except VruntimeError as error:
        told["refused"] = error.message
    told["still"] = contents(directory, "pids.max", "cpuset.cpus")
    (directory / "below").mkdir()
    place_back(pid)
    group.remove()
    told["left"] = groups_left()
    return told


def oom(pid: int) -> list[int]:
    """A process that takes too much is counted."""
    group = plan("/x/b").make(pid, {"memory": {"limit": MEBIBYTE}})
    (ROOT / "x/b/memory.max").write_text(str(8 * MEBIBYTE))
    with suppress(FileNotFoundError):
        (ROOT / "x/b/memory.swap.max").write_text("0")
    counts = [group.oom_kills()]
    eater = f"open('{ROOT}/x/b/cgroup.procs', 'w').write('0'); b'x' * (64 << 20)"
    assert subprocess.run([sys.executable, "-c", eater], check=False).returncode == -9
    counts.append(group.oom_kills())
    place_back(pid)
    group.remove()
    return counts


def shown_oom() -> list[int]:
    """What a kill in a guest comes to: nothing that was in the group before is killed."""
    group = plan("/x/c").make(os.getpid(), {"memory": {"limit": MEBIBYTE}})
    (ROOT / "x/c/memory.max").write_text(str(32 * MEBIBYTE))
    counts = [group.oom_kills()]
    host_oom = HostOom(group.paths)
    assert host_oom.is_possible
    asyncio.run(host_oom.show())
    counts.append(group.oom_kills())
    place_back(os.getpid())
    assert not HostOom(plan("/home").paths).is_possible
    group.remove()
    return counts


def main() -> None:
    (ROOT / "home").mkdir()
    place_back(os.getpid())
    with subprocess.Popen(["sleep", "1000"]) as process:
        pid = process.pid
        told = limits_and_life(pid)
        told["oom"] = oom(pid)
        told["shown oom"] = shown_oom()
        told["relative"] = plan("r/a").paths
        told["default"] = plan("").paths
        told["swap without memory"] = refused("/y", {"memory": {"swap": MEBIBYTE}}, pid)
        told["unknown controller"] = refused("/y", {"unified": {"nosuch.max": "1"}}, pid)
        told["cpus"] = refused("/y", {"cpu": {"cpus": "900"}}, pid)
        told["left at the end"] = groups_left()
        process.kill()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
