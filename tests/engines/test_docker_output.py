"""Output under Docker: nothing of it is lost, and `logs` shows it as it comes."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from engines import Docker

# Each prints 1 MB and exits at once. The full number takes minutes.
CONTAINERS = int(os.environ.get("VRUNTIME_TEST_CONTAINERS", "24"))
AT_ONCE = 4


def test_logs_follow(docker: Docker) -> None:
    script = "echo out 1; echo err 1 >&2; until test -e /go; do sleep 0.1; done; echo out 2; echo err 2 >&2"
    container = docker.detached(docker.busybox(), "sh", "-c", script)
    with docker.start("logs", "--follow", container) as logs:
        assert logs.stdout is not None
        assert logs.stderr is not None
        assert (logs.stdout.readline(), logs.stderr.readline()) == ("out 1\n", "err 1\n")
        docker("exec", container, "touch", "/go")
        assert (logs.stdout.read(), logs.stderr.read(), logs.wait(30)) == ("out 2\n", "err 2\n", 0)
    ends = [getattr(docker("logs", "--tail", "2", container), stream) for stream in ("stdout", "stderr")]
    assert ends == ["out 2\n", "err 2\n"]


def test_logs_since(docker: Docker) -> None:
    script = "echo early; until test -e /go; do sleep 0.1; done; echo late"
    container = docker.detached(docker.busybox(), "sh", "-c", script)
    docker("exec", container, "sleep", "0.1")
    between = time.time()
    docker("exec", container, "touch", "/go")
    docker("wait", container)
    assert docker("logs", container).stdout == "early\nlate\n"
    assert docker("logs", "--since", str(between), container).stdout == "late\n"
    assert docker("logs", "--until", str(between), container).stdout == "early\n"


@pytest.mark.timeout(60 + 4 * CONTAINERS)
def test_no_byte_of_a_short_life_is_lost(docker: Docker) -> None:
    image = docker.busybox()
    script = "head -c 750000 /dev/urandom | base64 -w 0 | tee /printed | md5sum >&2; cat /printed"

    def run(number: int) -> None:
        name = f"printer-{number}"
        result = docker("run", "--name", name, image, "sh", "-c", script, timeout=100)
        told = result.stderr.split()[0]
        logged = docker("logs", name).stdout
        for output in (result.stdout, logged):
            assert (len(output), hashlib.md5(output.encode()).hexdigest()) == (1_000_000, told), name
        docker("rm", name)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, range(CONTAINERS)))
