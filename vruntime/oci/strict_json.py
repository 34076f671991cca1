"""Bounded, strict reading of JSON files that others wrote.

Stricter than RFC 8259 where leniency would let two readers (this one, and the one in the guest)
see two different documents: duplicate keys, lone surrogates and integers outside 64 bits are
errors.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn

from vruntime.errors import ConfigError

SIZE_LIMIT: Final = 4 * 1024 * 1024
"""Most bytes a file may have: as many as a message to the agent. Docker's have 20 KiB."""

DEPTH_LIMIT: Final = 32
"""Most levels of arrays and objects. The specification's own structures need 8."""

VALUES_LIMIT: Final = 100_000
"""Most values in a document, counting containers. Checking as many takes 2 s."""

_NUMBER_LIMIT: Final = 20
"""Most characters of an integer: as many as 64 bits need."""

_FLOAT_LIMIT: Final = 64
"""Most characters of another number. The specification has none, but unknown properties may."""

_TOO_DEEP: Final = f"it is nested more than {DEPTH_LIMIT} levels deep"


def load(path: Path) -> Any:
    """The JSON value that the regular file `path` holds, without object members that are null.

    A null member means an absent one, as it does to every runtime that decodes into Go structures.

    Raises ConfigError when the file is not regular, larger than `SIZE_LIMIT` or not strict JSON,
    and OSError when it cannot be opened or read. Never blocks: devices and FIFOs are recognised
    before they are opened.
    """
    return loads(_read(path), path)


def loads(content: bytes, name: Path | str) -> Any:
    """The same for what has been read already, of which messages speak as `name`.

    Raises ConfigError when it is larger than `SIZE_LIMIT` or not strict JSON.
    """
    if len(content) > SIZE_LIMIT:
        limit = f"{SIZE_LIMIT // 1024**2} MiB"
        raise ConfigError(f"{name} is larger than {limit}, the most that is read")
    return _without_nulls(_parse(content, name))


def _read(path: Path) -> bytes:
    # O_PATH finds the file without opening it: opening a FIFO waits, opening a device can act.
    probe = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mode = os.fstat(probe).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{path} is {_kind(mode)}, not a regular file")
        with open(f"/proc/self/fd/{probe}", "rb") as file:
            return file.read(SIZE_LIMIT + 1)
    finally:
        os.close(probe)


def _kind(mode: int) -> str:
    names = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
        stat.S_IFSOCK: "a socket",
    }
    return names.get(stat.S_IFMT(mode), "a special file")


def _parse(content: bytes, path: Path | str) -> Any:
    try:
        document = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
        _check_bounds(document)
        if b"\\u" in content:
            # Only an escape can bring a lone surrogate, which no UTF-8 can carry on.
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is invalid"
        raise ConfigError(f"{path} is not valid UTF-8: {reason}") from None
    except UnicodeEncodeError:
        reason = "a \\u escape is half of a surrogate pair"
        raise ConfigError(f"{path} is not valid JSON: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{path} cannot be read: {_TOO_DEEP}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {json.dumps(key[:64])} occurs twice in one object")
            seen.add(key)
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _integer(digits: str) -> int:
    if len(digits) > _NUMBER_LIMIT:
        raise ValueError(f"a number of {len(digits)} characters is outside 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits) if len(digits) <= _FLOAT_LIMIT else math.inf
    if math.isinf(number):
        raise ValueError(f"the number {digits[:_NUMBER_LIMIT]}... is too large or too long")
    return number


def _check_bounds(document: Any) -> None:
    """Bound depth and size level by level, so that what reads the document next may recurse."""
    level, total = [document], 0
    for _ in range(DEPTH_LIMIT):
        total += len(level)
        if total > VALUES_LIMIT:
            raise ValueError(f"it has more than {VALUES_LIMIT} values")
        level = list(chain.from_iterable(_inside(value) for value in level))
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
