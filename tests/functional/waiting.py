"""Waiting for what a test expects: until it holds, or until a deadline fails the test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(check: Callable[[], T], seconds: float, what: str) -> T:
    """The first true answer of `check`; a failure that says `what` did not happen within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return answer


def settled(read: Callable[[], T], seconds: float, *, still: float = 1.0) -> T:
    """What `read` gives once it has given the same for `still` seconds; a failure when it never does."""
    deadline = time.monotonic() + seconds
    last, since = read(), time.monotonic()
    while time.monotonic() - since < still:
        assert time.monotonic() < deadline, f"still changing after {seconds:g} s: {last!r}"
        time.sleep(0.02)
        if (now := read()) != last:
            last, since = now, time.monotonic()
    return last
