"""The shape of OCI documents, by config-schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vruntime.oci.document import json_path, quoted

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

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
    return _faults(document, _load())


def process_faults(process: object) -> Iterator[str]:
    """The same for a process object alone, whose paths begin with `process`."""
    schema = _load()
    return _faults({"process": process}, schema | {"required": ["process"]})


def _load() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


def _faults(document: object, schema: dict[str, Any]) -> Iterator[str]:
    # An import of 55 ms, which only the commands that read a config.json pay.
    from jsonschema import Draft7Validator  # noqa: PLC0415
    from jsonschema.validators import extend  # noqa: PLC0415

    types = Draft7Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    strict = extend(Draft7Validator, type_checker=types)  # type: ignore[no-untyped-call]
    validator = strict(schema)
    for error in validator.iter_errors(document):
        yield from _explained(error)


def _is_integer(_checker: object, value: object) -> bool:
    """JSON Schema takes 1.0 for an integer; the readers in Go and Rust do not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _explained(error: ValidationError) -> Iterator[str]:
    path: tuple[str | int, ...] = tuple(error.absolute_path)
    rule: Any = error.validator_value
    value: Any = error.instance
    part: Any = error.schema
    match error.validator:
        case "required":
            for key in rule:
                if key not in value:
                    yield f"{json_path(*path, key)}: is required"
            return
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
    yield f"{json_path(*path) or 'the document'}: {message}"
