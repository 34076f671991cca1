"""dockerd is killed and started again while containers run: they go on, and are managed again."""

from __future__ import annotations

from engines import Docker
from waiting import becomes


def test_containers_survive_their_daemon(docker: Docker) -> None:
    script = "trap 'echo bye; exit 5' TERM; while :; do echo tick; sleep 0.2; done"
    lasting = docker.detached("--name", "lasting", docker.busybox(), "sh", "-c", script)
    ending = docker.detached(docker.busybox(), "sh", "-c", "until test -e /go; do sleep 0.1; done; exit 3")
    pid = docker.inspect(lasting, ".State.Pid")
    docker("exec", "--detach", ending, "sh", "-c", "sleep 2; touch /go")
    docker.kill_daemon()
    docker.start_daemon()
    assert docker.inspect(lasting, ".State.Pid") == pid
    assert docker("exec", lasting, "echo", "hello").stdout == "hello\n"
    assert docker("wait", ending).stdout == "3\n"
    docker("stop", "--time", "20", lasting)
    assert docker.inspect(lasting, ".State.ExitCode") == "5"
    becomes(lambda: docker("logs", "--tail", "1", lasting).stdout, "bye\n")
