"""Looking into a JSON document whose shape is not yet known to be right.

Every fault of a document is reported at once, so the checks run even where the schema has found
some: a part that is missing or has the wrong type looks empty to them.
"""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]
"""A JSON object."""


def member(document: object, *keys: str) -> Any:
    """The value at `keys`, or None."""
    for key in keys:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def mapping(document: object, *keys: str) -> Json:
    """The object at `keys`, or an empty one."""
    value = member(document, *keys)
    return value if isinstance(value, dict) else {}


def array(document: object, *keys: str) -> list[Any]:
    """The array at `keys`, or an empty one."""
    value = member(document, *keys)
    return value if isinstance(value, list) else []


def string(document: object, *keys: str) -> str:
    """The string at `keys`, or an empty one."""
    value = member(document, *keys)
    return value if isinstance(value, str) else ""


def strings(document: object, *keys: str) -> list[tuple[int, str]]:
    """The strings of the array at `keys`, each with its index."""
    values = array(document, *keys)
    return [(index, value) for index, value in enumerate(values) if isinstance(value, str)]


def places(document: object, *keys: str) -> list[tuple[str, Any]]:
    """Each value at `keys`, where `[]` stands for every entry of an array, with its own JSON path."""
    found: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    for key in keys:
        if key == "[]":
            found = [((*path, index), entry) for path, value in found for index, entry in enumerate(array(value))]
        else:
            found = [((*path, key), value[key]) for path, value in found if isinstance(value, dict) and key in value]
    return [(json_path(*path), value) for path, value in found]


def json_path(*keys: str | int) -> str:
    """`("process", "args", 0)` as `process.args[0]`; a key that is no plain name is quoted."""
    path = ""
    for key in keys:
        if isinstance(key, str) and key.isascii() and key.isidentifier() and len(key) <= 64:
            path += f".{key}" if path else key
        else:
            path += f"[{quoted(key)}]"
    return path


def quoted(value: object) -> str:
    """`value` as one line of JSON of at most 64 characters, fit for a terminal and a log."""
    text = json.dumps(value)
    return text if len(text) <= 64 else f"{text[:61]}..."
