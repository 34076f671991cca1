"""What of `linux.resources` a guest is told."""

import pytest

from vruntime.oci import cpuset
from vruntime.oci.resources import for_guest


@pytest.mark.parametrize(
    ("text", "size", "below_2"),
    [("", 0, True), ("0", 1, True), ("0-1", 2, True), ("1", 1, True), ("2", 1, False), ("0, 7-9", 4, False)],
)
def test_lists_of_cpus(text: str, size: int, below_2: bool) -> None:
    assert cpuset.is_list(text)
    assert (cpuset.size(text), cpuset.is_below(text, 2)) == (size, below_2)


@pytest.mark.parametrize("text", ["x", "1-0", ",", "0,", "-1", "0-1-2", "1234567890"])
def test_no_lists(text: str) -> None:
    assert not cpuset.is_list(text)


def test_a_guest_is_told_of_the_cpus_and_nodes_that_it_has() -> None:
    assert for_guest({"cpu": {"cpus": "0-1", "mems": "0", "shares": 2}}, 2)["cpu"] == {
        "cpus": "0-1",
        "mems": "0",
        "shares": 2,
    }
    assert for_guest({"cpu": {"cpus": "1-2", "mems": "1", "shares": 2}}, 2)["cpu"] == {"shares": 2}


def test_what_is_asked_of_the_host_stays_as_it_is() -> None:
    resources = {"cpu": {"cpus": "9"}, "rdma": {}, "memory": {"swappiness": 1, "limit": 5}}
    assert for_guest(resources, 1) == {"cpu": {}, "memory": {"limit": 5}}
    assert resources["cpu"] == {"cpus": "9"}
