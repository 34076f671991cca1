"""Docker with a terminal: its size, its keys, detaching from it and attaching again."""

from __future__ import annotations

import pexpect
from engines import Docker

DETACH = "\x10\x11"  # ^P ^Q


def test_size_and_interrupt_and_exit_code(docker: Docker) -> None:
    with docker.terminal("run", "--rm", "-it", docker.busybox(), "sh") as shell:
        shell.expect("# ")
        shell.sendline("stty size; tty")
        shell.expect("30 100\r\n/dev/pts/0\r\n")
        shell.setwinsize(40, 120)
        shell.sendline("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo re''sized")
        shell.expect("resized\r\n")
        # A shell with the terminal's keys as its own: busybox's loses one that comes while it starts a program.
        shell.sendline("sh -c 'echo sl\"\"eeping; exec sleep 100'")
        shell.expect("sleeping\r\n")
        shell.sendintr()
        shell.sendline("echo code=$?")
        shell.expect("code=130\r\n")
        shell.sendline("exit 4")
        shell.expect(pexpect.EOF)
    assert shell.exitstatus == 4


def test_detach_and_attach(docker: Docker) -> None:
    with docker.terminal("run", "-it", "--name", "kept", docker.busybox(), "sh") as shell:
        shell.expect("# ")
        shell.sendline("KEPT=still")
        shell.expect("# ")
        shell.send(DETACH)
        shell.expect(pexpect.EOF)
    assert shell.exitstatus == 0
    assert docker.inspect("kept", ".State.Running") == "true"
    with docker.terminal("attach", "kept") as shell:
        shell.sendline("echo $KEPT-here; exit 6")
        shell.expect("still-here\r\n")
        shell.expect(pexpect.EOF)
    assert shell.exitstatus == 6


def test_detach_keys_of_the_users_choice(docker: Docker) -> None:
    with docker.terminal("run", "-it", "--detach-keys", "ctrl-x,d", "--name", "kept", docker.busybox(), "sh") as shell:
        shell.expect("# ")
        shell.send("\x18d")
        shell.expect(pexpect.EOF)
    assert docker.inspect("kept", ".State.Running") == "true"


def test_exec_on_a_terminal(docker: Docker) -> None:
    container = docker.detached(docker.busybox(), "sleep", "1000")
    with docker.terminal("exec", "-it", container, "sh") as shell:
        shell.expect("# ")
        # The client sees no change before it has told the first size.
        shell.sendline("until [ \"$(stty size)\" = '30 100' ]; do :; done; echo si''zed")
        shell.expect("sized\r\n")
        shell.setwinsize(50, 132)
        shell.sendline("until [ \"$(stty size)\" = '50 132' ]; do :; done; echo re''sized; exit 7")
        shell.expect("resized\r\n")
        shell.expect(pexpect.EOF)
    assert shell.exitstatus == 7


def test_attach_without_a_terminal(docker: Docker) -> None:
    script = "trap 'echo bye; echo bad >&2; exit 9' TERM; while :; do echo tick; sleep 0.1; done"
    container = docker.detached(docker.busybox(), "sh", "-c", script)
    with docker.start("attach", "--no-stdin", container) as attached:
        assert attached.stdout is not None
        assert attached.stdout.readline() == "tick\n"
        docker("kill", "--signal", "TERM", container)
        output, error = attached.communicate(timeout=30)
    assert (attached.returncode, output.splitlines()[-1], error) == (9, "bye", "bad\n")
