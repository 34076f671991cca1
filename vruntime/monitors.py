"""The monitor as a command sees it that makes a container: started for it, or that of others whose machine it joins.

A command imports this first, and the rest beside the monitor's own start: nothing heavy is imported here.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vruntime.control import TIMEOUT, Connection, MonitorSilent
from vruntime.errors import SandboxError
from vruntime.monitor import turn
from vruntime.remove import END_TIMEOUT
from vruntime.spawn import Child, spawn
from vruntime.store import Store, check_id

if TYPE_CHECKING:
    from vruntime.container import Record
    from vruntime.monitor.config import SandboxConfig
    from vruntime.network.namespace import Namespace

# On top of the guest's own deadline: what the monitor needs to say what went wrong.
_MARGIN = 15.0


class Monitor:
    """The sandbox's monitor: started at once, told only later what to run, and gone when it is told nothing."""

    def __init__(self, child: Child, connection: Connection, output: int) -> None:
        self.connection = connection
        self.sandbox: SandboxConfig
        self._child = child
        self._output = output
        self._launched = False

    @classmethod
    def start(cls, container_id: str, undo: ExitStack) -> Monitor:
        """Starts it, without waiting for it; `undo` ends it. ContainerError for an id that no container can have."""
        check_id(container_id)
        ours, theirs = socket.socketpair()
        output = os.memfd_create("monitor.log", os.MFD_CLOEXEC)  # until it has a directory to log to
        argv = [sys.executable, "-I", "-m", "vruntime.monitor", container_id]
        with theirs:
            child = spawn("monitor", argv, fds={1: output, 2: output, 3: theirs.fileno()}, new_session=True)
        monitor = cls(child, Connection(ours), output)
        undo.callback(monitor.end)
        return monitor

    @property
    def pid(self) -> int:
        """Its process, which is in the sandbox's mount namespace once it has launched."""
        return self._child.pid

    def launch(self, root: Path, sandbox: SandboxConfig, namespace: Namespace) -> None:
        """Has it launch the machine, without waiting for it; `root` is that of the state."""
        self.sandbox = sandbox
        with self._last_words():
            fds = namespace.fds
            self.connection.ask("launch", fds=fds, root=os.path.abspath(root), sandbox=sandbox.to_wire())
        namespace.close_given()

    def launched(self) -> None:
        """Waits until the sandbox's processes run and its mount namespace is there; the guest boots on."""
        if not self._launched:
            with self._last_words():
                self.connection.answer("launch", timeout=turn.TIMEOUT + TIMEOUT)
            self._launched = True

    def create(self, request: dict[str, Any], fds: Mapping[str, int]) -> dict[str, Any]:
        """Has it make the container; waits until the container is there."""
        timeout = turn.TIMEOUT + self.sandbox.boot_timeout + self.sandbox.request_timeout + _MARGIN
        with suppress(MonitorSilent):  # a monitor that has hung up has said why, or its silence is told below
            self.connection.ask("create", timeout=timeout, fds=list(fds.values()), names=list(fds), **request)
        self.launched()
        with self._last_words():
            return self.connection.answer("create", timeout=timeout)

    def kill(self) -> None:
        """SIGKILL: the machine dies with it."""
        self._child.kill()

    def end(self) -> None:
        """Hangs up, on which it ends and takes back what it has begun; waits for that. No error when it has ended."""
        self.connection.close()
        if self._child.wait(END_TIMEOUT) is None:
            self._child.end()

    @contextmanager
    def _last_words(self) -> Iterator[None]:
        """Adds to an error of silence what it has logged."""
        try:
            yield
        except MonitorSilent as error:
            from vruntime.monitor.config import LOG  # noqa: PLC0415
            from vruntime.vm import console  # noqa: PLC0415

            said = os.pread(self._output, 1 << 16, 0)
            with suppress(FileNotFoundError):
                said += (self.sandbox.directory / LOG).read_bytes()
            raise SandboxError(error.message, hint=" | ".join(console.tail(said)) or None) from error


class SharedMonitor:
    """That of a sandbox in which others are already: it does not end as long as this connection to it is there."""

    def __init__(self, store: Store, neighbour: Record) -> None:
        from vruntime.monitor.config import SandboxConfig  # noqa: PLC0415

        self.connection = Connection.to(store.sandbox(neighbour.sandbox))
        monitor = self.connection.monitor()
        if monitor is None or monitor != neighbour.monitor:
            self.end()
            raise SandboxError(f"the virtual machine of container {neighbour.id} has ended")
        reply = self.connection.request("join")
        self.sandbox = SandboxConfig.from_wire(reply["sandbox"])
        self.share: str = reply["share"]

    def create(self, request: dict[str, Any], fds: Mapping[str, int]) -> dict[str, Any]:
        """Has it make the container; waits until the container is there."""
        timeout = self.sandbox.request_timeout + _MARGIN
        return self.connection.request("create", timeout=timeout, fds=list(fds.values()), names=list(fds), **request)

    def kill(self) -> None:
        """Others need it."""

    def end(self) -> None:
        """Hangs up."""
        self.connection.close()
