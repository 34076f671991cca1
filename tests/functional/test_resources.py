"""Limits: what a container may use of memory, processes, CPU time and devices, inside its machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Edit, Runtime

MEBIBYTE = 1 << 20


def resources(**limits: Any) -> Edit:
    """Sets these limits beside those that `runc spec` writes."""
    return lambda config: config["linux"]["resources"].update(limits)


def group(runtime: Runtime, bundles: Bundles, *files: str, **limits: Any) -> list[str]:
    """The values of files of the container's control group (version 2) with these limits."""
    bundle = bundles.busybox("sh", "-c", f"cd /sys/fs/cgroup; cat {' '.join(files)}", edit=resources(**limits))
    return runtime("run", "--bundle", str(bundle), runtime.new_id()).stdout.decode().splitlines()


def test_memory_above_the_limit_is_killed(any_runtime: Runtime, bundles: Bundles) -> None:
    limit = {"limit": 64 * MEBIBYTE, "swap": 64 * MEBIBYTE}
    fits = bundles.debian("python3", "-c", "print(len(b'x' * (20 << 20)))", edit=resources(memory=limit))
    assert any_runtime("run", "--bundle", str(fits), any_runtime.new_id()).stdout == b"%d\n" % (20 * MEBIBYTE)
    exceeds = bundles.debian("python3", "-c", "print(len(b'x' * (100 << 20)))", edit=resources(memory=limit))
    result = any_runtime("run", "--bundle", str(exceeds), any_runtime.new_id(), check=False)
    assert (result.returncode, result.stdout) == (137, b"")


def test_a_child_out_of_memory_leaves_its_container(vruntime: Runtime, bundles: Bundles) -> None:
    """The limit of the container, not of the machine, strikes: init and the guest go on."""
    script = "python3 -c \"b'x' * (100 << 20)\"; echo $?; grep oom_kill /sys/fs/cgroup/memory.events | head -1"
    bundle = bundles.debian("sh", "-c", script, edit=resources(memory={"limit": 64 * MEBIBYTE}))
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id())
    assert result.stdout.decode().splitlines() == ["137", "oom_kill 1"]


def test_the_number_of_processes(any_runtime: Runtime, bundles: Bundles) -> None:
    script = """
import errno, os, signal
made = 0
try:
    while made < 100:
        if os.fork() == 0:
            signal.pause()
        made += 1
except OSError as error:
    print(made, errno.errorcode[error.errno])
"""
    bundle = bundles.debian("python3", "-c", script, edit=resources(pids={"limit": 20}))
    made, reason = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id()).stdout.decode().split()
    assert reason == "EAGAIN"
    assert 10 <= int(made) <= 19


def test_a_fork_bomb_stays_in_its_machine(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox(
        "sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 1000", edit=resources(pids={"limit": 200})
    )
    container = vruntime.start(bundle)
    eventually(lambda: b"fork" in (bundle / "create.log").read_bytes(), timeout=30)
    assert vruntime.state(container)["status"] == "running"
    vruntime("kill", container, "KILL")
    eventually(lambda: vruntime.state(container)["status"] == "stopped")


@pytest.mark.parametrize(
    ("limits", "file", "expected"),
    [
        ({"cpu": {"quota": 150_000, "period": 100_000}}, "cpu.max", "150000 100000"),
        ({"cpu": {"quota": 50_000}}, "cpu.max", "50000 100000"),
        ({"cpu": {"period": 50_000}}, "cpu.max", "max 50000"),
        ({"cpu": {"shares": 1024}}, "cpu.weight", "39"),
        ({"cpu": {"shares": 2}}, "cpu.weight", "1"),
        ({"cpu": {"shares": 262144}}, "cpu.weight", "10000"),
        ({"cpu": {"shares": 512}}, "cpu.weight", "20"),
        ({"memory": {"limit": 64 * MEBIBYTE}}, "memory.max", str(64 * MEBIBYTE)),
        ({"memory": {"limit": 64 * MEBIBYTE, "swap": 96 * MEBIBYTE}}, "memory.swap.max", str(32 * MEBIBYTE)),
        ({"memory": {"reservation": 32 * MEBIBYTE}}, "memory.low", str(32 * MEBIBYTE)),
        ({"cpu": {"quota": 50_000, "burst": 20_000}}, "cpu.max.burst", "20000"),
        ({"cpu": {"idle": 1}}, "cpu.idle", "1"),
        ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset.cpus", "0"),
        ({"blockIO": {"weight": 500}}, "io.weight", "default 4950"),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MEBIBYTE}]}, "hugetlb.2MB.max", str(4 * MEBIBYTE)),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MEBIBYTE}]}, "hugetlb.2MB.rsvd.max", str(4 * MEBIBYTE)),
        ({"memory": {"limit": -1}}, "memory.max", "max"),
        ({"pids": {"limit": 77}}, "pids.max", "77"),
        ({"pids": {"limit": -1}}, "pids.max", "max"),
        ({"unified": {"memory.high": str(50 * MEBIBYTE)}}, "memory.high", str(50 * MEBIBYTE)),
    ],
    ids=lambda value: str(value).replace(" ", "") if isinstance(value, dict) else None,
)
def test_values_are_converted_as_runc_converts_them(
    vruntime: Runtime, bundles: Bundles, limits: dict[str, Any], file: str, expected: str
) -> None:
    assert group(vruntime, bundles, file, **limits) == [expected]


def allow_mknod(config: dict[str, Any]) -> None:
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind].append("CAP_MKNOD")


def test_devices_that_are_not_listed_are_denied(any_runtime: Runtime, bundles: Bundles) -> None:
    """Who has the capability can make any node, as runc has it; it opens only when the rules say so."""

    def edit(config: dict[str, Any]) -> None:
        allow_mknod(config)
        config["linux"]["resources"]["devices"] = [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"},
        ]

    script = """
    exec 2>&1; cd /dev
    mknod mem c 1 1; cat mem; mknod loop b 7 0; cat loop
    mknod other-null c 1 3 && echo x > other-null && echo null is allowed
    mknod fuse c 10 229; (: < fuse) && echo fuse is read; (: > fuse)
    """
    bundle = bundles.busybox("sh", "-c", script, edit=edit)
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
    assert result.stdout.decode().splitlines() == [
        "cat: can't open 'mem': Operation not permitted",
        "cat: can't open 'loop': Operation not permitted",
        "null is allowed",
        "fuse is read",
        "sh: can't create fuse: Operation not permitted",
    ]


def test_a_guest_makes_no_device_on_the_host(vruntime: Runtime, bundles: Bundles) -> None:
    """By design, where runc allows it: a node in the shared root would be a device of the host."""
    bundle = bundles.busybox("sh", "-c", "mknod /tmp/null c 1 3 2>&1; mkfifo /tmp/fifo", edit=allow_mknod)
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id())
    assert result.stdout == b"mknod: /tmp/null: Operation not permitted\n"
    assert [entry.name for entry in (bundle / "rootfs/tmp").iterdir()] == ["fifo"]
