"""The life of a container under Docker: stop, kill, restart, health, pause, events, and what `inspect` knows of it."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from engines import Docker
from waiting import becomes, eventually

UP = "while :; do sleep 0.1; done"


def started(docker: Docker, script: str, *flags: str) -> str:
    """A container whose script has said `up`."""
    container = docker.detached(*flags, docker.busybox(), "sh", "-c", script)
    becomes(lambda: "up\n" in docker("logs", container).stdout, expected=True)
    return container


def status(docker: Docker, container: str) -> str:
    return docker.inspect(container, ".State.Status")


def test_stop_asks_first(docker: Docker) -> None:
    container = started(docker, f"trap 'echo bye; exit 5' TERM; echo up; {UP}")
    docker("stop", "--time", "30", container)
    assert docker.inspect(container, ".State.ExitCode") == "5"
    assert docker("logs", container).stdout == "up\nbye\n"


def test_stop_with_the_images_signal(docker: Docker) -> None:
    container = started(docker, f"trap 'exit 6' QUIT; trap : TERM; echo up; {UP}", "--stop-signal", "QUIT")
    docker("stop", "--time", "30", container)
    assert docker.inspect(container, ".State.ExitCode") == "6"


def test_stop_kills_when_the_time_is_over(docker: Docker) -> None:
    container = started(docker, f"trap : TERM; echo up; {UP}")
    began = time.monotonic()
    docker("stop", "--time", "1", container)
    assert 1 <= time.monotonic() - began < 8
    assert docker.inspect(container, ".State.ExitCode") == "137"


def test_kill_with_a_signal_and_wait(docker: Docker) -> None:
    container = started(docker, f"trap 'exit 3' USR1; echo up; {UP}")
    with docker.start("wait", container) as waiting:
        docker("kill", "--signal", "USR1", container)
        assert waiting.communicate(timeout=30)[0] == "3\n"


def test_a_stopped_container_starts_again_with_its_files(docker: Docker) -> None:
    container = docker("create", docker.busybox(), "sh", "-c", "echo x >> /count; wc -l < /count").stdout.strip()
    assert status(docker, container) == "created"
    assert docker("start", "--attach", container).stdout == "1\n"
    assert docker("start", "--attach", container).stdout == "2\n"
    docker("restart", container)
    becomes(lambda: docker("logs", container).stdout, "1\n2\n3\n")


def test_rename_and_inspect(docker: Docker) -> None:
    container = started(docker, f"echo up; {UP}", "--name", "before")
    docker("rename", "before", "after")
    seen = json.loads(docker("inspect", "after").stdout)[0]
    assert (seen["Id"], seen["HostConfig"]["Runtime"]) == (container, "vruntime")
    state = seen["State"]
    assert (state["Status"], state["ExitCode"], state["OOMKilled"], state["Error"]) == ("running", 0, False, "")
    os.kill(state["Pid"], 0)
    docker("kill", "after")
    assert docker.inspect("after", ".State.Pid") == "0"


def test_the_error_of_a_failed_start(docker: Docker) -> None:
    container = docker("create", docker.busybox(), "none").stdout.strip()
    docker("start", container, check=False)
    said = 'unable to start container process: exec: "none": executable file not found in $PATH: unknown'
    assert docker.inspect(container, ".State.Error").endswith(said)
    assert docker.inspect(container, ".State.ExitCode") == "127"


def test_pause(docker: Docker) -> None:
    container = started(docker, "echo up; while :; do echo tick; sleep 0.1; done")

    def lines() -> int:
        return len(docker("logs", container).stdout.splitlines())

    docker("pause", container)
    assert status(docker, container) == "paused"
    paused_at = lines()
    time.sleep(1)  # time is what is to change nothing
    assert lines() == paused_at
    docker("unpause", container)
    eventually(lambda: lines() > paused_at)


def test_restart_on_failure(docker: Docker) -> None:
    container = docker.detached("--restart", "on-failure:2", docker.busybox(), "sh", "-c", "echo run; exit 3")
    becomes(lambda: docker.inspect(container, ".RestartCount"), "2", timeout=40)
    becomes(lambda: status(docker, container), "exited")
    assert docker.inspect(container, ".State.ExitCode") == "3"
    assert docker("logs", container).stdout == "run\n" * 3


def test_restart_after_the_machine_was_killed(docker: Docker) -> None:
    container = started(docker, f"echo up; {UP}", "--restart", "always")
    os.kill(int(docker.inspect(container, ".State.Pid")), signal.SIGKILL)
    becomes(lambda: docker("logs", container).stdout, "up\nup\n", timeout=30)
    assert docker.inspect(container, ".RestartCount") == "1"
    assert status(docker, container) == "running"


def test_health(docker: Docker) -> None:
    flags = ["--health-cmd", "test -e /tmp/well", "--health-interval", "0.2s", "--health-retries", "2"]
    container = docker.detached(*flags, docker.busybox(), "sleep", "1000")
    becomes(lambda: docker.inspect(container, ".State.Health.Status"), "unhealthy", timeout=30)
    docker("exec", container, "touch", "/tmp/well")
    becomes(lambda: docker.inspect(container, ".State.Health.Status"), "healthy", timeout=30)
    last = json.loads(docker.inspect(container, "json .State.Health.Log"))[-1]
    assert last["ExitCode"] == 0


def test_events(docker: Docker) -> None:
    since = str(time.time())
    flags = ["--health-cmd", "true", "--health-interval", "0.2s"]
    container = docker.detached(*flags, docker.busybox(), "sh", "-c", UP)
    becomes(lambda: docker.inspect(container, ".State.Health.Status"), "healthy", timeout=30)
    docker("exec", container, "sh", "-c", "exit 4", check=False)
    docker("kill", container)
    docker("wait", container)
    template = "{{.Action}} {{.Actor.Attributes.exitCode}} {{.Actor.Attributes.signal}}"
    arguments = ["--since", since, "--until", str(time.time()), "--filter", f"container={container}"]
    told = docker("events", *arguments, "--format", template).stdout.replace(" <no value>", "").splitlines()
    assert [event for event in told if "health_status" not in event and "exec" not in event] == [
        "create",
        "start",
        "kill 9",
        "die 137",
    ]
    assert "health_status: healthy" in told
    assert "exec_die 4" in told
    assert {"exec_create: sh -c exit 4", "exec_start: sh -c exit 4"} <= set(told)


@pytest.mark.parametrize("runtime", ["vruntime", "runc"])
def test_out_of_memory(docker: Docker, runtime: str) -> None:
    """Of init it is its end; of another process, to be seen from then on."""
    since = str(time.time())
    eat = "dd if=/dev/zero of=/dev/null bs=100M"
    for script, code in ((eat, "137"), (f"({eat}); test $? = 137 && exit 4", "4")):
        limits = ["--memory", "32m", "--memory-swap", "32m"]
        container = docker.using(runtime).detached(*limits, docker.busybox(), "sh", "-c", f"exec 2>/dev/null; {script}")
        assert docker("wait", container).stdout == f"{code}\n"
        assert docker.inspect(container, ".State.OOMKilled") == "true"
        told = docker("events", "--since", since, "--until", str(time.time()), "--filter", f"container={container}")
        assert " container oom " in told.stdout
