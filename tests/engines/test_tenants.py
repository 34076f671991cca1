"""The example `ci-job`: jobs of tenants, each in a virtual machine of its own, under the real engines."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Engine
from waiting import eventually

CI_JOB = Path(__file__).resolve().parents[2] / "scripts/examples/ci-job"
DEADLINE = 240.0

# What a tenant sees of others, then a line that says that this is all; then it stays.
LOOK_AROUND = """
read -r boot </proc/sys/kernel/random/boot_id
echo "boot $boot"
for process in /proc/[0-9]*; do
    read -r name <$process/comm
    echo "process $name"
done
for file in /checkout/* /work/*/* /tmp/*; do
    echo "file $file"
done
echo "done"
exec sleep infinity
"""


class CiJobs:
    """Calls of `ci-job` for one engine, whose client is found in a directory of PATH."""

    def __init__(self, engine: Engine, clients: Path) -> None:
        self.engine = engine
        self._environment = {**engine.environment, "PATH": f"{clients}:/usr/sbin:/usr/bin:/sbin:/bin"}
        name = type(engine).__name__.lower()
        self._command = [str(CI_JOB), "--engine", name, "--image", engine.debian()]
        self._started: list[subprocess.Popen[str]] = []
        clients.mkdir()
        client = clients / name
        client.write_text(f'#!/bin/sh\nexec {shlex.join(engine.command())} "$@"\n')
        client.chmod(0o755)

    def start(self, checkout: Path, *command: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        job = subprocess.Popen(
            [*self._command, "--checkout", str(checkout), *options, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        self._started.append(job)
        return job

    def run(self, checkout: Path, *command: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a job."""
        job = self.start(checkout, *command, options=options)
        output, errors = job.communicate(timeout=DEADLINE)
        return job.returncode, output, errors

    def containers(self) -> list[str]:
        return self.engine("ps", "--all", "--quiet").stdout.split()

    def clean_up(self) -> None:
        for job in self._started:
            job.terminate()
            job.communicate(timeout=DEADLINE)


@pytest.fixture(params=["docker", "podman"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CiJobs]:
    made = CiJobs(request.getfixturevalue(request.param), tmp_path / "clients")
    yield made
    made.clean_up()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout, that all may read as those of a CI are."""
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    path = tmp_path / "checkout"
    path.mkdir()
    return path


@pytest.mark.timeout(2 * DEADLINE)
def test_a_project_is_built_and_tested(jobs: CiJobs, checkout: Path) -> None:
    """bzip2, as Debian has it: compiled, and its own test suite run."""
    shutil.copytree(os.environ["VRUNTIME_TEST_SOURCE"], checkout, dirs_exist_ok=True)
    before = {path: path.lstat().st_mtime_ns for path in checkout.rglob("*")}
    code, output, errors = jobs.run(checkout, "make", "check", "CFLAGS=-O0", "LDFLAGS=")
    assert code == 0, (output, errors)
    assert "If you got this far and the 'cmp's didn't complain" in output
    assert {path: path.lstat().st_mtime_ns for path in checkout.rglob("*")} == before
    assert jobs.containers() == []


def test_the_job_has_its_limits_its_streams_and_its_exit_code(jobs: CiJobs, checkout: Path) -> None:
    script = """
    echo "$(id -u) $(pwd) $CI $(nproc) $(cat file)"
    touch /checkout/new 2>/dev/null || echo "the checkout is read-only"
    touch /usr/new 2>/dev/null || echo "the image is read-only"
    touch new /tmp/new && ls . /sys/class/net
    grep -E "^(CapBnd|NoNewPrivs):" /proc/self/status
    awk '/MemTotal/ {print ($2 < 700 * 1024 ? "memory is limited" : $2)}' /proc/meminfo
    echo trouble >&2
    exit 7
    """
    (checkout / "file").write_text("read")
    code, output, errors = jobs.run(checkout, "sh", "-c", script, options=("--cpus", "1", "--memory", "512m"))
    assert (code, errors) == (7, "trouble\n")
    assert output.split("\n") == [
        "1000 /work/checkout true 1 read",
        "the checkout is read-only",
        "the image is read-only",
        ".:",
        "file",
        "new",
        "",
        "/sys/class/net:",
        "lo",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "memory is limited",
        "",
    ]
    assert jobs.containers() == []


def test_two_tenants_see_nothing_of_each_other_and_are_ended_by_a_signal(jobs: CiJobs, checkout: Path) -> None:
    tenants = {}
    for name in ("one", "other"):
        directory = checkout / name
        directory.mkdir()
        (directory / f"secret-of-{name}").touch()
        tenants[name] = jobs.start(directory, "sh", "-c", LOOK_AROUND)
    seen = {name: "".join(iter(tenant.stdout.readline, "done\n")) for name, tenant in tenants.items()}
    assert len(jobs.containers()) == 2
    boots = {re.search("boot (.*)", text)[1] for text in seen.values()}
    boots.add(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    assert len(boots) == 3, "each has a kernel of its own"
    for name, text in seen.items():
        assert re.findall("secret-of-(.*)", text) == [name, name], "in the checkout and in its copy"
        assert set(re.findall("process (.*)", text)) == {"sh"}
    for tenant in tenants.values():
        tenant.send_signal(signal.SIGTERM)
    for tenant in tenants.values():
        assert tenant.communicate(timeout=DEADLINE) == ("", "")
        assert tenant.returncode == 143
    assert jobs.containers() == []


def test_a_signal_while_the_job_is_only_made_ends_it_as_well(jobs: CiJobs, checkout: Path) -> None:
    job = jobs.start(checkout, "sleep", "infinity")
    eventually(jobs.containers, timeout=DEADLINE)
    job.send_signal(signal.SIGINT)
    assert job.communicate(timeout=DEADLINE)[0] == ""
    assert job.returncode == 130
    assert jobs.containers() == []


def test_a_job_that_takes_too_long_is_ended(jobs: CiJobs, checkout: Path) -> None:
    code, output, errors = jobs.run(checkout, "sh", "-c", "trap '' TERM; sleep infinity", options=("--timeout", "5"))
    assert (code, output, errors) == (124, "", "ci-job: the job was ended after 5 s\n")
    assert jobs.containers() == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--image", "x", "--", "true"], "--checkout is no directory: not given"),
        (["--checkout", "/missing", "--image", "x", "--", "true"], "--checkout is no directory: /missing"),
        (["--checkout", "/", "--", "true"], "--image is not given"),
        (["--checkout", "/", "--image", "x"], "no command is given"),
        (["--engine", "lxc", "--checkout", "/", "--image", "x", "--", "true"], "--engine is docker or podman, not lxc"),
        (["--privileged"], "unknown option: --privileged (--help shows the usage)"),
        (["--image"], "--image needs a value"),
    ],
)
def test_what_it_refuses(arguments: list[str], told: str) -> None:
    result = subprocess.run([CI_JOB, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"ci-job: {told}\n")


def test_it_shows_its_usage() -> None:
    assert subprocess.run([CI_JOB, "--help"], capture_output=True, text=True, check=True).stdout.startswith(
        "usage: ci-job "
    )
