"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout: float = 15.0) -> T:
    """What `condition` gives as soon as that is true; AssertionError when it is not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not so within {timeout} s: {condition}"
        time.sleep(0.02)
    return result


def becomes(read: Callable[[], T], expected: T, timeout: float = 15.0) -> None:
    """Waits until `read` gives what is expected; AssertionError with what it gave last when it does not in time."""
    deadline = time.monotonic() + timeout
    while (seen := read()) != expected:
        assert time.monotonic() < deadline, f"not {expected!r} within {timeout} s, but {seen!r}"
        time.sleep(0.02)


def settled(read: Callable[[], T], timeout: float, *, still: float = 1.0) -> T:
    """What `read` gives once it has given the same for `still` seconds; AssertionError when it never does."""
    deadline = time.monotonic() + timeout
    last, since = read(), time.monotonic()
    while time.monotonic() - since < still:
        assert time.monotonic() < deadline, f"still changing after {timeout} s: {last!r}"
        time.sleep(0.02)
        if (now := read()) != last:
            last, since = now, time.monotonic()
    return last
