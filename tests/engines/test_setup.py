"""`vruntime setup` on real files, judged and used by the real engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest
from engines import Docker, Podman
from messages import message
from runtimes import VRUNTIME
from waiting import eventually

ENGINES = ("docker", "podman", "containerd", "crio")
NOBODY = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def setup(*arguments: str | Path, caller: list[str] | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [*(caller or []), VRUNTIME, "setup", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)


def said(*arguments: str | Path) -> tuple[str, str]:
    """Standard output and standard error of a set-up that succeeds."""
    result = setup(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.decode(), result.stderr.decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration that is not there yet, nor its directory."""
    return tmp_path / "etc" / "engine.conf"


def test_docker_has_the_runtime_from_its_reload_until_the_next_after_its_removal(docker: Docker) -> None:
    before = docker.settings.read_bytes()
    said("docker", "--config", docker.settings, "--name", "added", "--apply")
    docker.process.send_signal(signal.SIGHUP)
    eventually(lambda: "added" in runtimes_of(docker))
    assert docker.using("added")("run", "--rm", docker.busybox(), "echo", "hello").stdout == "hello\n"
    said("docker", "--config", docker.settings, "--name", "added", "--remove")
    assert docker.settings.read_bytes() == before
    docker.process.send_signal(signal.SIGHUP)
    eventually(lambda: "added" not in runtimes_of(docker))


def runtimes_of(docker: Docker) -> dict[str, object]:
    return dict(json.loads(docker("info", "--format", "{{json .Runtimes}}").stdout))


def test_podman_has_the_runtime_at_once(podman: Podman) -> None:
    settings = Path(podman.environment["CONTAINERS_CONF"])
    before = settings.read_bytes()
    said("podman", "--config", settings, "--name", "added", "--apply")
    try:
        added = podman.using("added")
        command = ["run", "--rm", "--network", "none", podman.busybox()]
        assert added(*command, "echo", "hello").stdout == "hello\n"
        # Only a runtime that tells its errors in JSON gets this exit code.
        assert added(*command, "/missing", check=False).returncode == 127
    finally:
        said("podman", "--config", settings, "--name", "added", "--remove")
    assert settings.read_bytes() == before


def test_containerd_reads_what_was_added(file: Path) -> None:
    said("containerd", "--config", file, "--default", "--apply")
    dump = subprocess.run(["/usr/bin/containerd", "--config", file, "config", "dump"], capture_output=True, check=True)
    cri = tomllib.loads(dump.stdout.decode())["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]
    assert cri["default_runtime_name"] == "vruntime"
    assert cri["runtimes"]["vruntime"]["options"]["BinaryName"] == "/usr/local/bin/vruntime"
    assert "runc" in cri["runtimes"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_of_our_own_comes_and_goes(engine: str, file: Path) -> None:
    diff, report = said(engine, "--config", file)
    assert diff.startswith(f"--- /dev/null\n+++ {file}\n")
    assert "--apply" in report
    assert not file.parent.exists()
    applied, report = said(engine, "--config", file, "--apply")
    assert applied == diff
    assert ("is not installed to check it" if engine == "crio" else "accepts it") in report
    assert file.stat().st_mode & 0o777 == 0o644
    assert said(engine, "--config", file, "--apply") == ("", f"{file}: nothing to change\n")
    said(engine, "--config", file, "--remove", "--dry-run")
    assert list(file.parent.iterdir()) == [file]
    said(engine, "--config", file, "--remove")
    assert list(file.parent.iterdir()) == []
    assert said(engine, "--config", file, "--remove") == ("", f"{file}: nothing to change\n")


@pytest.mark.parametrize(
    ("engine", "text", "words"),
    [
        ("docker", '{"bogus": 1}', "bogus"),
        ("docker", '{"default-runtime": "vruntime", "hosts": 5}', "hosts"),
        ("containerd", "version = 2\n[grpc]\naddress = 5\n", "5"),
        ("podman", "[engine]\ncgroup_manager = 5\n", "cgroup"),
        ("podman", '[engine]\ncgroup_manager = "x"\nruntime = "nowhere"\n', "nowhere"),
    ],
)
def test_what_the_engine_refuses_is_not_written(engine: str, text: str, words: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(text)
    told = message(setup(engine, "--config", file, "--apply"))
    assert f"refuses the changed {file}, which stays as it was: " in told
    assert words in told.partition("as it was: ")[2]
    assert f".{file.name}." not in told
    assert file.read_text() == text
    assert list(file.parent.iterdir()) == [file]


def test_nothing_is_left_of_a_new_file_that_the_engine_refuses(file: Path) -> None:
    """Podman looks for the program of its default runtime, in PATH as well."""
    told = message(setup("podman", "--config", file, "--default", "--name", "none", "--path", "/none", "--apply"))
    assert '"none" not found' in told.partition("as it was: ")[2]
    assert not file.parent.exists()


@pytest.mark.parametrize(
    ("engine", "text", "told"),
    [
        ("docker", "{", "not valid JSON: .*line 1 column 2"),
        ("containerd", "disabled_plugins = ['cri']\n", "its version is 1, not 2 or 3 "),
        ("crio", "[crio\n", "not valid TOML: .*line 1"),
    ],
)
def test_what_cannot_be_changed_is_told_with_its_file(engine: str, text: str, told: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(AssertionError, match=rf"{file}: {told}"):
        raise AssertionError(message(setup(engine, "--config", file, "--apply")))
    assert file.read_text() == text


def test_links_owners_modes_and_attributes_stay(file: Path) -> None:
    file.parent.mkdir()
    real = file.with_name("real.json")
    real.write_text("{}")
    os.chown(real, 12, 34)
    real.chmod(0o640)
    os.setxattr(real, "trusted.mark", b"x")
    file.symlink_to(real.name)
    said("docker", "--config", file, "--apply")
    assert file.readlink() == Path(real.name)
    status = real.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12, 34, 0o640)
    assert os.getxattr(real, "trusted.mark") == b"x"
    said("docker", "--config", file, "--remove")
    assert (file.is_symlink(), real.read_text()) == (True, "{}")


def test_check_tells_which_engines_are_set_up() -> None:
    result = subprocess.run([VRUNTIME, "check"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("ok    engines")]
    for engine in ("docker", "podman", "containerd"):
        set_up = setup(engine).stdout == b""
        assert engine in (line.partition("; not: ")[0 if set_up else 2])
    assert "crio" not in line


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert message(setup("docker", "--config", tmp_path / "fifo")).endswith("is not a regular file")
    assert message(setup("docker", "--config", tmp_path)).endswith("cannot be read: Is a directory")


def test_others_than_root_are_told_so(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    file = tmp_path / "daemon.json"
    assert setup("docker", "--config", file, caller=NOBODY).returncode == 0
    told = message(setup("docker", "--config", file, "--apply", caller=NOBODY))
    assert told == f"{file} cannot be changed: Permission denied (run it as root)"
