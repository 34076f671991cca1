"""NOTIFY_SOCKET (sd_notify(3)): what a container says to the service manager that waits for it, next to runc."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from messages import message
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimes import Bundles, Runtime

SENDER = r"""
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
/* Sends each argument as one datagram to NOTIFY_SOCKET. */
int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (!path || strlen(path) >= sizeof address.sun_path) return 2;
    strcpy(address.sun_path, path);
    for (int i = 1; i < argc; i++)
        if (sendto(fd, argv[i], strlen(argv[i]), 0, (struct sockaddr *)&address, sizeof address) < 0) return 1;
    return 0;
}
"""


class Manager:
    """A service manager: it keeps who said what, and acknowledges barriers."""

    def __init__(self, address: str) -> None:
        self.environment = {**os.environ, "NOTIFY_SOCKET": address}
        self.datagrams: list[tuple[int, bytes]] = []
        self.barriers = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(4096, 256)
            sender = 0
            for _, kind, payload in ancillary:
                if kind == socket.SCM_CREDENTIALS:
                    sender = struct.unpack("3i", payload)[0]
                elif kind == socket.SCM_RIGHTS:
                    for (fd,) in struct.iter_unpack("i", payload):
                        os.close(fd)
            if data == b"end of the test":
                return
            if data == b"BARRIER=1":
                self.barriers += 1
            else:
                self.datagrams.append((sender, data))

    @property
    def lines(self) -> list[bytes]:
        """All that was said, in its order."""
        return [line for _, datagram in self.datagrams for line in datagram.split(b"\n") if line]

    def close(self) -> None:
        """Ends it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end of the test", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(f"{tmp_path}/notify" if request.param == "path" else f"@vruntime-test-{os.getpid()}")
    yield manager
    manager.close()


@pytest.fixture(scope="session")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static program that sends its arguments."""
    program = tmp_path_factory.mktemp("sender") / "notify"
    subprocess.run(["cc", "-static", "-o", program, "-x", "c", "-"], input=SENDER.encode(), check=True)
    return program


def notifying(bundles: Bundles, sender: Path, script: str, bound: Path | None = None, **root: Any) -> Path:
    """A bundle that runs a script; `bound` is what is bound for its NOTIFY_SOCKET, a directory or the socket."""

    def edit(config: dict[str, Any]) -> None:
        config["root"].update(root)
        if bound is not None:
            destination = "/run/notify" if bound.is_dir() else "/run/notify/notify.sock"
            config["process"]["env"].append("NOTIFY_SOCKET=/run/notify/notify.sock")
            config["mounts"].append(
                {"destination": destination, "type": "bind", "source": str(bound), "options": ["bind"]}
            )

    bundle = bundles.busybox("sh", "-c", script, edit=edit)
    shutil.copy(sender, bundle / "rootfs/bin/notify")
    return bundle


def test_start_waits_until_the_container_is_ready(
    any_runtime: Runtime, bundles: Bundles, sender: Path, manager: Manager
) -> None:
    script = "while ! [ -e /go ]; do sleep 0.1; done; notify READY=1; sleep 1000"
    bundle = notifying(bundles, sender, script)
    container = any_runtime.new_id()
    with open(bundle / "log", "wb") as log:
        create = any_runtime.command("create", "--bundle", str(bundle), container)
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        subprocess.run(create, env=manager.environment, check=True, **streams)
        with subprocess.Popen(any_runtime.command("start", container), env=manager.environment) as start:
            eventually(lambda: any_runtime.state(container)["status"] == "running")
            assert start.poll() is None
            assert manager.datagrams == []
            (bundle / "rootfs/go").touch()
            assert start.wait(15) == 0
    pid = any_runtime.state(container)["pid"]
    eventually(lambda: manager.lines == [b"READY=1", b"MAINPID=%d" % pid])
    assert {said_by for said_by, _ in manager.datagrams} == {start.pid}


def test_the_foreground_is_the_main_process(
    any_runtime: Runtime, bundles: Bundles, sender: Path, manager: Manager
) -> None:
    script = "echo $NOTIFY_SOCKET; grep -o ' /run/notify [^ ]* ro,nosuid,nodev,noexec' /proc/mounts; notify READY=1"
    bundle = notifying(bundles, sender, f"{script}; sleep 1")
    command = any_runtime.command("run", "--bundle", str(bundle), any_runtime.new_id())
    with subprocess.Popen(command, env=manager.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as run:
        output, _ = run.communicate(timeout=30)
    assert run.returncode == 0
    path, mount = output.decode().splitlines()
    assert path == "/run/notify/notify.sock"
    assert mount.startswith(" /run/notify ")
    assert manager.lines == [b"READY=1", b"MAINPID=%d" % run.pid]


def test_only_what_a_container_may_say_is_passed_on(
    vruntime: Runtime, bundles: Bundles, sender: Path, manager: Manager, tmp_path: Path
) -> None:
    datagrams = [
        "STATUS=begins",
        "MAINPID=1",
        "FDSTORE=1\nFDNAME=x",
        "READY=1\nSTATUS=is up\nMAINPID=1\nBARRIER=1\nNOTIFYACCESS=all",
        "WATCHDOG=1\nWATCHDOG_USEC=1",
        "STATUS=\033[31mred",
        "ERRNO=5\nERRNO=-5\nERRNO=x\nnonsense\n=\nREADY=2",
        "RELOADING=1\nMONOTONIC_USEC=1",
        "STOPPING=1",
    ]
    arguments = " ".join(f'"{datagram}"' for datagram in datagrams)
    bundle = notifying(bundles, sender, f"notify {arguments}; sleep 1", readonly=True)
    pid_file = tmp_path / "pid"
    run = ["run", "--detach", "--pid-file", str(pid_file), "--bundle", str(bundle), vruntime.new_id()]
    subprocess.run(vruntime.command(*run), env=manager.environment, stdin=subprocess.DEVNULL, check=True)
    eventually(lambda: b"STOPPING=1" in manager.lines)
    pid = int(pid_file.read_text())
    lines = [line for line in manager.lines if not line.startswith(b"MONOTONIC_USEC=")]
    assert lines == [
        b"STATUS=begins",
        b"READY=1",
        b"STATUS=is up",
        b"MAINPID=%d" % pid,
        b"WATCHDOG=1",
        b"ERRNO=5",
        b"RELOADING=1",
        b"STOPPING=1",
    ]
    (moment,) = (line for line in manager.lines if line.startswith(b"MONOTONIC_USEC="))
    assert moment != b"MONOTONIC_USEC=1"
    assert manager.barriers == 1
    assert manager.datagrams[-1][0] == pid


def test_a_container_that_ends_before_it_is_ready(
    vruntime: Runtime, bundles: Bundles, sender: Path, manager: Manager
) -> None:
    """runc waits until the ended process has been reaped."""
    bundle = notifying(bundles, sender, "notify STATUS=fails; exit 3")
    container = vruntime.new_id()
    run = vruntime.command("run", "--detach", "--bundle", str(bundle), container)
    subprocess.run(run, env=manager.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    eventually(lambda: vruntime.state(container)["status"] == "stopped")
    assert b"READY=1" not in manager.lines


def test_a_flood_is_not_passed_on(vruntime: Runtime, bundles: Bundles, sender: Path, manager: Manager) -> None:
    script = "i=0; while [ $i -lt 30 ]; do notify $(yes STATUS=x | head -n 100); i=$((i+1)); done; notify READY=1"
    bundle = notifying(bundles, sender, f"{script}; sleep 1000")
    run = vruntime.command("run", "--detach", "--bundle", str(bundle), vruntime.new_id())
    subprocess.run(run, env=manager.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    eventually(lambda: b"READY=1" in manager.lines)
    assert len(manager.datagrams) < 1500


@pytest.mark.parametrize("bound", ["bound", "bound/notify.sock"])
def test_a_socket_that_the_config_binds(
    any_runtime: Runtime, bundles: Bundles, sender: Path, tmp_path: Path, bound: str
) -> None:
    """As Podman lets a container speak to its conmon: nobody waits, and nothing is added to what it says."""
    (tmp_path / "bound").mkdir()
    with closing(Manager(f"{tmp_path}/bound/notify.sock")) as manager:
        bundle = notifying(bundles, sender, "notify READY=1 && ls /run/notify && sleep 1000", tmp_path / bound)
        container = any_runtime.start(bundle)
        eventually(lambda: manager.lines == [b"READY=1"])
        eventually(lambda: (bundle / "create.log").read_text() == "notify.sock\n")
        assert any_runtime.state(container)["status"] == "running"


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_link_in_a_volume_leads_to_no_socket(
    vruntime: Runtime, bundles: Bundles, sender: Path, manager: Manager, tmp_path: Path
) -> None:
    (tmp_path / "bound").mkdir()
    (tmp_path / "bound/notify.sock").symlink_to(manager.environment["NOTIFY_SOCKET"])
    bundle = notifying(bundles, sender, "notify READY=1; echo $?", tmp_path / "bound")
    assert vruntime("run", "--bundle", str(bundle), vruntime.new_id()).stdout == b"1\n"
    assert manager.datagrams == []


def test_start_with_a_socket_and_create_without(vruntime: Runtime, bundles: Bundles, manager: Manager) -> None:
    container = vruntime.create(bundles.busybox("true"))
    result = vruntime("start", container, check=False, env=manager.environment)
    assert "NOTIFY_SOCKET is set, but was not when the container was created" in message(result)
    assert vruntime.state(container)["status"] == "created"


@pytest.mark.parametrize("address", ["relative", "/nonexistent", "@vruntime-nobody-listens", "/" + "x" * 200])
def test_nobody_listens(vruntime: Runtime, bundles: Bundles, address: str) -> None:
    container = vruntime.new_id()
    environment = {**os.environ, "NOTIFY_SOCKET": address}
    bundle = bundles.busybox("true")
    result = vruntime("run", "--bundle", str(bundle), container, check=False, env=environment)
    assert f"cannot notify the NOTIFY_SOCKET {address}: " in message(result)
    assert b"does not exist" in vruntime("state", container, check=False).stderr
