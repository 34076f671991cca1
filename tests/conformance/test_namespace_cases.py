"""`hostname`, `domainname` and `linux.namespaces` (runtime-spec: config-linux.md, "Namespaces")."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cases import Inside, Question
from edits import linux, namespaces, several, top

if TYPE_CHECKING:
    from runtimes import Edit

MAPPINGS = [{"containerID": 0, "hostID": 100000, "size": 65536}]
TWO_MAPPINGS = [{"containerID": 0, "hostID": 100000, "size": 1000}, {"containerID": 1000, "hostID": 200000, "size": 1}]
NO_NAME: Edit = lambda config: config.pop("hostname")  # noqa: E731


def whose(kind: str) -> Any:
    """Whether a namespace is the host's."""

    def read(inside: str) -> str:
        return "the host's" if inside == os.readlink(f"/proc/self/ns/{kind}") else "its own"

    return read


def whose_name(name: str) -> str:
    """Whether a name is the host's."""
    return "the host's" if name == os.uname().nodename else name


def spaced(text: str) -> str:
    """A table of numbers with single spaces, its lines after commas."""
    return ", ".join(" ".join(line.split()) for line in text.splitlines())


def cgroup_paths(text: str) -> str:
    """Whether a process sees where its cgroups are."""
    paths = {line.split(":", 2)[2] for line in text.splitlines()}
    return "at the root" if paths == {"/"} else "below the root"


def absent(kind: str, *edits: Edit) -> Inside:
    """A container that shares a namespace of the host."""
    edit = several(namespaces(without=(kind,)), *edits)
    short = {"network": "net"}.get(kind, kind)
    return Inside(
        f"no {kind}", Question(f"{kind}-namespace-absent", "the host's", f"namespace {short}", edit, whose(short))
    )


GROUPS = (
    Inside(
        "all",
        Question("hostname", "a-name.of-its.own", "uname nodename", top(hostname="a-name.of-its.own")),
        Question("hostname-in-proc", "a-name.of-its.own", "read /proc/sys/kernel/hostname"),
        Question("domainname", "domain.example", "uname domainname", top(domainname="domain.example")),
        Question("pid-namespace", "its own", "namespace pid", read=whose("pid")),
        Question("network-namespace", "its own", "namespace net", read=whose("net")),
        Question("ipc-namespace", "its own", "namespace ipc", read=whose("ipc")),
        Question("uts-namespace", "its own", "namespace uts", read=whose("uts")),
        Question("mount-namespace", "its own", "namespace mnt", read=whose("mnt")),
        Question("cgroup-namespace", "at the root", "read /proc/self/cgroup", namespaces("cgroup"), cgroup_paths),
        Question("network-has-loopback-alone", "lo", "list /sys/class/net"),
        Question("network-routes-none", "", "read /proc/net/route", read=lambda text: "".join(text.splitlines()[1:])),
        Question("user-namespace-absent", "0 0 4294967295", "read /proc/self/uid_map", read=spaced),
        Question("processes", "1", "list /proc", read=lambda names: " ".join(filter(str.isdigit, names.split()))),
    ),
    Inside(
        "no cgroup", Question("cgroup-namespace-absent", "below the root", "read /proc/self/cgroup", read=cgroup_paths)
    ),
    Inside(
        "no uts",
        Question(
            "uts-namespace-absent",
            "the host's",
            "uname nodename",
            several(namespaces(without=("uts",)), NO_NAME),
            whose_name,
        ),
    ),
    Inside("no hostname", Question("hostname-absent", "the host's", "uname nodename", NO_NAME, whose_name)),
    absent("network"),
    absent("ipc"),
    absent("pid"),
    Inside(
        "network by path",
        Question(
            "network-namespace-by-path",
            "the host's",
            "namespace net",
            lambda config: config["linux"]["namespaces"][1].update(path="/proc/self/ns/net"),
            whose("net"),
        ),
    ),
    Inside(
        "user",
        Question("user-namespace-uids", "0 100000 65536", "read /proc/self/uid_map", read=spaced),
        Question("user-namespace-gids", "0 100000 65536", "read /proc/self/gid_map", read=spaced),
        Question("user-namespace-setgroups", "allow", "read /proc/self/setgroups"),
        Question("user-namespace-uid", "0 0 0 0", "status Uid"),
        Question("user-namespace-strangers", "- 755 65534:65534", "stat /bin/probe"),
        Question("user-namespace-tmpfs", "d 1777 0:0", "stat /dev/shm"),
        Question("user-namespace-null", "ok", "open rw /dev/null"),
        Question("user-namespace-root-is-not-its-own", "EACCES", "make /made"),
        edit=several(namespaces("user"), linux(uidMappings=MAPPINGS, gidMappings=MAPPINGS)),
    ),
    Inside(
        "two ranges",
        Question("user-namespace-two-ranges", "0 100000 1000, 1000 200000 1", "read /proc/self/uid_map", read=spaced),
        Question("user-namespace-as-a-user", "1000 1000 1000 1000", "status Uid"),
        edit=several(
            namespaces("user"),
            linux(uidMappings=TWO_MAPPINGS, gidMappings=TWO_MAPPINGS),
            lambda config: config["process"].update(user={"uid": 1000, "gid": 0}),
        ),
    ),
    Inside(
        "time",
        Question(
            "time-namespace",
            "monotonic 1000 5, boottime 2000000 0",
            "read /proc/self/timens_offsets",
            read=spaced,
        ),
        Question("time-namespace-boottime", "True", "clock boottime", read=lambda clock: str(int(clock) >= 2000000)),
        edit=several(
            namespaces("time"),
            linux(timeOffsets={"monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": 2000000}}),
        ),
    ),
    Inside(
        "time without offsets",
        Question("time-namespace-plain", "its own", "namespace time", namespaces("time"), whose("time")),
    ),
)


def test_namespaces(seen: Any, expected: Any) -> None:
    assert seen == expected
