"""`linux.resources` (config-linux.md, "Control groups"): what the guest is told, and changes as `update` makes them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from vruntime.oci import cpuset
from vruntime.oci.document import Json, mapping, member, places, string
from vruntime.oci.support import V1_RESOURCES

_SECTIONS: Final = ("memory", "cpu", "blockIO", "pids")
"""The objects whose members are changed one by one."""


def for_guest(resources: Json, vcpus: int) -> Json:
    """Without what the host alone limits: cgroup v1's own, RDMA devices, CPUs and memory nodes that the guest has not.

    A machine with `vcpus` CPUs has those from 0 on, and one node; the host's numbers are others, unless they fit.
    """
    guest = deepcopy(resources)
    guest.pop("rdma", None)
    for *above, last in V1_RESOURCES:
        for _, holder in places(guest, *above):
            holder.pop(last, None)
    for key, end in (("cpus", vcpus), ("mems", 1)):
        if not cpuset.is_below(string(guest, "cpu", key), end):
            del guest["cpu"][key]
    return guest


def merged(current: Json, changes: Json) -> Json:
    """`current` with what `changes` names: as in runc a member that is 0 or empty changes nothing.

    Devices are not changed: the rules of a container stand as long as it does.
    """
    result = dict(current)
    for section in _SECTIONS:
        named = {key: value for key, value in mapping(changes, section).items() if value}
        if named:
            result[section] = {**mapping(current, section), **named}
    if member(changes, "memory", "limit") == -1 and not member(changes, "memory", "swap"):
        result["memory"]["swap"] = -1  # without a limit of memory there can be none of memory and swap together
    if changes.get("unified"):
        result["unified"] = {**mapping(current, "unified"), **changes["unified"]}
    if changes.get("hugepageLimits"):
        result["hugepageLimits"] = _merged_pages(current.get("hugepageLimits", []), changes["hugepageLimits"])
    return result


def _merged_pages(current: list[Any], changes: list[Any]) -> list[Any]:
    changed = {limit["pageSize"] for limit in changes}
    return [limit for limit in current if limit["pageSize"] not in changed] + changes
