"""Containers that hold a whole system: an init that starts services, keeps a journal, divides its cgroup."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import becomes, eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Runtime

# systemd boots in 10 to 20 s where the machine is emulated.
BOOT = 120.0
STOP = 10.0
HALT = "RTMIN+3"

# What Docker gives by default, which is enough for systemd.
CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
        "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    )
]  # fmt: skip

UNIT = """
[Unit]
Description=Says where it is
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo hello from a unit; cat /proc/self/cgroup >/run/where'
[Install]
WantedBy=multi-user.target
"""


def tmpfs(destination: str, mode: str = "755") -> dict[str, Any]:
    """A mount of config.json."""
    options = ["nosuid", "nodev", f"mode={mode}", "size=64m"]
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options}


def system(config: dict[str, Any]) -> None:
    """What Podman asks for with --systemd: writable cgroups, and tmpfs where a booted system has them."""
    process = config["process"]
    process["env"].append("container=oci")
    process["noNewPrivileges"] = False
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    cgroups = next(mount for mount in config["mounts"] if mount["destination"] == "/sys/fs/cgroup")
    cgroups["options"] = ["nosuid", "noexec", "nodev", "rw"]
    config["mounts"] += [tmpfs("/run"), tmpfs("/run/lock"), tmpfs("/tmp", "1777")]
    config["linux"]["namespaces"].append({"type": "cgroup"})
    config["hostname"] = "system"


def output(runtime: Runtime, container_id: str, *command: str, check: bool = True) -> str:
    """What a command prints in the container."""
    return runtime("exec", container_id, *command, check=check).stdout.decode().strip()


def stopped_within(runtime: Runtime, container_id: str, seconds: float) -> bool:
    """Whether it stops in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if runtime.state(container_id)["status"] == "stopped":
            return True
    return False


@pytest.fixture
def debian_system(bundles: Bundles) -> Path:
    """A bundle with Debian and systemd, and a unit of ours enabled in it."""
    bundle = bundles.debian_system("/sbin/init", edit=system)
    units = bundle / "rootfs/etc/systemd/system"
    (units / "hello.service").write_text(UNIT)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/hello.service").symlink_to("../hello.service")
    return bundle


def test_systemd_reaches_multi_user_and_stops_when_asked(vruntime: Runtime, debian_system: Path) -> None:
    container_id = vruntime.start(debian_system)
    arguments = ("systemctl", "is-system-running", "--wait")
    eventually(lambda: output(vruntime, container_id, *arguments, check=False) in ("running", "degraded"), BOOT)

    assert output(vruntime, container_id, "systemctl", "--failed", "--plain", "--no-legend") == ""
    assert output(vruntime, container_id, "systemctl", "is-active", "multi-user.target") == "active"
    assert output(vruntime, container_id, "systemctl", "is-active", "hello.service") == "active"
    journal = output(vruntime, container_id, "journalctl", "--unit=hello.service", "--output=cat")
    assert "hello from a unit" in journal.splitlines()
    assert output(vruntime, container_id, "cat", "/run/where") == "0::/system.slice/hello.service"
    assert output(vruntime, container_id, "hostname") == "system"

    limit = ("cat", "/sys/fs/cgroup/system.slice/systemd-journald.service/memory.max")
    output(
        vruntime, container_id, "systemctl", "set-property", "--runtime", "systemd-journald.service", "MemoryMax=50M"
    )
    becomes(lambda: output(vruntime, container_id, *limit, check=False), str(50 << 20), BOOT)
    scope = ("systemd-run", "--scope", "--quiet", "--property=TasksMax=23", "cat")
    assert output(vruntime, container_id, *scope, "/proc/self/cgroup").startswith("0::/system.slice/run-")

    vruntime("kill", container_id, HALT)
    assert stopped_within(vruntime, container_id, STOP)


INITTAB = """
::sysinit:/bin/mkdir -p /run
::sysinit:/bin/sh -c 'echo begun >/run/log'
::respawn:/bin/sh -c 'echo served >>/run/log; exec /bin/sleep 1000'
::shutdown:/bin/sh -c 'echo ended >>/run/log'
"""


def test_busybox_init_respawns_and_shuts_down(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("/bin/init")
    (bundle / "rootfs/etc/inittab").write_text(INITTAB)
    container_id = any_runtime.start(bundle)
    log = bundle / "rootfs/run/log"
    eventually(lambda: log.exists() and log.read_text() == "begun\nserved\n")
    output(any_runtime, container_id, "killall", "sleep")
    eventually(lambda: log.read_text() == "begun\nserved\nserved\n")
    any_runtime("kill", container_id, "USR2")  # power off
    assert stopped_within(any_runtime, container_id, STOP)
    assert log.read_text() == "begun\nserved\nserved\nended\n"
