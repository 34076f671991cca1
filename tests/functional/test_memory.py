"""A container gets the memory that it asked for; what exceeds is killed, and who watches its cgroup learns of it."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_faults import subreaper
from test_host_cgroups import V1, directory, groups_of
from test_pods import sharing
from waiting import eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Edit, Runtime

__all__ = ["subreaper"]

MEBIBYTE = 1 << 20


def limited(bundles: Bundles, limit: int, *args: str, edit: Edit = lambda config: None) -> Path:
    """A bundle with a limit in MiB."""

    def both(config: dict[str, Any]) -> None:
        config["linux"]["resources"]["memory"] = {"limit": limit * MEBIBYTE}
        edit(config)

    return bundles.busybox(*args, edit=both)


def touch(size: int) -> tuple[str, ...]:
    """A program that uses this much memory, in MiB."""
    return ("dd", "if=/dev/zero", "of=/dev/null", f"bs={size}M", "count=1")


@contextmanager
def oom_watch(pid: int) -> Iterator[Callable[[], bool]]:
    """As containerd and conmon watch the group of a container's first process; the function tells of an OOM kill."""
    if not V1:
        events = directory("memory", groups_of(pid)[""]) / "memory.events"
        yield lambda: "oom_kill 0" not in events.read_text().splitlines()
        return
    group = directory("memory", groups_of(pid)["memory"])
    event = os.eventfd(0)
    with open(group / "memory.oom_control") as control:
        (group / "cgroup.event_control").write_text(f"{event} {control.fileno()}")
        try:
            # The end of the group is an event, too.
            yield lambda: bool(select.select([event], [], [], 0)[0]) and group.exists()
        finally:
            os.close(event)


@pytest.mark.parametrize("limit", [64, 128, 512, 1024])
def test_what_was_asked_for(any_runtime: Runtime, bundles: Bundles, limit: int) -> None:
    bundle = limited(bundles, limit, *touch(limit * 9 // 10))
    any_runtime("run", "--bundle", str(bundle), any_runtime.new_id())


@pytest.mark.parametrize("limit", [64, 512])
def test_too_much(any_runtime: Runtime, bundles: Bundles, subreaper: None, limit: int) -> None:
    """It exits with 137, and before that shows to whoever watches the cgroup on the host."""
    container = any_runtime.create(limited(bundles, limit, *touch(limit * 2)))
    pid = any_runtime.state(container)["pid"]
    with oom_watch(pid) as has_happened:
        assert not has_happened()
        any_runtime("start", container)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (137, -9)
        assert has_happened()


def test_a_child_that_takes_too_much(any_runtime: Runtime, bundles: Bundles) -> None:
    """The container lives on, and the kill shows at once."""
    script = " ".join(touch(100)) + "; echo $? > /new; mv /new /told; exec sleep 1000"
    bundle = limited(bundles, 64, "sh", "-c", script)
    container = any_runtime.create(bundle)
    with oom_watch(any_runtime.state(container)["pid"]) as has_happened:
        any_runtime("start", container)
        eventually(has_happened)
        eventually((bundle / "rootfs/told").exists)
        assert (bundle / "rootfs/told").read_text() == "137\n"
        assert any_runtime.state(container)["status"] == "running"


def test_each_container_of_a_pod_has_its_own(vruntime: Runtime, bundles: Bundles, subreaper: None) -> None:
    infra = vruntime.start(limited(bundles, 64, "sleep", "1000"))
    first = vruntime.state(infra)["pid"]
    container = vruntime.create(limited(bundles, 64, *touch(128), edit=sharing(first, "network", "ipc", "uts")))
    second = vruntime.state(container)["pid"]
    with oom_watch(first) as has_happened_to_infra, oom_watch(second) as has_happened:
        vruntime("start", container)
        os.waitpid(second, 0)
        assert has_happened()
        assert not has_happened_to_infra()
    assert vruntime.state(infra)["status"] == "running"
    vruntime("delete", "--force", infra)
    os.waitpid(first, 0)  # we are its parent now


def test_no_kill_shows_nothing(any_runtime: Runtime, bundles: Bundles) -> None:
    container = any_runtime.create(limited(bundles, 64, "sh", "-c", "kill -9 $$"))
    pid = any_runtime.state(container)["pid"]
    with oom_watch(pid) as has_happened:
        any_runtime("start", container)
        eventually(lambda: any_runtime.state(container)["status"] == "stopped")
        assert not has_happened()
