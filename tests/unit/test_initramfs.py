"""The initramfs: the same agent gives the same bytes, and nothing but the agent is in it."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "vm-images" / "build"
AGENT = b"\x7fELF any program, of a size that is no multiple of four"


def build(agent: Path, output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUILD, agent, output], capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent"
    path.write_bytes(AGENT)
    return path


def test_the_same_agent_gives_the_same_bytes(agent: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.cpio", tmp_path / "elsewhere" / "second.cpio"
    second.parent.mkdir()
    assert build(agent, first).returncode == 0
    copy = tmp_path / "a-copy-with-another-name-time-and-mode"
    shutil.copy(agent, copy)
    copy.chmod(0o600)
    os.utime(copy, (time.time() + 86_400,) * 2)
    assert build(copy, second).returncode == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio(1) is not installed")
def test_it_holds_the_agent_and_empty_directories_alone(agent: Path, tmp_path: Path) -> None:
    output = tmp_path / "initramfs.cpio"
    assert build(agent, output).returncode == 0
    listing = subprocess.run(
        ["cpio", "--list", "--verbose", "--numeric-uid-gid", "--quiet"],
        input=output.read_bytes(),
        env={"TZ": "UTC", "LC_ALL": "C", "PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout.decode()
    size = f"{len(AGENT)}"
    assert [line.split() for line in listing.splitlines()] == [
        ["drwxr-xr-x", "2", "0", "0", "0", "Jan", "1", "1970", "dev"],
        ["crw-------", "1", "0", "0", "5,", "1", "Jan", "1", "1970", "dev/console"],
        ["-rwxr-xr-x", "1", "0", "0", size, "Jan", "1", "1970", "init"],
        ["drwxr-xr-x", "2", "0", "0", "0", "Jan", "1", "1970", "proc"],
        ["drwxr-xr-x", "2", "0", "0", "0", "Jan", "1", "1970", "run"],
        ["drwxr-xr-x", "2", "0", "0", "0", "Jan", "1", "1970", "sys"],
        ["drwxr-xr-x", "2", "0", "0", "0", "Jan", "1", "1970", "tmp"],
    ]


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio(1) is not installed")
def test_init_is_the_agent_byte_for_byte(agent: Path, tmp_path: Path) -> None:
    output = tmp_path / "initramfs.cpio"
    assert build(agent, output).returncode == 0
    extracted = subprocess.run(
        ["cpio", "--extract", "--to-stdout", "--quiet", "init"],
        input=output.read_bytes(),
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout
    assert extracted == AGENT


def test_a_missing_agent_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "no-such-agent"
    result = build(missing, tmp_path / "initramfs.cpio")
    assert result.returncode == 1
    assert result.stderr == f"vm-images/build: {missing}: No such file or directory\n"
    assert list(tmp_path.iterdir()) == []
