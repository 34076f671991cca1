"""The process that `exec` starts: from a file, and from flags as runc has them."""

import json

import pytest

from vruntime.errors import ConfigError
from vruntime.oci.process import Process, load_process, process_from_exec_flags

BASE = Process(
    {
        "terminal": True,
        "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
        "args": ["sh"],
        "env": ["A=1"],
        "cwd": "/base",
        "capabilities": {"bounding": ["CAP_KILL"], "inheritable": ["CAP_CHOWN"]},
    }
)


def test_without_flags_only_the_terminal_differs():
    process = process_from_exec_flags(BASE, ["ls", "-l"])
    assert process.document == BASE.document | {"args": ["ls", "-l"], "terminal": False}
    assert BASE.document["args"] == ["sh"]


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        ({"env": ["B=2", "A=3"]}, "env", ["A=1", "B=2", "A=3"]),
        ({"cwd": "/x"}, "cwd", "/x"),
        ({"cwd": ""}, "cwd", "/base"),
        ({"user": "7"}, "user", {"uid": 7, "gid": 2, "additionalGids": [3]}),
        ({"user": "7:8"}, "user", {"uid": 7, "gid": 8, "additionalGids": [3]}),
        ({"additional_gids": [4, 5]}, "user", {"uid": 1, "gid": 2, "additionalGids": [3, 4, 5]}),
        ({"terminal": True}, "terminal", True),
        ({"no_new_privileges": True}, "noNewPrivileges", True),
        ({"apparmor_profile": "p"}, "apparmorProfile", "p"),
        ({"selinux_label": "l"}, "selinuxLabel", "l"),
        (
            {"capabilities": ["CAP_BPF"]},
            "capabilities",
            {
                "bounding": ["CAP_KILL", "CAP_BPF"],
                "effective": ["CAP_BPF"],
                "permitted": ["CAP_BPF"],
                "ambient": ["CAP_BPF"],
                "inheritable": ["CAP_CHOWN"],
            },
        ),
    ],
)
def test_flags(flags, key, value):
    assert process_from_exec_flags(BASE, ["x"], **flags).document[key] == value


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"user": "root"}, "parsing 'root' as int for uid failed"),
        ({"user": "0:staff"}, "parsing 'staff' as int for gid failed"),
        ({"user": "-1"}, "parsing '-1' as int for uid failed"),
        ({"user": "4294967296"}, "as int for uid failed"),
        ({"user": "٣"}, "as int for uid failed"),
        ({"user": "1:"}, "parsing '' as int for gid failed"),
        ({"additional_gids": [-1]}, "additional-gids must be a positive number -1"),
        ({"cwd": "x"}, 'process.cwd: "x" is not an absolute path'),
        ({"env": ["A"]}, 'process.env[1]: "A" does not have the form NAME=VALUE'),
    ],
)
def test_wrong_flags(flags, reason):
    with pytest.raises(ConfigError) as caught:
        process_from_exec_flags(BASE, ["x"], **flags)
    assert reason in str(caught.value)


def test_no_arguments():
    with pytest.raises(ConfigError, match="process args cannot be empty"):
        process_from_exec_flags(BASE, [])


def test_the_file_of_exec(tmp_path):
    path = tmp_path / "process.json"
    path.write_text(json.dumps({"args": ["ls"], "cwd": "/", "env": None, "terminal": True}))
    process = load_process(path)
    assert (process.args, process.terminal) == (("ls",), True)
    assert process.for_guest() == {
        "args": ["ls"],
        "cwd": "/",
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
    }


def test_scheduling_as_the_agent_reads_it():
    scheduler = {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"], "period": 9}
    affinity = {"initial": "", "final": "0-1, 3"}
    guest = Process(dict(BASE.document) | {"scheduler": scheduler, "execCPUAffinity": affinity}).for_guest()
    assert guest["scheduler"] == scheduler | {"flags": ["SCHED_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"]}
    assert guest["execCPUAffinity"] == {"final": "0-1,3"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, ("process.cwd: is required", "process.args: is required")),
        ([], ("process: must be an object, not []",)),
        ({"args": [1], "cwd": "/"}, ("process.args[0]: must be a string, not 1",)),
        ({"args": ["x"], "cwd": "x"}, ('process.cwd: "x" is not an absolute path',)),
        (
            {"args": ["x"], "cwd": "/", "scheduler": {"policy": "SCHED_OTHER", "nice": 20}},
            ("process.scheduler.nice: 20 is not from -20 to 19",),
        ),
    ],
)
def test_faults_of_the_file_of_exec(tmp_path, document, expected):
    path = tmp_path / "process.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        load_process(path)
    assert caught.value.faults == expected
