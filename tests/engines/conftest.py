"""Fixtures for tests that drive real engines: one of each for all tests, and that a test leaves nothing behind."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

sys.path.append(str(Path(__file__).parents[1] / "functional"))

from engines import Containerd, Docker, Engine, Podman

E = TypeVar("E", bound=Engine)

# Whoever starts the tests in the background has them ignore it, and so all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Docker]:
    """Docker, for all tests that want it."""
    yield from running(Docker())


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[Podman]:
    """Podman, for all tests that want it."""
    yield from running(Podman())


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """containerd, for all tests that want it."""
    yield from running(Containerd())


@pytest.fixture
def docker(dockerd: Docker) -> Iterator[Docker]:
    """Docker's client; containers run under our runtime."""
    yield from left_as_found(dockerd)


@pytest.fixture
def podman(podman_engine: Podman) -> Iterator[Podman]:
    """Podman; containers run under our runtime."""
    yield from left_as_found(podman_engine)


@pytest.fixture
def ctr(containerd: Containerd) -> Iterator[Containerd]:
    """containerd's client; containers run under our runtime."""
    yield from left_as_found(containerd)


def running(engine: E) -> Iterator[E]:
    """The engine, until no test wants it any more."""
    try:
        engine.begin()
        yield engine
    finally:
        engine.end()


def left_as_found(engine: E) -> Iterator[E]:
    """The engine in a test: what the test made is removed, and then there is what there was before."""
    before = engine.inventory()
    yield engine
    engine.remove_all()
    left = engine.left_behind(before)
    assert left == {}, {group: engine.processes_of(group) for group in left.get("cgroups", ())}
