"""The style of every language in the tree, checked by that language's own tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("VRUNTIME_CACHE", "/var/cache/vruntime"))
# The sources with the modules that protoc generates, which the checkout does not hold.
PYTHON_SOURCE = CACHE / "python-source"
CARGO = ["cargo", "clippy", "--locked", "--all-targets", "--", "--deny", "warnings"]


def check(*command: str, cwd: Path = REPOSITORY, **environment: str) -> None:
    """The command must exit 0; else what it said is the failure."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}{result.stderr}"


def tracked(*patterns: str) -> list[str]:
    """The files that git knows, by pattern."""
    result = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return result.stdout.split()


def shell_scripts() -> list[str]:
    """The tracked files that are shell, by their first line or their name."""
    return [
        name
        for name in tracked("scripts", ".ci", "kernel-config", "vm-images")
        if name.endswith(".sh") or (REPOSITORY / name).read_bytes().startswith((b"#!/bin/bash", b"#!/bin/sh"))
    ]


def test_python_lint() -> None:
    check(sys.executable, "-m", "ruff", "check", ".")


def test_python_format() -> None:
    check(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_python_types() -> None:
    check(sys.executable, "-m", "mypy", cwd=PYTHON_SOURCE)


@pytest.mark.skipif(shutil.which("rustfmt") is None, reason="this Rust has no rustfmt")
def test_rust_format() -> None:
    check("cargo", "fmt", "--check", cwd=REPOSITORY / "guest-agent")


@pytest.mark.skipif(shutil.which("cargo-clippy") is None, reason="this Rust has no clippy")
@pytest.mark.timeout(900)
def test_rust_lint() -> None:
    check(*CARGO, cwd=REPOSITORY / "guest-agent", CARGO_TARGET_DIR=str(CACHE / "cargo-target"))


def test_shell() -> None:
    scripts = shell_scripts()
    assert {"scripts/setup", "scripts/demo", "scripts/test", ".ci/run"} <= set(scripts)
    check("shellcheck", "--external-sources", *scripts)


def test_scripts_show_their_usage() -> None:
    tables = ("config-fields", "engine-commands", "settings-table")
    for script in ("setup", "test", "fuzz", "conformance", "bench", *tables):
        check(str(REPOSITORY / "scripts" / script), "--help")


def test_source_files_stay_readable() -> None:
    """A module is one noun: one that grows past this is more."""
    sources = tracked("vruntime/*.py", "guest-agent/src/*.rs")
    lengths = {name: len((REPOSITORY / name).read_text().splitlines()) for name in sources}
    assert {name: length for name, length in lengths.items() if length > 500} == {}
