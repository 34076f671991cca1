"""A container's record, and what its status allows."""

import os
from pathlib import Path

import pytest

from vruntime.container import Record, Status, load
from vruntime.errors import ContainerError, HostError, NoSuchContainer
from vruntime.spawn import Identity
from vruntime.store import Store

ME = Identity.of(os.getpid())
GONE = Identity(pid=os.getpid(), start_time=1)  # our pid, at another time: reused


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def record(store: Store, **changes: object) -> Record:
    store.reserve("c1")
    plain = {"id": "c1", "bundle": "/b", "rootfs": "/b/rootfs", "created": "now", "sandbox": "c1"}
    return Record(**{**plain, **changes}).save(store)  # type: ignore[arg-type]


def test_a_saved_record_is_read_back(store: Store) -> None:
    saved = record(store, status=Status.RUNNING, monitor=ME, shim=ME, annotations={"a": "b"})
    assert load(store, "c1") == saved


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"status": Status.RUNNING, "monitor": ME, "shim": ME}, Status.RUNNING),
        ({"status": Status.RUNNING, "monitor": GONE, "shim": ME}, Status.STOPPED),
        ({"status": Status.RUNNING, "monitor": ME, "shim": GONE}, Status.STOPPED),
        ({"status": Status.CREATED, "monitor": GONE, "shim": GONE}, Status.STOPPED),
        ({"status": Status.CREATING, "creator": ME}, Status.CREATING),
        ({"status": Status.CREATING, "creator": GONE}, Status.STOPPED),
    ],
)
def test_status_is_what_the_processes_on_the_host_say(store: Store, changes: dict[str, object], status: Status) -> None:
    record(store, **changes)
    assert load(store, "c1").status is status


def test_a_pid_is_shown_while_there_is_a_process(store: Store) -> None:
    assert record(store, status=Status.RUNNING, monitor=ME, shim=ME).oci_state()["pid"] == os.getpid()
    assert Record("c1", "/b", "/r", "now", "c1", status=Status.STOPPED, shim=ME).oci_state()["pid"] == 0


def test_state_has_runcs_members_in_runcs_order(store: Store) -> None:
    assert list(record(store).oci_state()) == [
        "ociVersion",
        "id",
        "pid",
        "status",
        "bundle",
        "rootfs",
        "created",
        "owner",
    ]


def test_emulation_and_the_cause_of_a_death_are_shown() -> None:
    state = Record("c1", "/b", "/r", "now", "c1", accelerator="tcg", error="qemu died").oci_state()
    assert "no security guarantee" in state["annotations"]["io.vruntime.insecure"]
    assert state["annotations"]["io.vruntime.error"] == "qemu died"


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        (Status.CREATING, set()),
        (Status.CREATED, {"start", "kill", "exec", "delete"}),
        (Status.RUNNING, {"kill", "exec"}),
        (Status.STOPPED, {"delete"}),
    ],
)
def test_what_a_status_allows(status: Status, allowed: set[str]) -> None:
    checks = {
        "start": status.check_start,
        "kill": status.check_kill,
        "exec": status.check_exec,
        "delete": lambda: status.check_delete("c1"),
    }
    for name, check in checks.items():
        if name in allowed:
            check()
        else:
            with pytest.raises(ContainerError):
                check()


def test_a_missing_container(store: Store) -> None:
    with pytest.raises(NoSuchContainer, match="container does not exist"):
        load(store, "c1")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "c1"}', '{"status": "asleep"}', "\x00"])
def test_a_damaged_record_is_told_with_its_remedy(store: Store, text: str) -> None:
    store.reserve("c1")
    store.write("c1", "state.json", text)
    with pytest.raises(HostError, match=r"damaged.*delete --force"):
        load(store, "c1")
