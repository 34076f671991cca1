"""The engines that can be told of this runtime, each a module of its name: its file, what it needs there, its words."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from vruntime.engines.engine import Engine

NAMES: Final = ("docker", "podman", "containerd", "crio")


def find(name: str) -> Engine:
    """The engine of one of `NAMES`."""
    engine: Engine = import_module(f"vruntime.engines.{name}").ENGINE
    return engine
