"""Runs where systemd is PID 1: a container's group as a unit of systemd, from its making to its end, as JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from vruntime.cgroups.entry import place
from vruntime.cgroups.group import Group
from vruntime.cgroups.limits import Overhead
from vruntime.errors import VruntimeError

MEBIBYTE = 1 << 20
OVERHEAD = Overhead(machine=128 * MEBIBYTE, guest=64 * MEBIBYTE, helpers=256 * MEBIBYTE, vcpus=1)
PROPERTIES = ("ActiveState", "Slice", "Description", "Delegate", "TasksMax", "CPUQuotaPerSecUSec")


def shown(unit: str) -> dict[str, str]:
    command = ["systemctl", "show", *(f"--property={name}" for name in PROPERTIES), "--", unit]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def main() -> None:
    told: dict[str, object] = {}
    group = Group.plan("vm-test.slice:vruntime:one", "id", OVERHEAD, systemd=True, rootless=False)
    with subprocess.Popen(["sleep", "1000"]) as first, subprocess.Popen(["sleep", "1000"]) as second:
        try:
            limits = {"pids": {"limit": 10}, "cpu": {"quota": 50_000}}
            made = group.make(first.pid, limits)
            place(made.paths, second.pid)
            told["unit"] = shown(group.unit.name)
            told["groups"] = [Path(f"/proc/{one.pid}/cgroup").read_text() for one in (first, second)]
            undo = made.change({"pids": {"limit": 20}, "cpu": {"quota": 20_000}}, limits)
            told["changed"] = shown(group.unit.name)
            undo()
            told["undone"] = shown(group.unit.name)
            try:
                list(group.check({}))
            except VruntimeError as error:
                told["occupied"] = error.message
        except VruntimeError as error:
            told["error"] = str(error)
        first.kill()
        second.kill()
    group.remove()
    group.remove()
    told["after"] = shown(group.unit.name)
    told["left"] = [path for path in group.paths.values() if Path(path).exists()]
    try:
        Group.plan("a--b.slice:p:x", "id", OVERHEAD, systemd=True, rootless=False)
    except VruntimeError as error:
        told["slice"] = error.message
    print(json.dumps(told))


if __name__ == "__main__":
    main()
