"""Docker: `runtimes` and `default-runtime` in daemon.json."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from vruntime import programs
from vruntime.engines import json_text
from vruntime.engines.engine import Engine, Runtime, words_of
from vruntime.errors import EngineError
from vruntime.spawn import SETPRIV

_NOBODY: Final = "65534"
_READ_BUT_NOT_ROOT: Final = "dockerd needs to be started with root"


def _add(text: str | None, runtime: Runtime) -> str:
    path = ("runtimes", runtime.name, "path")
    if text is None or not text.strip():
        text = json_text.new(path, runtime.path)
    elif _at(json_text.parse(text), path) != runtime.path:
        text = json_text.assign(text, path, runtime.path)
    if runtime.default:
        text = _make_default(text, runtime.name)
    return text


def _make_default(text: str, name: str) -> str:
    """Another default is not replaced: JSON has no comment to keep it in for `remove`."""
    document = json_text.parse(text)
    current = document.get("default-runtime", name)
    if current != name:
        raise EngineError(
            f'"default-runtime" is {current!r} there', hint="take that line out first, or do without --default"
        )
    return text if "default-runtime" in document else json_text.assign(text, ("default-runtime",), name)


def _remove(text: str | None, name: str) -> str | None:
    if text is None or not text.strip():
        return text
    if json_text.parse(text).get("default-runtime") == name:
        text = json_text.remove(text, ("default-runtime",))
    entry = ("runtimes", name)
    there = None if text is None else _at(json_text.parse(text), entry)
    if text is None or there is None:
        return text
    if others := [key for key in there if key != "path"] if isinstance(there, dict) else []:
        raise EngineError(
            f"runtimes.{name} has more than set-up puts there: {', '.join(others)}", hint="take it out by hand"
        )
    return json_text.remove(text, entry)


def _at(document: Any, path: Sequence[str]) -> Any:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _refusal(program: str, file: Path) -> str | None:
    if "--validate" in programs.output_of([program, "--help"]):
        return words_of([program, "--validate", "--config-file", str(file)])
    return _refusal_before_it_starts(program, file)


def _refusal_before_it_starts(program: str, file: Path) -> str | None:
    """Docker before 23 has no --validate, but reads its file before it refuses to run as another user than root."""
    with open(os.memfd_create("daemon.json", os.MFD_CLOEXEC), "w+b") as readable_by_anyone:
        readable_by_anyone.write(file.read_bytes())
        readable_by_anyone.flush()
        nobody = [SETPRIV, f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs", "--"]
        dockerd = [program, "--config-file", "/dev/stdin"]
        words = words_of([*nobody, *dockerd], stdin=readable_by_anyone.fileno())
    if words is None or words.startswith(_READ_BUT_NOT_ROOT):
        return None
    return words.replace("/dev/stdin", str(file))


def _use(runtime: Runtime) -> list[str]:
    option = "" if runtime.default else f"--runtime {runtime.name} "
    return [f"run: docker run --rm {option}IMAGE"]


ENGINE: Final = Engine(
    title="Docker",
    program="dockerd",
    file=lambda _name: Path("/etc/docker/daemon.json"),
    add=_add,
    remove=_remove,
    refusal=_refusal,
    after="systemctl reload docker",
    use=_use,
)
