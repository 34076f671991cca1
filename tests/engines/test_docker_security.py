"""What Docker allows and forbids a container: capabilities, system calls, devices, all of them inside the guest."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from engines import Docker

STATUS = ["sh", "-c", "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t\\n' ' '"]
DOCKERS_CAPABILITIES = "00000000a80425fb"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], f"CapEff: {DOCKERS_CAPABILITIES} CapBnd: {DOCKERS_CAPABILITIES} NoNewPrivs: 0 Seccomp: 2 "),
        (
            ["--cap-drop", "all", "--cap-add", "chown"],
            f"CapEff: {1:016x} CapBnd: {1:016x} NoNewPrivs: 0 Seccomp: 2 ",
        ),
        (
            ["--user", "user", "--security-opt", "no-new-privileges"],
            f"CapEff: {0:016x} CapBnd: {DOCKERS_CAPABILITIES} NoNewPrivs: 1 Seccomp: 2 ",
        ),
        (
            ["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"],
            f"CapEff: {DOCKERS_CAPABILITIES} CapBnd: {DOCKERS_CAPABILITIES} NoNewPrivs: 0 Seccomp: 0 ",
        ),
    ],
    ids=["default", "cap-add and cap-drop", "no-new-privileges", "unconfined"],
)
def test_status(docker: Docker, flags: list[str], expected: str) -> None:
    assert docker("run", "--rm", *flags, docker.busybox(), *STATUS).stdout == expected


def test_a_profile_of_system_calls(docker: Docker, tmp_path: Path) -> None:
    rule = {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    command = ["--security-opt", f"seccomp={profile}", docker.busybox(), "chmod", "600", "/etc/passwd"]
    denied = docker("run", "--rm", *command, check=False)
    assert denied.stderr == "chmod: /etc/passwd: Operation not supported\n"


def test_the_default_profile(docker: Docker) -> None:
    command = [docker.busybox(), "unshare", "--user", "true"]
    assert "Operation not permitted" in docker("run", "--rm", *command, check=False).stderr
    docker("run", "--rm", "--security-opt", "seccomp=unconfined", *command)


def test_devices_that_the_guest_has(docker: Docker) -> None:
    flags = ["--device", "/dev/fuse", "--device", "/dev/net/tun", "--device", "/dev/zero:/dev/nought:r"]
    script = "stat -c '%F %t:%T' /dev/fuse /dev/net/tun /dev/nought; head -c 2 /dev/nought | xxd -p"
    shown = docker("run", "--rm", *flags, docker.busybox(), "sh", "-c", script, check=False)
    assert shown.stdout.splitlines() == [
        "character special file a:e5",
        "character special file a:c8",
        "character special file 1:5",
        "0000",
    ]


def test_a_device_of_the_host_is_refused(docker: Docker, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    os.mknod(memory, stat.S_IFCHR | 0o600, os.makedev(1, 1))
    refused = docker("run", "--rm", "--device", f"{memory}:/dev/memory", docker.busybox(), "true", check=False)
    assert refused.returncode == 125
    assert 'linux.devices[0]: "/dev/memory" is a device of the host, which cannot be given to the' in refused.stderr


def test_privileged_is_so_in_the_guest_alone(docker: Docker) -> None:
    script = """
    grep -E '^(CapEff|Seccomp):' /proc/self/status | tr -s '\\t\\n' ' '; echo
    mkdir /mnt && mount -t tmpfs none /mnt && echo mounted
    sysctl -w vm.swappiness=7
    mkdir /sys/fs/cgroup/below && echo divided
    find /dev -path /dev/pts -prune -o '(' -type b -o -type c ')' -print | sort | tr '\\n' ' '; echo
    for device in "b 254 0" "c 10 232" "c 1 1"; do
        mknod /dev/x $device && head -c 1 /dev/x 2>&1; rm /dev/x
    done
    """
    shown = docker("run", "--rm", "--privileged", docker.busybox(), "sh", "-c", script, check=False)
    status, mounted, sysctl, divided, devices, *opened = shown.stdout.splitlines()
    capabilities = int(status.split()[1], 16)
    assert capabilities.bit_count() >= 38
    assert status.split()[3] == "0"
    assert (mounted, sysctl, divided) == ("mounted", "vm.swappiness = 7", "divided")
    of_the_guest = {f"/dev/{name}" for name in ["fuse", "full", "net/tun", "null", "random", "tty", "urandom", "zero"]}
    assert {"/dev/null", "/dev/tty"} <= set(devices.split()) <= of_the_guest
    assert "No such device or address" in opened[0]
    assert "No such device" in opened[1]
