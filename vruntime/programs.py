"""Asking installed programs about themselves: their version, and what they can do."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from vruntime.errors import HostError
from vruntime.spawn import spawn

DEADLINE: Final = 10.0
"""Seconds that a program gets to answer."""

_OUTPUT_LIMIT: Final = 1024 * 1024
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+")


def output_of(argv: Sequence[str]) -> str:
    """What a program prints on standard output and standard error.

    Raises HostError when it cannot be started, fails, or has not ended after `DEADLINE`.
    """
    code, text = run(argv, DEADLINE)
    if code != 0:
        last = text.strip().splitlines()[-1:] or [""]
        raise HostError(f"{' '.join(argv)} failed with exit code {code}: {last[0][:200]}")
    return text


def run(
    argv: Sequence[str],
    timeout: float,
    *,
    stdin: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """A program's exit code, and what it prints on standard output and standard error.

    It reads the descriptor `stdin`, or nothing, and has the `environment`, or PATH alone.

    Raises HostError when it cannot be started, or has not ended after `timeout` seconds.
    """
    name = Path(argv[0]).name
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        streams = {1: writer, 2: writer} | ({} if stdin is None else {0: stdin})
        child = spawn(name, argv, fds=streams, environment=environment)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    deadline = time.monotonic() + timeout
    try:
        output = _read_until(reader, deadline)
        code = child.wait(max(0.0, deadline - time.monotonic()))
    finally:
        os.close(reader)
        child.end()
        os.close(child.pidfd)
    if code is None:
        raise HostError(f"{argv[0]} did not answer within {timeout:.0f} s")
    return code, output.decode("utf-8", errors="replace")


def version_of(program: Path) -> str:
    """The version that `program --version` names, such as `7.2.22`; raises HostError."""
    found = _VERSION.search(output_of([str(program), "--version"]))
    if found is None:
        raise HostError(f"{program} --version names no version")
    return found.group()


def version_key(version: str) -> tuple[int, ...]:
    """A version to compare by."""
    return tuple(int(part) for part in version.split("."))


def _read_until(fd: int, deadline: float) -> bytes:
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    chunks: list[bytes] = []
    size = 0
    while size < _OUTPUT_LIMIT:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            break
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)
