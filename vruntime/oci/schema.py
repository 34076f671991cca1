"""The shape of OCI documents, by config-schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vruntime.oci.document import json_path, quoted

if TYPE_CHECKING:
    from jsonschema_rs import Draft4Validator, ValidationError

_SCHEMA: Final = Path(__file__).with_name("config-schema.json")

_TYPES: Final = {
    "array": "an array",
    "boolean": "true or false",
    "integer": "an integer",
    "object": "an object",
    "string": "a string",
}


def config_faults(document: object) -> Iterator[str]:
    """Every way in which a config.json misses the schema, as `path: message`."""
    return _faults(document, "ociVersion", "root", "process", "linux")


def process_faults(process: object) -> Iterator[str]:
    """The same for a process object alone, whose paths begin with `process`."""
    return _faults({"process": process}, "process")


@cache
def load() -> dict[str, Any]:
    """The schema itself."""
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


@cache
def _validator(*required: str) -> Draft4Validator:
    # An import of 30 ms, which only the commands that read a config.json pay.
    from jsonschema_rs import Draft4Validator  # noqa: PLC0415

    return Draft4Validator(load() | {"required": list(required)}, offline=True)


def _faults(document: object, *required: str) -> Iterator[str]:
    return map(_explained, _validator(*required).iter_errors(document))


def _explained(error: ValidationError) -> str:
    path: list[str | int] = list(error.instance_path)
    value: Any = error.instance
    kind: Any = error.kind
    *place, keyword = error.schema_path
    part = _at(load(), place)
    rule = part.get(keyword)  # the outermost `required` is not in the file
    match keyword:
        case "required":
            path.append(kind.property)
            message = "is required"
        case "type":
            message = f"must be {_TYPES[rule]}, not {quoted(value)}"
        case "enum":
            message = f"{quoted(value)} is none of {', '.join(filter(None, rule))}"
        case "minimum":
            message = f"{value} is less than {rule}"
        case "maximum":
            message = f"{value} is more than {rule}"
        case "minItems" | "minLength":
            message = "must not be empty"
        case "maxItems":
            message = f"has {len(value)} entries; at most {rule} are supported"
        case "pattern":
            message = f"must be {part['description']}, not {quoted(value)}"
        case _:
            message = quoted(error.message)
    return f"{json_path(*path) or 'the document'}: {message}"


def _at(schema: dict[str, Any], place: Sequence[str | int]) -> Any:
    part: Any = schema
    for key in place:
        part = part[key]
    return part
