"""What verbs compute without a container: signals, tables, messages."""

import json
from pathlib import Path

import pytest

from vruntime.commands.kill import parse_signal
from vruntime.commands.ps import parse_ps_options, table
from vruntime.errors import (
    ContainerError,
    ExecutableError,
    SandboxError,
    VruntimeError,
    from_wire,
    to_wire,
)
from vruntime.log import Log


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("term", 15), ("sigusr1", 10), ("64", 64), ("0", 0)],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "-9", "XX", "SIG", "SIG_IGN", "²"])
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
