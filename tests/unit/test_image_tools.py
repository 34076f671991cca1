"""Running a tool on what a stranger made: its answer, its last words, and its end."""

import os
from pathlib import Path

import pytest

from vruntime.errors import HostError, ImageError
from vruntime.image import tools
from vruntime.image.progress import Progress
from vruntime.log import Log


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the program that is run in place of umoci."""
    monkeypatch.setattr(tools, "_DIRECTORIES", (str(tmp_path),))

    def write(script: str) -> None:
        program = tmp_path / "umoci"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return write


def test_the_answer(say) -> None:
    say('echo "$1"; echo noise >&2')
    assert tools.run("umoci", ["answer"]) == b"answer\n"


def test_the_rights(say) -> None:
    say("grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; ulimit -d -c; ls /proc/self/fd")
    lines = tools.run("umoci", []).decode().split("\n")
    made = sum(1 << number for number in (0, 1, 3, 4, 27, 31))
    assert lines[:3] == [f"CapEff:\t{made:016x}", f"CapBnd:\t{made:016x}", "NoNewPrivs:\t1"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "umoci failed: exit code 3"),
        ("echo first >&2; printf '   \\342\\250\\257 why: not \\n' >&2; exit 1", "umoci failed: why: not"),
        ('echo \'time="x" level=fatal msg="tag \\"a\\" not found"\' >&2; exit 1', 'umoci failed: tag "a" not found'),
        ("printf 'a\\033[2Jb\\tc' >&2; exit 1", "umoci failed: a?[2Jb?c"),
        ("head -c 1000000 /dev/zero | tr '\\0' '\\n' >&2; echo no >&2; exit 1", "umoci failed: no"),
        ("yes | head -c 20000000", "umoci failed: its answer is larger than 8 MiB"),
    ],
)
def test_failures_are_one_line(script: str, said: str, say) -> None:
    say(script)
    with pytest.raises(ImageError) as raised:
        tools.run("umoci", [])
    assert raised.value.message.splitlines()[-1] == said


def test_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_DIRECTORIES", (str(tmp_path),))
    with pytest.raises(HostError, match=r"umoci is not installed, .* \(apt install umoci\)"):
        tools.run("umoci", [])


def test_it_does_not_outlive_its_watcher(say) -> None:
    pids = []

    def refuse(pid: int) -> None:
        pids.append(pid)
        raise ImageError("too much")

    say("exec sleep 1000")
    with pytest.raises(ImageError, match="too much"):
        tools.run("umoci", [], refuse)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_what_is_written_is_bounded(say, tmp_path: Path) -> None:
    say(f"exec dd if=/dev/zero of={tmp_path}/big bs=1M count=100000")
    with Progress(Log(), "unpacking") as progress:
        room = tools.Room(tmp_path, 10 << 20, progress)
        with pytest.raises(ImageError, match="takes more than 10M when unpacked"):
            tools.run("umoci", [], room.watch)
    assert room.written > 10 << 20


def test_room_is_left_on_the_disk(say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_SPACE_KEPT", 1 << 60)
    say("exec sleep 1000")
    with Progress(Log(), "unpacking") as progress, pytest.raises(HostError, match="no space left for the image"):
        tools.run("umoci", [], tools.Room(tmp_path, 1 << 20, progress).watch)
