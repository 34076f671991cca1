"""docker-compose: a project of services that share a volume and depend on each other, from up to down."""

from __future__ import annotations

from pathlib import Path

from engines import Docker
from waiting import eventually

PROJECT = """
version: "2.4"
services:
  first:
    image: busybox:test
    command: sh -c "trap 'exit 0' TERM; echo from the first > /shared/file; while :; do sleep 0.1; done"
    volumes: ["shared:/shared"]
    healthcheck: {test: ["CMD", "test", "-e", "/shared/file"], interval: 0.3s}
  second:
    image: busybox:test
    command: sh -c "trap 'exit 0' TERM; cat /shared/file; ping -c 1 -W 5 first; while :; do sleep 0.1; done"
    volumes: ["shared:/shared:ro"]
    environment: {WHO: the second}
    depends_on: {first: {condition: service_healthy}}
volumes: {shared: {}}
"""


def test_project(docker: Docker, tmp_path: Path) -> None:
    docker.busybox()
    (tmp_path / "docker-compose.yml").write_text(PROJECT)

    def running() -> list[str]:
        return sorted(docker("ps", "--format", '{{.Label "com.docker.compose.service"}}').stdout.split())

    def logs() -> str:
        return str(docker.compose(tmp_path, "logs", "--no-color", "second").stdout)

    docker.compose(tmp_path, "up", "--detach")
    assert running() == ["first", "second"]
    assert docker.compose(tmp_path, "ps").stdout.count(" Up ") == 2
    eventually(lambda: " 1 packets received" in logs())
    assert "from the first\n" in logs()
    assert docker.compose(tmp_path, "exec", "-T", "second", "sh", "-c", "echo $WHO").stdout == "the second\n"
    docker.compose(tmp_path, "up", "--detach", "--scale", "second=3")
    assert running() == ["first", "second", "second", "second"]
    docker.compose(tmp_path, "down", "--volumes")
    assert docker("ps", "--all", "--quiet").stdout == ""
    assert docker("volume", "ls", "--quiet").stdout == ""
