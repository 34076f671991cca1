"""Writes the differences between runtimes into SPECIFICATION.md, or with --check says whether the list is current.

It is made of the tables of tests/conformance, which hold because each case fails when they do not.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
CASES = REPOSITORY / "tests/conformance"
TITLES = {"runc": "runc 1.1.5", "crun": "crun 1.8.1", "vruntime": "vruntime"}
LONGEST = 160

sys.path[:0] = [str(CASES), str(REPOSITORY / "tests/functional")]
from differences import DIFFERENCES, HOST, NOT_YET, Difference  # noqa: E402
from specification import write_or_check  # noqa: E402


def rows() -> list[Any]:
    """Every case, in the order of the files."""
    modules = [importlib.import_module(file.stem) for file in sorted(CASES.glob("test_*.py"))]
    return [row for module in modules for group in getattr(module, "GROUPS", ()) for row in group.rows]


def section() -> str:
    """The whole list as Markdown."""
    cases = {row.name: row for row in rows()}
    parts = [summary(len(cases))]
    parts += [
        f"### {TITLES['vruntime']}\n",
        table("case", "expected", "vruntime", "why"),
        *(
            line(f"`{name}`", shown(cases[name].expected), shown(known.seen), known.why)
            for name, known in ordered(cases, DIFFERENCES["vruntime"])
        ),
    ]
    for runtime in ("runc", "crun"):
        parts += [f"\n### {TITLES[runtime]}\n", table("cases", "why")]
        reasons: dict[str, list[str]] = {}
        for name, known in ordered(cases, DIFFERENCES[runtime]):
            reasons.setdefault(known.why, []).append(f"`{name}`")
        parts += [line(", ".join(names), why) for why, names in reasons.items()]
    return "\n".join(parts)


def summary(total: int) -> str:
    """How many cases each runtime passes."""
    lines = [table("", "cases", "as expected", "different", "because of this host", "not yet")]
    for runtime, title in TITLES.items():
        reasons = [known.why for known in DIFFERENCES[runtime].values()]
        counts = [sum(why.startswith(prefix) for why in reasons) for prefix in (HOST, NOT_YET)]
        numbers = (total, total - len(reasons), len(reasons) - sum(counts), *counts)
        lines.append(line(title, *map(str, numbers)))
    return "\n".join(lines) + "\n"


def ordered(cases: Mapping[str, Any], differences: Mapping[str, Difference]) -> list[tuple[str, Difference]]:
    """The differences in the order of the cases."""
    return [(name, differences[name]) for name in cases if name in differences]


def table(*titles: str) -> str:
    """The head of a table."""
    return f"{line(*titles)}\n|{'---|' * len(titles)}"


def line(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def shown(value: Any) -> str:
    """A value in a cell."""
    text = value if isinstance(value, str) else repr(value)
    text = text.replace("\n", " ").replace("`", "'") or " "
    return f"`{text if len(text) <= LONGEST else text[: LONGEST - 3] + '...'}`"


if __name__ == "__main__":
    sys.exit(write_or_check("scripts/conformance", section()))
