"""What a runtime says when a command fails."""

from __future__ import annotations

import json
import re
import subprocess

_LINE = re.compile(r'time="[^"]+" level=error msg=(".*")')
_OWN_NAME = re.compile(r"^(?:vruntime|runc) (?=run|create)")


def message(result: subprocess.CompletedProcess[bytes]) -> str:
    """The one line of error of a command that failed, without the runtime's own name."""
    assert result.returncode != 0, "the command succeeded"
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1, f"not one line: {lines}"
    line = _LINE.fullmatch(lines[0])
    assert line, f"not in the log's format: {lines[0]}"
    return _OWN_NAME.sub("", json.loads(line[1]))
