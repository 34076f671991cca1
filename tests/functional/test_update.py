"""`update` and `events`: limits that change while a container runs, and what it uses of them."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from messages import message
from waiting import eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Runtime

FOREVER = ("sleep", "1000")
MEBIBYTE = 1 << 20
ALL_LIMITS = ("memory.max", "memory.swap.max", "memory.low", "cpu.max", "cpu.weight", "pids.max")


def limited(bundles: Bundles, runtime: Runtime, *command: str, **limits: Any) -> str:
    """A container that runs under these limits."""
    bundle = bundles.busybox(*(command or FOREVER), edit=lambda c: c["linux"]["resources"].update(limits))
    return runtime.start(bundle)


def in_guest(runtime: Runtime, container_id: str, *files: str) -> list[str]:
    command = f"cd /sys/fs/cgroup && cat {' '.join(files or ALL_LIMITS)}"
    return runtime("exec", container_id, "sh", "-c", command).stdout.decode().split("\n")[:-1]


def test_flags_change_the_limits(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = limited(bundles, vruntime)
    vruntime("update", "--memory", "100m", "--memory-reservation", "1.5m", "--pids-limit", "77", container_id)
    vruntime("update", "--cpu-quota", "50000", container_id)
    vruntime("update", "--cpu-period", "200000", "--cpu-share", "2048", container_id)
    vruntime("update", "--memory-swap", "150m", container_id)
    expected = [str(100 * MEBIBYTE), str(50 * MEBIBYTE), str(3 * MEBIBYTE // 2), "50000 200000", "79", "77"]
    swap = in_guest(vruntime, container_id, "memory.swap.max")
    assert in_guest(vruntime, container_id) == [expected[0], *swap, *expected[2:]]


@pytest.mark.parametrize("from_stdin", [True, False])
def test_a_file_changes_what_it_names(any_runtime: Runtime, bundles: Bundles, from_stdin: bool) -> None:
    """Docker and containerd give it on standard input, Podman as a file."""
    container_id = limited(bundles, any_runtime, memory={"limit": 64 * MEBIBYTE})
    changes = json.dumps({"pids": {"limit": 33}, "memory": {"limit": 0}, "cpu": {"cpus": ""}, "unknown": 1})
    if from_stdin:
        any_runtime("update", "--resources", "-", container_id, input=changes.encode())
    else:
        file = any_runtime.root.parent / "changes.json"
        file.write_text(changes)
        any_runtime("update", f"--resources={file}", container_id)
    stats = json.loads(any_runtime("events", "--stats", container_id).stdout)["data"]
    assert stats["pids"]["limit"] == 33
    assert stats["memory"]["usage"]["limit"] == 64 * MEBIBYTE


def test_a_limit_takes_effect_at_once(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = limited(bundles, vruntime)
    vruntime("update", "--pids-limit", "3", container_id)
    script = "sleep 9 & sleep 9 & sleep 9 & sleep 9 & wait"
    result = vruntime("exec", container_id, "sh", "-c", script, check=False)
    assert result.returncode != 0
    assert b"can't fork" in result.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--memory", "1t"], "memory.limit 1099511627776: the container's virtual machine has"),
        (["--memory", "12x"], "invalid size '12x'"),
        (["--l3-cache-schema", "L3:0=f"], "Intel RDT is not supported"),
        (["--cpuset-cpus", "63"], "cpuset.cpus"),
        (["--memory-swap", "1m"], "memory"),
        (["--blkio-weight", "-5"], "linux.resources.blockIO.weight"),
    ],
)
def test_limits_that_cannot_be_change_nothing(vruntime: Runtime, bundles: Bundles, flags: list[str], said: str) -> None:
    container_id = limited(bundles, vruntime, memory={"limit": 64 * MEBIBYTE}, pids={"limit": 50})
    before = in_guest(vruntime, container_id)
    assert said in message(vruntime("update", "--pids-limit", "7", *flags, container_id, check=False))
    assert in_guest(vruntime, container_id) == before
    vruntime("update", "--pids-limit", "8", container_id)
    assert in_guest(vruntime, container_id)[-1] == "8"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"pids": 5}', '{"pids": {"limit": "x"}}', '{"a":1,"a":2}', "{" * 200_000]
)
def test_a_file_that_is_none(vruntime: Runtime, bundles: Bundles, content: str) -> None:
    container_id = limited(bundles, vruntime)
    message(vruntime("update", "--resources", "-", container_id, input=content.encode(), check=False))


def test_statistics_have_the_form_of_runc(vruntime: Runtime, runc: Runtime, bundles: Bundles) -> None:
    """All that runc tells on every host is there, of the same type."""
    ours, theirs = (
        json.loads(runtime("events", "--stats", limited(bundles, runtime, pids={"limit": 9})).stdout)
        for runtime in (vruntime, runc)
    )
    assert (ours["type"], list(ours), list(ours["data"])) == ("stats", list(theirs), list(theirs["data"]))
    ours, theirs = ours["data"], theirs["data"]
    assert ours["pids"] == theirs["pids"] == {"current": 1, "limit": 9}
    assert set(ours["memory"]["usage"]) == set(theirs["memory"]["usage"])
    assert MEBIBYTE // 8 < ours["memory"]["usage"]["usage"] < 64 * MEBIBYTE
    assert ours["memory"]["raw"]["file"] >= 0
    assert {"total", "kernel", "user"} <= set(ours["cpu"]["usage"])
    assert 10**6 < ours["cpu"]["usage"]["total"] < 10**11


def test_events_are_told_until_the_end(vruntime: Runtime, bundles: Bundles) -> None:
    """Statistics at their interval; the kernel's killing of a process at once; and an end with the container's."""
    bundle = bundles.debian(
        "sh",
        "-c",
        "read go; python3 -c \"b'x' * (100 << 20)\"; exec sleep 1000",
        edit=lambda c: c["linux"]["resources"].update(memory={"limit": 64 * MEBIBYTE}),
    )
    container_id = vruntime.start(bundle)
    with subprocess.Popen(
        vruntime.command("events", "--interval", "300ms", container_id), stdout=subprocess.PIPE
    ) as on:
        assert on.stdout is not None
        assert json.loads(on.stdout.readline())["type"] == "stats"
        vruntime("exec", container_id, "python3", "-c", "b'x' * (100 << 20)", check=False)
        lines = [json.loads(on.stdout.readline())["type"] for _ in range(3)]
        while "oom" not in lines:
            lines.append(json.loads(on.stdout.readline())["type"])
            assert len(lines) < 100
        vruntime("kill", container_id, "KILL")
        assert on.wait(10) == 0
    assert lines.count("oom") == 1


def test_who_follows_may_leave(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = limited(bundles, vruntime)
    for _ in range(3):
        following = subprocess.Popen(vruntime.command("events", "--interval", "1h", container_id))
        time.sleep(0.4)
        following.kill()
        following.wait()
    vruntime("exec", container_id, "true")
    vruntime("kill", container_id, "KILL")
    eventually(lambda: vruntime.state(container_id)["status"] == "stopped", timeout=2.0)


@pytest.mark.parametrize("interval", ["0s", "5", "-1s", "1x", ""])
def test_intervals_that_are_none(vruntime: Runtime, interval: str) -> None:
    said = message(vruntime("events", "--interval", interval, "nosuch", check=False))
    assert "duration" in said


def test_checkpoints_are_refused(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = limited(bundles, vruntime)
    said = message(vruntime("checkpoint", "--image-path", "/tmp/x", "--leave-running", container_id, check=False))
    assert said.startswith("checkpoint is not supported")
    assert message(vruntime("checkpoint", "nosuch", check=False)) == "container does not exist"
    assert message(vruntime("restore", "--bundle", "/tmp", "new", check=False)).startswith("restore is not supported")
