"""Volumes and memory as users of engines know them; each test says what runc shows there, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from waiting import eventually

if TYPE_CHECKING:
    from engines import Docker, Engine

MEBIBYTE = 1 << 20
# Beyond the container's limit: vm.memory_overhead and vm.host_overhead.
OVERHEAD = (64 + 256) * MEBIBYTE


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Engine:
    chosen: Engine = request.getfixturevalue(request.param)
    return chosen


def run(engine: Engine, *arguments: str) -> str:
    return str(engine("run", "--rm", "--network", "none", *arguments).stdout)


def test_a_named_volume_outlives_its_containers(engine: Engine) -> None:
    run(engine, "--volume", "kept:/data", engine.busybox(), "sh", "-c", "echo one > /data/file; chown 7:8 /data/file")
    look = ("sh", "-c", "stat -c %u:%g /data/file; cat /data/file")
    assert run(engine, "--volume", "kept:/data:ro", engine.busybox(), *look) == "7:8\none\n"


def test_what_two_containers_share(docker: Docker) -> None:
    docker("run", "--detach", "--name", "writer", "--volume", "/data", docker.busybox(), "sleep", "1000")
    docker("run", "--detach", "--name", "reader", "--volumes-from", "writer", docker.busybox(), "sleep", "1000")
    for number in range(3):
        docker("exec", "writer", "sh", "-c", f"echo {number} > /data/new; mv /data/new /data/file")
        assert docker("exec", "reader", "cat", "/data/file").stdout == f"{number}\n"


def test_edited_on_the_host_and_run_in_the_container(docker: Docker, tmp_path: Path) -> None:
    """No command of the engine is so quick that it sees what was there before."""
    script = tmp_path / "script"
    docker("run", "--detach", "--name", "one", "--volume", f"{tmp_path}:/src", docker.busybox(), "sleep", "1000")
    for number in range(3):
        (tmp_path / "new").write_text(f"echo {number}")
        (tmp_path / "new").rename(script)
        assert docker("exec", "one", "sh", "/src/script").stdout == f"{number}\n"


def test_copies_into_and_out_of_a_running_container(docker: Docker, tmp_path: Path) -> None:
    docker("run", "--detach", "--name", "one", docker.busybox(), "sleep", "1000")
    for number in range(3):
        (tmp_path / "file").write_text(f"{number}")
        docker("cp", str(tmp_path / "file"), "one:/tmp/file")
        assert docker("exec", "one", "cat", "/tmp/file").stdout == f"{number}"
    docker("exec", "one", "sh", "-c", "echo from inside > /tmp/file")
    docker("cp", "one:/tmp/file", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_text() == "from inside\n"


def test_tmpfs_and_shared_memory(engine: Engine) -> None:
    script = "df -m /scratch /dev/shm | tail -n 2 | awk '{print $2, $6}'"
    flags = ("--tmpfs", "/scratch:size=3m", "--shm-size", "5m")
    assert run(engine, *flags, engine.busybox(), "sh", "-c", script) == "3 /scratch\n5 /dev/shm\n"


@pytest.mark.parametrize("limit", [64, 512])
def test_an_oom_kill_is_known_to_the_engine(docker: Docker, limit: int) -> None:
    """To Docker. Podman 4.3 does not find out with any runtime: it looks elsewhere than where conmon leaves a note."""
    command = ("dd", "if=/dev/zero", "of=/dev/null", f"bs={2 * limit}M", "count=1")
    flags = ("--name", "one", "--network", "none", "--memory", f"{limit}m")
    assert docker("run", *flags, docker.busybox(), *command, check=False).returncode == 137
    state = json.loads(docker("inspect", "--format", "{{json .State}}", "one").stdout)
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)


def test_an_oom_kill_of_a_child_is_an_event(docker: Docker) -> None:
    began = docker("info", "--format", "{{.SystemTime}}").stdout.strip()
    script = "dd if=/dev/zero of=/dev/null bs=128M count=1; sleep 1000"
    docker("run", "--detach", "--name", "one", "--memory", "64m", docker.busybox(), "sh", "-c", script)

    def events() -> str:
        flags = ("--since", began, "--until", "0s", "--filter", "event=oom", "--format", "{{.Actor.Attributes.name}}")
        return str(docker("events", *flags).stdout)

    eventually(events)
    assert set(events().split()) == {"one"}
    assert docker("inspect", "--format", "{{.State.Running}}", "one").stdout == "true\n"


def test_statistics(docker: Docker) -> None:
    """Those of the machine: its helpers' threads and memory; as limit what was asked for, and the overhead."""
    docker("run", "--detach", "--name", "one", "--memory", "512m", docker.busybox(), "sleep", "1000")
    shown = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", "one").stdout)
    used, limit = shown["MemUsage"].split(" / ")
    assert limit == f"{512 + OVERHEAD // MEBIBYTE}MiB"
    assert used.endswith("MiB")
    assert 30 < float(used.removesuffix("MiB")) < 400
    assert 3 < int(shown["PIDs"]) < 160


def test_a_parent_cgroup(docker: Docker) -> None:
    """The container's group is below it, on the host, with all of the machine."""
    docker("run", "--detach", "--name", "one", "--cgroup-parent", "/own-parent", docker.busybox(), "sleep", "1000")
    pid, identity = docker("inspect", "--format", "{{.State.Pid}} {{.Id}}", "one").stdout.split()
    groups = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    assert all(path.endswith(f"/own-parent/{identity}") for _, _, path in groups)
    docker("rm", "--force", "one")
    for parent in list(docker.namespaces.path("/sys/fs/cgroup").rglob("own-parent")):  # which Docker leaves
        parent.rmdir()
