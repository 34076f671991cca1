"""Reading of JSON files: every malformed or hostile one is a ConfigError of one line."""

import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vruntime.errors import ConfigError
from vruntime.oci import strict_json


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    return path


def load(tmp_path: Path, content: bytes) -> object:
    return strict_json.load(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"{}", {}),
        (b'{"a": [1, -2, true, "\xc3\xa4"]}', {"a": [1, -2, True, "ä"]}),
        (b'{"a": 18446744073709551615}', {"a": 2**64 - 1}),
        (b'{"a": 1.5}', {"a": 1.5}),
        (b'{"pair": "\\ud83d\\ude00"}', {"pair": "\U0001f600"}),
        (b'{"a": null, "b": {"c": null, "d": 1}}', {"b": {"d": 1}}),
        (b'[{"a": null}]', [{}]),
    ],
)
def test_reads(tmp_path, content, value):
    assert load(tmp_path, content) == value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 01}', "not valid JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (b'{"a": "\n"}', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid UTF-8: byte 7 is invalid"),
        (b'{"a": "\xed\xa0\x80"}', "not valid UTF-8"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'{"a": 1, "a": 1}', 'the key "a" occurs twice'),
        (b'{"x": {"a": 1, "b": 2, "\\u0061": 3}}', 'the key "a" occurs twice'),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": Infinity}', "Infinity is not"),
        (b'{"a": -Infinity}', "-Infinity is not"),
        (b'{"a": ' + b"1" * 5000 + b"}", "outside 64 bits"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": 0.' + b"1" * 5000 + b"}", "too long"),
        (b"[" * 200_000, "nested more than 32 levels"),
        (b"[" * 200_000 + b"]" * 200_000, "nested more than 32 levels"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "nested more than 32 levels"),
        (b"[" * 40 + b"]" * 40, "nested more than 32 levels"),
        (b"[" + b"0," * 100_000 + b"0]", "more than 100000 values"),
        (b"[" + b'"' + b"x" * 4 * 1024 * 1024 + b'"]', "larger than 4 MiB"),
    ],
)
def test_refuses_in_one_line(tmp_path, content, reason):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content)
    message = str(caught.value)
    assert reason in message
    assert "config.json" in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_file_of_the_largest_size_is_read(tmp_path):
    content = b'"' + b"x" * (strict_json.SIZE_LIMIT - 2) + b'"'
    assert len(load(tmp_path, content)) == strict_json.SIZE_LIMIT - 2


def test_a_symlink_to_a_regular_file_is_followed(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(write(tmp_path, b"[]"))
    assert strict_json.load(link) == []


def test_a_missing_file_is_the_callers_to_explain(tmp_path):
    with pytest.raises(FileNotFoundError):
        strict_json.load(tmp_path / "config.json")


@pytest.mark.parametrize("kind", ["FIFO", "directory", "character device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "config.json"
    match kind:
        case "FIFO":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "character device":
            path.symlink_to("/dev/zero")
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"is a {kind}, not a regular file"):
        strict_json.load(path)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "content",
    [b"[" + b"{}," * 1_300_000 + b"{}]", b"[" + b'{"":0},' * 580_000 + b"{}]", b"x" * 64 * 2**20],
    ids=["objects", "members", "64 MiB"],
)
def test_memory_stays_below_200_mib(tmp_path, content):
    path = write(tmp_path, content)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from vruntime.errors import ConfigError\n"
        "from vruntime.oci import strict_json\n"
        "try:\n"
        "    strict_json.load(Path(sys.argv[1]))\n"
        "except ConfigError:\n"
        "    print(Path('/proc/self/status').read_text())\n"
    )
    limit = 1024**3
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    # Of this program alone; getrusage's figure is of the process that it was forked from, too.
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", done.stdout, re.MULTILINE)
    assert peak is not None
    assert int(peak[1]) < 200 * 1024
