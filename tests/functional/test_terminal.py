"""Terminals: what a person sees and types, and what an engine gets through the console socket."""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import socket
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
import pytest
from waiting import eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Runtime

DEADLINE = 30.0
PROMPT = "ready> "
CTRL_C, CTRL_D, CTRL_U, CTRL_W, CTRL_Z, BACKSPACE, ESCAPE = "\x03", "\x04", "\x15", "\x17", "\x1a", "\x7f", "\x1b"

Shell = Callable[[], pexpect.spawn]


def with_prompt(config: dict[str, Any]) -> None:
    config["process"]["env"].append(f"PS1={PROMPT}")


@contextmanager
def on_terminal(command: list[str], size: tuple[int, int] = (24, 80)) -> Iterator[pexpect.spawn]:
    """A command on a terminal of its own, of `size` (rows, columns)."""
    session = pexpect.spawn(command[0], command[1:], dimensions=size, timeout=DEADLINE)
    session.delaybeforesend = None
    try:
        yield session
    finally:
        session.close(force=True)


@pytest.fixture(params=["run", "exec"])
def shell(request: pytest.FixtureRequest, any_runtime: Runtime, bundles: Bundles) -> list[str]:
    """The command line of an interactive shell in a container."""
    if request.param == "run":
        bundle = bundles.busybox("sh", edit=with_prompt, terminal=True)
        return any_runtime.command("run", "--bundle", str(bundle), any_runtime.new_id())
    container_id = any_runtime.start(bundles.busybox("sleep", "1000", edit=with_prompt))
    return any_runtime.command("exec", "--tty", container_id, "sh")


def ended(session: pexpect.spawn) -> int | None:
    """The exit code of a session that comes to its end."""
    session.expect(pexpect.EOF)
    session.wait()
    return session.exitstatus


def test_a_shell_at_the_terminal(shell: list[str]) -> None:
    with on_terminal(shell, size=(30, 100)) as session:
        session.expect_exact(PROMPT)
        session.send("tty; stty size\r")
        session.expect(rb"\n/dev/(pts/\d+|console)\r+\n30 100\r+\n")
        _edit_a_line(session)
        _interrupt(session)
        _stop_and_continue(session)
        _resize(session)
        session.send("exit 7\r")
        assert ended(session) == 7


def _edit_a_line(session: pexpect.spawn) -> None:
    """The kernel's own editing, as `cat` gets it; each echo is the terminal's, each answer cat's."""
    session.send("sh -c 'echo started; exec cat'\r")
    session.expect(rb"\nstarted\r+\n")
    session.send(f"forget this{CTRL_U}one two{CTRL_W}thrxx{BACKSPACE * 2}ee\r")
    session.expect(rb"ee\r+\none three\r+\n")
    session.send(CTRL_D)
    session.expect_exact(PROMPT)


def _interrupt(session: pexpect.spawn) -> None:
    session.send("sh -c 'echo started; exec sleep 1000'\r")
    session.expect(rb"\nstarted\r+\n")
    session.send(CTRL_C)
    session.expect_exact(PROMPT)
    session.send("echo code=$?\r")
    session.expect(rb"code=130\r+\n")


def _stop_and_continue(session: pexpect.spawn) -> None:
    session.send("sh -c 'echo started; read line; echo got $line'\r")
    session.expect(rb"\nstarted\r+\n")
    session.send(CTRL_Z)
    session.expect_exact("Stopped")
    session.expect_exact(PROMPT)
    session.send("fg\r")
    session.expect_exact("\nsh -c ")
    session.send("back\r")
    session.expect(rb"got back\r+\n")
    session.expect_exact(PROMPT)


def _resize(session: pexpect.spawn) -> None:
    script = 'trap "stty size; exit" WINCH; echo armed; while :; do sleep 0.1; done'
    session.send(f"sh -c '{script}'\r")
    session.expect(rb"\narmed\r+\n")
    session.setwinsize(50, 132)
    session.expect(rb"50 132\r+\n")
    session.expect_exact(PROMPT)


@pytest.mark.parametrize(("editor", "normal_mode"), [("busybox", "- /root/note"), ("debian", "\x1b[?25h")])
def test_a_file_written_in_vi(vruntime: Runtime, bundles: Bundles, editor: str, normal_mode: str) -> None:
    bundle = getattr(bundles, editor)("vi", "/root/note", terminal=True)
    with on_terminal(vruntime.command("run", "--bundle", str(bundle), vruntime.new_id())) as session:
        session.expect_exact("/note")
        session.send(f"iwritten in vi, miss{BACKSPACE * 4}as typed{ESCAPE}")
        session.expect_exact(normal_mode)  # until then, what follows an escape may be part of a key's code
        session.send("yyp:wq\r")
        assert ended(session) == 0
    assert (bundle / "rootfs/root/note").read_text() == "written in vi, as typed\n" * 2


def test_the_callers_terminal_is_restored(vruntime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    bundle = bundles.busybox("sh", edit=with_prompt, terminal=True)
    command = vruntime.command("run", "--bundle", str(bundle), vruntime.new_id())
    script = 'stty -g >before; "$@"; code=$?; stty -g >after; exit $code'
    with on_terminal(["env", "-C", str(tmp_path), "sh", "-c", script, "sh", *command]) as session:
        session.expect_exact(PROMPT)
        session.send("kill -9 $$; exit 4\r")  # pid 1 of its namespace does not hear its own SIGKILL
        assert ended(session) == 4
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()


def test_every_byte_passes_a_raw_terminal_both_ways(vruntime: Runtime, bundles: Bundles) -> None:
    data = bytes(range(256)) * 400
    script = f"stty raw -echo; echo ready; head -c {len(data)} | tee /copy; exit 3"
    bundle = bundles.busybox("sh", "-c", script, terminal=True)
    with on_terminal(vruntime.command("run", "--bundle", str(bundle), vruntime.new_id())) as session:
        session.expect_exact("ready\n")
        received = _exchange(session.child_fd, data)
        assert ended(session) == 3
    assert hashlib.sha256((bundle / "rootfs/copy").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def _exchange(fd: int, data: bytes) -> bytes:
    """Writes all of `data`, and reads as much."""
    received, unsent = bytearray(), memoryview(data)
    while len(received) < len(data):
        readers, writers, _ = select.select([fd], [fd] if unsent else [], [], DEADLINE)
        assert readers or writers, f"stuck after {len(received)} bytes"
        if readers:
            received += os.read(fd, 65536)
        if writers:
            unsent = unsent[os.write(fd, unsent[:1024]) :]
    return bytes(received)


def test_nothing_is_lost_at_the_end_of_a_terminal(any_runtime: Runtime, bundles: Bundles) -> None:
    lines = b"".join(b"%d\r\n" % number for number in range(1, 20_001))
    bundle = bundles.busybox("sh", "-c", "seq 1 20000; exit 9", terminal=True)
    with on_terminal(any_runtime.command("run", "--bundle", str(bundle), any_runtime.new_id())) as session:
        assert ended(session) == 9
        assert session.before == lines


# -- the console socket ----------------------------------------------------------------------------------------------

NO_HOLDER = b"cannot allocate tty if runc will detach without setting console socket"
NO_TERMINAL = b"cannot use console socket if runc will not detach or allocate tty"


class ConsoleSocket:
    """An engine's end of the console socket, and then of the terminal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.settimeout(DEADLINE)

    def accept(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self.name, (self.master, *more), _, _ = socket.recv_fds(connection, 4096, 2)
            assert not more
            assert connection.recv(1) == b""

    def close(self) -> None:
        self._listener.close()
        os.close(self.master)

    def expect(self, pattern: bytes) -> re.Match[bytes]:
        """Reads until the terminal has shown `pattern`, and forgets what came before."""
        while not (found := re.search(pattern, self.received)):
            assert select.select([self.master], [], [], DEADLINE)[0], f"{pattern!r} not in {self.received!r}"
            self.received += os.read(self.master, 65536)
        self.received = self.received[found.end() :]
        return found

    def drive(self) -> None:
        """A short session in a shell, with a change of the window's size."""
        self.expect(PROMPT.encode())
        os.write(self.master, b"echo $((6*7))\r")
        self.expect(rb"\n42\r\n")
        termios.tcsetwinsize(self.master, (33, 111))
        for _ in range(100):
            os.write(self.master, b"stty size\r")
            if self.expect(rb"\n(\d+ \d+)\r\n")[1] == b"33 111":
                return
        raise AssertionError("the terminal has not taken its new size")

    def read_to_end(self) -> bytes:
        while True:
            assert select.select([self.master], [], [], DEADLINE)[0], f"no end after {self.received!r}"
            try:
                part = os.read(self.master, 65536)
            except OSError:  # EIO: the last holder of the other side has closed it
                return self.received
            self.received += part


@pytest.fixture
def console(tmp_path: Path) -> Iterator[ConsoleSocket]:
    made = ConsoleSocket(tmp_path / "console.sock")
    yield made
    made.close()


@pytest.mark.parametrize("verb", ["create", "run"])
def test_an_engine_drives_a_container_through_the_console_socket(
    any_runtime: Runtime, bundles: Bundles, console: ConsoleSocket, verb: str
) -> None:
    bundle = bundles.busybox("sh", edit=with_prompt, terminal=True)
    container_id = any_runtime.new_id()
    flags = ["--detach"] if verb == "run" else []
    any_runtime(verb, *flags, "--console-socket", str(console.path), "--bundle", str(bundle), container_id)
    console.accept()
    assert console.name == b"/dev/ptmx"
    if verb == "create":
        any_runtime("start", container_id)
    console.drive()
    os.write(console.master, b"echo last words; exit 5\r")
    assert console.read_to_end().endswith(b"\nlast words\r\n")
    eventually(lambda: any_runtime.state(container_id)["status"] == "stopped", 5)


def test_an_engine_drives_an_exec_through_the_console_socket(
    any_runtime: Runtime, bundles: Bundles, console: ConsoleSocket, tmp_path: Path
) -> None:
    container_id = any_runtime.start(bundles.busybox("sleep", "1000", edit=with_prompt))
    flags = ["--tty", "--console-socket", str(console.path), "--pid-file", str(tmp_path / "pid")]
    for refused, why in ((flags, NO_TERMINAL), (["--detach", "--tty"], NO_HOLDER)):
        result = any_runtime("exec", *refused, container_id, "sh", check=False)
        assert result.returncode != 0
        assert why in result.stderr
    any_runtime("exec", "--detach", *flags, container_id, "sh")
    console.accept()
    console.drive()
    process = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    os.write(console.master, b"exit\r")
    console.read_to_end()
    eventually(lambda: not process.exists() or b") Z " in process.read_bytes(), 5)


def test_consoles_that_nobody_would_hold_are_refused(
    any_runtime: Runtime, bundles: Bundles, console: ConsoleSocket
) -> None:
    on_a_terminal = str(bundles.busybox("sh", terminal=True))
    on_none = str(bundles.busybox("sh"))
    socket_flag = ("--console-socket", str(console.path))
    for arguments, refusal in (
        (("create", "--bundle", on_a_terminal), NO_HOLDER),
        (("run", "--detach", "--bundle", on_a_terminal), NO_HOLDER),
        (("run", *socket_flag, "--bundle", on_a_terminal), NO_TERMINAL),
        (("create", *socket_flag, "--bundle", on_none), NO_TERMINAL),
    ):
        result = any_runtime(*arguments, any_runtime.new_id(), check=False)
        assert (result.returncode, result.stdout) == (1, b"")
        assert refusal in result.stderr
    assert json.loads(any_runtime("list", "--format", "json").stdout) is None
    console.master = os.open(os.devnull, os.O_RDWR)  # none was sent
