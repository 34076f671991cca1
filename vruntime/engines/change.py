"""A change of an engine's file: shown as a diff, judged by the engine, and made at once for whoever reads the file."""

from __future__ import annotations

import difflib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vruntime.engines.engine import Engine, Runtime
from vruntime.errors import EngineError

_SIZE_LIMIT: Final = 1024 * 1024
_NO_END: Final = "\n\\ No newline at end of file\n"


@dataclass(frozen=True)
class Change:
    """A file's text before and after; None: no file."""

    engine: Engine
    file: Path
    before: str | None
    after: str | None

    @property
    def empty(self) -> bool:
        """Whether it is so already."""
        return self.before == self.after

    def diff(self) -> str:
        """The change as `patch` reads it."""
        old, new = ("/dev/null" if text is None else str(self.file) for text in (self.before, self.after))
        lines = difflib.unified_diff(_lines(self.before), _lines(self.after), old, new)
        return "".join(line if line.endswith("\n") else line + _NO_END for line in lines)

    def make(self) -> None:
        """Makes the change; EngineError when it cannot be made, or the engine refuses what it leads to."""
        file = Path(os.path.realpath(self.file))
        with _said_of(self.file, "cannot be changed"):
            if self.after is None:
                file.unlink()
            else:
                with _directory(file.parent):
                    self._replace(file, self.after)
            _flush(file.parent)

    def _replace(self, file: Path, text: str) -> None:
        new = file.with_name(f".{file.name}.{os.getpid()}.new")
        try:
            _write_like(file, new, text)
            self._ask_engine_about(new)
            if _read(file) != self.before:
                raise EngineError(f"{self.file} has been changed by somebody else meanwhile", hint="try again")
            new.replace(file)
        finally:
            new.unlink(missing_ok=True)

    def _ask_engine_about(self, new: Path) -> None:
        program = self.engine.installed()
        words = program and self.engine.refusal(program, new)
        if words:
            raise EngineError(
                f"{self.engine.title} refuses the changed {self.file}, which stays as it was: "
                + words.replace(str(new), str(self.file))
            )


def plan_adding(engine: Engine, file: Path, runtime: Runtime) -> Change:
    """The change that makes the runtime known."""
    return _plan(engine, file, lambda text: engine.add(text, runtime))


def plan_removing(engine: Engine, file: Path, name: str) -> Change:
    """The change that undoes the former."""
    return _plan(engine, file, lambda text: engine.remove(text, name))


def _plan(engine: Engine, file: Path, changed: Callable[[str | None], str | None]) -> Change:
    with _said_of(file, "cannot be read"):
        before = _read(file)
        try:
            return Change(engine, file, before, changed(before))
        except EngineError as error:
            raise EngineError(f"{file}: {error.message}", hint=error.hint) from None


def _read(file: Path) -> str | None:
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as opened:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise EngineError(f"{file} is not a regular file")
        content = opened.read(_SIZE_LIMIT + 1)
    if len(content) > _SIZE_LIMIT:
        raise EngineError(f"{file} is larger than {_SIZE_LIMIT >> 20} MiB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EngineError(f"{file} is not valid UTF-8: byte {error.start} is invalid") from None


@contextmanager
def _directory(path: Path) -> Iterator[None]:
    """Makes a directory, with those above it, that stays unless what follows fails."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for directory in missing:
            directory.rmdir()
        raise


def _write_like(file: Path, new: Path, text: str) -> None:
    """Writes a new file, with owner, mode and attributes of the one that it is to replace."""
    with open(new, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as opened:
        opened.write(text.encode("utf-8"))
        opened.flush()
        if file.exists():
            _liken(file, opened.fileno())
        else:
            os.fchmod(opened.fileno(), 0o644)
        os.fsync(opened.fileno())


def _liken(file: Path, fd: int) -> None:
    status = file.stat()
    os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    try:
        for name in os.listxattr(file):
            os.setxattr(fd, name, os.getxattr(file, name))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


def _flush(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _said_of(file: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "run it as root" if isinstance(error, PermissionError) else None
        raise EngineError(f"{file} {what}: {error.strerror}", hint=hint) from error


def _lines(text: str | None) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text or "")
