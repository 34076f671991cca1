"""Documents that unit tests start from."""

import json
from pathlib import Path
from typing import Any

import pytest

from vruntime.oci.defaults import default_spec


class Bundle:
    """A bundle with an empty rootfs, whose config.json a test changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document: dict[str, Any] = default_spec()
        (path / "rootfs").mkdir()

    @property
    def file(self) -> Path:
        return self.path / "config.json"

    def set(self, path: str, value: object) -> None:
        """Set the value at a dotted path; `mounts.-` appends."""
        *parents, last = path.split(".")
        target: Any = self.document
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target.setdefault(key, {})
        if isinstance(target, list) and last == "-":
            target.append(value)
        elif isinstance(target, list):
            target[int(last)] = value
        else:
            target[last] = value

    def remove(self, path: str) -> None:
        *parents, last = path.split(".")
        target: Any = self.document
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target[key]
        del target[int(last) if isinstance(target, list) else last]

    def write(self) -> Path:
        self.file.write_text(json.dumps(self.document), encoding="utf-8")
        return self.file


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    path = tmp_path / "bundle"
    path.mkdir()
    return Bundle(path)
