"""Faults of a document, gathered into the one error that its author sees."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

from vruntime.errors import ConfigError

SHOWN: Final = 20
"""Most faults that one message names."""

COUNTED: Final = 1000
"""Most faults that are looked for."""


def refuse(subject: Path | str, faults: Iterable[str]) -> None:
    """Raise ConfigError with every fault of `subject`; return when there is none."""
    found = tuple(dict.fromkeys(islice(faults, COUNTED)))
    if not found:
        return
    message = f"{subject} cannot be used: {'; '.join(found[:SHOWN])}"
    if len(found) > SHOWN:
        message += f"; and {len(found) - SHOWN} more faults"
    raise ConfigError(message, faults=found)
