"""Hooks of the host: how one is run, what it is told, and how its end reads."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vruntime import hooks as hooks_module
from vruntime.container import Record, Status
from vruntime.errors import HookError
from vruntime.hooks import KEPT, Hook, Hooks
from vruntime.log import Log

RECORD = Record("c1", bundle="/", rootfs="/usr", created="now", sandbox="c1", annotations={"z": "1", "a": "2"})


def script(text: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", text], **more}


def hooks(**kinds: list[dict[str, Any]]) -> Hooks:
    return Hooks(RECORD, {"process": {"env": ["A=container"]}, "hooks": kinds})


def failure(hook: dict[str, Any]) -> str:
    with pytest.raises(HookError) as caught:
        hooks(prestart=[hook]).run_before_create(os.getpid())
    return caught.value.message.removeprefix(
        "unable to start container process: error during container init: error running hook #0: "
    )


def test_a_hook_is_its_path_its_arguments_and_its_environment() -> None:
    assert Hook.parse({"path": "/x"}) == Hook("/x", ("/x",), None, None)
    assert Hook.parse({"path": "/x", "args": [], "env": []}) == Hook("/x", ("/x",), {}, None)
    named = {"path": "/x", "args": ["a", "b"], "env": ["A=1", "B==", "A=2"], "timeout": 3}
    assert Hook.parse(named) == Hook("/x", ("a", "b"), {"A": "2", "B": "="}, 3)


def test_a_hook_is_told_the_state_in_runcs_order(tmp_path: Path) -> None:
    hooks(prestart=[script(f"cat > {tmp_path}/state")]).run_before_create(os.getpid())
    expected = {"ociVersion": "1.2.0", "id": "c1", "status": "creating", "pid": os.getpid(), "bundle": "/"}
    state = json.loads((tmp_path / "state").read_text())
    assert list(state.items()) == list((expected | {"annotations": {"a": "2", "z": "1"}}).items())
    assert "pid" not in RECORD.hook_state(Status.STOPPED, 0)


def test_where_each_kind_runs_and_in_which_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hooks_module, "_mounts_of", lambda _: hooks_module.nullcontext())
    kinds = {kind: [script(f"echo {kind} $PWD >> {tmp_path}/log")] for kind in hooks_module.CREATING}
    hooks(**kinds).run_before_create(os.getpid())
    assert (tmp_path / "log").read_text() == "prestart /\ncreateRuntime /\ncreateContainer /usr\n"
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (script("exit 3"), "error running hook: exit status 3, stdout: , stderr: "),
        (script("kill -SEGV $$"), "error running hook: signal: segmentation fault"),
        (script("printf 'a\\nb\\033[31m'; exit 1"), "exit status 1, stdout: a\\nb\\x1b[31m, stderr: "),
        ({"path": "/nonexistent"}, "fork/exec /nonexistent: no such file or directory"),
        ({"path": "/etc"}, "fork/exec /etc: permission denied"),
        ({"path": __file__}, f"fork/exec {__file__}: permission denied"),
        (script("sleep 100", timeout=1), "hook ran past specified timeout of 1.0s"),
    ],
)
def test_how_a_failure_reads(hook: dict[str, Any], message: str) -> None:
    assert message in failure(hook)


def test_a_directory_that_is_gone() -> None:
    record = Record("c1", "/nonexistent", "/", "now", "c1")
    with pytest.raises(HookError, match="/nonexistent: no such file or directory"):
        Hooks(record, {"hooks": {"prestart": [script("true")]}}).run_before_create(os.getpid())


def test_the_last_of_an_endless_output_is_kept() -> None:
    message = failure(script("head -c 50000000 /dev/zero | tr '\\0' x; echo the end; exit 1"))
    assert "the end\\n, stderr" in message
    assert len(message) < 2 * KEPT


def test_a_long_state_is_told_whole_to_who_reads_and_not_to_who_does_not(tmp_path: Path) -> None:
    record = Record("c1", "/", "/", "now", "c1", annotations={"long": "x" * (1 << 20)})
    entries = [script("true"), script("exec <&-; sleep 0.1"), script(f"cat > {tmp_path}/state")]
    Hooks(record, {"hooks": {"prestart": entries}}).run_before_create(os.getpid())
    assert len(json.loads((tmp_path / "state").read_text())["annotations"]["long"]) == 1 << 20


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    hooks(prestart=[script("true")]).run_before_create(os.getpid())
    failure(script("sleep 100 & exit 1"))
    failure({"path": "/nonexistent"})
    assert os.listdir("/proc/self/fd") == before


def test_a_failure_at_the_end_is_a_warning_and_the_next_runs(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    hooks(poststop=[script("exit 4"), script(f"touch {tmp_path}/ran")]).run_after_delete(log)
    assert "level=warning" in (tmp_path / "log").read_text()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("limits", "time"), [((), 0), ((3, 4), 7), ((3, None), None), ((9223372036, 9223372036), None)]
)
def test_how_long_the_hooks_of_the_guest_may_take(limits: tuple[int | None, ...], time: int | None) -> None:
    entries = [script("true") | ({} if limit is None else {"timeout": limit}) for limit in limits]
    assert hooks(startContainer=entries).start_time() == time
