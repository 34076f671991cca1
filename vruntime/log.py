"""The runtime's own messages, in runc's two formats, to `--log` or standard error.

Levels mean one thing each: error, the command failed; warning, it goes on, yet someone should know; info, a change that
an operator asked for; debug, how it went.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

_LETTERS = {"error": "ERRO", "warning": "WARN", "info": "INFO", "debug": "DEBU"}
_STARTED = time.monotonic()


class Log:
    """Where messages go. An error is printed on standard error too when the log is a file, as runc does."""

    def __init__(self, path: Path | None = None, form: str = "text", *, debug: bool = False) -> None:
        self.path = path
        self.form = form
        self._debug = debug

    def error(self, message: str) -> None:
        """The command failed."""
        self._write("error", message)
        if self.path is not None:
            print(message, file=sys.stderr)

    def warning(self, message: str) -> None:
        """The command goes on, yet someone should know."""
        self._write("warning", message)

    def debug(self, message: str) -> None:
        """How it went; shown with --debug."""
        if self._debug:
            self._write("debug", message)

    def _write(self, level: str, message: str) -> None:
        if self.path is None:
            with suppress(OSError):
                print(self._line(level, message, sys.stderr.isatty()), file=sys.stderr, flush=True)
            return
        line = self._line(level, message, False) + "\n"
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            print(f"cannot write to the log {self.path}: {error.strerror}", file=sys.stderr)
            print(line, end="", file=sys.stderr)
            return
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(line)

    def _line(self, level: str, message: str, terminal: bool) -> str:
        import json  # noqa: PLC0415  most commands print no message

        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if self.form == "json":
            return json.dumps({"level": level, "msg": message, "time": now}, separators=(",", ":"))
        if terminal:
            one_line = message.replace("\n", "\\n")
            return f"{_LETTERS[level]}[{int(time.monotonic() - _STARTED):04d}] {one_line}"
        return f'time="{now}" level={level} msg={json.dumps(message, ensure_ascii=False)}'
