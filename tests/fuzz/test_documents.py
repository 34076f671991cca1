"""Whatever a file holds, it is either read or refused in one line, in bounded time, and nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from documents import CONFIG, PROCESS, damaged, encoded, files, mutated
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from inventory import Inventory, left_behind
from messages import message

from vruntime import container
from vruntime import settings as runtime_settings
from vruntime.errors import ConfigError, VruntimeError
from vruntime.oci.config import load_config
from vruntime.oci.process import load_process
from vruntime.store import Store

if TYPE_CHECKING:
    from conftest import Tally

VRUNTIME = os.environ.get("VRUNTIME", "/usr/local/bin/vruntime")
MESSAGE_LIMIT = 20_000
SECONDS_LIMIT = 5.0
COMMANDS = 100

Property = Callable[[Any], str]


def tried(property_: Property, values: st.SearchStrategy[Any], cases: int, tally: Tally) -> None:
    """Tries a property on so many values; a counterexample is shrunk and shown."""

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(values)
    def run(value: Any) -> None:
        began = time.perf_counter()
        outcome = property_(value)
        took = time.perf_counter() - began
        assert took < SECONDS_LIMIT
        tally.add(outcome, took)

    run()


def is_one_line(text: str) -> bool:
    return 0 < len(text) <= MESSAGE_LIMIT and text.isprintable()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    (path / "rootfs").mkdir(parents=True)
    return path


@pytest.mark.timeout(7200)
def test_config(bundle: Path, cases: int, tally: Tally) -> None:
    file, open_before = bundle / "config.json", descriptors()

    def either_read_or_refused(content: bytes) -> str:
        file.write_bytes(content)
        try:
            config = load_config(file)
        except ConfigError as error:
            assert is_one_line(str(error))
            return "refused"
        finally:
            assert sorted(os.listdir(bundle)) == ["config.json", "rootfs"]
            assert descriptors() == open_before
        assert all(is_one_line(warning) for warning in config.warnings)
        guest = json.loads(config.for_guest("/rootfs", {mount.index: "/x" for mount in config.mounts}))
        assert guest["process"]["args"] == list(config.process.args)
        assert config.rootfs.is_dir()
        return "accepted"

    tried(either_read_or_refused, files(CONFIG), cases, tally)
    assert set(tally.outcomes) == {"accepted", "refused"}


@pytest.mark.timeout(7200)
def test_process(tmp_path: Path, cases: int, tally: Tally) -> None:
    file = tmp_path / "process.json"

    def either_read_or_refused(content: bytes) -> str:
        file.write_bytes(content)
        try:
            process = load_process(file)
        except ConfigError as error:
            assert is_one_line(str(error))
            return "refused"
        assert all(is_one_line(warning) for warning in process.warnings)
        assert json.loads(json.dumps(process.for_guest()))["args"] == list(process.args)
        return "accepted"

    tried(either_read_or_refused, files(PROCESS, ("process",)), cases // 3 or 1, tally)
    assert set(tally.outcomes) == {"accepted", "refused"}


@pytest.mark.timeout(7200)
def test_settings(tmp_path: Path, cases: int, tally: Tally) -> None:
    file = tmp_path / "config.toml"
    sections = st.sampled_from(("vm", "agent", "log", "x", "vm.x", "", "[vm]"))
    names = st.sampled_from(
        ("qemu", "memory", "vcpus", "kernel_parameters", "boot_timeout", "allow_emulation", "x", "a.b")
    )
    values = st.one_of(
        st.sampled_from(
            ('"auto"', '"512M"', "1", "-1", "true", "1979-05-27", "nan", "inf", "[]", "{}", '"\\u0000"', "9" * 99)
        ),
        st.text(max_size=8),
    )
    lines = st.lists(st.tuples(names, values).map(" = ".join), max_size=3).map("\n".join)
    texts = st.lists(st.tuples(sections, lines).map(lambda part: f"[{part[0]}]\n{part[1]}\n"), max_size=3).map("".join)

    def either_read_or_refused(content: bytes) -> str:
        file.write_bytes(content)
        try:
            runtime_settings.load(file)
        except VruntimeError as error:
            assert is_one_line(str(error))
            return "refused"
        return "accepted"

    contents = st.one_of(st.binary(max_size=64), texts.map(lambda text: text.encode("utf-8", "surrogatepass")))
    assert either_read_or_refused(b"") == "accepted"  # which few of the others are
    tried(either_read_or_refused, contents, cases // 3 or 1, tally)


@pytest.mark.timeout(7200)
def test_a_damaged_record(tmp_path: Path, cases: int, tally: Tally) -> None:
    store = Store(tmp_path / "root")
    store.reserve("x")
    directory = store.container("x")
    record = container.Record(id="x", bundle="/b", rootfs="/b/r", created=container.now(), sandbox="x")
    record.save(store)
    original = json.loads((directory / container.STATE_FILE).read_text())

    def either_read_or_refused(content: bytes) -> str:
        (directory / container.STATE_FILE).write_bytes(content)
        try:
            container.load(store, "x")
        except VruntimeError as error:
            assert is_one_line(str(error))
            return "refused"
        return "accepted"

    tried(either_read_or_refused, damaged(original), cases // 3 or 1, tally)


@pytest.mark.functional
@pytest.mark.timeout(7200)
def test_the_command_itself(bundle: Path, tmp_path: Path, cases: int, tally: Tally) -> None:
    """What is refused makes `create` exit with 1 and one line; nothing was begun."""
    file, root = bundle / "config.json", tmp_path / "root"
    before = Inventory.take(root)

    def refused_by_the_command(content: bytes) -> str:
        file.write_bytes(content)
        try:
            load_config(file)
        except ConfigError as error:
            said = str(error)
        else:
            assume(False)
        command = [VRUNTIME, "--root", str(root), "create", "--bundle", str(bundle), "x"]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        assert result.returncode == 1
        told = message(result).removeprefix("create failed: ")
        # How deep the JSON decoder gets before it gives up depends on the stack that it is called with.
        assert told == said or "levels deep" in told + said
        assert not root.exists()
        return "refused"

    contents = st.one_of(mutated(CONFIG).map(encoded), damaged(CONFIG))
    tried(refused_by_the_command, contents, min(COMMANDS, cases), tally)
    assert left_behind(before, root) == {}
