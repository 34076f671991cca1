"""The tables themselves: names are unique, and each known difference is one of a case that there is."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from differences import DIFFERENCES

LIBRARY = Path(__file__).parents[2] / "scripts/lib"
sys.path.append(str(LIBRARY))
import conformance  # noqa: E402


def test_names_are_unique() -> None:
    counted = Counter(row.name for row in conformance.rows())
    assert [name for name, count in counted.items() if count > 1] == []


@pytest.mark.parametrize("runtime", DIFFERENCES)
def test_each_difference_is_one(runtime: str) -> None:
    expected = {row.name: row.expected for row in conformance.rows()}
    known = DIFFERENCES[runtime]
    assert sorted(set(known) - set(expected)) == [], "no such case"
    assert [name for name, difference in known.items() if difference.seen == expected[name]] == []
    assert all(difference.why for difference in known.values())


def test_the_list_in_the_specification_is_current() -> None:
    check = subprocess.run([sys.executable, LIBRARY / "conformance.py", "--check"])
    assert check.returncode == 0, "SPECIFICATION.md is behind: run scripts/conformance --write"
