"""The state on disk."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vruntime.errors import ContainerError, ContainerExists
from vruntime.store import Store, check_id


@pytest.mark.parametrize("good", ["a", "web-1", "a.b_c+d", "x" * 200, "..."])
def test_ids_that_runc_takes(good: str) -> None:
    assert check_id(good) == good


@pytest.mark.parametrize("bad", [".", "..", "../x", "/x", "a/b", "a b", "a\n", "a\0b", "ä", "x" * 5000])
def test_ids_that_runc_refuses(bad: str) -> None:
    with pytest.raises(ContainerError, match="invalid container ID format"):
        check_id(bad)


def test_an_id_is_not_empty() -> None:
    with pytest.raises(ContainerError, match="container id cannot be empty"):
        check_id("")


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    def reserve(_: int) -> bool:
        try:
            Store(tmp_path).reserve("c1")
        except ContainerExists:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(reserve, range(50))) == 1


def test_state_is_for_its_owner_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "root")
    store.reserve("c1")
    assert store.container("c1").stat().st_mode & 0o777 == 0o700


def test_removing_frees_the_id(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.reserve("c1")
    store.write("c1", "state.json", "{}")
    store.remove("c1")
    assert store.ids() == []
    store.reserve("c1")


def test_a_sandbox_goes_with_the_last_that_is_in_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.reserve("first") == "first"
    assert store.reserve("second", "first") == "first"
    store.remove("first")
    assert store.sandbox("first").is_dir()
    assert store.reserve("first") == "first.1", "the sandbox of this id is still in use"
    store.remove("second")
    assert not store.sandbox("first").exists()
    assert store.sandbox("first.1").is_dir()


def test_the_last_two_do_not_leave_a_sandbox_to_each_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(20):
        store.reserve("c0")
        ids = ["c0", *(f"c{number}" for number in range(1, 8))]
        for container_id in ids[1:]:
            store.reserve(container_id, "c0")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(store.remove, ids))
        assert not store.sandbox("c0").exists()
