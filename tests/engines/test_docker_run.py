"""`docker run`: what its flags set for the process, its exit codes, and what it says when it fails."""

from __future__ import annotations

import re

import pytest
from engines import Docker, Result

LOOK = r"""
id -un; id -gn; id -G; pwd; echo "$GREETING"; hostname; grep -c '^CapEff:.0*$' /proc/self/status; cat /etc/hostname
"""


def failure(result: Result) -> tuple[int, str]:
    """The exit code, and what was said first, with the runtime's name left open.

    The client sometimes adds that it had begun to wait for the container.
    """
    return result.returncode, re.sub(r"\b(vruntime|runc)\b", "RUNTIME", result.stderr.splitlines()[0])


def test_what_the_process_is(docker: Docker) -> None:
    flags = ["--user", "user", "--group-add", "7", "--workdir", "/new/place", "--env", "GREETING=hello there"]
    shown = docker("run", "--rm", *flags, "--hostname", "box", docker.busybox(), "sh", "-c", LOOK)
    assert shown.stdout.splitlines() == ["user", "user", "1000 7", "/new/place", "hello there", "box", "1", "box"]


def test_entrypoint_and_env_file(docker: Docker, tmp_path) -> None:
    (tmp_path / "env").write_text("ONE=1\nTWO=2\n")
    flags = ["--entrypoint", "/bin/sh", "--env-file", str(tmp_path / "env")]
    shown = docker("run", "--rm", *flags, docker.busybox(), "-c", 'echo $ONE $TWO "$@"', "sh", "a b", "", "c")
    assert shown.stdout == "1 2 a b  c\n"


def test_standard_input_and_both_outputs(docker: Docker) -> None:
    script = "cat; echo to-stderr >&2"
    shown = docker("run", "--rm", "--interactive", docker.busybox(), "sh", "-c", script, input="some\ninput")
    assert (shown.stdout, shown.stderr) == ("some\ninput", "to-stderr\n")


def test_init_reaps_and_forwards(docker: Docker) -> None:
    script = "trap 'exit 5' TERM; (sleep 0.1 &) ; echo $$; ps -o pid,args; echo ready; while :; do sleep 0.1; done"
    container = docker.detached("--init", docker.busybox(), "sh", "-c", script)
    with docker.start("logs", "--follow", container) as logs:
        assert logs.stdout is not None
        lines = list(iter(logs.stdout.readline, "ready\n"))
        docker("kill", "--signal", "TERM", container)
        assert docker("wait", container).stdout == "5\n"
    assert lines[0] != "1\n"
    assert any("docker-init" in line and line.split()[0] == "1" for line in lines), lines


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exit_code(docker: Docker, code: int) -> None:
    result = docker("run", "--rm", docker.busybox(), "sh", "-c", f"exit {code}", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_exit_code_of_a_signal(docker: Docker) -> None:
    with docker.start("run", "--rm", "--name", "victim", docker.busybox(), "sh", "-c", "echo up; sleep 100") as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        docker("kill", "victim")
        assert run.wait(30) == 137


def test_signals_of_the_client_are_passed_on(docker: Docker) -> None:
    script = "trap 'echo got it; exit 7' TERM; echo up; while :; do sleep 0.1; done"
    with docker.start("run", "--rm", docker.busybox(), "sh", "-c", script) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        run.terminate()
        assert (run.stdout.read(), run.wait(30)) == ("got it\n", 7)


FAILING = {
    "program missing": (127, ["BUSYBOX", "none"]),
    "path missing": (127, ["BUSYBOX", "/bin/none"]),
    "not executable": (126, ["BUSYBOX", "/etc/passwd"]),
    "a directory": (126, ["BUSYBOX", "/etc"]),
    "user missing": (125, ["--user", "nobody-here", "BUSYBOX", "true"]),
    "flag unknown": (125, ["--no-such-flag", "BUSYBOX", "true"]),
    "working directory is a file": (125, ["--workdir", "/etc/passwd", "BUSYBOX", "true"]),
    "source of a mount missing": (125, ["--mount", "type=bind,source=/none,target=/mnt", "BUSYBOX", "true"]),
}


@pytest.mark.parametrize("case", FAILING)
def test_failure_is_said_as_with_runc(docker: Docker, case: str) -> None:
    code, arguments = FAILING[case]
    command = [docker.busybox() if argument == "BUSYBOX" else argument for argument in arguments]
    ours = failure(docker("run", "--rm", *command, check=False))
    assert ours[0] == code
    assert ours == failure(docker.using("runc")("run", "--rm", *command, check=False))
