"""A container as the host knows it: its record on disk, its status, and what the status allows."""

from __future__ import annotations

import json
import pwd
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from vruntime.errors import ContainerError, HostError
from vruntime.spawn import Identity
from vruntime.store import Store

STATE_FILE = "state.json"
CONFIG_FILE = "config.json"
OCI_VERSION = "1.2.0"


class Status(StrEnum):
    """The runtime-spec's status of a container; the refusals are in runc's words."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"

    def check_start(self) -> None:
        """Start needs a created container."""
        if self is Status.RUNNING:
            raise ContainerError("cannot start an already running container")
        if self is Status.STOPPED:
            raise ContainerError("cannot start a container that has stopped")
        if self is not Status.CREATED:
            raise ContainerError(f"cannot start a container in the {self} state")

    def check_kill(self) -> None:
        """Kill needs a process."""
        if self not in (Status.CREATED, Status.RUNNING, Status.PAUSED):
            raise ContainerError("container not running")

    def check_pause(self) -> None:
        """Pause needs a process that is not paused."""
        if self not in (Status.CREATED, Status.RUNNING):
            raise ContainerError("container not running")

    def check_resume(self) -> None:
        """Resume needs a paused container."""
        if self is not Status.PAUSED:
            raise ContainerError("container not paused")

    def check_look(self) -> None:
        """What looks into a container needs one that is set up; a paused one will do."""
        if self is not Status.PAUSED:
            self.check_exec()

    def check_exec(self) -> None:
        """Exec needs a container that is set up; runc allows a created one too."""
        if self is Status.STOPPED:
            raise ContainerError("cannot exec in a stopped container")
        if self is Status.CREATING:
            raise ContainerError("cannot exec in a container that is being created")
        if self is Status.PAUSED:
            raise ContainerError("cannot exec in a paused container (use --ignore-paused to override)")

    def check_delete(self, container_id: str) -> None:
        """Delete without force needs a container whose program does not run."""
        if self not in (Status.STOPPED, Status.CREATED):
            raise ContainerError(f"cannot delete container {container_id} that is not stopped: {self}")


@dataclass(frozen=True)
class Record:
    """What state.json holds of a container. `creator` is the command that makes it, while it does."""

    id: str
    bundle: str
    rootfs: str
    created: str
    sandbox: str
    status: Status = Status.CREATING
    annotations: dict[str, str] = field(default_factory=dict)
    accelerator: str = ""
    owner: int = 0
    creator: Identity | None = None
    monitor: Identity | None = None
    shim: Identity | None = None
    exit_code: int | None = None
    notify: bool = False
    hooks: bool = False
    error: str | None = None

    def save(self, store: Store) -> Record:
        """Writes state.json."""
        store.write(self.id, STATE_FILE, json.dumps(_plain(self), indent=2))
        return self

    def update(self, store: Store, **changes: Any) -> Record:
        """A copy with the changes, saved."""
        return replace(self, **changes).save(store)

    def observed(self) -> Record:
        """The record with the status as it is: a container whose processes on the host are gone has stopped."""
        missing = None if self.status is Status.STOPPED else self._missing()
        if missing is None:
            return self
        return replace(self, status=Status.STOPPED, error=self.error or f"its {missing} was killed")

    def _missing(self) -> str | None:
        """Which of the processes on the host that the container needs is gone."""
        if self.monitor is None:
            return None if self.creator is not None and self.creator.alive() else "creating command"
        if not self.monitor.alive():
            return "monitor"
        return None if self.shim is None or self.shim.alive() else "shim"

    def oci_state(self) -> dict[str, Any]:
        """The runtime-spec's state, with runc's additions, in its order."""
        pid = self.shim.pid if self.shim and self.status is not Status.STOPPED else 0
        state: dict[str, Any] = {
            "ociVersion": OCI_VERSION,
            "id": self.id,
            "pid": pid,
            "status": str(self.status),
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
        }
        annotations = dict(self.annotations)
        if self.accelerator == "tcg":
            annotations["io.vruntime.insecure"] = "emulated: QEMU gives no security guarantee for TCG"
        if self.error:
            annotations["io.vruntime.error"] = self.error
        if annotations:
            state["annotations"] = dict(sorted(annotations.items()))
        state["owner"] = ""
        return state

    def hook_state(self, status: Status, pid: int) -> dict[str, Any]:
        """The runtime-spec's state as a hook is told it, in runc's order; a pid of 0 is no pid."""
        state: dict[str, Any] = {"ociVersion": OCI_VERSION, "id": self.id, "status": str(status)}
        if pid:
            state["pid"] = pid
        state["bundle"] = self.bundle
        if self.annotations:
            state["annotations"] = dict(sorted(self.annotations.items()))
        return state

    def owner_name(self) -> str:
        """Name of the user who owns the container."""
        try:
            return pwd.getpwuid(self.owner).pw_name
        except KeyError:
            return str(self.owner)


def load(store: Store, container_id: str) -> Record:
    """A container's record with its status as observed; NoSuchContainer when there is none."""
    path = store.container(container_id) / STATE_FILE
    try:
        return _record(store.read(container_id, STATE_FILE)).observed()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise HostError(f"{path} is damaged: {error}", hint="delete --force removes the container") from error


def now() -> str:
    """The time as runc writes it: RFC 3339, UTC, nanoseconds."""
    import time  # noqa: PLC0415

    nanoseconds = time.time_ns()
    seconds = datetime.fromtimestamp(nanoseconds // 10**9, UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}Z"


def _plain(record: Record) -> dict[str, Any]:
    plain = dict(record.__dict__)
    for name in ("creator", "monitor", "shim"):
        identity = plain[name]
        plain[name] = identity and {"pid": identity.pid, "start_time": identity.start_time}
    return plain


def _record(plain: dict[str, Any]) -> Record:
    known = {name: plain[name] for name in Record.__dataclass_fields__ if name in plain}
    known["status"] = Status(known["status"])
    for name in ("creator", "monitor", "shim"):
        if known.get(name):
            known[name] = Identity(**known[name])
    return Record(**known)
