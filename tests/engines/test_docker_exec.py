"""`docker exec`, `top` and `stats`: further processes of a container, and what is seen of them."""

from __future__ import annotations

import json
import subprocess

import pytest
from engines import Docker
from waiting import becomes, eventually


@pytest.fixture
def sleeper(docker: Docker) -> str:
    """A container that does nothing."""
    return docker.detached(docker.busybox(), "sleep", "1000")


def test_flags(docker: Docker, sleeper: str) -> None:
    flags = ["--user", "user", "--workdir", "/tmp", "--env", "A=b c"]
    shown = docker("exec", *flags, sleeper, "sh", "-c", 'id -un; pwd; echo "$A"; echo bad >&2; exit 9', check=False)
    assert (shown.returncode, shown.stdout, shown.stderr) == (9, "user\n/tmp\nb c\n", "bad\n")
    privileged = docker("exec", "--privileged", sleeper, "grep", "CapEff", "/proc/self/status").stdout
    assert int(privileged.split()[1], 16).bit_count() >= 38


def test_standard_input(docker: Docker, sleeper: str) -> None:
    assert docker("exec", "--interactive", sleeper, "wc", "-c", input="x" * 3_000_000).stdout == "3000000\n"


def test_detached(docker: Docker, sleeper: str) -> None:
    docker("exec", "--detach", sleeper, "sh", "-c", "echo done > /tmp/done")
    becomes(lambda: docker("exec", sleeper, "cat", "/tmp/done", check=False).stdout, "done\n")


FAILING = {
    "program missing": ["none"],
    "path missing": ["/bin/none"],
    "not executable": ["/etc/passwd"],
    "a directory": ["/etc"],
    "working directory missing": ["--workdir", "/none", "true"],
    "user missing": ["--user", "nobody-here", "true"],
}


def test_failures_are_said_as_with_runc(docker: Docker, sleeper: str) -> None:
    said: dict[str, dict[str, tuple[int, str, str]]] = {"vruntime": {}, "runc": {}}
    beside = docker.using("runc").detached(docker.busybox(), "sleep", "1000")
    for runtime, container in ("vruntime", sleeper), ("runc", beside):
        for case, (*flags, program) in FAILING.items():
            result = docker("exec", *flags, container, program, check=False)
            said[runtime][case] = (result.returncode, result.stdout, result.stderr)
    assert said["vruntime"] == said["runc"]
    assert {code for code, _, _ in said["vruntime"].values()} == {126}


def test_in_a_paused_and_a_stopped_container(docker: Docker, sleeper: str) -> None:
    docker("pause", sleeper)
    assert "is paused, unpause the container before exec" in docker("exec", sleeper, "true", check=False).stderr
    docker("unpause", sleeper)
    docker("kill", sleeper)
    assert "is not running" in docker("exec", sleeper, "true", check=False).stderr


def test_top_shows_what_was_asked_to_run(docker: Docker, sleeper: str) -> None:
    with docker.start("exec", sleeper, "sh", "-c", "echo up; sleep 1000 & wait") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        heading, *rows = docker("top", sleeper).stdout.splitlines()
        assert heading.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        assert [row.split(maxsplit=7)[7] for row in rows] == ["sleep 1000", "sh -c echo up; sleep 1000 & wait"]
        assert rows[0].split()[1] == docker.inspect(sleeper, ".State.Pid")
        assert docker("top", sleeper, "-o", "pid,args").stdout.splitlines()[1].split()[1:] == ["sleep", "1000"]
        docker("kill", sleeper)
        assert other.wait(30) == 137


def test_top_shows_nothing_of_the_host(docker: Docker, sleeper: str) -> None:
    """The pids in the guest are others' on the host."""
    pids = {row.split()[1] for row in docker("top", sleeper).stdout.splitlines()[1:]}
    held = subprocess.run(["ps", "-o", "comm=", "-p", ",".join(pids)], capture_output=True, text=True, check=True)
    assert set(held.stdout.split()) == {"vruntime-shim"}


def test_stats(docker: Docker) -> None:
    script = "head -c 64M /dev/zero | tail -c 64M >/dev/null; while :; do :; done"
    container = docker.detached("--memory", "256m", "--pids-limit", "50", docker.busybox(), "sh", "-c", script)

    def shown() -> dict[str, str]:
        return dict(json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", container).stdout))

    busy = eventually(lambda: (seen := shown()) and float(seen["CPUPerc"].rstrip("%")) > 20 and seen)
    used, limit = (float(value.rstrip("MGiB")) for value in busy["MemUsage"].split(" / "))
    assert 80 < used < 800, busy
    assert 256 < limit < 1024, busy
    assert 3 <= int(busy["PIDs"]) <= 200, busy
