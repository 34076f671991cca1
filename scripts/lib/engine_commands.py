"""Writes what comes of engines' commands into SPECIFICATION.md, or with --check says whether the tables are current.

They are those of tests/engines, whose rows name the tests that show it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests/engines"))
from commands import ENGINES, Row
from specification import write_or_check


def section() -> str:
    """The tables of all engines."""
    return "\n\n".join(f"### {engine}\n\n{table(rows)}" for engine, rows in ENGINES.items())


def table(rows: Iterable[Row]) -> str:
    """The table of an engine."""
    lines = [f"| {row.command} | {row.verdict} | {row.note} |" for row in rows]
    return "\n".join(["| command | | |", "|---|---|---|", *lines])


if __name__ == "__main__":
    sys.exit(write_or_check("scripts/engine-commands", section()))
