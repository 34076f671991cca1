"""What Docker limits: CPUs, memory, processes, and what else is the kernel's to count; and changes of it."""

from __future__ import annotations

import pytest
from engines import Docker

CGROUP = "cd /sys/fs/cgroup; cat "


@pytest.mark.parametrize(
    ("flags", "script", "expected"),
    [
        (["--cpus", "0.5"], f"nproc; {CGROUP} cpu.max", "1\n50000 100000\n"),
        (["--cpus", "2", "--cpu-shares", "2048"], f"nproc; {CGROUP} cpu.max cpu.weight", "2\n200000 100000\n79\n"),
        (["--cpuset-cpus", "1"], "nproc", "1\n"),
        (["--memory", "64m", "--memory-swap", "96m"], f"{CGROUP} memory.max memory.swap.max", "67108864\n33554432\n"),
        (["--memory", "64m", "--memory-reservation", "32m"], f"{CGROUP} memory.low", "33554432\n"),
        (["--memory", "64m", "--memory-swappiness", "0"], f"{CGROUP} memory.max", "67108864\n"),
        (["--pids-limit", "20"], f"{CGROUP} pids.max; (for i in $(seq 40); do sleep 9 & done) || echo no", "20\nno\n"),
        (["--shm-size", "10m"], "df -k /dev/shm | awk 'NR == 2 { print $2 }'", "10240\n"),
        (["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn", "100\n200\n"),
        (["--ulimit", "core=0", "--ulimit", "stack=4194304"], "ulimit -c; ulimit -s", "0\n4096\n"),
        (["--sysctl", "kernel.msgmax=9000"], "cat /proc/sys/kernel/msgmax", "9000\n"),
        (["--sysctl", "net.ipv4.ip_forward=0"], "cat /proc/sys/net/ipv4/ip_forward", "0\n"),
        (["--oom-score-adj", "300"], "cat /proc/self/oom_score_adj", "300\n"),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, list) else "",
)
def test_limit(docker: Docker, flags: list[str], script: str, expected: str) -> None:
    assert docker("run", "--rm", *flags, docker.busybox(), "sh", "-c", script).stdout == expected


def test_update(docker: Docker) -> None:
    container = docker.detached("--memory", "128m", "--memory-swap", "128m", docker.busybox(), "sleep", "1000")
    docker("update", "--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--pids-limit", "30", container)
    seen = docker("exec", container, "sh", "-c", CGROUP + "memory.max cpu.max pids.max").stdout
    assert seen == "67108864\n50000 100000\n30\n"
    docker("update", "--memory", "128m", "--memory-swap", "128m", container)
    assert docker("exec", container, "cat", "/sys/fs/cgroup/memory.max").stdout == "134217728\n"


def test_update_beyond_the_machine(docker: Docker) -> None:
    """What it was made with stays."""
    container = docker.detached("--memory", "64m", "--memory-swap", "64m", docker.busybox(), "sleep", "1000")
    refused = docker("update", "--memory", "8g", "--memory-swap", "8g", container, check=False)
    assert refused.returncode == 1
    assert "the container's virtual machine has" in refused.stderr
    assert docker("exec", container, "cat", "/sys/fs/cgroup/memory.max").stdout == "67108864\n"


def test_update_of_the_restart_policy(docker: Docker) -> None:
    container = docker.detached(docker.busybox(), "sleep", "1000")
    docker("update", "--restart", "on-failure:3", container)
    assert docker.inspect(container, ".HostConfig.RestartPolicy.MaximumRetryCount") == "3"


def test_a_disabled_oom_killer_is_the_hosts_alone(docker: Docker) -> None:
    """As with every engine on cgroup v2, which the guest has."""
    limits = ["--memory", "32m", "--memory-swap", "32m", "--oom-kill-disable"]
    eat = "dd if=/dev/zero of=/dev/null bs=100M"
    assert docker("run", "--rm", *limits, docker.busybox(), "sh", "-c", eat, check=False).returncode == 137
