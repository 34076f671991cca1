"""What an engine is to `vruntime setup`: a file, pure changes of its text, and a program that judges the result."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vruntime import programs
from vruntime.errors import EngineError, HostError

LAUNCHER: Final = "/usr/local/bin/vruntime"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

TAKEN_NAMES: Final = ("crun", "runc")
"""Names that engines have given to runtimes of their own."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LOG_ENTRY: Final = re.compile(r'time="[^"]*" level=\w+ msg="(?P<words>.*)"')


@dataclass(frozen=True)
class Runtime:
    """What is asked of an engine: the runtime's name and path there, and whether it is to be the default."""

    name: str = "vruntime"
    path: str = LAUNCHER
    default: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise EngineError(
                f"{self.name!r:.80} cannot be a runtime's name",
                hint="letters, digits, and then also _ . -, at most 63 of them",
            )
        if not os.path.isabs(self.path):
            raise EngineError(f"{self.path!r:.200} is not an absolute path", hint="the engine's directory is another")
        if self.name in TAKEN_NAMES:
            raise EngineError(f"{self.name} is a runtime of the engine's own", hint="give another --name")


@dataclass(frozen=True)
class Engine:
    """One engine. `add` and `remove` are pure: a file's text, None without a file, to its text afterwards.

    `add` changes nothing when all that is wanted is there; both raise EngineError for a text that they cannot change.
    `refusal` asks the engine's installed `program` (the first argument, its path) about a file and gives its words, or
    None when it accepts the file. `after` makes the running engine read it, where one runs; `use` says in lines how to
    run a container then.
    """

    title: str
    program: str
    file: Callable[[str], Path]
    add: Callable[[str | None, Runtime], str]
    remove: Callable[[str | None, str], str | None]
    refusal: Callable[[str, Path], str | None]
    after: str | None
    use: Callable[[Runtime], Sequence[str]]

    def installed(self) -> str | None:
        """The path of the engine's program; None when it is not installed."""
        paths = (os.path.join(directory, self.program) for directory in PATH.split(":"))
        return next((path for path in paths if os.access(path, os.X_OK)), None)


def words_of(
    argv: Sequence[str], *, stdin: int | None = None, environment: Mapping[str, str] | None = None
) -> str | None:
    """What a program says last, in one line, when it fails; None when it succeeds."""
    try:
        code, output = programs.run(argv, programs.DEADLINE, stdin=stdin, environment=environment)
    except HostError as error:
        return str(error)
    if code == 0:
        return None
    lines = output.strip().splitlines() or [f"{argv[0]} failed with exit code {code}"]
    entry = _LOG_ENTRY.match(lines[-1])
    words = entry["words"].replace('\\"', '"') if entry else lines[-1]
    return "".join(character for character in words if character.isprintable())[:500]
