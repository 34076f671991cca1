"""How `run` comes from an image to a bundle: find it, unpack it unless it is kept, and add what is the container's."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vruntime.errors import HostError, ImageError
from vruntime.image import archive, layer, layout
from vruntime.image.cache import Cache, Entry
from vruntime.image.conversion import Overrides, Own, check, convert, user_text, volume_paths
from vruntime.image.layer import Layer
from vruntime.image.progress import Progress
from vruntime.image.reference import Kind, Reference
from vruntime.image.tools import Room
from vruntime.image.unpack import unpack
from vruntime.image.users import find_user
from vruntime.log import Log
from vruntime.monitor.config import Overlay
from vruntime.oci.document import Json
from vruntime.settings import ImageSettings
from vruntime.store import remove_tree


@dataclass(frozen=True)
class Prepared:
    """A bundle made of an image, and the overlay that is to be mounted at its rootfs."""

    bundle: Path
    overlay: Overlay


@dataclass(frozen=True)
class _Source:
    """A root filesystem that is not written to, and the config that goes with it."""

    rootfs: Path
    config: Json
    held: tuple[Path, ...] = ()


def prepare(
    settings: ImageSettings, log: Log, reference: Reference, overrides: Overrides, state: Path, undo: ExitStack
) -> Prepared:
    """Makes the bundle of the container whose state will be in the directory `state`; `undo` takes it back.

    Raises VruntimeError; an image that cannot be run is refused before anything is made.
    """
    try:
        return _prepare(settings, log, reference, overrides, state, undo)
    except OSError as error:
        where = f" {error.filename}:" if error.filename else ""
        raise HostError(f"cannot make a bundle of {reference}:{where} {error.strerror}") from error


def _prepare(
    settings: ImageSettings, log: Log, reference: Reference, overrides: Overrides, state: Path, undo: ExitStack
) -> Prepared:
    directory = Path(os.path.realpath(settings.directory))
    source = _find(directory, settings.size_limit, log, reference, overrides, undo)
    layer.sweep(directory)
    root_fd = os.open(source.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    undo.callback(os.close, root_fd)
    user = find_user(root_fd, user_text(source.config, overrides))
    volumes = volume_paths(source.config)
    own = Layer.make(directory, state)
    undo.callback(own.remove)
    overlay = own.overlay(root_fd, source.rootfs, source.held)
    files = Own(
        volumes=own.volumes(root_fd, volumes, Progress(log, f"filling the volumes of {state.name}")),
        files=own.files(overrides.hostname or state.name[:64]),
    )
    document = convert(source.config, overrides, user, files, state.name)
    (own.directory / "config.json").write_text(json.dumps(document, indent=4))
    return Prepared(own.directory, overlay)


def _find(
    directory: Path, size_limit: int, log: Log, reference: Reference, overrides: Overrides, undo: ExitStack
) -> _Source:
    if reference.kind is Kind.DIRECTORY:
        source = _Source(_directory(reference.path), {})
        check(source.config, overrides)
        return source
    entry = _kept(Cache(directory), size_limit, log, reference, overrides)
    undo.callback(os.close, entry.lock)
    check(entry.config, overrides)
    return _Source(entry.rootfs, entry.config, (entry.directory,))


def _directory(path: Path) -> Path:
    """The directory itself, without symlinks."""
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise ImageError(f"{path} {what}", hint="an image is oci:DIR[:TAG], docker-archive:FILE[:REF] or a directory")
    if (path / layout.MARKER).exists():
        raise ImageError(f"{path} is an OCI layout, not a root filesystem", hint=f"oci:{path} names it")
    real = Path(os.path.realpath(path))
    if real == Path("/"):
        raise ImageError(f"{path} is the host's root directory")
    return real


def _kept(cache: Cache, size_limit: int, log: Log, reference: Reference, overrides: Overrides) -> Entry:
    """The unpacked image, made when it is not there."""
    image = layout.find_image(reference) if reference.kind is Kind.OCI else None
    image_id = image.id if image else archive.find_id(reference)
    progress = Progress(log, f"unpacking {reference}")

    def fill(new: Path) -> tuple[bytes, int]:
        check(image.config if image else archive.read_config(reference, image_id), overrides)
        with progress:
            room = Room(new, size_limit, progress)
            unpacked = image or archive.extract(reference, new / "blobs", room)
            if unpacked.id != image_id:
                raise ImageError(f"{reference} was changed while it was read")
            unpack(unpacked, new / "rootfs", room)
            if image is None:
                remove_tree(new / "blobs")
        return unpacked.content, room.written

    return cache.obtain(image_id, reference, fill, progress)
