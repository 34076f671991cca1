"""Podman with a terminal, with descriptors of its caller, and following what a container says."""

from __future__ import annotations

import subprocess

import pexpect
from engines import Podman


def test_run_and_exec_on_a_terminal(podman: Podman) -> None:
    with podman.terminal("run", "--rm", "-it", "--name", "shell", podman.busybox(), "sh") as shell:
        shell.expect("# ")
        shell.sendline("stty size; tty")
        shell.expect("30 100\r\n/dev/pts/0\r\n")
        with podman.terminal("exec", "-it", "shell", "sh", "-c", "stty size; read word; exit $word") as beside:
            beside.expect("30 100")
            beside.sendline("7")
            beside.expect(pexpect.EOF)
        assert beside.exitstatus == 7
        shell.sendline("exit 4")
        shell.expect(pexpect.EOF)
    assert shell.exitstatus == 4


def test_preserved_descriptors(podman: Podman) -> None:
    command = podman.command("run", "--rm", "--preserve-fds", "1", podman.busybox(), "sh", "-c", "echo told >&3")
    shell = ["bash", "-c", 'exec "$@" 3>&1 >/dev/null', "bash", *command]  # what is preserved begins at 3
    result = subprocess.run(shell, env=podman.environment, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "told\n")


def test_following_what_a_container_says(podman: Podman) -> None:
    script = "while read word; do echo heard $word; done"
    podman("run", "--detach", "--interactive", "--name", "echo", podman.busybox(), "sh", "-c", script)
    with podman.start("logs", "--follow", "echo") as following:
        podman("attach", "echo", input="one\ntwo\n")
        assert following.communicate(timeout=60)[0] == "heard one\nheard two\n"
