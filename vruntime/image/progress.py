"""What is said while something takes long: to a terminal how far it is, else with --debug that it began and ended."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from vruntime.log import Log


class Progress:
    """One piece of work, as a context."""

    def __init__(self, log: Log, what: str) -> None:
        self._log = log
        self._what = what
        self._shown = False
        self._terminal = sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        if not self._terminal:
            self._log.debug(self._what)
        return self

    def written(self, count: int) -> None:
        """So many bytes have been written."""
        self._show(f"{self._what}: {count / 1e6:.0f} MB, {time.monotonic() - self._began:.0f} s")

    def waiting(self, why: str) -> None:
        """It cannot go on yet."""
        if not self._terminal:
            self._log.debug(why)
        self._show(why)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._show("")
        if kind is None:
            self._log.debug(f"{self._what}: done in {time.monotonic() - self._began:.1f} s")

    def _show(self, text: str) -> None:
        if self._terminal and (text or self._shown):
            self._shown = True
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
