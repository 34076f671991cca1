"""containerd's client: containers, their tasks and what is told of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Containerd
from waiting import becomes, eventually

BRIDGE = {
    "cniVersion": "0.4.0",
    "name": "test",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni-test",
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "subnet": "10.123.0.0/24",
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": "DIRECTORY",
            },
        }
    ],
}


# The client reads its networks from a directory of the host.
WITH_NETWORK = 'mount -t tmpfs none /etc/cni; mkdir /etc/cni/net.d; cat >/etc/cni/net.d/test.conflist; exec "$@"'


@pytest.fixture
def sleeper(ctr: Containerd) -> Iterator[str]:
    """A task that runs."""
    ctr("run", "--detach", ctr.busybox(), "sleeper", "sleep", "1000")
    yield "sleeper"
    ctr.remove_all()


def status(ctr: Containerd, task: str) -> str:
    lines = [line.split() for line in ctr("tasks", "list").stdout.splitlines()]
    return next((line[2] for line in lines if line[0] == task), "")


def test_exit_codes_and_failures(ctr: Containerd) -> None:
    result = ctr("run", "--rm", ctr.busybox(), "code", "sh", "-c", "echo out; exit 3", check=False)
    assert (result.returncode, result.stdout) == (3, "out\n")
    missing = ctr("run", "--rm", ctr.busybox(), "missing", "none", check=False)
    assert 'exec: "none": executable file not found in $PATH' in missing.stderr
    host = ctr("run", "--rm", "--net-host", ctr.busybox(), "host", "true", check=False)
    assert "the host's cannot be shared" in host.stderr


GIVEN = """
touch /x 2>/dev/null || echo read-only; cat /sys/fs/cgroup/memory.max /volume/file; test -c /dev/fuse && echo fuse
"""


def test_what_a_container_is_given(ctr: Containerd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound\n")
    flags = ["--read-only", "--memory-limit", str(100 << 20), "--device", "/dev/fuse"]
    flags += ["--mount", f"type=bind,src={tmp_path},dst=/volume,options=rbind:ro"]
    flags += ["--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro"]
    shown = ctr("run", "--rm", *flags, ctr.busybox(), "given", "sh", "-c", GIVEN)
    assert shown.stdout.split() == ["read-only", str(100 << 20), "bound", "fuse"]


def test_privileged_is_so_in_the_guest_alone(ctr: Containerd) -> None:
    shown = ctr("run", "--rm", "--privileged", ctr.busybox(), "free", "ls", "/dev").stdout.split()
    assert "null" in shown
    assert not {"sda", "vda", "kmsg", "mem"} & set(shown)


def test_life_of_a_task(ctr: Containerd, sleeper: str) -> None:
    assert status(ctr, sleeper) == "RUNNING"
    ctr("tasks", "pause", sleeper)
    assert status(ctr, sleeper) == "PAUSED"
    ctr("tasks", "resume", sleeper)
    assert status(ctr, sleeper) == "RUNNING"
    ctr("tasks", "kill", "--signal", "SIGKILL", sleeper)
    becomes(lambda: status(ctr, sleeper), "STOPPED")
    assert "exit code 137" in ctr("tasks", "delete", sleeper).stderr


def test_exec(ctr: Containerd, sleeper: str) -> None:
    ran = ctr("tasks", "exec", "--exec-id", "one", sleeper, "sh", "-c", "echo in; exit 4", check=False)
    assert (ran.returncode, ran.stdout) == (4, "in\n")
    missing = ctr("tasks", "exec", "--exec-id", "two", sleeper, "none", check=False)
    assert 'exec: "none": executable file not found in $PATH' in missing.stderr


def test_looking_at_a_task(ctr: Containerd, sleeper: str) -> None:
    metrics = ctr("tasks", "metrics", "--format", "json", sleeper).stdout
    assert json.loads(metrics)
    pids = [line.split()[0] for line in ctr("tasks", "ps", sleeper).stdout.splitlines()[1:]]
    assert all(Path("/proc", pid).exists() for pid in pids)
    assert len(pids) == 1
    refused = ctr("tasks", "checkpoint", sleeper, check=False)
    assert "checkpoint is not supported" in refused.stderr
    assert status(ctr, sleeper) == "RUNNING"


def test_events_of_an_end(ctr: Containerd) -> None:
    with ctr.start("events") as events:
        script = "tail -c 100m /dev/zero | sort; exit 5"
        memory = ["--memory-limit", str(50 << 20)]
        ctr("run", "--rm", *memory, ctr.busybox(), "hungry", "sh", "-c", script, check=False, timeout=120)
        assert events.stdout is not None
        seen = []
        for line in events.stdout:
            seen.append(line)
            if "/tasks/exit" in line:
                break
        events.terminate()
    assert any("/tasks/oom" in line for line in seen), seen
    assert '"exit_status":5' in seen[-1]


def test_a_network_by_cni(ctr: Containerd, tmp_path: Path) -> None:
    """It fills the network namespace of the pid between create and start."""
    described = json.dumps(BRIDGE).replace("DIRECTORY", str(tmp_path))
    run = ctr.command("run", "--rm", "--cni", ctr.busybox(), "netted", "ip", "address", "show", "eth0")
    within = run.index("--") + 1
    command = [*run[:within], "unshare", "--mount", "sh", "-ec", WITH_NETWORK, "sh", *run[within:]]
    result = subprocess.run(command, input=described, capture_output=True, text=True, timeout=60, env=ctr.environment)
    assert "inet 10.123.0." in result.stdout, result.stderr
    eventually(lambda: "netted" not in ctr("containers", "list").stdout)
    subprocess.run(ctr.namespaces.command("ip", "link", "delete", "cni-test"), check=True)
