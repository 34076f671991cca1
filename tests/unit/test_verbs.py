"""What verbs compute without a container: signals, tables, messages."""

import json
from pathlib import Path

import pytest

from vruntime.commands.events import parse_duration
from vruntime.commands.kill import parse_signal
from vruntime.commands.ps import parse_ps_options, table
from vruntime.commands.update import parse_size
from vruntime.errors import (
    ContainerError,
    ExecutableError,
    SandboxError,
    VruntimeError,
    from_wire,
    to_wire,
)
from vruntime.log import Log
from vruntime.oci.resources import merged


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("term", 15),
        ("sigusr1", 10),
        ("64", 64),
        ("0", 0),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("rtmax-1", 63),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "-9", "XX", "SIG", "SIG_IGN", "²", "RTMIN-1", "RTMAX+1", "RTMIN+99", "KILL+1", "RTMIN+"]
)
def test_no_signals(text: str) -> None:
    with pytest.raises(ContainerError, match="unknown signal"):
        parse_signal(text)


@pytest.mark.parametrize("text", ["65", "100", "999999999999"])
def test_numbers_of_no_signal(text: str) -> None:
    with pytest.raises(ContainerError, match="unable to signal init: invalid argument"):
        parse_signal(text)


PROCESS = {
    "pid": 7209,
    "ppid": 1,
    "user": "root",
    "cpu": 7,
    "start": 1_700_000_000,
    "tty": "?",
    "time": 3723,
    "command": "/bin/sleep 100",
}


def test_the_table_is_that_of_ps_ef() -> None:
    heading, line = table([PROCESS], parse_ps_options(()), now=1_700_000_000)
    assert heading == "UID          PID    PPID  C STIME TTY          TIME CMD"
    assert line.split()[:4] == ["root", "7209", "1", "7"]
    assert line.endswith("01:02:03 /bin/sleep 100")


def test_columns_by_name() -> None:
    assert table([PROCESS], parse_ps_options(("-o", "pid,comm")), now=0) == [
        "    PID COMMAND",
        "   7209 sleep",
    ]


@pytest.mark.parametrize("options", [("aux",), ("-o", "rss"), ("-o",), ("--forest",)])
def test_other_ps_options_are_refused_by_name(options: tuple[str, ...]) -> None:
    with pytest.raises(ContainerError, match="not supported"):
        parse_ps_options(options)


def test_errors_cross_the_control_socket() -> None:
    for error in (
        SandboxError("died", hint="console: x"),
        ExecutableError("no such file", code=127),
        VruntimeError("plain"),
    ):
        back = from_wire(json.loads(json.dumps(to_wire(error))))
        assert (type(back), str(back), back.code) == (type(error), str(error), error.code)


def test_a_log_entry_is_one_json_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(tmp_path / "log.json", "json")
    log.error('a "quoted"\nmessage')
    (line,) = (tmp_path / "log.json").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["msg"]) == ("error", 'a "quoted"\nmessage')
    assert capsys.readouterr().err == 'a "quoted"\nmessage\n'


@pytest.mark.parametrize(
    ("text", "size"),
    [("-1", -1), ("1000", 1000), ("4k", 4096), ("1.5M", 3 << 19), ("2GiB", 2 << 30), ("1 tb", 1 << 40), ("0", 0)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-2", "m", "1.m", "1e3", "5x", "1" * 40, "٣"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ContainerError, match="invalid size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("1m30s", 90), ("250ms", 0.25), ("1.5h", 5400), (".5s", 0.5)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_what_is_zero_or_not_named_stays_as_it_is() -> None:
    current = {"memory": {"limit": 5, "swap": 9}, "pids": {"limit": 3}, "devices": [{"allow": False}]}
    changes = {"memory": {"limit": 7, "swap": 0}, "cpu": {"shares": 0, "cpus": ""}, "devices": [{"allow": True}]}
    assert merged(current, changes) == {**current, "memory": {"limit": 7, "swap": 9}}


def test_no_limit_of_memory_takes_that_of_swap_with_it() -> None:
    assert merged({"memory": {"limit": 5, "swap": 9}}, {"memory": {"limit": -1}})["memory"] == {"limit": -1, "swap": -1}


def test_named_files_and_page_sizes_are_changed_one_by_one() -> None:
    current = {"unified": {"a": "1"}, "hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}
    changes = {"unified": {"b": "2"}, "hugepageLimits": [{"pageSize": "1GB", "limit": 3}]}
    both = [*current["hugepageLimits"], *changes["hugepageLimits"]]
    assert merged(current, changes) == {"unified": {"a": "1", "b": "2"}, "hugepageLimits": both}
    again = {"hugepageLimits": [{"pageSize": "2MB", "limit": 9}]}
    assert merged(current, again)["hugepageLimits"] == again["hugepageLimits"]
