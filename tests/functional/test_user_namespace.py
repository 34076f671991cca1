"""A user namespace in the guest, as runc makes one on the host, and id-mapped mounts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Edit, Runtime

FIRST = 100_000
RANGE = [{"containerID": 0, "hostID": FIRST, "size": 65536}]
CAPABILITIES = [
    f"CAP_{name}"
    for name in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "MKNOD", "NET_ADMIN", "SETGID", "SETUID", "SYS_ADMIN")
]


def mapped(config: dict[str, Any]) -> None:
    """A user namespace, with all that root is used to."""
    config["linux"]["namespaces"] += [{"type": "user"}, {"type": "cgroup"}]
    config["linux"] |= {"uidMappings": RANGE, "gidMappings": RANGE}
    config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    config["process"]["noNewPrivileges"] = False
    # runc, on a host with cgroup v1, cannot mount it there.
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]


def give(tree: Path, owner: int = FIRST) -> None:
    """Gives a tree to the container's root, as an engine does with an image."""
    subprocess.run(["chown", "--no-dereference", "--recursive", f"{owner}:{owner}", tree], check=True)
    # Nobody but root gets through pytest's own directories, and runc asks for the way to the rootfs.
    for directory in tree.parents:
        if directory.stat().st_uid == 0 and directory.stat().st_mode & 0o011 != 0o011:
            directory.chmod(directory.stat().st_mode | 0o011)


def made(bundles: Bundles, *args: str, edit: Edit | None = None) -> Path:
    """A bundle with a user namespace, whose root file system belongs to its root."""

    def both(config: dict[str, Any]) -> None:
        mapped(config)
        if edit is not None:
            edit(config)

    bundle = bundles.busybox(*args, edit=both)
    give(bundle / "rootfs")
    return bundle


def run(runtime: Runtime, bundle: Path) -> list[str]:
    """The lines that a container prints, with blanks made one."""
    output = runtime("run", "--bundle", str(bundle), runtime.new_id()).stdout.decode()
    return [" ".join(line.split()) for line in output.splitlines()]


def test_ids(any_runtime: Runtime, bundles: Bundles) -> None:
    script = """
    cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; id -u; id -G
    stat -c '%n %u:%g' / /bin/busybox /proc/1 /dev /dev/null /dev/pts /dev/shm /sys /sys/class/net/lo
    stat -c '%n %u' /dev/mqueue
    echo x > /f; chown 7:8 /f; stat -c %u:%g /f; stat -f -c %T /proc /sys /dev
    """
    bundle = made(bundles, "sh", "-c", script)
    assert run(any_runtime, bundle) == [
        *("0 100000 65536", "0 100000 65536", "allow", "0", "0"),
        *("/ 0:0", "/bin/busybox 0:0", "/proc/1 0:0", "/dev 0:0", "/dev/null 65534:65534", "/dev/pts 0:0"),
        *("/dev/shm 0:0", "/sys 65534:65534", "/sys/class/net/lo 0:0", "/dev/mqueue 0", "7:8"),
        *("proc", "sysfs", "tmpfs"),
    ]
    file = (bundle / "rootfs/f").stat()
    assert (file.st_uid, file.st_gid) == (FIRST + 7, FIRST + 8)


def test_a_network_of_its_own_with_lo_up(any_runtime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4097", "fs.mqueue.msg_max": "11"}

    script = """
    cat /sys/class/net/lo/flags; ls /sys/class/net | grep -c lo; ip addr show lo | grep -o 'inet.* scope'
    cd /proc/sys; cat net/ipv4/ip_forward kernel/msgmax fs/mqueue/msg_max
    ip link set lo mtu 1280 && cat /sys/class/net/lo/mtu
    """
    assert run(any_runtime, made(bundles, "sh", "-c", script, edit=edit)) == [
        *("0x9", "1", "inet 127.0.0.1/8 scope", "inet6 ::1/128 scope", "1", "4097", "11", "1280"),
    ]


def test_root_has_no_power_over_the_kernel(any_runtime: Runtime, bundles: Bundles) -> None:
    script = """
    mkdir /m
    for try in 'echo 1 > /proc/sys/kernel/printk' 'mknod /tmp/n c 1 3' 'chmod 666 /dev/null' \
        'mount -t ext4 /dev/vda /m' 'dmesg -n 1' 'cat /secret' 'mount -o remount,rw /sys'; do
        sh -c "$try" > /dev/null 2>&1 && echo "could: $try"
    done
    mount -t tmpfs none /m && hostname other && hostname; kill -0 1 && echo x > /dev/null && echo as expected
    """

    def edit(config: dict[str, Any]) -> None:
        config["linux"]["readonlyPaths"] = []

    bundle = made(bundles, "sh", "-c", script, edit=edit)
    (bundle / "rootfs/secret").write_text("of the host's root")
    (bundle / "rootfs/secret").chmod(0o600)
    os.chown(bundle / "rootfs/secret", 0, 0)
    assert run(any_runtime, bundle) == ["other", "as expected"]


def test_an_exec_joins_it(any_runtime: Runtime, bundles: Bundles) -> None:
    container = any_runtime.start(made(bundles, "sleep", "1000"))
    script = """
    for name in user net pid mnt ipc uts cgroup; do
        [ "$(readlink /proc/self/ns/$name)" = "$(readlink /proc/1/ns/$name)" ] || echo $name differs
    done
    """
    assert any_runtime("exec", container, "sh", "-c", script).stdout == b""
    script = "set -- $(cat /proc/self/uid_map); echo $1 $2; id -u; id -G; cat; echo x > /dev/stderr"
    result = any_runtime("exec", "--user", "7:8", "-g", "9", container, "sh", "-c", script, input=b"through\n")
    assert result.stdout.decode().split() == ["0", "100000", "7", "8", "9", "through"]


def test_another_user_and_a_terminal(any_runtime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5]}

    script = "id -u; id -G; echo again > /dev/stdout; touch /x 2>&1"
    bundle = made(bundles, "sh", "-c", script, edit=edit)
    lines = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False).stdout.decode().splitlines()
    assert lines == ["1000", "1000 5", "again", "touch: /x: Permission denied"]


def test_limits_above_the_kernels_defaults(vruntime: Runtime, bundles: Bundles) -> None:
    """As the agent's, whose right to raise them a container's root has not."""

    def edit(config: dict[str, Any]) -> None:
        config["process"]["rlimits"] = [{"type": "RLIMIT_MSGQUEUE", "soft": 5_000_000, "hard": 6_000_000}]

    bundle = made(bundles, "grep", "msgqueue", "/proc/self/limits", edit=edit)
    assert run(vruntime, bundle) == ["Max msgqueue size 5000000 6000000 bytes"]


def test_cgroup_of_its_own_to_manage(vruntime: Runtime, bundles: Bundles) -> None:
    """Mounted writable it belongs to the container's root, as with runc on a host with cgroup v2."""

    def edit(config: dict[str, Any]) -> None:
        mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "rw"]}
        config["mounts"].append(mount)

    script = """
    cd /sys/fs/cgroup; mkdir sub && echo $$ > sub/cgroup.procs && cat /proc/self/cgroup
    stat -c %u . cgroup.procs memory.max
    """
    assert run(vruntime, made(bundles, "sh", "-c", script, edit=edit)) == ["0::/sub", "0", "0", "65534"]


def test_ids_that_are_not_mapped(vruntime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 70_000, "gid": 0}

    bundle = made(bundles, "true", edit=edit)
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert (result.returncode, b"setuid 70000: invalid argument" in result.stderr) == (1, True), result.stderr


# -- id-mapped mounts ---------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A directory of a file system that can be id-mapped, with a mount below."""
    at = tmp_path / "data"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", at], check=True)
    (at / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", at / "below"], check=True)
    for directory in (at, at / "below"):
        (directory / "file").write_text("x")
    yield at
    subprocess.run(["umount", at / "below", at], check=True)


def test_an_id_mapped_mount(vruntime: Runtime, bundles: Bundles, data: Path) -> None:
    """What is root's on the host is the container's root's inside, and is made so; below only if that is asked for."""

    def edit(config: dict[str, Any]) -> None:
        config["mounts"] += [
            {"destination": "/one", "source": str(data), "type": "bind", "options": ["rbind", "idmap"]},
            {"destination": "/all", "source": str(data), "type": "bind", "options": ["rbind", "ridmap", "ro"]},
        ]

    script = """
    stat -c %u:%g /one/file /one/below/file /all/file /all/below/file
    echo y > /one/made; chown 5:6 /one/made; chmod 600 /one/file; touch /all/x 2>&1
    """
    bundle = made(bundles, "sh", "-c", script, edit=edit)
    lines = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False).stdout.decode().splitlines()
    assert lines == ["0:0", "65534:65534", "0:0", "0:0", "touch: /all/x: Read-only file system"]
    made_inside = (data / "made").stat()
    assert (made_inside.st_uid, made_inside.st_gid, (data / "file").stat().st_mode & 0o777) == (5, 6, 0o600)


def test_mappings_of_the_mount_itself(vruntime: Runtime, bundles: Bundles, data: Path) -> None:
    """Without any user namespace."""

    def edit(config: dict[str, Any]) -> None:
        mount = {"destination": "/m", "source": str(data), "type": "bind", "options": ["bind"]}
        mapping = [{"containerID": 0, "hostID": 1000, "size": 10}]
        config["mounts"].append(mount | {"uidMappings": mapping, "gidMappings": mapping})
        config["process"]["user"] = {"uid": 1001, "gid": 1002}

    bundle = bundles.busybox("sh", "-c", "stat -c %u:%g /m/file; echo > /m/made", edit=edit)
    data.chmod(0o777)
    assert run(vruntime, bundle) == ["1000:1000"]
    assert ((data / "made").stat().st_uid, (data / "made").stat().st_gid) == (1, 2)


def test_a_file_system_that_cannot_be_id_mapped(vruntime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        mapping = [{"containerID": 0, "hostID": 1000, "size": 10}]
        mount = {"destination": "/m", "source": "/proc/sys", "type": "bind", "options": ["rbind", "idmap"]}
        config["mounts"].append(mount | {"uidMappings": mapping, "gidMappings": mapping})

    bundle = bundles.busybox("true", edit=edit)
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert result.returncode == 1
    assert b"cannot share /proc/sys: this kernel cannot id-map its file system" in result.stderr


def test_a_stopped_container_leaves_no_process(vruntime: Runtime, bundles: Bundles) -> None:
    container = vruntime.start(made(bundles, "sleep", "1000"))
    vruntime("kill", container, "KILL")
    eventually(lambda: vruntime.state(container)["status"] == "stopped")
