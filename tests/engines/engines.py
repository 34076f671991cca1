"""Debian's engines as a test starts and calls them: each in namespaces of its own, all that it keeps in one place."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pexpect
from inventory import Inventory, left_behind
from namespaces import Namespaces
from runtimes import RUNC, VRUNTIME, busybox_root
from waiting import becomes, eventually

BUSYBOX = "busybox:test"
DEBIAN = "debian:test"
DEADLINE = 60.0

Result = subprocess.CompletedProcess[Any]


class Engine(ABC):
    """An engine, its state in a directory with a short path, as its sockets need."""

    def __init__(self) -> None:
        self._before = Inventory.take()
        self.directory = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))
        self.namespaces = Namespaces()
        self.environment = {**os.environ, "HOME": str(self.directory)}
        self.runtime = "vruntime"
        self._images: set[str] = set()

    @abstractmethod
    def begin(self) -> None:
        """Starts the engine, and has it run a container: the group above all those of containers stays."""

    @abstractmethod
    def command(self, *arguments: str) -> list[str]:
        """The whole command line of the engine's client."""

    @abstractmethod
    def load(self, name: str, rootfs: Path) -> None:
        """Makes an image of a root filesystem."""

    @abstractmethod
    def remove_all(self) -> None:
        """Removes all that tests made in the engine, but for images."""

    @abstractmethod
    def state_roots(self) -> list[Path]:
        """Directories in which the runtime and the engine keep an entry a container."""

    def __call__(self, *arguments: str, check: bool = True, timeout: float = DEADLINE, **options: Any) -> Result:
        """Runs a command of the client to its end, with its output captured as text; with `check` it must exit 0."""
        options = {"text": True, "env": self.environment, **options}
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        result = subprocess.run(self.command(*arguments), capture_output=True, timeout=timeout, **options)
        if check:
            assert result.returncode == 0, f"{arguments}: {result.returncode}: {result.stderr}"
        return result

    @contextmanager
    def start(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[Any]]:
        """Runs a command of the client beside, with its output in pipes; it is killed if it has not ended by then."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        with subprocess.Popen(self.command(*arguments), text=True, env=self.environment, **options) as process:
            try:
                yield process
            finally:
                process.kill()

    def terminal(self, *arguments: str) -> pexpect.spawn[str]:
        """Starts a command of the client on a terminal of 30 rows and 100 columns."""
        program, *rest = self.command(*arguments)
        return pexpect.spawn(program, rest, env=self.environment, dimensions=(30, 100), encoding="utf-8", timeout=30)

    def using(self, runtime: str) -> Engine:
        """The same engine, with another runtime for what it runs."""
        other = copy.copy(self)
        other.runtime = runtime
        return other

    def busybox(self) -> str:
        """The name of an image with busybox alone."""
        return self._image(BUSYBOX, busybox_root)

    def debian(self) -> str:
        """The name of an image with Debian (python3, gcc)."""
        tree = Path(os.environ["VRUNTIME_TEST_ROOTFS"])
        return self._image(DEBIAN, lambda rootfs: rootfs.symlink_to(tree))

    def inventory(self) -> Inventory:
        """What the engine and the host hold."""
        return Inventory.take(*self.state_roots(), within=self.namespaces.pid)

    def left_behind(self, before: Inventory) -> dict[str, list[str]]:
        """What is more than before, after some time to settle."""
        return left_behind(before, *self.state_roots(), within=self.namespaces.pid)

    def processes_of(self, cgroup: str) -> list[str]:
        """The command lines of the processes in a control group."""
        pids = self.namespaces.path(f"{cgroup}/cgroup.procs").read_text().split()
        shown = subprocess.run(
            ["ps", "-o", "pid=,stat=,args=", "-p", ",".join(pids or "0")], capture_output=True, text=True
        )
        return shown.stdout.splitlines()

    def end(self) -> None:
        """Ends the engine, and proves that nothing is left of it."""
        try:
            becomes(self.namespaces.inhabitants, set())
        finally:
            self.namespaces.end()
        shutil.rmtree(self.directory)
        self._remove_parent_cgroups()
        left = left_behind(self._before)
        assert left == {}, left

    def daemon(self, *argv: str, log: str) -> subprocess.Popen[bytes]:
        """Starts a daemon within, its output at the end of a file in the directory."""
        with open(self.directory / log, "ab") as output:
            command = self.namespaces.command(*argv)
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment
            )

    def _image(self, name: str, make: Callable[[Path], object]) -> str:
        if name not in self._images:
            with tempfile.TemporaryDirectory(dir=self.directory) as directory:
                rootfs = Path(directory, "rootfs")
                make(rootfs)
                self.load(name, rootfs)
            self._images.add(name)
        return name

    def _remove_parent_cgroups(self) -> None:
        """Engines leave the group above those of their containers."""
        for path in sorted(Inventory.take().added_since(self._before).get("cgroups", ()), reverse=True):
            os.rmdir(path)


def archive(rootfs: Path) -> bytes:
    """A root filesystem as a tar."""
    return subprocess.run(["tar", "-C", f"{rootfs}/", "-c", "."], capture_output=True, check=True).stdout


def stop(daemon: subprocess.Popen[bytes]) -> None:
    """Asks a daemon to end, and waits for it."""
    daemon.terminate()
    daemon.wait(DEADLINE)


class Docker(Engine):
    """dockerd with our runtime as its default, and its client. It starts a containerd of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = self.directory / "docker.sock"
        self.environment["DOCKER_HOST"] = f"unix://{self._socket}"
        self.settings = self.directory / "daemon.json"
        self.settings.write_text(json.dumps(self._settings()))

    def begin(self) -> None:
        self.start_daemon()
        # The daemon holds on to the host's own network namespace from its first use.
        self.using("runc")("run", "--rm", "--network", "host", self.busybox(), "true")

    def command(self, *arguments: str) -> list[str]:
        return ["/usr/bin/docker", *with_runtime(arguments, ("--runtime", self.runtime))]

    def detached(self, *arguments: str) -> str:
        """Runs a container that stays, and gives its id."""
        return str(self("run", "--detach", *arguments).stdout.strip())

    def inspect(self, container: str, template: str) -> str:
        """One fact of a container, by its place in what `inspect` knows."""
        return str(self("inspect", "--format", "{{" + template + "}}", container).stdout.strip())

    def compose(self, directory: Path, *arguments: str, timeout: float = 2 * DEADLINE) -> Result:
        """Runs docker-compose with the file in a directory."""
        command = ["/usr/bin/docker-compose", *arguments]
        options = {"cwd": directory, "env": self.environment, "timeout": timeout}
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
        assert result.returncode == 0, f"{arguments}: {result.returncode}: {result.stderr}"
        return result

    def start_daemon(self) -> None:
        """Starts dockerd, and waits until it answers."""
        places = ["--data-root", self.directory / "data", "--exec-root", self.directory / "exec"]
        files = [
            "--config-file",
            self.settings,
            "--pidfile",
            self.directory / "pid",
            "--host",
            f"unix://{self._socket}",
        ]
        self.process = self.daemon("/usr/sbin/dockerd", *map(str, [*places, *files]), log="dockerd.log")
        eventually(self._answers, timeout=DEADLINE)

    def kill_daemon(self) -> None:
        """Kills dockerd, with which the kernel ends its containerd; the containers stay.

        Waits until that has been reaped: the next dockerd takes a dead one for one that runs.
        """
        containerd = (self.directory / "exec/containerd/containerd.pid").read_text()
        self.process.kill()
        self.process.wait()
        becomes(Path("/proc", containerd).exists, False, DEADLINE)

    def load(self, name: str, rootfs: Path) -> None:
        self("import", "-", name, input=archive(rootfs), text=False)

    def state_roots(self) -> list[Path]:
        running = self.directory / "exec"
        bundles = running / "containerd/daemon/io.containerd.runtime.v2.task/moby"
        return [running / "runtime-runc/moby", bundles, self.directory / "data/containers"]

    def remove_all(self) -> None:
        if containers := self("ps", "--all", "--quiet").stdout.split():
            self("rm", "--force", "--volumes", *containers)
        names = self("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        if made := [name for name in names if name not in self._images and "<none>" not in name]:
            self("rmi", "--force", *made)
        for kind in ("volume", "network", "image"):
            self(kind, "prune", "--force")

    def end(self) -> None:
        stop(self.process)
        super().end()

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.directory / "dockerd.log").read_text()
        return self("version", check=False).returncode == 0

    def _settings(self) -> dict[str, Any]:
        runtimes = {"vruntime": {"path": VRUNTIME}}
        return {"runtimes": runtimes, "default-runtime": "vruntime", "live-restore": True}


class Podman(Engine):
    """Podman, which has no daemon: its commands run within."""

    def __init__(self) -> None:
        super().__init__()
        containers = self.directory / "containers.conf"
        containers.write_text(self._settings())
        self.environment["CONTAINERS_CONF"] = str(containers)

    def begin(self) -> None:
        self.using("runc")("run", "--rm", self.busybox(), "true")

    def command(self, *arguments: str) -> list[str]:
        places = ["--root", self.directory / "data", "--runroot", self.directory / "run", "--storage-driver", "overlay"]
        return self.namespaces.command("/usr/bin/podman", *map(str, places), "--runtime", self.runtime, *arguments)

    def load(self, name: str, rootfs: Path) -> None:
        self("import", "-", name, input=archive(rootfs), text=False)

    def state_roots(self) -> list[Path]:
        within = self.namespaces.path
        return [within("/run/vruntime"), within("/run/runc"), self.directory / "data/overlay-containers"]

    def remove_all(self) -> None:
        self("pod", "rm", "--all", "--force", "--time", "0")
        self("rm", "--all", "--force", "--volumes", "--time", "0")
        self._remove_groups_of_pods()
        for kind in ("volume", "network"):
            self(kind, "prune", "--force")

    def _remove_groups_of_pods(self) -> None:
        """Podman leaves those in hierarchies that limit nothing, whatever the runtime."""
        for name in ("systemd", "unified"):
            for directory in self.namespaces.path(f"/sys/fs/cgroup/{name}").glob("libpod_parent/*"):
                with suppress(OSError):  # Podman still ends in its own
                    directory.rmdir()

    def _settings(self) -> str:
        return f"""
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime_supports_json = ["crun", "runc", "vruntime"]
static_dir = "{self.directory}/static"
tmp_dir = "{self.directory}/tmp"
volume_path = "{self.directory}/volumes"

[engine.runtimes]
vruntime = ["{VRUNTIME}"]
runc = ["{RUNC}"]

[network]
network_backend = "netavark"
network_config_dir = "{self.directory}/networks"
"""


class Containerd(Engine):
    """containerd, and ctr."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = self.directory / "containerd.sock"
        self.settings = self.directory / "config.toml"
        self.settings.write_text(self._settings())

    def begin(self) -> None:
        self.process = self.daemon("/usr/bin/containerd", "--config", str(self.settings), log="containerd.log")
        eventually(self._answers, timeout=DEADLINE)
        self.using("runc")("run", "--rm", self.busybox(), "warm-up", "true")

    def command(self, *arguments: str) -> list[str]:
        program = {"vruntime": VRUNTIME, "runc": RUNC}[self.runtime]
        root = self.directory / "runtime"
        flags = ("--runtime", "io.containerd.runc.v2", "--runc-binary", program, "--runc-root", str(root))
        client = ["/usr/bin/ctr", "--address", str(self._socket)]
        return self.namespaces.command(*client, *with_runtime(arguments, flags))

    def load(self, name: str, rootfs: Path) -> None:
        layout, packed = rootfs.with_name("layout"), rootfs.with_name("image.tar")
        umoci = ["umoci", "--log", "error"]
        for command in (
            [*umoci, "init", "--layout", layout],
            [*umoci, "new", "--image", f"{layout}:image"],
            [*umoci, "insert", "--image", f"{layout}:image", rootfs.resolve(), "/"],
            ["skopeo", "copy", "--quiet", f"oci:{layout}:image", f"docker-archive:{packed}:{name}"],
        ):
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        self("images", "import", str(packed))

    def busybox(self) -> str:
        return f"docker.io/library/{super().busybox()}"

    def debian(self) -> str:
        return f"docker.io/library/{super().debian()}"

    def state_roots(self) -> list[Path]:
        bundles = self.directory / "state/io.containerd.runtime.v2.task/default"
        return [self.directory / "runtime/default", bundles]

    def remove_all(self) -> None:
        for task in self("tasks", "list", "--quiet").stdout.split():
            self("tasks", "delete", "--force", task, check=False)
        for container in self("containers", "list", "--quiet").stdout.split():
            self("containers", "delete", container)

    def end(self) -> None:
        stop(self.process)
        super().end()

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.directory / "containerd.log").read_text()
        return self("version", check=False).returncode == 0

    def _settings(self) -> str:
        return f"""
version = 2
root = "{self.directory}/data"
state = "{self.directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[grpc]
address = "{self._socket}"
"""


def with_runtime(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """A client's arguments with the flags that choose the runtime, where the command makes a container."""
    for place, argument in enumerate(arguments):
        if argument in ("run", "create"):
            return [*arguments[: place + 1], *flags, *arguments[place + 1 :]]
        if argument in ("network", "volume"):
            break
    return list(arguments)
