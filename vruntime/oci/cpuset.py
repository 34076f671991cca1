"""Lists of CPUs or memory nodes, such as 0-3,7 (cpuset(7), "List format"); an empty one names none."""

from __future__ import annotations

import re
from typing import Final

_ENTRY: Final = re.compile(r"\s*([0-9]{1,9})(?:-([0-9]{1,9})(?::[0-9]{1,9}/[0-9]{1,9})?)?\s*", re.ASCII)


def is_list(text: str) -> bool:
    """Whether a text is such a list."""
    try:
        _ranges(text)
    except ValueError:
        return False
    return True


def size(text: str) -> int:
    """How many a list names, at most: of a range with a stride all are counted."""
    return sum(last - first + 1 for first, last in _ranges(text))


def is_below(text: str, end: int) -> bool:
    """Whether all that a list names are less than `end`."""
    return all(last < end for _, last in _ranges(text))


def _ranges(text: str) -> list[tuple[int, int]]:
    ranges = []
    for entry in text.split(",") if text else ():
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(entry)
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError(entry)
        ranges.append((first, last))
    return ranges
