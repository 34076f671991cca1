"""Changing one member of a JSON text; every other byte of it stays.

Whether an object is ours is told by how it was filled: a member put into an object that was there, and empty, follows
its brace at once; in objects that we make, white space comes between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from json.decoder import JSONDecoder
from typing import Any, Final

from vruntime.errors import EngineError

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = JSONDecoder()


@dataclass(frozen=True)
class _Member:
    """A member of an object: its key, and the offsets of the key, of the value, and of the value's end."""

    key: str
    start: int
    value: int
    end: int


def parse(text: str) -> dict[str, Any]:
    """The object that a text holds; EngineError that says where it is none."""
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise EngineError("not a JSON object")
    return document


def assign(text: str, path: Sequence[str], value: object) -> str:
    """The text with a value at `path`, in new objects as far as there are none; at the end of the object it goes to."""
    start = _skip(text, 0)
    for depth, key in enumerate(path):
        members = _members(text, start)
        found = next((member for member in members if member.key == key), None)
        if found is None:
            return _insert(text, start, members, key, _nested(path[depth + 1 :], value), _unit(text))
        if depth == len(path) - 1:
            return text[: found.value] + json.dumps(value) + text[found.end :]
        if text[found.value] != "{":
            raise EngineError(f"{'.'.join(path[: depth + 1])} is not an object")
        start = found.value
    raise ValueError("no path")


def remove(text: str, path: Sequence[str]) -> str | None:
    """The text without the member at `path`, which it has; None when nothing is left of what we had made."""
    start = _skip(text, 0)
    for depth, key in enumerate(path):
        members = _members(text, start)
        at = next(index for index, member in enumerate(members) if member.key == key)
        if depth < len(path) - 1:
            start = members[at].value
    member = members[at]
    if at > 0:
        return text[: members[at - 1].end] + text[member.end :]
    if len(members) > 1:
        return text[: member.start] + text[members[1].start :]
    if member.start == start + 1:
        return text[: member.start] + text[member.end :]
    return remove(text, path[:-1]) if len(path) > 1 else None


def new(path: Sequence[str], value: object) -> str:
    """A text of one member."""
    return json.dumps(_nested(path, value), indent=4) + "\n"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the key {twice[:64]!r} occurs twice in one object")
    return members


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # it matches nothing, too
    return match.end()


def _members(text: str, start: int) -> list[_Member]:
    """The members of the object whose brace is at `start`."""
    members: list[_Member] = []
    at = _skip(text, start + 1)
    while text[at] != "}":
        if text[at] == ",":
            at = _skip(text, at + 1)
        key, after_key = _DECODER.raw_decode(text, at)
        value = _skip(text, _skip(text, after_key) + 1)
        _, end = _DECODER.raw_decode(text, value)
        members.append(_Member(key, at, value, end))
        at = _skip(text, end)
    return members


def _insert(text: str, start: int, members: list[_Member], key: str, value: object, unit: str) -> str:
    if not members:
        return text[: start + 1] + _on_one_line({key: value})[2:-2] + text[start + 1 :]
    end = members[-1].end
    before = text[start + 1 : members[-1].start]
    space = before[len(before.rstrip(" \t\r\n")) :]
    if "\n" not in space:
        return f"{text[:end]}, {_on_one_line({key: value})[2:-2]}{text[end:]}"
    line = space[space.rindex("\n") :]
    return f"{text[:end]},{line}{json.dumps(key)}: {json.dumps(value, indent=unit).replace(chr(10), line)}{text[end:]}"


def _on_one_line(value: object) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{ " + ", ".join(f"{json.dumps(key)}: {_on_one_line(member)}" for key, member in value.items()) + " }"


def _nested(path: Sequence[str], value: object) -> object:
    for key in reversed(path):
        value = {key: value}
    return value


def _unit(text: str) -> str:
    """What one level is indented by, as the first line inside shows."""
    first = re.search(r"\{[ \t\r]*\n([ \t]+)\"", text)
    return first[1] if first else "    "
