"""`podman run` and what follows it: exit codes, what a container is given, what is done to it while it runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Podman
from waiting import becomes


@pytest.fixture
def sleeper(podman: Podman) -> Iterator[str]:
    """A container that runs."""
    podman("run", "--detach", "--name", "sleeper", podman.busybox(), "sleep", "1000")
    yield "sleeper"
    podman.remove_all()


FAILING = {
    "program missing": (127, ["BUSYBOX", "none"], 'exec: "none": executable file not found in $PATH'),
    "not executable": (126, ["BUSYBOX", "/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
    "flag unknown": (125, ["--none", "BUSYBOX", "true"], "unknown flag: --none"),
    "network of the host": (126, ["--network", "host", "BUSYBOX", "true"], "the host's cannot be shared"),
    "device of the host": (126, ["--device", "/dev/kmsg", "BUSYBOX", "true"], "cannot be given to the guest"),
}


@pytest.mark.parametrize("case", FAILING)
def test_failures(podman: Podman, case: str) -> None:
    code, arguments, words = FAILING[case]
    arguments = [podman.busybox() if argument == "BUSYBOX" else argument for argument in arguments]
    result = podman("run", "--rm", *arguments, check=False)
    assert result.returncode == code
    assert words in result.stderr


def test_exit_code_and_streams(podman: Podman) -> None:
    result = podman(
        "run",
        "--rm",
        "--interactive",
        podman.busybox(),
        "sh",
        "-c",
        "cat; echo err >&2; exit 3",
        input="in",
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (3, "in", "err\n")


GIVEN = """
id -u; touch /root-file 2>/dev/null || echo read-only; touch /scratch/x && echo scratch; ulimit -n
grep -E '^(CapEff|Seccomp):' /proc/self/status | tr '\\t' ' '; cat /proc/sys/net/ipv4/ip_forward
cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; cat /proc/1/comm; cat /named/file /host/file
"""


def test_what_a_container_is_given(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound\n")
    podman("volume", "create", "named")
    podman("run", "--rm", "--volume", "named:/named", podman.busybox(), "sh", "-c", "echo kept >/named/file")
    flags = ["--init", "--read-only", "--tmpfs", "/scratch", "--cap-drop", "all", "--cap-add", "chown"]
    flags += ["--security-opt", "seccomp=unconfined", "--ulimit", "nofile=100:100", "--sysctl", "net.ipv4.ip_forward=1"]
    flags += ["--memory", "100m", "--pids-limit", "50", "--cpus", "1"]
    flags += ["--volume", "named:/named", "--volume", f"{tmp_path}:/host:ro"]
    shown = podman("run", "--rm", *flags, podman.busybox(), "sh", "-c", GIVEN).stdout.splitlines()
    assert shown == [
        *("0", "read-only", "scratch", "100", "CapEff: 0000000000000001", "Seccomp: 0", "1"),
        *("104857600", "50", "podman-init", "kept", "bound"),
    ]


def test_a_secret(podman: Podman) -> None:
    podman("secret", "create", "word", "-", input="secret\n")
    shown = podman("run", "--rm", "--secret", "word", podman.busybox(), "cat", "/run/secrets/word").stdout
    podman("secret", "rm", "word")
    assert shown == "secret\n"


def test_privileged_is_so_in_the_guest_alone(podman: Podman) -> None:
    script = "grep CapEff /proc/self/status; ls /dev"
    shown = podman("run", "--rm", "--privileged", podman.busybox(), "sh", "-c", script).stdout.split()
    assert int(shown[1], 16).bit_count() > 38
    assert not {"sda", "vda", "kmsg", "mem"} & set(shown)


def test_exec(podman: Podman, sleeper: str) -> None:
    assert podman("exec", sleeper, "sh", "-c", "exit 5", check=False).returncode == 5
    missing = podman("exec", sleeper, "none", check=False)
    assert missing.returncode == 127
    assert 'exec: "none": executable file not found in $PATH' in missing.stderr
    assert podman("exec", "--interactive", sleeper, "cat", input="through").stdout == "through"
    podman("exec", "--detach", sleeper, "touch", "/made")
    becomes(lambda: podman("exec", sleeper, "ls", "/made", check=False).returncode, 0)


def test_looking_at_a_container(podman: Podman, sleeper: str) -> None:
    assert "sleeper" in podman("ps").stdout
    (stats,) = json.loads(podman("stats", "--no-stream", "--format", "json", sleeper).stdout)
    assert stats["name"] == "sleeper"
    podman("exec", sleeper, "touch", "/added")
    assert "A /added" in podman("diff", sleeper).stdout.splitlines()
    top = podman("top", sleeper, "args").stdout
    assert "python" not in top, "processes of the host"
    assert "sleep 1000" in podman("top", sleeper, "-o", "args").stdout


def test_changing_a_container(podman: Podman, sleeper: str) -> None:
    podman("update", "--memory", "200m", sleeper)
    assert podman("exec", sleeper, "cat", "/sys/fs/cgroup/memory.max").stdout == f"{200 << 20}\n"
    podman("pause", sleeper)
    assert podman("inspect", "--format", "{{.State.Status}}", sleeper).stdout == "paused\n"
    podman("unpause", sleeper)
    podman("rename", sleeper, "renamed")
    podman("exec", "renamed", "true")


def test_copying_changes_nothing_of_the_host(podman: Podman, sleeper: str, tmp_path: Path) -> None:
    """Podman copies into a running container in the mount namespace of its pid."""
    (tmp_path / "here").write_text("from the host\n")
    name = f"copied-{os.getpid()}"
    podman("cp", str(tmp_path / "here"), f"{sleeper}:/etc/{name}")
    assert not Path("/etc", name).exists()
    becomes(lambda: podman("exec", sleeper, "cat", f"/etc/{name}", check=False).stdout, "from the host\n")
    podman("cp", f"{sleeper}:/etc/passwd", str(tmp_path / "passwd"))
    assert "user:x:1000" in (tmp_path / "passwd").read_text()


def test_commit_and_export(podman: Podman, sleeper: str, tmp_path: Path) -> None:
    podman("exec", sleeper, "touch", "/added")
    podman("commit", "--quiet", sleeper, "committed")
    podman("run", "--rm", "committed", "ls", "/added")
    podman("rmi", "committed")
    podman("export", "--output", str(tmp_path / "tree.tar"), sleeper)
    assert "added" in subprocess.run(["tar", "tf", tmp_path / "tree.tar"], capture_output=True, text=True).stdout


def test_stop_kill_wait_and_events(podman: Podman) -> None:
    script = "trap 'exit 7' TERM; while :; do sleep 0.1; done"
    podman("run", "--detach", "--name", "ended", podman.busybox(), "sh", "-c", script)
    podman("stop", "ended")
    assert podman("wait", "ended").stdout == "7\n"
    podman("start", "ended")
    podman("kill", "ended")
    assert podman("wait", "ended").stdout == "137\n"
    events = podman("events", "--stream=false", "--filter", "container=ended", "--format", "{{.Status}}").stdout.split()
    assert events.count("died") == 2


def test_logs_and_attach(podman: Podman) -> None:
    script = "echo first; read word; echo got $word"
    podman("run", "--detach", "--interactive", "--name", "talks", podman.busybox(), "sh", "-c", script)
    attached = podman("attach", "talks", input="a word\n")
    assert "got a word" in attached.stdout
    becomes(lambda: podman("logs", "talks").stdout, "first\ngot a word\n")


def test_restart_on_failure(podman: Podman) -> None:
    flags = ["--name", "again", "--restart", "on-failure:2"]
    podman("run", *flags, podman.busybox(), "sh", "-c", "echo once; exit 4", check=False)
    becomes(lambda: podman("logs", "again").stdout, "once\n" * 3)


def test_a_health_check(podman: Podman) -> None:
    flags = ["--name", "healthy", "--health-cmd", "test -e /healthy", "--health-interval", "disable"]
    podman("run", "--detach", *flags, podman.busybox(), "sleep", "1000")
    assert podman("healthcheck", "run", "healthy", check=False).returncode == 1
    podman("exec", "healthy", "touch", "/healthy")
    podman("healthcheck", "run", "healthy")


SAY_READY = """
import os, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
"""


@pytest.mark.parametrize(
    ("who", "command"), [("conmon", ["sh", "-c", "! env | grep NOTIFY"]), ("container", ["python3", "-c", SAY_READY])]
)
def test_ready_as_a_container_says(podman: Podman, tmp_path: Path, who: str, command: list[str]) -> None:
    address = str(tmp_path / "manager.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(60)
        environment = {**podman.environment, "NOTIFY_SOCKET": address}
        podman("run", "--rm", "--sdnotify", who, podman.debian(), *command, env=environment)
        while b"READY=1" not in manager.recv(4096).split():  # who is the main process may come before
            pass


def test_checkpoint_is_refused(podman: Podman, sleeper: str) -> None:
    assert podman("container", "checkpoint", sleeper, check=False).returncode == 125
    podman("exec", sleeper, "true")


def test_build(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text(
        f"FROM localhost/{podman.busybox()}\nRUN uname -n >/built && id -u >>/built\n"
    )
    podman("build", "--runtime", "vruntime", "--network", "none", "--tag", "built", str(tmp_path), timeout=120)
    assert podman("run", "--rm", "built", "tail", "-n", "1", "/built").stdout == "0\n"
    podman("rmi", "built")


def test_networks(podman: Podman) -> None:
    podman("network", "create", "one")
    podman("network", "create", "two")
    serve = "echo found >/index.html; exec httpd -f -p 80 -h /"
    podman(
        *("run", "--detach", "--name", "server", "--network", "one", "--publish", "8081:80"),
        *(podman.busybox(), "sh", "-c", serve),
    )
    told = json.loads(podman("inspect", "server").stdout)[0]["NetworkSettings"]["Networks"]["one"]["IPAddress"]
    assert f"inet {told}/24" in podman("exec", "server", "ip", "address").stdout
    command = podman.namespaces.command("curl", "--silent", "http://127.0.0.1:8081/")
    becomes(lambda: subprocess.run(command, capture_output=True, text=True).stdout, "found\n")
    assert told in podman("run", "--rm", "--network", "one", podman.busybox(), "nslookup", "server").stdout
    podman("network", "connect", "two", "server")
    becomes(lambda: "eth1" in podman("exec", "server", "ip", "address").stdout, expected=True)
    podman("network", "disconnect", "two", "server")
    becomes(lambda: "eth1" in podman("exec", "server", "ip", "address").stdout, expected=False)
    alone = podman("run", "--rm", "--network", "none", podman.busybox(), "ls", "/sys/class/net").stdout
    assert alone == "lo\n"
