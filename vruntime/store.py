"""The state on disk, below the root that the engine gives.

containers/<id>/state.json    the container's record (container.Record)
containers/<id>/config.json   its config as it was at create: later edits of the bundle have no effect
containers/<id>/layer         of one made from an image, a link to what is its own (image.layer)
sandboxes/<id>/               the monitor's sockets, its log, and the mount points of the shared directory
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from vruntime.errors import ContainerError, ContainerExists, HostError, NoSuchContainer
from vruntime.spawn import spawn

# runc's idRegex; a name of "." or ".." is refused apart.
_ID = re.compile(r"[\w+-.]+", re.ASCII)
_RM = "/bin/rm"
LAYER_LINK = "layer"
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

    def reserve(self, container_id: str) -> Path:
        """Takes an id: makes the container's directory, which at most one caller can. ContainerExists when taken."""
        directory = self.container(container_id)
        try:
            self._containers.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sandboxes.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
        except FileExistsError as error:
            raise ContainerExists("container with given ID already exists") from error
        except OSError as error:
            raise HostError(
                f"cannot keep state in {directory}: {error.strerror}",
                hint="--root names another directory",
            ) from error
        return directory

    def remove(self, container_id: str) -> None:
        """Gives an id free: removes all state of the container and of its sandbox of the same id, and its layer."""
        with suppress(OSError):  # it was not made from an image
            remove_tree(Path(os.readlink(self.container(container_id) / LAYER_LINK)))
        shutil.rmtree(self.sandbox(container_id), ignore_errors=True)
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
