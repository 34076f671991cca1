"""A guest by itself: QEMU with kernel, initramfs and network devices, and the calls that its agent answers.

Its containers have a root file system of busybox and iproute2, which comes with the initramfs: no share is needed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from vruntime import accelerator, settings
from vruntime.agent.proto import agent_pb2 as pb
from vruntime.agent.proto import agent_pb2_grpc as rpc
from vruntime.vm import machine

DEADLINE = 60.0
MEBIBYTE = 1 << 20

_PROGRAMS = ("/bin/busybox", "/sbin/ip")
_IPROUTE2 = 'ip() { /sbin/ip "$@"; }'  # not the shell's own
_DIRECTORIES = ("dev", "etc", "proc", "root", "sys", "tmp")
_CAPABILITIES = (
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_ADMIN",
    "CAP_DAC_OVERRIDE",
    "CAP_KILL",
)


@dataclass(frozen=True)
class Guest:
    """The agent of a running guest."""

    containers: rpc.ContainersStub
    processes: rpc.ProcessesStub
    streams: rpc.StreamsStub
    networks: rpc.NetworksStub

    def create(self, name: str, network: pb.Network | None = None, **linux: Any) -> None:
        """A container that waits for its start."""
        answer = self.containers.Create(container(name, network, **linux), timeout=DEADLINE)
        assert not answer.HasField("error"), answer.error.message

    def run(self, name: str, network: pb.Network | None = None, **linux: Any) -> None:
        """A container that sleeps."""
        self.create(name, network, **linux)
        answer = self.containers.Start(pb.StartRequest(container_id=name), timeout=DEADLINE)
        assert not answer.HasField("error"), answer.error.message

    def delete(self, name: str) -> None:
        """Ends a container."""
        self.containers.Delete(pb.DeleteRequest(container_id=name), timeout=DEADLINE)

    def configure(self, name: str, network: pb.Network) -> None:
        """Changes the network of a container."""
        self.networks.Configure(pb.ConfigureNetworkRequest(container_id=name, network=network), timeout=DEADLINE)

    def inside(self, name: str, script: str) -> str:
        """What a script prints in a container, in which it must succeed."""
        code, output = self.attempt(name, script)
        assert code == 0, output
        return output

    def attempt(self, name: str, script: str) -> tuple[int, str]:
        """The exit code of a script in a container, and what it prints."""
        names = {"container_id": name, "process_id": f"p{time.monotonic_ns()}"}
        process = {**_process(), "args": ["sh", "-c", f"exec 2>&1; {_IPROUTE2}; {script}"]}
        request = pb.ExecRequest(**names, oci_process=json.dumps(process).encode(), stdio=pb.Stdio(stdout=True))
        answer = self.processes.Exec(request, timeout=DEADLINE)
        assert not answer.HasField("error"), answer.error.message
        chunks = self.streams.ReadOutput(pb.ReadOutputRequest(**names, descriptor=1), timeout=DEADLINE)
        output = b"".join(chunk.data for chunk in chunks).decode()
        code = self.processes.Wait(pb.WaitRequest(**names), timeout=DEADLINE).exit_code
        self.processes.Forget(pb.ForgetRequest(**names), timeout=DEADLINE)
        return code, output

    def ip(self, name: str, arguments: str) -> list[dict[str, Any]]:
        """What iproute2 lists in a container."""
        listed = self.inside(name, f"ip -json {arguments}")
        return [one for one in json.loads(listed or "[]") if one]


def container(name: str, network: pb.Network | None = None, **linux: Any) -> pb.CreateRequest:
    """The request for a container; `linux` is added to that part of its configuration."""
    return pb.CreateRequest(container_id=name, oci_config=_config(linux), network=network)


@contextmanager
def guest(directory: Path, devices: list[str], initramfs: Path, extra: tuple[str, ...] = ()) -> Iterator[Guest]:
    """A guest with these QEMU arguments for its devices."""
    configured = settings.load(None)
    bare = machine.Machine(
        name="network",
        qemu=str(configured.vm.qemu),
        kernel=str(configured.vm.kernel),
        initramfs=str(initramfs),
        accelerator=accelerator.choose(configured),
        memory=256 * MEBIBYTE,
        tsc_khz=accelerator.tsc_khz(),
    )
    path = directory / "agent.sock"
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(1)
        argv = machine.bare_command_line(bare, agent=listener.fileno())
        argv[argv.index("-serial") + 1] = f"file:{directory}/console"
        with (directory / "qemu.log").open("wb") as log:
            qemu = subprocess.Popen(
                [*argv, *devices, *extra],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        stack.callback(qemu.wait)
        stack.callback(qemu.kill)
        options = [("grpc.default_authority", "agent"), ("grpc.use_local_subchannel_pool", 1)]
        channel = stack.enter_context(grpc.insecure_channel(f"unix:{path}", options=options))
        greeting = pb.ConfigureRequest(wall_clock_ns=time.time_ns(), entropy=os.urandom(64))
        try:
            rpc.SandboxStub(channel).Configure(greeting, timeout=DEADLINE, wait_for_ready=True)
        except grpc.RpcError as error:
            logs = "\n".join((directory / name).read_text(errors="replace") for name in ("qemu.log", "console"))
            raise AssertionError(f"the guest does not come up: {logs}") from error
        yield Guest(
            rpc.ContainersStub(channel), rpc.ProcessesStub(channel), rpc.StreamsStub(channel), rpc.NetworksStub(channel)
        )


def hub(count: int) -> list[str]:
    """QEMU's arguments for that many network devices on one Ethernet."""
    devices = []
    for number in range(count):
        devices += ["-netdev", f"hubport,id=net{number},hubid=0"]
        devices += ["-device", f"virtio-net-device,netdev=net{number},mac=02:76:72:00:00:{number:02x}"]
    return devices


def initramfs(path: Path, *programs: Path) -> Path:
    """The guest's, with the containers' root file system behind it: the kernel unpacks one archive after the other.

    The programs are added to the containers' /bin.
    """
    files = dict(_root_filesystem())
    files |= {f"rootfs/bin/{program.name}": (stat.S_IFREG | 0o755, program.read_bytes()) for program in programs}
    with path.open("wb") as archive:
        archive.write(Path(settings.load(None).vm.initramfs).read_bytes())
        archive.write(bytes(-archive.tell() % 4))
        for number, (name, (mode, data)) in enumerate([*sorted(files.items()), ("TRAILER!!!", (0, b""))], start=1):
            fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
            header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
            archive.write(header + bytes(-len(header) % 4))
            archive.write(data + bytes(-len(data) % 4))
    return path


def _root_filesystem() -> Iterator[tuple[str, tuple[int, bytes]]]:
    """Names, modes and contents."""
    directories = {"rootfs"} | {f"rootfs/{name}" for name in _DIRECTORIES}
    for program in _PROGRAMS:
        for path in [Path(program), *_libraries(program)]:
            name = f"rootfs{path}"
            directories |= {str(parent) for parent in Path(name).parents if str(parent) != "."}
            yield name, (stat.S_IFREG | 0o755, path.read_bytes())
    for directory in directories:
        yield directory, (stat.S_IFDIR | 0o755, b"")
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in set(applets) - {"busybox", "ip"}:
        yield f"rootfs/bin/{applet}", (stat.S_IFLNK | 0o777, b"busybox")
    yield "rootfs/etc/passwd", (stat.S_IFREG | 0o644, b"root:x:0:0:root:/root:/bin/sh\n")


def _libraries(program: str) -> list[Path]:
    """Those that a program is linked with, and their loader."""
    linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", linked)]


def _process() -> dict[str, Any]:
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return {
        "args": ["sleep", "1000"],
        "cwd": "/",
        "env": ["PATH=/bin:/sbin"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": dict.fromkeys(sets, _CAPABILITIES),
    }


def _config(linux: dict[str, Any]) -> bytes:
    kinds = ("pid", "mount", "ipc", "uts", "network")
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
    ]
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": "/rootfs"},
        "process": _process(),
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in kinds], **linux},
    }
    return json.dumps(config).encode()
