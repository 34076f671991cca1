"""Adding to a TOML text, between marks of our own; every other byte of it stays.

What a block between marks has replaced stands in it as a comment, so that the text alone is enough to undo it:

    # >>> vruntime setup (NAME): taken out, and what follows "#~" restored, by --remove
    #~ default_runtime_name = "runc"
    default_runtime_name = "NAME"
    # <<< vruntime setup (NAME)
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from vruntime.errors import EngineError

Table = tuple[str, ...]
Changes = Mapping[Table, Mapping[str, Any]]
"""By table: the keys to set in it, and their values. () is the table that has no header."""

_KEPT: Final = "#~ "
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_NESTED_MARKS: Final = re.compile(r"# >>> vruntime setup(?:(?!# <<< vruntime setup).)*# >>> vruntime setup", re.DOTALL)
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class _Statement:
    """The fewest lines that are TOML: a header, a key with its value, a comment, a blank line."""

    text: str
    value: dict[str, Any]

    @property
    def table(self) -> Table | None:
        """The table that it is the header of, () for one in an array; None: it is no header."""
        if not self.text.lstrip().startswith("["):
            return None
        keys: list[str] = []
        inside: Any = self.value
        while isinstance(inside, dict) and inside:
            [(key, inside)] = inside.items()
            keys.append(key)
        return () if isinstance(inside, list) else tuple(keys)

    @property
    def indentation(self) -> str:
        return self.text[: len(self.text) - len(self.text.lstrip(" \t"))]


class _Marks:
    """The lines around what is ours."""

    def __init__(self, name: str) -> None:
        self.begin = f"# >>> vruntime setup ({name})"
        self.end = f"# <<< vruntime setup ({name})"
        self.block = re.compile(
            rf"(?P<blank>^\n)?^[ \t]*{re.escape(self.begin)}[^\n]*\n(?P<body>.*?)^[ \t]*{re.escape(self.end)}(?:\n|\Z)",
            re.MULTILINE | re.DOTALL,
        )

    def around(self, lines: list[str], indentation: str = "", kept: str = "") -> str:
        """A block of these lines."""
        comments = [_KEPT + line for line in _LINE.findall(kept)]
        if comments and not comments[-1].endswith("\n"):
            comments[-1] += "\n"
        first = f'{self.begin}: taken out, and what follows "{_KEPT.strip()}" restored, by --remove'
        ours = [f"{indentation}{line}\n" if line else "\n" for line in (first, *lines, self.end)]
        return "".join([ours[0], *comments, *ours[1:]])


def parse(text: str | None) -> dict[str, Any]:
    """The document that a text holds; EngineError that says where it is none."""
    try:
        return tomllib.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise EngineError(f"not valid TOML: {error}") from None


def table_of(document: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """A table of a document; an empty one when it has none of this path."""
    found: Any = document
    for key in table:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def add(text: str | None, name: str, changes_of: Callable[[dict[str, Any]], Changes]) -> str:
    """The text with what `changes_of` its document gives, for the runtime `name`; as it is when it says that already.

    EngineError when the text is written in a way that this cannot change.
    """
    document = parse(text)
    if text is not None and _merged(document, changes_of(document)) == document:
        return text
    before = remove(text, name)
    document = parse(before)
    changes = changes_of(document)
    after = _changed(before, _Marks(name), changes)
    if _NESTED_MARKS.search(after):
        raise EngineError(
            "this would change lines of a runtime of another name", hint="--config names a file of its own for each"
        )
    if not _says(after, _merged(document, changes)) or remove(after, name) != before:
        headers = ", ".join(_header(table) for table in changes if table)
        raise EngineError(
            f"written in a way that this cannot change: {headers}",
            hint="write them as tables with headers of their own",
        )
    return after


def remove(text: str | None, name: str) -> str | None:
    """The text as it was before `add`, with what was changed outside the marks since; None when all of it was ours."""
    if text is None:
        return None
    marks = _Marks(name)
    restored = marks.block.sub(_restored, text)
    if marks.begin in restored or marks.end in restored:
        raise EngineError(
            f"a mark has lost its other half: {marks.begin} or {marks.end}", hint="take out by hand what belongs to it"
        )
    if text.endswith(marks.end):
        restored = restored.removesuffix("\n")
    return None if not restored and text.startswith(marks.begin) else restored


def _says(text: str, document: dict[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == document
    except tomllib.TOMLDecodeError:
        return False


def _restored(block: re.Match[str]) -> str:
    kept = [line.removeprefix(_KEPT) for line in _LINE.findall(block["body"]) if line.startswith(_KEPT)]
    return (block["blank"] or "") + "".join(kept) if kept else ""


def _changed(text: str | None, marks: _Marks, changes: Changes) -> str:
    statements = list(_statements(text or ""))
    missing: list[str] = []
    for table, values in changes.items():
        if not _set_in(statements, marks, table, values):
            missing += ["", _header(table)] if table else []
            missing += _assignments(values)
    if not missing:
        return _joined(statements)
    if missing[0] == "":
        del missing[0]
    blank = [] if text is None else [_Statement("\n", {})]
    return _joined([*statements, *blank, _Statement(marks.around(missing), {})])


def _set_in(statements: list[_Statement], marks: _Marks, table: Table, values: Mapping[str, Any]) -> bool:
    """Sets the values in a table that has a header; False when it has none."""
    tables = [statement.table for statement in statements]
    if not table or table not in tables:
        return False
    first = last = tables.index(table)
    absent = dict(values)
    for at in range(first + 1, len(statements)):
        if tables[at] is not None:
            break
        statement = statements[at]
        if statement.value:
            last = at
        for key in absent.keys() & statement.value.keys():
            value = absent.pop(key)
            if statement.value[key] != value:
                lines = _assignments({key: value})
                text = marks.around(lines, statement.indentation, kept=statement.text)
                statements[at] = _Statement(text if statement.text.endswith("\n") else text.removesuffix("\n"), {})
    if absent:
        text = marks.around(_assignments(absent), statements[last].indentation)
        statements.insert(last + 1, _Statement(text, {}))
    return True


def _joined(statements: list[_Statement]) -> str:
    """The text of statements; what was added behind a last line without its end has none either."""
    texts = [statement.text for statement in statements]
    unended = next((at for at, text in enumerate(texts[:-1]) if not text.endswith("\n")), None)
    if unended is not None:
        texts[unended] += "\n"
        texts[-1] = texts[-1].removesuffix("\n")
    return "".join(texts)


def _statements(text: str) -> Iterator[_Statement]:
    lines = ""
    for line in _LINE.findall(text):
        lines += line
        try:
            value = tomllib.loads(lines)
        except tomllib.TOMLDecodeError:
            continue  # a value that goes on
        yield _Statement(lines, value)
        lines = ""


def _assignments(values: Mapping[str, Any]) -> list[str]:
    # JSON's strings, arrays, integers and booleans are TOML's.
    return [f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def _header(table: Table) -> str:
    return f"[{'.'.join(map(_key, table))}]"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _merged(document: dict[str, Any], changes: Changes) -> dict[str, Any]:
    merged = deepcopy(document)
    for table, values in changes.items():
        target = merged
        for depth, key in enumerate(table, 1):
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                raise EngineError(f"{_header(table[:depth])} is not a table")
        target.update(values)
    return merged
