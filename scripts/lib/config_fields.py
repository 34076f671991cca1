"""Writes the table of config.json's fields into SPECIFICATION.md, or with --check says whether it is current.

The rows are found by trying: each property of the schema is set, and what the runtime makes of it is seen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from specification import write_or_check

from vruntime.oci import schema, support
from vruntime.oci.config import OciConfig
from vruntime.oci.defaults import default_spec

Keys = tuple[str, ...]

SAMPLES: dict[Keys, tuple[Any, ...]] = {
    ("process", "capabilities", kind): (["CAP_KILL"], ["CAP_CHOWN"])
    for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
} | {
    ("mounts", "[]", "type"): ("tmpfs", "proc"),
    ("mounts", "[]", "options"): (["ro"], ["noexec"]),
    ("linux", "seccomp", "architectures"): (["SCMP_ARCH_X86"], ["SCMP_ARCH_X32"]),
    ("linux", "resources", "cpu", "cpus"): ("0", "0-1"),
    ("linux", "resources", "cpu", "mems"): ("0", "0-1"),
    ("linux", "devices", "[]", "major"): (1, 5),
    ("linux", "devices", "[]", "minor"): (3, 5),
}
"""Values of a meaning, where any two of the right type would not do."""

_MAPPING = {"containerID": 0, "hostID": 1, "size": 1}

CONTEXT: dict[Keys, dict[str, Any]] = {
    ("mounts", "[]"): {"destination": "/a", "type": "tmpfs", "uidMappings": [_MAPPING], "gidMappings": [_MAPPING]},
    ("linux", "devices", "[]"): {"type": "c", "path": "/dev/a", "major": 1, "minor": 3},
}
"""What stands beside a property, where the required properties alone would not do."""

REMARKS: dict[Keys, str] = {
    ("mounts", "[]", "type"): f"supported: {', '.join(support.MOUNT_TYPES)}",
    ("mounts", "[]", "source"): "of a bind mount: shared from the host",
    ("linux", "devices", "[]", "type"): f"devices of the guest: {', '.join(support.DEVICES.values())}; FIFOs",
    ("linux", "seccomp", "architectures"): "those that the guest's kernel has; others change nothing",
    **{("linux", "resources", *keys): "where it has cgroup v1" for keys in support.V1_RESOURCES},
    ("linux", "resources", "network", "classID"): "where it has cgroup v1",
    ("linux", "resources", "network", "priorities", "[]", "name"): "where it has cgroup v1",
    ("linux", "resources", "network", "priorities", "[]", "priority"): "where it has cgroup v1",
    ("linux", "resources", "unified"): "and on a host with cgroup v2",
    ("linux", "resources", "memory", "limit"): "and the size of the machine's memory",
    ("linux", "resources", "cpu", "quota"): "and, with `period`, the number of its CPUs",
}


HOSTS_PART = [
    name
    for name, value in vars(OciConfig).items()
    if isinstance(value, property | cached_property) and name not in ("process", "warnings")
]
"""What of a config.json the host asks for by name."""


@dataclass(frozen=True)
class Field:
    """A property of config.json and what becomes of it: honoured, refused or ignored."""

    keys: Keys
    treatment: str
    reason: str

    @property
    def parent(self) -> str:
        """The object it belongs to."""
        return path(self.keys[:-1])


def path(keys: Keys) -> str:
    """`("mounts", "[]", "type")` as `mounts[].type`."""
    return ".".join(keys).replace(".[]", "[]").replace(".{}", "{}")


def properties(part: dict[str, Any], keys: Keys = ()) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """Every property of the schema that has no properties itself, with its part of the schema."""
    part = resolved(part)
    if "properties" in part:
        for key, below in part["properties"].items():
            yield from properties(below, (*keys, key))
    elif "properties" in resolved(part.get("items", {})):
        yield from properties(part["items"], (*keys, "[]"))
    elif "properties" in resolved(part.get("additionalProperties", {})):
        yield from properties(part["additionalProperties"], (*keys, "{}"))
    else:
        yield keys, part


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the schema itself, when it is but a reference to it."""
    if "$ref" in part:
        definition: dict[str, Any] = schema.load()["definitions"][part["$ref"].rpartition("/")[2]]
        return definition
    return part


def samples(keys: Keys, part: dict[str, Any]) -> tuple[Any, ...]:
    """Different values that a property can have, none of which means an absent one."""
    if keys in SAMPLES:
        return SAMPLES[keys]
    if "enum" in part:
        return tuple(filter(None, part["enum"]))
    match part["type"]:
        case "boolean":
            return (True, False)
        case "integer":
            return (part["maximum"], max(part["minimum"], 0))
        case "string":
            return ("/a", "/b")
        case "array":
            return tuple([value] for value in samples((*keys, "[]"), resolved(part["items"])))
    return ({"a": "1"}, {"b": "2"})


def document(keys: Keys, value: Any) -> dict[str, Any]:
    """A config.json with this value of a property, in objects that are valid otherwise."""
    built = default_spec()
    target: Any = built
    for depth, key in enumerate(keys[:-1], start=1):
        container = keys[depth] if keys[depth] in ("[]", "{}") else None
        if key in ("[]", "{}"):
            continue
        beside = example(keys[: depth + 1] if container else keys[:depth])
        if container == "[]":
            target.setdefault(key, []).append(beside)
            target = beside
        elif container == "{}":
            target[key] = {"a": beside}
            target = beside
        else:
            target = target.setdefault(key, beside)
    target[keys[-1]] = value
    return built


def example(keys: Keys) -> dict[str, Any]:
    """An object with what it requires."""
    if keys in CONTEXT:
        return deepcopy(CONTEXT[keys])
    part = schema.load()
    for key in keys:
        inside = {"[]": part.get("items"), "{}": part.get("additionalProperties")}
        part = resolved(inside[key] if key in inside else part["properties"][key])
    return {key: samples((*keys, key), resolved(part["properties"][key]))[0] for key in part.get("required", ())}


def told(lines: Iterator[str], ordinary: set[str]) -> str:
    """Why a property is refused or ignored: the reasons that a config.json without it does not meet."""
    reasons = [line.partition(": ")[2].removeprefix("ignored: ") for line in lines]
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason not in ordinary))


def fields() -> list[Field]:
    """What becomes of each property, in the order of the schema."""
    return [field_of(keys, samples(keys, part)) for keys, part in properties(schema.load())]


def field_of(keys: Keys, values: tuple[Any, ...]) -> Field:
    """What becomes of a property. Raises LookupError when nothing uses it and nobody is told."""
    documents = [document(keys, value) for value in values]
    usual = {line.partition(": ")[2] for line in support.config_refusals(default_spec())}
    refusals = [told(support.config_refusals(built), usual) for built in documents]
    if all(refusals):
        return Field(keys, "refused", refusals[0])
    if ignored := told(support.config_ignored(documents[0]), set()):
        return Field(keys, "ignored", ignored)
    remarks = [REMARKS[keys]] if keys in REMARKS else []
    remarks += [
        f"not {value if isinstance(value, str) else value[0]}: {reason}"
        for value, reason in zip(values, refusals, strict=True)
        if reason and isinstance(value, str | list) and keys not in REMARKS
    ]
    return Field(keys, f"honoured {user_of(keys, documents)}", "; ".join(remarks))


def user_of(keys: Keys, documents: list[dict[str, Any]]) -> str:
    """Who sees a difference between two values: the guest, or the host."""
    first, second = (OciConfig(Path("/bundle"), deepcopy(built)) for built in documents[:2])
    if guests_part(first) != guests_part(second):
        return "in the guest"
    if any(getattr(first, name) != getattr(second, name) for name in HOSTS_PART):
        return "on the host"
    raise LookupError(f"{path(keys)} is accepted, but nothing uses it: ignore it with a warning, or refuse it")


def guests_part(config: OciConfig) -> bytes:
    """What the guest gets of a config.json."""
    return config.for_guest("/rootfs", {mount.index: f"/{mount.index}" for mount in config.mounts})


def table() -> str:
    """All fields as Markdown, those of one object and one fate in one row."""
    rows = ["| of | fields | |", "|---|---|---|"]
    by_parent = groupby(fields(), key=lambda field: (field.parent, field.treatment, field.reason))
    for (parent, treatment, reason), group in by_parent:
        names = ", ".join(f"`{field.keys[-1]}`" for field in group)
        link = "; " if treatment.startswith("honoured") else ": "
        rows.append(
            f"| {f'`{parent}`' if parent else ''} | {names} | {treatment}{f'{link}{reason}' if reason else ''} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(write_or_check("scripts/config-fields", table()))
