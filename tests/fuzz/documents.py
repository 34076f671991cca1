"""Documents to try: a valid one that is damaged, as a value and as a text, and one generated from the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from vruntime.oci import schema, support
from vruntime.oci.defaults import default_spec

Keys = tuple[str | int, ...]

ODD_STRINGS = (
    "", " ", "\0", "\n", "\x1b[31m", "a\0b", "..", "../../etc", "/", "/proc/self/root", "-o,readonly", "ä" * 5000,
    "x" * 140_000, "\u202e", "\ufeff", "💥", "%s%n", "${PATH}", "$(id)", "NaN", "null", "0", "1e999", "CAP_KILL",
    "RLIMIT_NOFILE", "user", "time", "bind", "tmpfs", "SCMP_ACT_NOTIFY", "0-3,7", "9-1", "1.2.0", "/dev/null",
)  # fmt: skip
ODD_NUMBERS = (
    0, -1, 1, 7, 0.5, -0.0, 1.0, 1e308, 5e-324, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1,
    2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**19,
)  # fmt: skip

odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(ODD_NUMBERS),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(ODD_STRINGS),
    st.text(max_size=20),
    st.sampled_from(([], {}, [[]], [None], [{}], {"": ""}, {"a": None}, {"type": []}, ["x"] * 2000)).map(deepcopy),
    st.integers(1, 60).map(lambda depth: nested([], depth)),
)


def nested(value: Any, depth: int) -> Any:
    """`value` inside so many arrays."""
    for _ in range(depth):
        value = [value]
    return value


def full_config() -> dict[str, Any]:
    """A config.json in which much of what is supported is used."""
    config = default_spec()
    config["process"] |= {
        "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3]},
        "oomScoreAdj": 5,
        "consoleSize": {"height": 24, "width": 80},
    }
    config["domainname"] = "x"
    config["annotations"] = {"a.b": "c"}
    config["mounts"].append({"destination": "/x", "type": "bind", "source": "/tmp", "options": ["rbind", "ro"]})
    config["linux"] |= {
        "cgroupsPath": "/x",
        "rootfsPropagation": "rslave",
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438}],
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": list(support.SECCOMP_ARCHITECTURES),
            "syscalls": [
                {
                    "names": ["read"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
    }
    config["linux"]["resources"] |= {
        "memory": {"limit": 1 << 28, "swap": -1},
        "cpu": {"shares": 100, "quota": 50_000, "period": 100_000, "cpus": "0-3"},
        "pids": {"limit": 5},
        "blockIO": {"weight": 10},
        "unified": {"memory.high": "1G"},
    }
    return config


CONFIG = full_config()
PROCESS = CONFIG["process"]


def places(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    """Where something is in a document, beginning with the whole."""
    yield keys
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*keys, key))


def at(document: Any, keys: Keys) -> Any:
    """What is at a place."""
    for key in keys:
        document = document[key]
    return document


@st.composite
def mutated(draw: st.DrawFn, original: dict[str, Any]) -> Any:
    """The original with one to four of its parts replaced, removed, repeated or exchanged."""
    document = deepcopy(original)
    for _ in range(draw(st.integers(1, 4))):
        found = list(places(document))
        keys = found[draw(st.integers(0, len(found) - 1))]
        if not keys:
            if draw(st.integers(0, 20)) == 0:
                return draw(odd_values)
            continue
        parent, last = at(document, keys[:-1]), keys[-1]
        match draw(st.sampled_from(("replace", "remove", "repeat", "exchange", "add"))):
            case "replace":
                parent[last] = draw(odd_values)
            case "remove":
                del parent[last]
            case "repeat" if isinstance(parent, list):
                parent += [deepcopy(parent[last])] * draw(st.sampled_from((1, 2, 400, 2000)))
            case "exchange":
                parent[last] = deepcopy(at(document, found[draw(st.integers(0, len(found) - 1))]))
            case _ if isinstance(parent, dict):
                parent[draw(st.one_of(st.sampled_from(ODD_STRINGS[:16]), st.text(max_size=8)))] = draw(odd_values)
    return document


def generated(part: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A value that a part of the schema allows."""
    if "$ref" in part:
        return generated(schema.load()["definitions"][part["$ref"].rpartition("/")[2]])
    if "enum" in part:
        return st.sampled_from(part["enum"])
    match part["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            edges = st.sampled_from((part["minimum"], part["maximum"], max(part["minimum"], min(part["maximum"], 7))))
            return st.one_of(edges, st.integers(part["minimum"], part["maximum"]))
        case "string" if "pattern" in part:
            return st.from_regex(part["pattern"].replace("$", r"\Z"))
        case "string":
            texts = st.one_of(st.sampled_from(ODD_STRINGS), st.text(min_size=part.get("minLength", 0), max_size=12))
            return texts.filter(lambda text: len(text) >= part.get("minLength", 0))
        case "array":
            return st.lists(generated(part["items"]), min_size=part.get("minItems", 0), max_size=3)
    properties = part.get("properties", {})
    required = {key: generated(properties[key]) for key in part.get("required", ())}
    optional = {key: generated(value) for key, value in properties.items() if key not in required}
    if optional or required:
        return st.fixed_dictionaries(required, optional=optional)
    entries = generated(part["additionalProperties"]) if "additionalProperties" in part else odd_values
    return st.dictionaries(
        st.one_of(st.sampled_from(("net.x", "a.b", "eth0")), st.text(max_size=6)), entries, max_size=3
    )


def sections(part: dict[str, Any], keys: Keys = ()) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """The parts of the schema below the first two levels of objects, by their place: small enough to generate."""
    if "$ref" in part:
        part = schema.load()["definitions"][part["$ref"].rpartition("/")[2]]
    if keys and keys not in (("linux",), ("process",), ("linux", "resources")):
        yield keys, part
        return
    for key, below in part["properties"].items():
        yield from sections(below, (*keys, key))


@st.composite
def from_schema(draw: st.DrawFn, original: dict[str, Any], root: Keys = ()) -> Any:
    """The original with up to three sections generated anew."""
    document = deepcopy(original)
    ours = [(keys[len(root) :], value) for keys, value in SECTIONS if keys[: len(root)] == root]
    for _ in range(draw(st.integers(1, 3))):
        keys, value = ours[draw(st.integers(0, len(ours) - 1))]
        at(document, keys[:-1])[keys[-1]] = draw(value)
    return document


SECTIONS = [(keys, generated(part)) for keys, part in sections(schema.load())]


@st.composite
def damaged(draw: st.DrawFn, original: dict[str, Any]) -> bytes:
    """The text of the original, cut, or with bytes exchanged for what JSON and UTF-8 do not allow."""
    text = json.dumps(original).encode()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        length = draw(st.sampled_from((0, 1, 1, 2, 8, 200)))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=6)))
        match draw(st.integers(0, 7)):
            case 0:
                text = text[: place + 1]
            case 1:
                text = text[:place] + text[place:] * 2
            case _:
                text = text[:place] + piece + text[place + length :]
    return text


PIECES = (
    b"", b'"', b"\\", b"\\ud800", b"\\u0000", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\n",
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"0." + b"1" * 100, b"[" * 5000, b'{"a":' * 5000, b"]", b"}", b",",
    b":", b"null", b'"ociVersion": "1.0.0",', b'"args": ["x"],', b"-", b"+1", b"01", b"0x1", b"//", b"/*", b"'",
)  # fmt: skip


def encoded(document: Any) -> bytes:
    """A document as a file; lone surrogates become escapes."""
    return json.dumps(document).encode()


def files(original: dict[str, Any], root: Keys = ()) -> st.SearchStrategy[bytes]:
    """Files to read in place of the original's."""
    return st.one_of(mutated(original).map(encoded), from_schema(original, root).map(encoded), damaged(original))
