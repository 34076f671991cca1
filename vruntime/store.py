"""The state on disk, below the root that the engine gives.

containers/<id>/state.json    the container's record (container.Record)
containers/<id>/config.json   its config as it was at create: later edits of the bundle have no effect
containers/<id>/layer         of one made from an image, a link to what is its own (image.layer)
containers/<id>/sandbox       a link to its sandbox
sandboxes/<id>/               the monitor's sockets, its log, and the mount points of the shared directory

A sandbox has the id of the container that it was made for, or with a number behind where that one is taken: others may
still be in the sandbox of an earlier container of this id. It is removed with the last that leads to it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from vruntime.errors import ContainerError, ContainerExists, HostError, NoSuchContainer
from vruntime.spawn import spawn

# runc's idRegex; a name of "." or ".." is refused apart.
_ID = re.compile(r"[\w+-.]+", re.ASCII)
_RM = "/bin/rm"
LAYER_LINK = "layer"
_SANDBOX_LINK = "sandbox"
_MAX_ID = 255 - len(".config.json.tmp")


def check_id(container_id: str) -> str:
    """The id itself; ContainerError in runc's words when it is none."""
    if not container_id:
        raise ContainerError("container id cannot be empty")
    if not _ID.fullmatch(container_id) or container_id in (".", "..") or len(container_id) > _MAX_ID:
        raise ContainerError("invalid container ID format")
    return container_id


class Store:
    """The state of every container under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._containers = root / "containers"
        self._sandboxes = root / "sandboxes"

    def container(self, container_id: str) -> Path:
        """The directory of a container."""
        return self._containers / check_id(container_id)

    def sandbox(self, sandbox_id: str) -> Path:
        """The directory of a sandbox."""
        return self._sandboxes / check_id(sandbox_id)

    def ids(self) -> list[str]:
        """The ids of all containers, sorted."""
        with suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self._containers) if entry.is_dir())
        return []

    def reserve(self, container_id: str, joined: str | None = None) -> str:
        """Takes an id: makes the container's directory, which at most one caller can. ContainerExists when taken.

        Gives the id of its sandbox: that of the one which it is to join, or of a new one.
        """
        directory = self.container(container_id)
        try:
            self._containers.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sandboxes.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
        except FileExistsError as error:
            raise ContainerExists("container with given ID already exists") from error
        except OSError as error:
            raise _no_state(directory, error) from error
        try:
            return self._join_sandbox(container_id, joined) if joined else self._make_sandbox(container_id)
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise _no_state(directory, error) from error

    def _make_sandbox(self, container_id: str) -> str:
        names = (container_id if number == 0 else f"{container_id}.{number}" for number in count())
        sandbox_id = next(name for name in names if _made(self._sandboxes / name))
        try:
            return self._join_sandbox(container_id, sandbox_id)
        except OSError:
            self.sandbox(sandbox_id).rmdir()
            raise

    def _join_sandbox(self, container_id: str, sandbox_id: str) -> str:
        os.symlink(self.sandbox(sandbox_id), self.container(container_id) / _SANDBOX_LINK)
        return sandbox_id

    def sandbox_of(self, container_id: str) -> str | None:
        """The id of a container's sandbox; None when there is no such container."""
        try:
            return os.path.basename(os.readlink(self.container(container_id) / _SANDBOX_LINK))
        except OSError:
            return None

    def others_in_sandbox_of(self, container_id: str) -> list[str]:
        """The containers with which one shares its sandbox."""
        sandbox_id = self.sandbox_of(container_id)
        others = (other for other in self.ids() if other != container_id)
        return [other for other in others if sandbox_id is not None and self.sandbox_of(other) == sandbox_id]

    def remove(self, container_id: str) -> None:
        """Gives an id free: removes all state of the container, its layer, and its sandbox unless others are in it."""
        with suppress(OSError):  # it was not made from an image
            remove_tree(Path(os.readlink(self.container(container_id) / LAYER_LINK)))
        sandbox_id = self.sandbox_of(container_id)
        if sandbox_id is not None:
            with _locked(self.sandbox(sandbox_id)):  # or the last two would leave it to each other
                if not self.others_in_sandbox_of(container_id):
                    shutil.rmtree(self.sandbox(sandbox_id), ignore_errors=True)
                shutil.rmtree(self.container(container_id), ignore_errors=True)
        shutil.rmtree(self.container(container_id), ignore_errors=True)

    def link_layer(self, container_id: str, layer: Path) -> None:
        """Makes a directory the container's own: it is removed with its state."""
        os.symlink(layer, self.container(container_id) / LAYER_LINK)

    def write(self, container_id: str, name: str, text: str) -> None:
        """Writes a file of a container so that a reader sees the old one or the new one, never a part."""
        replace_file(self.container(container_id) / name, text)

    def read(self, container_id: str, name: str) -> dict[str, Any]:
        """Reads a JSON file of a container; NoSuchContainer when there is none, ValueError for no object."""
        path = self.container(container_id) / name
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NoSuchContainer("container does not exist") from error
        return dict(json.loads(text))


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Nobody else has it locked meanwhile; one that is not there needs no lock."""
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _made(directory: Path) -> bool:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _no_state(directory: Path, error: OSError) -> HostError:
    return HostError(
        f"cannot keep state in {directory}: {error.strerror}",
        hint="--root names another directory",
    )


def replace_file(path: Path, text: str) -> None:
    """Writes a file beside its place, and renames it into place; unflushed, as what runs does not outlive the host."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def remove_tree(path: Path) -> None:
    """Removes a directory, however deep; no error when there is none. HostError when something of it stays.

    By rm(1): what a guest has made can be nested deeper than a recursion in Python goes. No Ctrl-C reaches it.
    """
    if spawn("rm", [_RM, "-rf", "--one-file-system", "--", str(path)], new_session=True).wait():
        raise HostError(f"cannot remove {path}", hint=f"`rm -rf {path}` says why")
