"""The parts of SPECIFICATION.md that scripts write: each between two marks."""

from __future__ import annotations

import sys
from pathlib import Path

SPECIFICATION = Path(__file__).resolve().parents[2] / "SPECIFICATION.md"


def write_or_check(script: str, part: str) -> int:
    """Writes a script's part; with --check on the command line only says, as an exit code, whether it is current."""
    begin, end = (f"<!-- written by {script}: {mark} -->" for mark in ("begin", "end"))
    text = SPECIFICATION.read_text()
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    current = f"{before}{begin}\n\n{part}\n\n{end}{after}"
    if sys.argv[1:] == ["--check"]:
        return int(current != text)
    SPECIFICATION.write_text(current)
    return 0
