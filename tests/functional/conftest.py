"""Fixtures for tests on real virtual machines: the runtime, its oracle, bundles, and that nothing is left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from inventory import Inventory, left_behind
from runtimes import RUNC, VRUNTIME, Bundles, Runtime

# Whoever starts the tests in the background has them ignore it, and so all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def state_root(tmp_path: Path) -> Path:
    """The runtime's --root in this test."""
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def nothing_left_behind(state_root: Path) -> Iterator[None]:
    """After every test the host holds what it held before."""
    before = Inventory.take(state_root)
    yield
    assert left_behind(before, state_root) == {}


@pytest.fixture
def vruntime(state_root: Path, nothing_left_behind: None) -> Iterator[Runtime]:
    """The runtime under test, as installed."""
    runtime = Runtime(VRUNTIME, state_root)
    yield runtime
    runtime.clean_up()


@pytest.fixture
def runc(tmp_path: Path, nothing_left_behind: None) -> Iterator[Runtime]:
    """The oracle: Debian's runc."""
    runtime = Runtime(RUNC, tmp_path / "runc")
    yield runtime
    runtime.clean_up()


@pytest.fixture(params=["vruntime", "runc"])
def any_runtime(request: pytest.FixtureRequest) -> Runtime:
    """For tests of what OCI and runc's users expect: each runs on both."""
    runtime: Runtime = request.getfixturevalue(request.param)
    return runtime


@pytest.fixture
def bundles(tmp_path: Path, nothing_left_behind: None) -> Iterator[Bundles]:
    """Makes bundles in this test's directory."""
    made = Bundles(tmp_path)
    yield made
    made.clean_up()
