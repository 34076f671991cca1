"""Asking programs: their output, failures and silence."""

import os
import time

import pytest

from vruntime import programs
from vruntime.errors import HostError


def sh(script):
    return ["/bin/sh", "-c", script]


def test_output_of_both_streams():
    assert programs.output_of(sh("echo a; echo b >&2")) == "a\nb\n"


def test_failure_names_program_code_and_last_line():
    with pytest.raises(HostError, match=r"^/bin/sh -c .* failed with exit code 3: why$"):
        programs.output_of(sh("echo first; echo why >&2; exit 3"))


def test_a_program_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(programs, "DEADLINE", 0.2)
    began = time.monotonic()
    with pytest.raises(HostError, match="did not answer within"):
        programs.output_of(sh("exec sleep 60"))
    assert time.monotonic() - began < 5


def test_endless_output_is_bounded(monkeypatch):
    monkeypatch.setattr(programs, "DEADLINE", 2)
    with pytest.raises(HostError):
        programs.output_of(["/usr/bin/yes"])


def test_no_descriptor_is_left_open():
    before = os.listdir("/proc/self/fd")
    programs.output_of(sh("true"))
    with pytest.raises(HostError):
        programs.output_of(["/nonexistent"])
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(("older", "newer"), [("7.2", "7.2.1"), ("7.2.22", "8.0"), ("9.9", "10.0")])
def test_versions_compare_by_number(older, newer):
    assert programs.version_key(older) < programs.version_key(newer)
