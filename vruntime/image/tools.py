"""Running umoci and skopeo: they read what a stranger made, so they get few rights, and are watched."""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from vruntime.errors import HostError, ImageError
from vruntime.image.progress import Progress
from vruntime.settings import format_size
from vruntime.spawn import Child, spawn, tied_to_us

Watch = Callable[[int], None]
"""Called several times a second with the program's pid; may raise to end it."""

_DIRECTORIES: Final = ("/usr/local/bin", "/usr/bin")
_CAPABILITIES: Final = ("chown", "dac_override", "fowner", "fsetid", "mknod", "setfcap")
"""What making any file of any owner takes."""

_PRLIMIT: Final = "/usr/bin/prlimit"
_MEMORY_LIMIT: Final = 2 << 30
_INTERVAL: Final = 200
"""Milliseconds between two looks at a program at work."""

_SAID_LIMIT: Final = 64 * 1024
_ANSWER_LIMIT: Final = 8 << 20
_FATAL: Final = re.compile(r'level=fatal msg="(.*)"$')
_SPACE_KEPT: Final = 256 << 20
_INODES_KEPT: Final = 10_000


def run(package: str, arguments: Sequence[str], watch: Watch | None = None) -> bytes:
    """What the program of this name, and of the Debian package of this name, prints on standard output.

    ImageError with its last words when it fails, HostError when it is not installed. It ends with us, whatever ends us.
    """
    said, said_end = os.pipe2(os.O_CLOEXEC)
    answer, answer_end = os.pipe2(os.O_CLOEXEC)
    try:
        limits = [_PRLIMIT, f"--data={_MEMORY_LIMIT}", "--core=0", "--"]
        command = tied_to_us([*limits, _find(package), *arguments], capabilities=_CAPABILITIES)
        # A session of its own: the terminal's Ctrl-C is ours to act on.
        child = spawn(package, command, fds={1: answer_end, 2: said_end}, new_session=True)
    except BaseException:
        os.close(said)
        os.close(answer)
        raise
    finally:
        os.close(said_end)
        os.close(answer_end)
    try:
        output = {answer: b"", said: b""}
        _attend(child, output, answer, watch)
        code = child.wait()
    finally:
        child.end()
        for fd in (child.pidfd, said, answer):
            os.close(fd)
    if code:
        raise ImageError(f"{package} failed: {_reason(output[said] or output[answer], code)}")
    return output[answer]


def _find(program: str) -> str:
    for directory in _DIRECTORIES:
        path = Path(directory, program)
        if os.access(path, os.X_OK):
            return str(path)
    raise HostError(f"{program} is not installed, which images of this form need", hint=f"apt install {program}")


def _attend(child: Child, output: dict[int, bytes], answer: int, watch: Watch | None) -> None:
    """Reads what the program says until it ends: all of its answer, the end of the rest."""
    poll = select.poll()
    for fd in (*output, child.pidfd):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll(_INTERVAL if watch else None)}
        for fd in ready - {child.pidfd}:
            data = os.read(fd, 65536)
            if not data:
                poll.unregister(fd)
            elif fd == answer and len(output[fd]) + len(data) > _ANSWER_LIMIT:
                raise ImageError(f"{child.name} failed: its answer is larger than {_ANSWER_LIMIT >> 20} MiB")
            else:
                output[fd] += data
                if fd != answer:
                    output[fd] = output[fd][-_SAID_LIMIT:]
        if watch:
            watch(child.pid)
        if ready == {child.pidfd}:
            return


def _reason(said: bytes, code: int) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    if not lines:
        return f"exit code {code}"
    fatal = _FATAL.search(lines[-1])
    text = fatal[1].replace('\\"', '"') if fatal else lines[-1].removeprefix("\N{VECTOR OR CROSS PRODUCT}").strip()
    return "".join(character if character.isprintable() else "?" for character in text)[:400]


class Room:
    """Bounds what may be written below a directory, and tells how far it is."""

    def __init__(self, directory: Path, limit: int, progress: Progress) -> None:
        self._directory = directory
        self._limit = limit
        self._progress = progress
        self._before = 0
        self.written = 0
        """Bytes written so far."""

    def next_program(self) -> None:
        """What is written from here on comes on top."""
        self._before = self.written

    def watch(self, pid: int) -> None:
        """Looks at a program at work; ImageError or HostError when it must not go on."""
        with suppress(OSError):  # it has ended
            self.written = self._before + _bytes_written(pid)
        self._progress.written(self.written)
        if self.written > self._limit:
            raise ImageError(
                f"the image takes more than {format_size(self._limit)} when unpacked",
                hint="image.size_limit sets how much it may",
            )
        space = os.statvfs(self._directory)
        counts_inodes = space.f_files > 0
        if space.f_bavail * space.f_frsize < _SPACE_KEPT or (counts_inodes and space.f_favail < _INODES_KEPT):
            raise HostError(
                f"{self._directory}: no space left for the image",
                hint="`vruntime image prune` removes what no container uses; image.directory names another directory",
            )


def _bytes_written(pid: int) -> int:
    with open(f"/proc/{pid}/io", "rb") as counters:
        for line in counters:
            if line.startswith(b"wchar:"):
                return int(line.split()[1])
    return 0
