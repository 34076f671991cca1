"""How many cases are tried, and what came of them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "functional"))

PROGRESS_SECONDS = 30.0


class Tally:
    """Counts what came of each case of a test, and says now and then how far it is."""

    def __init__(self, name: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self.slowest = self._took = 0.0
        self._name = name
        self._began = self._said = time.monotonic()

    def add(self, outcome: str, seconds: float) -> None:
        """One more case."""
        self.outcomes[outcome] += 1
        self._took = time.monotonic() - self._began
        self.slowest = max(self.slowest, seconds)
        if time.monotonic() - self._said > PROGRESS_SECONDS:
            self._said = time.monotonic()
            print(self, file=sys.__stderr__, flush=True)

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        total, slowest = self.outcomes.total(), f"slowest {self.slowest:.2f} s"
        return f"{self._name}: {total} cases in {self._took:.0f} s: {outcomes}; {slowest}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, default=3000, help="how many documents each kind of file is tried with")


TALLIES: list[Tally] = []


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> int:
    """How many documents to try."""
    number: int = request.config.getoption("--cases")
    return number


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Where a test counts its cases."""
    TALLIES.append(Tally(request.node.name))
    return TALLIES[-1]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for tally in TALLIES:
        terminalreporter.write_line(str(tally))
