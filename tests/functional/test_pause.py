"""`pause` and `resume`: processes that stand still, and what may be asked of them meanwhile."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from messages import message
from waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from runtimes import Bundles, Runtime

FOREVER = ("sleep", "1000")
COUNTING = ("sh", "-c", "while :; do echo x >> /counted; sleep 0.02; done")


def stopped(runtime: Runtime, container_id: str) -> bool:
    return bool(runtime.state(container_id)["status"] == "stopped")


def counted(bundle: Path) -> int:
    path = bundle / "rootfs/counted"
    return path.stat().st_size if path.exists() else 0


def test_a_paused_container_stands_still_and_goes_on(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox(*COUNTING)
    container_id = any_runtime.start(bundle)
    eventually(lambda: counted(bundle) > 4)
    any_runtime("pause", container_id)
    assert any_runtime.state(container_id)["status"] == "paused"
    count = counted(bundle)
    time.sleep(0.5)
    assert counted(bundle) == count
    any_runtime("resume", container_id)
    assert any_runtime.state(container_id)["status"] == "running"
    eventually(lambda: counted(bundle) > count)


def test_a_created_container_is_created_again_when_it_is_resumed(any_runtime: Runtime, bundles: Bundles) -> None:
    container_id = any_runtime.create(bundles.busybox(*FOREVER))
    any_runtime("pause", container_id)
    assert message(any_runtime("start", container_id, check=False)) == "cannot start a container in the paused state"
    any_runtime("resume", container_id)
    assert any_runtime.state(container_id)["status"] == "created"
    any_runtime("start", container_id)


def test_what_is_refused_of_a_paused_container(any_runtime: Runtime, bundles: Bundles) -> None:
    container_id = any_runtime.start(bundles.busybox(*FOREVER))
    assert message(any_runtime("resume", container_id, check=False)) == "container not paused"
    any_runtime("pause", container_id)
    assert message(any_runtime("pause", container_id, check=False)) == "container not running"
    refused = any_runtime("exec", container_id, "true", check=False)
    assert refused.returncode == 255
    assert "cannot exec in a paused container" in message(refused)
    said = message(any_runtime("delete", container_id, check=False))
    assert said == f"cannot delete container {container_id} that is not stopped: paused"
    assert any_runtime("ps", "-f", "json", container_id).stdout.count(b",") == 0
    any_runtime("resume", container_id)
    any_runtime("exec", container_id, "true")


def test_a_process_may_wait_for_the_resume(any_runtime: Runtime, bundles: Bundles) -> None:
    container_id = any_runtime.start(bundles.busybox(*FOREVER))
    any_runtime("pause", container_id)
    command = any_runtime.command("exec", "--ignore-paused", container_id, "sh", "-c", "echo ran; exit 4")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        any_runtime("resume", container_id)
        assert waiting.communicate(timeout=30)[0] == b"ran\n"
    assert waiting.returncode == 4


def test_a_process_that_waits_is_told_of_the_end(vruntime: Runtime, bundles: Bundles) -> None:
    container_id = vruntime.start(bundles.busybox(*FOREVER))
    vruntime("pause", container_id)
    command = vruntime.command("exec", "--ignore-paused", container_id, "true")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        vruntime("kill", container_id, "KILL")
        said = waiting.communicate(timeout=30)[1]
    assert waiting.returncode == 255
    assert len(said.splitlines()) == 1


def test_a_signal_waits_for_the_resume(any_runtime: Runtime, bundles: Bundles) -> None:
    container_id = any_runtime.start(bundles.busybox("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.02; done"))
    any_runtime("exec", container_id, "true")  # the trap is set by then, but for a race of a shell's first line
    time.sleep(0.3)
    any_runtime("pause", container_id)
    any_runtime("kill", container_id, "TERM")
    time.sleep(0.3)
    assert any_runtime.state(container_id)["status"] == "paused"
    any_runtime("resume", container_id)
    eventually(lambda: stopped(any_runtime, container_id))


def test_a_paused_container_can_be_killed_and_deleted(vruntime: Runtime, bundles: Bundles) -> None:
    killed, deleted = (vruntime.start(bundles.busybox(*FOREVER)) for _ in range(2))
    vruntime("pause", killed)
    vruntime("pause", deleted)
    vruntime("kill", killed, "KILL")
    eventually(lambda: stopped(vruntime, killed), timeout=2.0)
    began = time.monotonic()
    vruntime("delete", "--force", deleted)
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize("verb", ["pause", "resume", "update", "events"])
def test_what_is_said_of_no_container_and_of_a_stopped_one(any_runtime: Runtime, bundles: Bundles, verb: str) -> None:
    assert message(any_runtime(verb, "nosuch", check=False)) == "container does not exist"
    container_id = any_runtime.start(bundles.busybox("true"))
    eventually(lambda: stopped(any_runtime, container_id))
    expected = {
        "resume": "container not paused",
        "events": f"container with id {container_id} is not running",
    }
    assert message(any_runtime(verb, container_id, check=False)) == expected.get(verb, "container not running")
