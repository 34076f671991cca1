"""The tables of engines' commands: each row has a test, and SPECIFICATION.md has the rows."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from commands import ENGINES, Verdict

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "scripts/lib/engine_commands.py"


def functions(engine: str) -> list[str]:
    """The tests of an engine's modules, without `test_`."""
    return [
        node.name.removeprefix("test_")
        for file in HERE.glob(f"test_{engine.lower()}_*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_and_tests_belong_together(engine: str) -> None:
    rows, there = ENGINES[engine], functions(engine)
    assert [name for name, count in Counter(there).items() if count > 1] == [], "one name for two tests"
    named = {test for row in rows for test in row.tests}
    assert sorted(named - set(there)) == [], "no such test"
    assert sorted(set(there) - named) == [], "no row for this test"


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_are_complete(engine: str) -> None:
    rows = ENGINES[engine]
    assert [row.command for row in rows if not row.tests and row.verdict is not Verdict.NOT_YET] == []
    assert [row.command for row in rows if not row.note and row.verdict is not Verdict.WORKS] == []


def test_the_tables_in_the_specification_are_current() -> None:
    check = subprocess.run([sys.executable, SCRIPT, "--check"])
    assert check.returncode == 0, "SPECIFICATION.md is behind: run scripts/engine-commands"
