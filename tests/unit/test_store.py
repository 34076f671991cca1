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
    directory = Store(tmp_path / "root").reserve("c1")
    assert directory.stat().st_mode & 0o777 == 0o700


def test_removing_frees_the_id(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.reserve("c1")
    store.write("c1", "state.json", "{}")
    store.remove("c1")
    assert store.ids() == []
    store.reserve("c1")
