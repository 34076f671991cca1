"""The images that are kept unpacked: a directory each, named by the image's id, shared by all containers.

images/<id>/         its lock (flock(2)): shared while the image is used, exclusive while it is made or removed
    image/           appears at once, by a rename, when all of it is on the disk
        rootfs/      what the layers make; never written to again
        config.json  the image's config
        about.json   where it came from, and when (About)
    new/             what an unpacking that still runs, or that was killed, has made
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vruntime import linux
from vruntime.errors import HostError, ImageError
from vruntime.image import manifest
from vruntime.image.files import private_directory, read_file
from vruntime.image.progress import Progress
from vruntime.image.reference import Reference
from vruntime.oci import strict_json
from vruntime.oci.document import Json
from vruntime.store import remove_tree

_ID: Final = re.compile(r"[0-9a-f]{64}")
_COMPLETE: Final = "image"
_NEW: Final = "new"


@dataclass(frozen=True)
class About:
    """What is told of a kept image."""

    reference: str
    created: float
    """Seconds since the epoch."""

    size: int
    """Bytes written to make it."""


@dataclass(frozen=True)
class Entry:
    """A kept image. While `lock` is open nobody removes it."""

    id: str
    directory: Path
    lock: int

    @property
    def rootfs(self) -> Path:
        """Its root filesystem."""
        return self.directory / _COMPLETE / "rootfs"

    @property
    def config(self) -> Json:
        """Its config."""
        path = self.directory / _COMPLETE / "config.json"
        return manifest.parse(read_file(path, strict_json.SIZE_LIMIT), str(path))

    @property
    def about(self) -> About:
        """Where it came from."""
        return About(**json.loads((self.directory / _COMPLETE / "about.json").read_bytes()))


Fill = Callable[[Path], tuple[bytes, int]]
"""Makes `rootfs` in a directory; gives the image's config, and how many bytes were written."""


class Cache:
    """The kept images below one directory."""

    def __init__(self, directory: Path) -> None:
        self._images = private_directory(directory / "images")

    def obtain(self, image_id: str, reference: Reference, fill: Fill, progress: Progress) -> Entry:
        """The image of this id, made by `fill` if it is not there; two callers at once make it once."""
        while True:
            lock = self._locked(image_id, progress)
            try:
                if self._is_complete(image_id):
                    return Entry(image_id, self._entry(image_id), os.dup(lock))
                # Nobody makes it. To one of several that wait here the lock is given.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(lock, self._entry(image_id)) and not self._is_complete(image_id):
                    self._make(image_id, reference, fill)
            except BlockingIOError:
                continue
            finally:
                os.close(lock)

    def _locked(self, image_id: str, progress: Progress) -> int:
        """The shared lock on an image's directory, which is made when it is missing."""
        directory = self._entry(image_id)
        while True:
            directory.mkdir(mode=0o700, exist_ok=True)
            lock = _open(directory)
            if lock is None:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.waiting(f"waiting for another process that has image {image_id[:12]} at work")
                fcntl.flock(lock, fcntl.LOCK_SH)
            if _is_at(lock, directory):
                return lock
            os.close(lock)

    def _use(self, image_id: str) -> Entry | None:
        """The image, if it is there, and nobody is removing it."""
        directory = self._entry(image_id)
        lock = _open(directory)
        if lock is None:
            return None
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if _is_at(lock, directory) and self._is_complete(image_id):
                return Entry(image_id, directory, lock)
        os.close(lock)
        return None

    def _make(self, image_id: str, reference: Reference, fill: Fill) -> None:
        directory = self._entry(image_id)
        new = directory / _NEW
        self.sweep()
        remove_tree(new)  # what an unpacking left that was killed
        new.mkdir(mode=0o700)
        try:
            config, size = fill(new)
            (new / "config.json").write_bytes(config)
            about = About(str(reference), time.time(), size)
            (new / "about.json").write_text(json.dumps(about.__dict__))
            _flush(new)  # a crash of the host must not leave half of it under its final name
            os.rename(new, directory / _COMPLETE)
        except OSError as error:
            remove_tree(directory)
            raise HostError(f"cannot keep image {image_id[:12]} in {directory}: {error.strerror}") from error
        except BaseException:
            remove_tree(directory)
            raise

    def entries(self) -> Iterator[Entry]:
        """Every kept image, in the order of the ids; each is held until the next is asked for."""
        for name in sorted(os.listdir(self._images)):
            entry = self._use(name) if _ID.fullmatch(name) else None
            if entry is not None:
                try:
                    yield entry
                finally:
                    os.close(entry.lock)

    def find(self, prefix: str) -> str:
        """The id that begins with `prefix`; ImageError when none does, or several do."""
        text = prefix.removeprefix("sha256:")
        found = [entry.id for entry in self.entries() if text and entry.id.startswith(text)]
        if len(found) == 1:
            return found[0]
        what = "several kept images have" if found else "no kept image has"
        raise ImageError(f"{what} an id that begins with {prefix:.64}", hint="`vruntime image list` shows them")

    def remove(self, image_id: str) -> bool:
        """Removes a kept image, or what is left of one; False when a container uses it."""
        directory = self._entry(image_id)
        lock = _open(directory)
        if lock is None:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, directory):
                with suppress(FileNotFoundError):
                    os.rename(directory / _COMPLETE, directory / _NEW)  # no longer complete, from here on
                remove_tree(directory)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def in_use(self, entry: Entry) -> bool:
        """Whether anyone else holds the image."""
        other = _open(entry.directory)
        if other is None:
            return False
        try:
            fcntl.flock(entry.lock, fcntl.LOCK_UN)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(other)
        return False

    def sweep(self) -> None:
        """Removes what unpackings left that were killed."""
        for name in os.listdir(self._images):
            if not self._is_complete(name):
                self.remove(name)

    def _is_complete(self, image_id: str) -> bool:
        return (self._entry(image_id) / _COMPLETE).exists()

    def _entry(self, image_id: str) -> Path:
        return self._images / image_id


def _open(directory: Path) -> int | None:
    with suppress(FileNotFoundError):
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return None


def _is_at(lock: int, directory: Path) -> bool:
    """Whether what was opened is still there: it may have been removed while the lock was waited for."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), os.stat(directory))
    return False


def _flush(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        linux.syncfs(fd)
    finally:
        os.close(fd)
