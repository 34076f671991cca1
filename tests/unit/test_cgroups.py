"""The control group on the host: where it lies, what is written to its files, and what systemd is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vruntime.cgroups import cgroupfs, limits, path, systemd
from vruntime.cgroups.group import Group
from vruntime.cgroups.layout import Kind, Layout, read_mounts
from vruntime.cgroups.limits import Overhead
from vruntime.errors import ConfigError, HostError

MEBIBYTE = 1 << 20
OVERHEAD = Overhead(machine=128 * MEBIBYTE, guest=64 * MEBIBYTE, helpers=256 * MEBIBYTE, vcpus=2)

V1 = """\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw,relatime shared:4 - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
50 23 0:40 / / rw - overlay overlay rw
"""
BESIDE = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
V2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def layout(mounts: str, own: dict[str, str] | None = None) -> Layout:
    return Layout.of(read_mounts(mounts.splitlines()), own or {})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("", ""),
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("//a//b/", "/a/b"),
        ("/../../a", "/a"),
        ("/a/../../../b", "/b"),
        ("a/b", "a/b"),
        ("../../a", "a"),
        ("a/../../b", "b"),
        (".", "."),
        ("..", "."),
        ("./a", "a"),
    ],
)
def test_no_path_leaves_the_hierarchy(written: str, meant: str) -> None:
    assert path.clean(written) == meant


@pytest.mark.parametrize(
    ("cgroups_path", "name", "below"),
    [
        ("", "runc-id.scope", "/system.slice/runc-id.scope"),
        ("system.slice:docker:1", "docker-1.scope", "/system.slice/docker-1.scope"),
        (":cri:x", "cri-x.scope", "/system.slice/cri-x.scope"),
        ("-.slice:p:x", "p-x.scope", "/p-x.scope"),
        ("machine.slice:libpod:x.slice", "x.slice", "/machine.slice/x.slice"),
        ("a-b-c.slice:p:x", "p-x.scope", "/a.slice/a-b.slice/a-b-c.slice/p-x.scope"),
    ],
)
def test_units_of_systemd(cgroups_path: str, name: str, below: str) -> None:
    unit = path.unit(cgroups_path, "id")
    assert (unit.name, unit.path) == (name, below)


@pytest.mark.parametrize(
    ("cgroups_path", "said"),
    [
        ("/a", 'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "/a" instead'),
        ("a:b", 'expected cgroupsPath to be of format "slice:prefix:name"'),
        ("a.slice:b:c:d", 'expected cgroupsPath to be of format "slice:prefix:name"'),
        ("a:b:c", "invalid slice name: a"),
        (".slice:b:c", "invalid slice name: .slice"),
        ("a/b.slice:b:c", "invalid slice name: a/b.slice"),
        ("a--b.slice:b:c", "invalid slice name: a--b.slice"),
        ("-a.slice:b:c", "invalid slice name: -a.slice"),
        ("a-.slice:b:c", "invalid slice name: a-.slice"),
        ("a.slice:b:../../c", "invalid unit name: b-../../c.scope"),
        ("a.slice:../b:c.slice", "invalid unit name: ../b-c.slice"),
    ],
)
def test_units_that_are_none(cgroups_path: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        path.unit(cgroups_path, "id")
    assert caught.value.message.startswith(said)


@pytest.mark.parametrize(
    ("mounts", "kind", "names"),
    [
        (V1, Kind.V1, ["devices", "memory", "cpu", "cpuacct", "name=systemd"]),
        (V1 + BESIDE, Kind.HYBRID, ["devices", "memory", "cpu", "cpuacct", "name=systemd", ""]),
        (V2, Kind.V2, [""]),
    ],
)
def test_layouts(mounts: str, kind: Kind, names: list[str]) -> None:
    found = layout(mounts)
    assert found.kind is kind
    assert list(found.names) == names


def test_a_host_without_control_groups() -> None:
    with pytest.raises(HostError, match="no cgroup mount found in mountinfo"):
        layout("50 23 0:40 / / rw - overlay overlay rw\n")
    with pytest.raises(HostError, match="mountpoint for devices not found"):
        layout("33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n")


def test_controllers_that_are_mounted_together_share_a_directory() -> None:
    directories = layout(V1).directories("/a/b")
    assert directories["cpu"] == directories["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct/a/b"


def test_a_relative_path_lies_below_our_own_group_and_on_v2_beside_it() -> None:
    own = {"cpu": "/user/us", "memory": "/", "devices": "/user/us", "": "/user/us"}
    directories = layout(V1 + BESIDE, own).directories("a")
    assert directories["cpu"] == "/sys/fs/cgroup/cpu,cpuacct/user/us/a"
    assert directories["memory"] == "/sys/fs/cgroup/memory/a"
    assert layout(V2, own).directories("a") == {"": "/sys/fs/cgroup/user/a"}


def test_our_group_in_a_mount_that_shows_a_part_of_the_hierarchy() -> None:
    part = "36 31 0:33 /docker/1 /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n"
    inside = layout(part, {"devices": "/docker/1/x"})
    assert inside.directories("a")["devices"] == "/sys/fs/cgroup/devices/x/a"
    outside = layout(part, {"devices": "/../../elsewhere"})
    assert outside.directories("a")["devices"].startswith("/sys/fs/cgroup/devices/")


def test_directories_of_a_unit_lie_where_pid_1_is() -> None:
    unit = path.unit("a-b.slice:p:x", "id")
    init = {"devices": "/", "memory": "/init.scope", "cpu": "/lxc/1", "cpuacct": "/lxc/1", "name=systemd": "/"}
    directories = layout(V1).directories_of(unit, init)
    assert directories["memory"] == "/sys/fs/cgroup/memory/a.slice/a-b.slice/p-x.scope"
    assert directories["cpu"] == "/sys/fs/cgroup/cpu,cpuacct/lxc/1/a.slice/a-b.slice/p-x.scope"
    assert layout(V2).directories_of(unit, {}) == {"": "/sys/fs/cgroup/a.slice/a-b.slice/p-x.scope"}


@pytest.mark.parametrize(
    ("resources", "host"),
    [
        ({}, {}),
        ({"pids": {"limit": 10}}, {"pids": {"limit": 10 + OVERHEAD.pids}}),
        ({"pids": {"limit": -1}}, {"pids": {"limit": -1}}),
        ({"pids": {"limit": 0}}, {"pids": {"limit": 0}}),
        ({"memory": {"limit": 64 * MEBIBYTE}}, {"memory": {"limit": 384 * MEBIBYTE}}),
        ({"memory": {"limit": 200 * MEBIBYTE}}, {"memory": {"limit": 456 * MEBIBYTE}}),
        ({"memory": {"limit": -1}}, {"memory": {"limit": -1}}),
        (
            {"memory": {"limit": 64 * MEBIBYTE, "swap": 96 * MEBIBYTE}},
            {"memory": {"limit": 384 * MEBIBYTE, "swap": 416 * MEBIBYTE}},
        ),
        ({"memory": {"limit": MEBIBYTE, "swap": -1}}, {"memory": {"limit": 384 * MEBIBYTE, "swap": -1}}),
        ({"memory": {"reservation": 10 * MEBIBYTE}}, {"memory": {"reservation": 330 * MEBIBYTE}}),
        ({"cpu": {"shares": 7, "quota": 5}}, {"cpu": {"shares": 7, "quota": 5}}),
        ({"unified": {"pids.max": "10"}}, {"unified": {"pids.max": str(10 + OVERHEAD.pids)}}),
        (
            {"unified": {"memory.max": "1000", "memory.high": "max"}},
            {"unified": {"memory.max": str(384 * MEBIBYTE), "memory.high": "max"}},
        ),
        (
            {"unified": {"memory.low": "0", "cpu.weight": "5"}},
            {"unified": {"memory.low": str(320 * MEBIBYTE), "cpu.weight": "5"}},
        ),
    ],
)
def test_the_host_gives_what_the_machine_takes_beside(resources: dict, host: dict) -> None:
    before = repr(resources)
    assert limits.for_host(resources, OVERHEAD) == host
    assert repr(resources) == before


def test_a_lowered_limit_leaves_the_machine_its_memory() -> None:
    """The guest gives no memory back: a limit below what it has touched would kill it."""
    first = limits.for_host({"memory": {"limit": 100 * MEBIBYTE}}, OVERHEAD)
    assert limits.for_host({"memory": {"limit": 10 * MEBIBYTE}}, OVERHEAD) == first


def files(settings: list[limits.Setting]) -> dict[str, str]:
    return dict(setting.choices[-1] for setting in settings)


@pytest.mark.parametrize(
    ("resources", "written"),
    [
        ({"memory": {"limit": 5, "swap": 9}}, {"memory.limit_in_bytes": "5", "memory.memsw.limit_in_bytes": "9"}),
        ({"memory": {"limit": -1}}, {"memory.limit_in_bytes": "-1", "memory.memsw.limit_in_bytes": "-1"}),
        (
            {"memory": {"reservation": 5, "swappiness": 0, "disableOOMKiller": True}},
            {"memory.soft_limit_in_bytes": "5", "memory.oom_control": "1", "memory.swappiness": "0"},
        ),
        ({"memory": {"kernel": 5}}, {}),
        (
            {"cpu": {"shares": 2, "quota": -1, "period": 1000, "cpus": "0-1", "mems": "0"}},
            {
                "cpuset.cpus": "0-1",
                "cpuset.mems": "0",
                "cpu.shares": "2",
                "cpu.cfs_period_us": "1000",
                "cpu.cfs_quota_us": "-1",
            },
        ),
        ({"cpu": {"burst": 5, "idle": 1}}, {"cpu.cfs_burst_us": "5", "cpu.idle": "1"}),
        ({"cpu": {"realtimeRuntime": 5, "realtimePeriod": 9}}, {"cpu.rt_period_us": "9", "cpu.rt_runtime_us": "5"}),
        ({"pids": {"limit": -5}}, {"pids.max": "max"}),
        ({"pids": {"limit": 0}}, {}),
        ({"blockIO": {"weight": 10, "leafWeight": 20}}, {"blkio.bfq.weight": "10", "blkio.leaf_weight": "20"}),
        (
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 11, "leafWeight": 12}]}},
            {"blkio.bfq.weight_device": "8:0 11", "blkio.leaf_weight_device": "8:0 12"},
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 3}]}},
            {"blkio.throttle.read_bps_device": "8:0 3"},
        ),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, {}),  # they are the guest's, in the machine's memory
        (
            {"network": {"classID": 5, "priorities": [{"name": "lo", "priority": 3}]}},
            {"net_cls.classid": "5", "net_prio.ifpriomap": "lo 3"},
        ),
        ({"rdma": {"mlx": {"hcaHandles": 0, "hcaObjects": 4}}}, {"rdma.max": "mlx hca_handle=0 hca_object=4"}),
        ({"unified": {"memory.max": "5"}}, {}),
    ],
)
def test_files_of_version_1(resources: dict, written: dict[str, str]) -> None:
    assert files(limits.on_v1(resources)) == written


@pytest.mark.parametrize(
    ("resources", "written"),
    [
        ({"memory": {"limit": 5, "swap": 9}}, {"memory.swap.max": "4", "memory.max": "5"}),
        ({"memory": {"limit": 5, "swap": 5}}, {"memory.swap.max": "0", "memory.max": "5"}),
        ({"memory": {"limit": 5, "swap": -1}}, {"memory.swap.max": "max", "memory.max": "5"}),
        ({"memory": {"limit": 5}}, {"memory.max": "5"}),
        ({"memory": {"limit": -1}}, {"memory.swap.max": "max", "memory.max": "max"}),
        ({"memory": {"reservation": 5, "swappiness": 3}}, {"memory.low": "5"}),
        ({"cpu": {"shares": 2}}, {"cpu.weight": "1"}),
        ({"cpu": {"shares": 1024}}, {"cpu.weight": "39"}),
        ({"cpu": {"shares": 262144}}, {"cpu.weight": "10000"}),
        ({"cpu": {"quota": 5000}}, {"cpu.max": "5000 100000"}),
        ({"cpu": {"period": 5000}}, {"cpu.max": "max 5000"}),
        ({"cpu": {"quota": -1, "period": 5000, "burst": 7}}, {"cpu.max": "max 5000", "cpu.max.burst": "7"}),
        ({"cpu": {"idle": 1, "cpus": "0", "mems": "0"}}, {"cpu.idle": "1", "cpuset.cpus": "0", "cpuset.mems": "0"}),
        ({"pids": {"limit": 5}}, {"pids.max": "5"}),
        ({"blockIO": {"weight": 10}}, {"io.weight": "1"}),
        ({"blockIO": {"weight": 1000}}, {"io.weight": "10000"}),
        (
            {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 3}]}},
            {"io.max": "8:16 wiops=3"},
        ),
        ({"rdma": {"mlx": {"hcaHandles": 3}}}, {"rdma.max": "mlx hca_handle=3"}),
        ({"unified": {"io.bfq.weight": "5", "cpu.pressure": "x"}}, {"io.bfq.weight": "5", "cpu.pressure": "x"}),
        ({"network": {"classID": 5}}, {}),
    ],
)
def test_files_of_version_2(resources: dict, written: dict[str, str]) -> None:
    assert files(limits.on_v2(resources)) == written


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ({"swap": 5}, "unable to set swap limit without memory limit"),
        ({"limit": -1, "swap": 5}, "unable to set swap limit without memory limit"),
        ({"limit": -2, "swap": 5}, "invalid memory value: -2"),
        ({"limit": 9, "swap": 5}, "memory+swap limit should be >= memory limit"),
    ],
)
def test_swap_that_version_2_cannot_express(memory: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        limits.on_v2({"memory": memory})
    assert caught.value.message == said


def properties(resources: dict, *, v2: bool) -> dict[str, tuple[str, ...]]:
    return {one.name: (one.signature, *one.values) for one in systemd.resource_properties(resources, v2=v2)}


INFINITY = ("t", str(2**64 - 1))


@pytest.mark.parametrize(
    ("v2", "resources", "told"),
    [
        (False, {"memory": {"limit": 5, "swap": 9}}, {"MemoryLimit": ("t", "5")}),
        (False, {"cpu": {"shares": 1024}}, {"CPUShares": ("t", "1024")}),
        (False, {"blockIO": {"weight": 500}}, {"BlockIOWeight": ("t", "500")}),
        (True, {"memory": {"limit": 5, "swap": 9}}, {"MemoryMax": ("t", "5"), "MemorySwapMax": ("t", "4")}),
        (True, {"memory": {"limit": -1}}, {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}),
        (True, {"memory": {"reservation": 5}}, {"MemoryLow": ("t", "5")}),
        (True, {"cpu": {"shares": 1024}}, {"CPUWeight": ("t", "39")}),
        (True, {"cpu": {"quota": 5000}}, {"CPUQuotaPerSecUSec": ("t", "50000")}),
        (
            True,
            {"cpu": {"quota": 3333, "period": 10000}},
            {"CPUQuotaPeriodUSec": ("t", "10000"), "CPUQuotaPerSecUSec": ("t", "340000")},
        ),
        (True, {"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": INFINITY}),
        (
            True,
            {"cpu": {"cpus": "0-2,9", "mems": "0"}},
            {"AllowedCPUs": ("ay", "2", "7", "2"), "AllowedMemoryNodes": ("ay", "1", "1")},
        ),
        (True, {"pids": {"limit": 7}}, {"TasksMax": ("t", "7")}),
        (True, {"pids": {"limit": -1}}, {"TasksMax": INFINITY}),
        (True, {"pids": {"limit": -3}}, {}),
        (
            True,
            {
                "unified": {
                    "memory.high": "max",
                    "pids.max": "9",
                    "cpu.max": "max 5000",
                    "cpuset.cpus": "1",
                    "io.max": "x",
                }
            },
            {
                "MemoryHigh": INFINITY,
                "TasksMax": ("t", "9"),
                "CPUQuotaPeriodUSec": ("t", "5000"),
                "CPUQuotaPerSecUSec": INFINITY,
                "AllowedCPUs": ("ay", "1", "2"),
            },
        ),
    ],
)
def test_what_systemd_is_told_of_limits(v2: bool, resources: dict, told: dict[str, tuple[str, ...]]) -> None:
    assert properties(resources, v2=v2) == told


def test_what_systemd_is_told_of_a_unit() -> None:
    scope = systemd.unit_properties(path.unit("a.slice:p:x", "id"), 42, v2=True)
    assert {one.name: one.values for one in scope} == {
        "Description": ("libcontainer container x",),
        "Slice": ("a.slice",),
        "Delegate": ("true",),
        "PIDs": ("1", "42"),
        **{f"{what}Accounting": ("true",) for what in ("Memory", "CPU", "IO", "Tasks")},
        "DefaultDependencies": ("false",),
    }
    names = [one.name for one in systemd.unit_properties(path.unit("a.slice:p:x.slice", "id"), 42, v2=False)]
    assert names[:2] == ["Description", "Wants"]
    assert "BlockIOAccounting" in names
    assert "PIDs" not in names


def test_systemd_must_be_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "_RUNNING", f"{tmp_path}/none")
    with pytest.raises(HostError) as caught:
        Group.plan("a.slice:p:x", "id", OVERHEAD, systemd=True, rootless=False)
    assert caught.value.message == "systemd not running on this host, cannot use systemd cgroups manager"
    with pytest.raises(ConfigError):  # the form of the path first
        Group.plan("/a", "id", OVERHEAD, systemd=True, rootless=False)


def test_what_is_set_can_be_undone(tmp_path: Path) -> None:
    """Also the line of a device, of which the file shows none that is not limited."""
    kept = {"pids.max": "max\n", "io.max": "8:0 rbps=5\n8:16 rbps=7\n", "memory.max": "100\n"}
    for name, content in kept.items():
        (tmp_path / name).write_text(content)
    device = {"major": 8, "minor": 16, "rate": 9}
    settings = limits.on_v2(
        {"pids": {"limit": 5}, "blockIO": {"throttleReadBpsDevice": [device, replace_minor(device)]}}
    )
    change = cgroupfs.Limits({"": str(tmp_path)})
    change.set(settings)
    assert [before for _, before in change._before] == ["max", "8:16 rbps=7", "8:1 rbps=max"]


def replace_minor(device: dict) -> dict:
    return device | {"minor": 1}


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    change = cgroupfs.Limits({"": str(tmp_path)})
    with pytest.raises(HostError) as caught:
        change.set(limits.on_v2({"memory": {"limit": 5}}))
    shape = "error setting cgroup config for procHooks process: openat2 {}/memory.max: no such file or directory"
    assert caught.value.message == shape.format(tmp_path)
    change.set(limits.on_v2({"memory": {"swap": -1}}))  # there is no swap to limit


def test_a_missing_controller_names_itself() -> None:
    with pytest.raises(HostError, match="cannot set pids limit: container could not join or create cgroup"):
        cgroupfs.Limits({"memory": "/x"}).set(limits.on_v1({"pids": {"limit": 1}}))


def test_the_overhead_counts_virtual_cpus() -> None:
    assert replace(OVERHEAD, vcpus=8).pids == OVERHEAD.pids + 6
