"""Podman's pods: containers that share a virtual machine."""

from __future__ import annotations

import json
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Podman
from waiting import becomes

SERVE = "echo served by $(hostname) >/index.html; exec httpd -f -p 80 -h /"


@pytest.fixture
def pod(podman: Podman) -> Iterator[str]:
    """A pod with a web server, whose port is published."""
    name = f"pod-{uuid.uuid4().hex[:8]}"
    podman("pod", "create", "--name", name, "--publish", "8080:80")
    podman("run", "--detach", "--pod", name, "--name", f"{name}-web", podman.busybox(), "sh", "-c", SERVE)
    yield name
    podman.remove_all()


def fetch(podman: Podman, url: str) -> str:
    """What a web server says to the engine's host."""
    command = podman.namespaces.command("curl", "--silent", "--max-time", "5", url)
    return subprocess.run(command, capture_output=True, text=True).stdout


def states(podman: Podman) -> list[str]:
    """Those of all containers."""
    return sorted(one["State"] for one in json.loads(podman("ps", "--all", "--format", "json").stdout))


def test_a_pod_has_one_network_and_name(podman: Podman, pod: str) -> None:
    inside = podman("run", "--rm", "--pod", pod, podman.busybox(), "wget", "-qO-", "http://localhost/")
    assert inside.stdout == f"served by {pod}\n"
    becomes(lambda: fetch(podman, "http://127.0.0.1:8080/"), f"served by {pod}\n")
    assert podman("exec", f"{pod}-web", "hostname").stdout == f"{pod}\n"


def test_life_of_a_pod(podman: Podman, pod: str) -> None:
    for command, expected in (
        (["pause"], ["paused", "paused"]),
        (["unpause"], ["running", "running"]),
        (["stop", "--time", "0"], ["exited", "exited"]),
        (["start"], ["running", "running"]),
        (["restart"], ["running", "running"]),
        (["kill"], ["exited", "exited"]),
        (["start"], ["running", "running"]),
    ):
        verb, *flags = command
        podman("pod", verb, *flags, pod)
        becomes(lambda: states(podman), expected)
    becomes(lambda: fetch(podman, "http://127.0.0.1:8080/"), f"served by {pod}\n")
    podman("pod", "stats", "--no-stream", pod)
    podman("pod", "rm", "--force", "--time", "0", pod)
    assert states(podman) == []


def test_one_container_of_a_pod_is_restarted(podman: Podman, pod: str) -> None:
    podman("restart", "--time", "0", f"{pod}-web")
    becomes(lambda: fetch(podman, "http://127.0.0.1:8080/"), f"served by {pod}\n")


def test_a_shared_process_tree(podman: Podman) -> None:
    podman("pod", "create", "--name", "tree", "--share", "net,ipc,pid")
    podman("run", "--detach", "--pod", "tree", podman.busybox(), "sleep", "111")
    seen = podman("run", "--rm", "--pod", "tree", podman.busybox(), "ps").stdout
    assert "catatonit" in seen
    assert "sleep 111" in seen


def test_joined_to_a_container(podman: Podman) -> None:
    podman("run", "--detach", "--name", "joined", podman.busybox(), "sleep", "111")
    modes = [f"--{kind}=container:joined" for kind in ("network", "pid", "ipc")]
    assert "sleep 111" in podman("run", "--rm", *modes, podman.busybox(), "ps").stdout
    refused = podman("run", "--rm", modes[1], podman.busybox(), "true", check=False)
    assert refused.returncode == 126
    assert "cannot have a second network" in refused.stderr


KUBE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {GREETING: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: played}
spec:
  restartPolicy: Never
  volumes:
  - {name: host, hostPath: {path: DIRECTORY, type: Directory}}
  - {name: scratch, emptyDir: {}}
  containers:
  - name: one
    image: IMAGE
    command: [/bin/sh, -c, "export PATH=/bin; echo $GREETING >/scratch/word; sleep 1000"]
    envFrom: [{configMapRef: {name: settings}}]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  - name: two
    image: IMAGE
    command:
    - /bin/sh
    - -c
    - export PATH=/bin; until [ -s /scratch/word ]; do sleep 0.1; done; cp /scratch/word /host/; sleep 1000
    volumeMounts: [{name: scratch, mountPath: /scratch}, {name: host, mountPath: /host}]
"""


def test_kube_play(podman: Podman, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(KUBE.replace("DIRECTORY", str(tmp_path)).replace("IMAGE", f"localhost/{podman.busybox()}"))
    podman("kube", "play", str(file))
    becomes(lambda: (tmp_path / "word").is_file() and (tmp_path / "word").read_text(), "hello\n")
    podman("kube", "down", str(file))
    assert states(podman) == []


def commands(unit: str, key: str) -> list[list[str]]:
    """The command lines of a unit's setting."""
    lines = unit.replace("\\\n", " ").splitlines()
    return [shlex.split(line.partition("=")[2]) for line in lines if line.startswith(f"{key}=")]


def test_generated_units(podman: Podman, tmp_path: Path) -> None:
    """Their lines are run as systemd would run them; it itself removes what is left of an earlier run."""
    podman("create", "--name", "unit", podman.busybox(), "sleep", "1000")
    unit = podman("generate", "systemd", "--new", "--name", "unit").stdout.replace("%t/%n", str(tmp_path / "unit"))
    podman("rm", "unit")

    def run(key: str) -> None:
        for line in commands(unit, key):
            # What Podman is told for all of its commands is in some lines alone.
            command = podman.namespaces.command(*line) if "--root" in line else podman.command(*line[1:])
            subprocess.run(command, env=podman.environment, check=True, capture_output=True, timeout=60)

    run("ExecStart")
    assert states(podman) == ["running"]
    run("ExecStop")
    run("ExecStopPost")
    assert states(podman) == []
