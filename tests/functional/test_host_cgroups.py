"""The container's control group on the host: who is in it, what it limits, and that it goes."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from messages import message
from test_system_containers import system
from waiting import eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Edit, Runtime

FOREVER = ("sleep", "1000")
MEBIBYTE = 1 << 20
ROOT = Path("/sys/fs/cgroup")
V1 = (ROOT / "devices").is_dir()
HOST_OVERHEAD = 256 * MEBIBYTE
GUEST_OVERHEAD = 64 * MEBIBYTE

only_v1 = pytest.mark.skipif(not V1, reason="this host's control groups are version 2's")


def groups_of(pid: int | str) -> dict[str, str]:
    """In each hierarchy that is mounted here: one that others have for themselves is nobody's to enter."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {names: path for _, names, path in (line.split(":", 2) for line in lines) if is_mounted(names)}


def is_mounted(names: str) -> bool:
    return any((ROOT / name.removeprefix("name=")).is_dir() for name in names.split(","))


def directory(controller: str, path: str) -> Path:
    """The group in the hierarchy of one controller."""
    return (ROOT / controller if V1 else ROOT) / path.lstrip("/")


@pytest.fixture(autouse=True)
def parent(nothing_left_behind: None) -> Iterator[str]:
    """A name of this test's own, below the roots or our own groups; what is left of it is removed, if it is empty."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield f"/{name}"
    own = {group.lstrip("/") for group in groups_of("self").values()}
    for hierarchy in (*ROOT.iterdir(), ROOT):
        for group in {"", *own}:
            with suppress(OSError):
                (hierarchy / group / name).rmdir()


def limited(path: str | None, **limits: Any) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        if path is not None:
            config["linux"]["cgroupsPath"] = path
        config["linux"]["resources"].update(limits)

    return edit


def descendants(pid: int) -> set[int]:
    below = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                child = int(stat.parent.name)
                below |= {child} | descendants(child)
    return below


def monitor_of(container_id: str) -> int:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            arguments = entry.read_text().split("\0")
            if "vruntime.monitor" in arguments and container_id in arguments:
                return int(entry.parent.name)
    raise AssertionError(f"no monitor of {container_id}")


# -- where it lies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["{}/a", "/../..{}/a", "{}/a/../b", "..{}/c", None])
def test_the_process_is_in_its_group_in_every_hierarchy(
    any_runtime: Runtime, bundles: Bundles, parent: str, where: str | None
) -> None:
    """Absolute below the root, relative or unnamed below the caller's; nothing leaves the hierarchy."""
    bundle = bundles.busybox(*FOREVER, edit=limited(where and where.format(parent)))
    container_id = any_runtime.create(bundle)
    inner = {"{}/a": "/a", "/../..{}/a": "/a", "{}/a/../b": "/b", "..{}/c": "/c"}.get(where or "", "")
    own = groups_of("self")
    found = groups_of(any_runtime.state(container_id)["pid"])
    for names, path in found.items():
        if where is None:
            assert path == os.path.join(own[names], container_id)
        elif where.startswith(".."):
            assert path == own[names].rstrip("/") + parent + inner
        else:
            assert path == parent + inner
    any_runtime("delete", "--force", container_id)
    if where is not None and not where.startswith(".."):
        assert not list(ROOT.glob(f"*{parent}/*/"))


def test_every_helper_is_in_the_group(vruntime: Runtime, bundles: Bundles, parent: str, tmp_path: Path) -> None:
    bundle = bundles.busybox(*FOREVER, edit=limited(f"{parent}/a"))
    container_id = vruntime.start(bundle)
    arguments = vruntime.command("exec", "--detach", "--pid-file", str(tmp_path / "pid"), container_id, *FOREVER)
    subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=60)
    monitor = monitor_of(container_id)
    helpers = {monitor, vruntime.state(container_id)["pid"], int((tmp_path / "pid").read_text()), *descendants(monitor)}
    assert len(helpers) >= 6  # monitor, QEMU, virtiofsd and its server, two shims
    for pid in helpers:
        assert set(groups_of(pid).values()) == {f"{parent}/a"}
    inside = directory("pids", f"{parent}/a/cgroup.procs").read_text().split()
    assert set(map(int, inside)) == helpers


def test_the_pid_of_an_exec_is_in_the_group(
    any_runtime: Runtime, bundles: Bundles, parent: str, tmp_path: Path
) -> None:
    container_id = any_runtime.start(bundles.busybox(*FOREVER, edit=limited(f"{parent}/a")))
    with subprocess.Popen(
        any_runtime.command("exec", "--pid-file", str(tmp_path / "pid"), container_id, *FOREVER)
    ) as process:
        pid = eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        assert set(groups_of(pid).values()) == {f"{parent}/a"}
        any_runtime("kill", container_id, "KILL")
        process.wait()


# -- what it limits --------------------------------------------------------------------------------------------------


@only_v1
@pytest.mark.parametrize(
    ("limits", "controller", "file", "value"),
    [
        ({"cpu": {"shares": 512}}, "cpu", "cpu.shares", "512"),
        ({"cpu": {"quota": 150_000, "period": 90_000}}, "cpu", "cpu.cfs_quota_us", "150000"),
        ({"cpu": {"quota": 150_000, "period": 90_000}}, "cpu", "cpu.cfs_period_us", "90000"),
        ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset", "cpuset.cpus", "0"),
        ({"memory": {"limit": -1}}, "memory", "memory.limit_in_bytes", "9223372036854771712"),
        ({"memory": {"limit": 1 << 28, "swap": -1}}, "memory", "memory.memsw.limit_in_bytes", "9223372036854771712"),
        ({"memory": {"swappiness": 7}}, "memory", "memory.swappiness", "7"),
        ({"pids": {"limit": -1}}, "pids", "pids.max", "max"),
        ({"blockIO": {"weight": 300}}, "blkio", "blkio.bfq.weight", "300"),
    ],
    ids=lambda value: str(value).replace(" ", "") if isinstance(value, dict) else None,
)  # fmt: skip
def test_limits_are_those_of_runc(
    any_runtime: Runtime, bundles: Bundles, parent: str, limits: dict[str, Any], controller: str, file: str, value: str
) -> None:
    any_runtime.create(bundles.busybox(*FOREVER, edit=limited(f"{parent}/a", **limits)))
    assert directory(controller, f"{parent}/a/{file}").read_text().strip() == value


@only_v1
def test_the_machine_has_what_it_needs_beside_the_limits(vruntime: Runtime, bundles: Bundles, parent: str) -> None:
    memory = {"limit": 100 * MEBIBYTE, "swap": 150 * MEBIBYTE, "reservation": 50 * MEBIBYTE}
    vruntime.create(bundles.busybox(*FOREVER, edit=limited(f"{parent}/a", memory=memory, pids={"limit": 33})))
    group = directory("memory", f"{parent}/a")
    added = HOST_OVERHEAD + GUEST_OVERHEAD
    files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes")
    expected = [memory[key] + added for key in ("limit", "swap", "reservation")]
    assert [int((group / file).read_text()) for file in files] == expected
    assert int((group / "memory.max_usage_in_bytes").read_text()) < expected[0]
    assert 33 < int(directory("pids", f"{parent}/a/pids.max").read_text()) < 300


@only_v1
def test_helpers_open_no_other_device(vruntime: Runtime, bundles: Bundles, parent: str) -> None:
    vruntime.create(bundles.busybox(*FOREVER, edit=limited(f"{parent}/a")))
    rules = directory("devices", f"{parent}/a/devices.list").read_text().splitlines()
    terminals = [f"c {major}:* rw" for major in (4, 5, *range(136, 144))]
    assert rules == ["c 1:3 rwm", "c 1:9 rm", "c 10:232 rwm", *terminals]


@only_v1
@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"cpu": {"shares": 1}}, "the minimum allowed cpu-shares is 2"),
        ({"cpu": {"shares": 1_000_000}}, "the maximum allowed cpu-shares is 262144"),
        ({"cpu": {"quota": 10}}, 'failed to write "10": write {}/cpu.cfs_quota_us: invalid argument'),
        ({"blockIO": {"leafWeight": 500}}, "openat2 {}/blkio.leaf_weight: no such file or directory"),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 250, "minor": 0, "rate": 100}]}},
            'failed to write "250:0 100": write {}/blkio.throttle.read_bps_device: no such device',
        ),
        ({"network": {"classID": 5}}, "cannot set net_cls limit: container could not join or create cgroup"),
        ({"rdma": {"mlx": {"hcaHandles": 3}}}, "cannot set rdma limit: container could not join or create cgroup"),
        ({"cpu": {"cpus": "0-99"}}, 'failed to write "0-99": write {}/cpuset.cpus: numerical result out of range'),
    ],
    ids=lambda value: str(value).replace(" ", "") if isinstance(value, dict) else None,
)
def test_what_the_host_cannot_do(
    any_runtime: Runtime, bundles: Bundles, parent: str, limits: dict[str, Any], said: str
) -> None:
    """Said in the same words, and nothing is left."""
    bundle = bundles.busybox(*FOREVER, edit=limited(f"{parent}/a", **limits))
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
    assert result.returncode == 1
    last = result.stderr.decode().splitlines()[-1].replace('\\"', '"')
    before, _, after = said.partition("{}")
    assert before in last
    assert f"{parent}/a{after}" in last or not after
    assert not list(ROOT.glob(f"*{parent}/a"))


@only_v1
def test_a_machine_that_takes_more_is_killed_and_it_is_told(vruntime: Runtime, bundles: Bundles, parent: str) -> None:
    """Only the helpers themselves can, as the guest's memory is a part of the limit: here the limit is lowered."""
    container_id = vruntime.start(bundles.busybox(*FOREVER, edit=limited(f"{parent}/a")))
    group = directory("memory", f"{parent}/a")
    used = int((group / "memory.usage_in_bytes").read_text())
    (group / "memory.limit_in_bytes").write_text(str(used + 16 * MEBIBYTE))
    vruntime("exec", container_id, "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=200", check=False)
    eventually(lambda: vruntime.state(container_id)["status"] == "stopped")
    assert "was killed by the host's OOM killer" in vruntime.state(container_id)["annotations"]["io.vruntime.error"]


def test_the_guests_memory_fits_in_the_limit(vruntime: Runtime, bundles: Bundles, parent: str) -> None:
    """All of it can be used; the guest's own limit strikes first, and nothing of the host's."""
    script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=100 2>/dev/null; tail /dev/zero; echo $?"
    bundle = bundles.busybox("sh", "-c", script, edit=limited(f"{parent}/a", memory={"limit": 160 * MEBIBYTE}))
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id())
    assert result.stdout == b"137\n"


@only_v1
def test_a_fork_bomb_in_the_guest_leaves_the_hosts_tasks_alone(
    vruntime: Runtime, bundles: Bundles, parent: str
) -> None:
    bundle = bundles.busybox(
        "sh",
        "-c",
        "read go; bomb() { bomb | bomb & }; bomb; sleep 1000",
        edit=limited(f"{parent}/a", pids={"limit": 200}),
    )
    container_id = vruntime.new_id()
    with subprocess.Popen(
        vruntime.command("run", "--bundle", str(bundle), container_id), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        eventually(lambda: vruntime("state", container_id, check=False).stdout.find(b'"running"') > 0, 30)
        tasks = directory("pids", f"{parent}/a/pids.current")
        before = int(tasks.read_text())
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stderr.readline()  # the guest forks no more
        assert int(tasks.read_text()) < before + 80
        vruntime("delete", "--force", container_id)


# -- groups that are there already -----------------------------------------------------------------------------------


def test_a_group_that_is_there_is_used_and_removed(any_runtime: Runtime, bundles: Bundles, parent: str) -> None:
    own = directory("pids", parent)
    (own / "a/below").mkdir(parents=True)
    bundle = bundles.busybox("true", edit=limited(f"{parent}/a", pids={"limit": 77}))
    any_runtime("run", "--bundle", str(bundle), any_runtime.new_id())
    assert not (own / "a").exists()
    assert own.exists()


def test_a_group_that_is_shared_is_warned_of_and_stays(any_runtime: Runtime, bundles: Bundles, parent: str) -> None:
    bundle = bundles.busybox(*FOREVER, edit=limited(f"{parent}/a"))
    first = any_runtime.start(bundle)
    second = any_runtime.start(bundle)
    assert b"container's cgroup is not empty: " in (bundle / "create.log").read_bytes()
    result = any_runtime("delete", "--force", first)
    assert b'level=error msg="Failed to remove paths: map[' in result.stderr
    assert first.encode() not in any_runtime("list").stdout
    assert any_runtime.state(second)["status"] == "running"
    any_runtime("delete", "--force", second)
    assert not directory("pids", f"{parent}/a").exists()


@only_v1
def test_a_frozen_group_is_refused(any_runtime: Runtime, bundles: Bundles, parent: str) -> None:
    group = directory("freezer", f"{parent}/a")
    group.mkdir(parents=True)
    directory("devices", f"{parent}/a").mkdir(parents=True)
    (group / "freezer.state").write_text("FROZEN")
    bundle = bundles.busybox("true", edit=limited(f"{parent}/a"))
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
    assert message(result) == "run failed: container's cgroup unexpectedly frozen"
    group.rmdir()
    directory("devices", f"{parent}/a").rmdir()


def test_the_root_of_a_hierarchy_keeps_its_limits_and_its_groups(
    vruntime: Runtime, bundles: Bundles, parent: str
) -> None:
    other = directory("pids", parent)
    other.mkdir()
    container_id = vruntime.create(bundles.busybox(*FOREVER, edit=limited("/")))
    assert "Failed to remove paths" in vruntime("delete", "--force", container_id).stderr.decode()
    assert other.is_dir()
    if V1:
        assert (ROOT / "devices/devices.list").read_text() == "a *:* rwm\n"


# -- update ----------------------------------------------------------------------------------------------------------


@only_v1
def test_update_changes_the_host_too(any_runtime: Runtime, bundles: Bundles, parent: str) -> None:
    container_id = any_runtime.start(bundles.busybox(*FOREVER, edit=limited(f"{parent}/a", pids={"limit": 50})))
    tasks = directory("pids", f"{parent}/a/pids.max")
    beside = int(tasks.read_text()) - 50
    any_runtime("update", "--pids-limit", "70", "--cpu-share", "300", "--cpu-quota", "60000", container_id)
    assert int(tasks.read_text()) == 70 + beside
    cpu = directory("cpu", f"{parent}/a")
    assert [(cpu / f"cpu.{file}").read_text() for file in ("shares", "cfs_quota_us")] == ["300\n", "60000\n"]
    any_runtime("update", "--cpu-period", "10000", "--cpu-quota", "5000", container_id)
    assert [(cpu / f"cpu.{file}").read_text() for file in ("cfs_period_us", "cfs_quota_us")] == ["10000\n", "5000\n"]


@only_v1
def test_a_lowered_memory_limit_leaves_the_machine_its_own(vruntime: Runtime, bundles: Bundles, parent: str) -> None:
    memory = {"limit": 200 * MEBIBYTE}
    container_id = vruntime.start(bundles.busybox(*FOREVER, edit=limited(f"{parent}/a", memory=memory)))
    limit = directory("memory", f"{parent}/a/memory.limit_in_bytes")
    before = limit.read_text()
    vruntime("update", "--memory", "20m", container_id)
    assert limit.read_text() == before
    vruntime("update", "--memory", "-1", container_id)
    assert int(limit.read_text()) > 1 << 60
    vruntime("update", "--memory", "20m", container_id)
    assert limit.read_text() == before


@only_v1
def test_a_failed_update_changes_nothing_on_the_host(vruntime: Runtime, bundles: Bundles, parent: str) -> None:
    """Whether the host refuses, or the guest after the host was changed."""
    container_id = vruntime.start(bundles.busybox(*FOREVER, edit=limited(f"{parent}/a", pids={"limit": 50})))
    names = ("cpu/{}/cpu.shares", "cpuset/{}/cpuset.cpus", "pids/{}/pids.max", "cpu/{}/cpu.cfs_quota_us")
    files = [ROOT / name.format(f"{parent[1:]}/a") for name in names]
    before = [file.read_text() for file in files]
    changes = ["--pids-limit", "9", "--cpu-share", "99", "--cpu-quota", "9999"]
    resources = bundles.busybox() / "resources.json"
    unknown = {"pids": {"limit": 9}, "cpu": {"shares": 99, "quota": 9999}, "unified": {"nosuch.file": "1"}}
    resources.write_text(json.dumps(unknown))
    for flags, said in (
        ([*changes, "--cpuset-cpus", "63"], "cpuset.cpus"),
        (["--resources", str(resources)], "nosuch.file"),
    ):
        assert said in message(vruntime("update", *flags, container_id, check=False))
        assert [file.read_text() for file in files] == before


# -- other hosts -----------------------------------------------------------------------------------------------------


def on_another_host(script: str, runtime: Runtime, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A verb in a mount namespace that a script has changed first."""
    command = ["unshare", "--mount", "sh", "-ec", f'{script}\nexec "$@"', "sh", *runtime.command(*arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


READ_ONLY = f"for m in $(find {ROOT} -mindepth 1 -maxdepth 1 -type d); do mount -o remount,bind,ro $m; done"


@only_v1
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"umount -R {ROOT}", "no cgroup mount found in mountinfo"),
        (f"umount {ROOT}/devices", "mountpoint for devices not found"),
        (READ_ONLY, ": read-only file system"),
    ],
    ids=["none", "no devices", "read-only"],
)
def test_a_host_that_gives_no_group(
    any_runtime: Runtime, bundles: Bundles, parent: str, script: str, said: str
) -> None:
    bundle = bundles.busybox("true", edit=limited(f"{parent}/a"))
    result = on_another_host(script, any_runtime, "run", "--bundle", str(bundle), any_runtime.new_id())
    assert result.returncode == 1
    assert said in result.stderr.decode()


@only_v1
def test_a_read_only_host_will_do_without_privileges(any_runtime: Runtime, bundles: Bundles) -> None:
    """As runc has it: --rootless, no path of its own, and no limit."""
    any_runtime.flags = ("--rootless=true",)
    bundle = bundles.busybox("echo", "hello")
    result = on_another_host(READ_ONLY, any_runtime, "run", "--bundle", str(bundle), any_runtime.new_id())
    assert (result.returncode, result.stdout) == (0, b"hello\n"), result.stderr


@only_v1
def test_version_2_without_controllers(any_runtime: Runtime, bundles: Bundles, parent: str, tmp_path: Path) -> None:
    """The group is made and removed; a limit that no controller can keep is refused."""
    script = f"umount -R {ROOT}; mount -t cgroup2 cgroup2 {ROOT}"
    bundle = bundles.busybox(*FOREVER, edit=limited(f"{parent}/a"))
    container_id, pid_file = any_runtime.new_id(), tmp_path / "pid"
    create = f'"$@" create --bundle {bundle} --pid-file {pid_file} {container_id} >/dev/null 2>&1'
    look = f"cat /proc/$(cat {pid_file})/cgroup | grep ^0:"
    life = f'{script}; {create}; {look}; "$@" delete --force {container_id}; rmdir {ROOT}{parent}'
    command = ["unshare", "--mount", "sh", "-ec", life, "sh", *any_runtime.command()]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, f"0::{parent}/a\n".encode()), result.stderr
    bundle = bundles.busybox("true", edit=limited(f"{parent}/a", memory={"limit": 256 * MEBIBYTE}))
    result = on_another_host(script, any_runtime, "run", "--bundle", str(bundle), any_runtime.new_id())
    assert f"openat2 {ROOT}{parent}/a/memory.max: no such file or directory" in result.stderr.decode()


def test_systemd_that_does_not_run(any_runtime: Runtime, bundles: Bundles) -> None:
    any_runtime.flags = ("--systemd-cgroup",)
    for path, said in (
        ("a.slice:p:x", "systemd not running on this host, cannot use systemd cgroups manager"),
        ("/a", 'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "/a" instead'),
    ):
        bundle = bundles.busybox("true", edit=limited(path))
        result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
        assert message(result) == f"run failed: {said}"


def test_the_state_names_the_group(vruntime: Runtime, bundles: Bundles, parent: str) -> None:
    """What delete needs is on disk, so that it asks nobody."""
    container_id = vruntime.create(bundles.busybox(*FOREVER, edit=limited(f"{parent}/a")))
    kept = json.loads((vruntime.root / "containers" / container_id / "cgroup.json").read_text())
    assert all(path.endswith(f"{parent}/a") for path in kept["paths"].values())
    assert len(kept["paths"]) == len(groups_of("self"))


# -- version 2 with all controllers: a guest has it, and is the host here ---------------------------------------------


def on_version_2(config: dict[str, Any]) -> None:
    """Makes the guest's hierarchy writable, and brings our own code in."""
    repository = Path(__file__).parents[2]
    for mount in config["mounts"]:
        if mount["destination"] == str(ROOT):
            mount["options"].remove("ro")
    places = {f"/opt/{name}": str(repository / name) for name in ("vruntime", "tests")}
    places["/usr/lib/python3.11"] = "/usr/lib/python3.11"  # all of the standard library
    for destination, source in places.items():
        config["mounts"].append({"destination": destination, "source": source, "options": ["rbind", "ro"]})
    config["process"]["env"] += ["PYTHONPATH=/opt", "PYTHONDONTWRITEBYTECODE=1"]


def test_version_2_with_all_controllers(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.debian("python3", "/opt/tests/functional/inside/cgroup_v2.py", edit=on_version_2)
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert result.returncode == 0, result.stderr.decode()
    told = json.loads(result.stdout)
    assert told["set"]["memory.max"] == str(max(100 * MEBIBYTE, 128 * MEBIBYTE) + HOST_OVERHEAD)
    assert told["set"]["memory.low"] == str(10 * MEBIBYTE + 28 * MEBIBYTE + HOST_OVERHEAD)
    assert (told["set"]["cpu.max"], told["set"]["cpuset.cpus"]) == ("50000 100000", "0")
    assert told["swap"] in ([], [str(50 * MEBIBYTE)])  # a kernel without swap has no such file
    assert told["group"].endswith("/x/a")
    assert told["occupants"] == 1
    assert told["changed"] == {"pids.max": str(int(told["set"]["pids.max"]) + 10), "cpu.max": "70000 100000"}
    assert told["undone"] == {"pids.max": told["set"]["pids.max"], "cpu.max": "50000 100000"}
    assert "cpuset.cpus: " in told["refused"]
    assert told["still"] == {"pids.max": told["set"]["pids.max"], "cpuset.cpus": "0"}
    assert told["left"] == ["home", "x"]
    assert told["oom"] == [0, 1]
    assert told["shown oom"] == [0, 1]
    assert told["relative"] == {"": str(ROOT / "r/a")}  # beside the caller's own group, /home
    assert told["default"] == {"": str(ROOT / "id")}
    assert told["swap without memory"] == "unable to set swap limit without memory limit"
    assert told["unknown controller"].endswith("nosuch.max: no such file or directory")
    assert 'failed to write "900": write ' in told["cpus"]
    assert told["left at the end"] == ["home", "x"]


# -- systemd: a guest with a system of its own is the host here --------------------------------------------------------

PROBE = """\
[Unit]
DefaultDependencies=no
Requires=dbus.socket
After=dbus.socket
[Service]
Type=oneshot
Environment=PYTHONPATH=/opt PYTHONDONTWRITEBYTECODE=1
ExecStart=/bin/sh -c "python3 /opt/tests/functional/inside/cgroup_systemd.py >/told 2>/said"
ExecStopPost=/bin/systemctl --force exit
"""


def test_a_unit_of_systemd(vruntime: Runtime, bundles: Bundles) -> None:
    """In a machine, never in namespaces of the host: a booting systemd cleans /tmp and sets the kernel's parameters."""

    def edit(config: dict[str, Any]) -> None:
        on_version_2(config)
        system(config)

    bundle = bundles.debian_system("/lib/systemd/systemd", "--system", "--unit=probe.service", edit=edit)
    (bundle / "rootfs/etc/systemd/system/probe.service").write_text(PROBE)
    vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    told = json.loads((bundle / "rootfs/told").read_text())
    assert "error" not in told
    assert told["unit"]["ActiveState"] == "active"
    assert (told["unit"]["Slice"], told["unit"]["Delegate"]) == ("vm-test.slice", "yes")
    assert all(group.endswith("/vm.slice/vm-test.slice/vruntime-one.scope\n") for group in told["groups"])
    quotas = [told[when]["CPUQuotaPerSecUSec"] for when in ("unit", "changed", "undone")]
    assert quotas == ["500ms", "200ms", "500ms"]
    assert told["occupied"] == "container's cgroup is not empty: 2 process(es) found"
    assert (told["after"]["ActiveState"], told["left"]) == ("inactive", [])
    assert told["slice"] == "invalid slice name: a--b.slice"
