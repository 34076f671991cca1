"""Machines boot in turn: as many at once as the host's CPUs can serve, so that a crowd makes none of them late.

A turn is a lock on one of a few files; it ends with whoever holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

from vruntime.errors import HostError

DIRECTORY = Path("/run/vruntime/boot")
TIMEOUT = 900
"""The longest that a machine waits for its turn, in seconds."""

PER_CPU = 2


def take() -> int:
    """Waits for a turn, and gives the descriptor whose closing ends it. HostError when it does not come."""
    count = PER_CPU * (os.cpu_count() or 1)
    files: list[int] = []
    taken = None
    try:
        DIRECTORY.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(count):
            files.append(os.open(DIRECTORY / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        taken = _first_free(files)
        if taken is None:
            taken = files[os.getpid() % count]
            _wait(taken)
    except OSError as error:
        raise HostError(f"cannot take a turn by {DIRECTORY}: {error.strerror}") from error
    finally:
        for file in files:
            if file != taken:
                os.close(file)
    return taken


def _first_free(files: list[int]) -> int | None:
    for file in files:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return file
    return None


def _wait(file: int) -> None:
    """For those that came before at this file; the alarm interrupts it."""

    def late(*_: object) -> None:
        raise HostError(
            f"no turn to boot within {TIMEOUT} s: other machines are booting",
            hint="is one of them stuck? `vruntime list` shows which are being created",
        )

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(TIMEOUT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
