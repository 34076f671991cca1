"""`linux.devices`, the default ones, and `linux.resources.devices` (runtime-spec: config-linux.md, "Devices")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cases import Inside, Question
from edits import capable, resources, several

if TYPE_CHECKING:
    from cases import Config
    from runtimes import Edit


def device(path: str, type: str = "c", major: int = 10, minor: int = 229, **more: Any) -> Edit:
    """Adds a device."""

    def edit(config: Config) -> None:
        made = {"path": path, "type": type, "major": major, "minor": minor, **more}
        config["linux"].setdefault("devices", []).append(made)

    return edit


def default(name: str, number: str) -> Question:
    return Question(f"device-{name}", f"c 666 0:0 {number}", f"stat /dev/{name}")


def kcore(link: str, target: str) -> str:
    """Whether the link is there where the kernel has what it points to."""
    return "as /proc has it" if (link == "/proc/kcore") == (target != "ENOENT") else link


def rule(
    allow: bool, type: str | None = None, major: int | None = None, minor: int | None = None, access: str = "rwm"
) -> Any:
    """An entry of `resources.devices`."""
    entry = {"allow": allow, "type": type, "major": major, "minor": minor, "access": access}
    return {key: value for key, value in entry.items() if value is not None}


NOTHING = rule(False)

GROUPS = (
    Inside(
        "devices",
        default("null", "1:3"),
        default("zero", "1:5"),
        default("full", "1:7"),
        default("random", "1:8"),
        default("urandom", "1:9"),
        default("tty", "5:0"),
        Question("device-link-fd", "/proc/self/fd", "link /dev/fd"),
        Question("device-link-stdin", "/proc/self/fd/0", "link /dev/stdin"),
        Question("device-link-stdout", "/proc/self/fd/1", "link /dev/stdout"),
        Question("device-link-stderr", "/proc/self/fd/2", "link /dev/stderr"),
        Question("device-link-ptmx", "pts/ptmx", "link /dev/ptmx"),
        Question("device-link-core", "as /proc has it", ("link /dev/core", "stat /proc/kcore"), read=kcore),
        Question("device-console-none", "ENOENT", "stat /dev/console"),
        Question("device-mode", "c 640 0:0 10:229", "stat /dev/moded", device("/dev/moded", fileMode=0o640)),
        Question("device-mode-decides", "c 777 0:0 10:229", "stat /dev/wide", device("/dev/wide", fileMode=0o777)),
        Question(
            "device-owner", "c 600 7:8 10:229", "stat /dev/owned", device("/dev/owned", fileMode=0o600, uid=7, gid=8)
        ),
        Question(
            "device-in-a-directory",
            "c 666 0:0 10:200",
            "stat /dev/net/tun",
            device("/dev/net/tun", minor=200, fileMode=0o666),
        ),
        Question("device-directory", "d 755 0:0", "stat /dev/net"),
        Question(
            "device-unbuffered",
            "c 666 0:0 1:5",
            "stat /dev/unbuffered",
            device("/dev/unbuffered", "u", 1, 5, fileMode=0o666),
        ),
        Question("device-fifo", "p 644 0:0", "stat /dev/fifo", device("/dev/fifo", "p", 0, 0, fileMode=0o644)),
        Question(
            "device-given-again", "c 600 0:0 1:5", "stat /dev/zero2", device("/dev/zero2", "c", 1, 5, fileMode=0o600)
        ),
        Question("device-null-writes", "ok", "write /dev/null x"),
        Question("device-full-writes", "ENOSPC", "write /dev/full x"),
        Question("device-tty-without-one", "ENXIO", "open rw /dev/tty"),
        Question("device-ptmx-opens", "ok", "open rw /dev/ptmx"),
        Question("device-random-opens", "ok", "open r /dev/random"),
        Question("device-given-is-not-allowed", "EPERM", "open r /dev/moded"),
    ),
    Inside("no mode", Question("device-without-mode", "c 666 0:0 10:229", "stat /dev/plain", device("/dev/plain"))),
    Inside(
        "a default device",
        Question(
            "device-default-replaced",
            "c 666 1:2 1:3",
            "stat /dev/null",
            several(
                device("/dev/null", "c", 1, 3, fileMode=0o666, uid=1, gid=2),
                resources(devices=[NOTHING, rule(True, "c", 1, 3)]),
            ),
        ),
    ),
    Inside(
        "a device elsewhere",
        Question(
            "device-outside-dev",
            "c 666 0:0 1:5",
            "stat /elsewhere/zero",
            device("/elsewhere/zero", "c", 1, 5, fileMode=0o666),
        ),
    ),
    Inside(
        "a block device",
        Question("device-block", "b 660 0:0 7:0", "stat /dev/loop", device("/dev/loop", "b", 7, 0, fileMode=0o660)),
    ),
    Inside(
        "the host's",
        Question("device-of-the-host", "c 660 0:0 1:1", "stat /dev/mem", device("/dev/mem", "c", 1, 1, fileMode=0o660)),
    ),
    Inside(
        "rules",
        Question("rule-mknod-is-free", ["ok", "ok"], ("mknod c 1 1 /dev/mem", "mknod b 7 1 /dev/loop1")),
        Question("rule-denied", ["EPERM", "EPERM"], ("open r /dev/mem", "open r /dev/loop1")),
        Question(
            "rule-read-alone",
            ["ok", "ok", "EPERM", "EPERM"],
            ("mknod c 10 229 /dev/f", "open r /dev/f", "open w /dev/f", "open rw /dev/f"),
        ),
        Question("rule-tun-by-default", ["ok", "ok"], ("mknod c 10 200 /dev/t", "open r /dev/t")),
        Question("rule-default-devices", ["ok", "ok"], ("mknod c 1 5 /dev/z", "open rw /dev/z")),
        Question(
            "rule-pseudo-terminals",
            ["ok", "ok"],
            ("open rw /dev/ptmx", "stat /dev/pts/ptmx"),
            read=lambda opened, stat: [opened, "ok" if stat.startswith("c 666") else stat],
        ),
        edit=several(capable("MKNOD"), resources(devices=[NOTHING, rule(True, "c", 10, 229, "r")])),
    ),
    Inside(
        "wider rules",
        Question("rule-wildcard-minor", ["ok", "ok"], ("mknod c 10 229 /dev/f", "open rw /dev/f")),
        Question("rule-later-denies", ["ok", "EPERM"], ("mknod c 1 4 /dev/p", "open rw /dev/p")),
        Question("rule-wrong-type", ["ok", "EPERM"], ("mknod b 10 229 /dev/b", "open r /dev/b")),
        Question("rule-write-alone", ["ok", "ok", "EPERM"], ("mknod c 1 11 /dev/k", "open w /dev/k", "open r /dev/k")),
        edit=several(
            capable("MKNOD", "SYSLOG"),
            resources(
                devices=[
                    NOTHING,
                    rule(True, "c", 10),
                    rule(True, "c", 1, 4),
                    rule(False, "c", 1, 4),
                    rule(True, "c", 1, 11, "w"),
                ]
            ),
        ),
    ),
    Inside(
        "a hole",
        Question(
            "rule-hole-in-a-wildcard",
            ["ok", "EPERM"],
            ("mknod c 10 229 /dev/f", "open rw /dev/f"),
            resources(devices=[NOTHING, rule(True, "c", 10), rule(False, "c", 10, 229)]),
        ),
        edit=capable("MKNOD"),
    ),
    Inside(
        "everything allowed",
        Question("rule-all-allowed", ["ok", "ok"], ("mknod c 10 229 /dev/f", "open rw /dev/f")),
        edit=several(capable("MKNOD"), resources(devices=[rule(True, "a")])),
    ),
    Inside(
        "no rules",
        Question("rule-none-at-all", ["ok", "EPERM"], ("mknod c 10 229 /dev/f", "open rw /dev/f")),
        edit=several(capable("MKNOD"), lambda config: config["linux"]["resources"].pop("devices")),
    ),
    Inside(
        "mknod denied",
        Question("rule-without-capability", "EPERM", "mknod c 1 3 /dev/n"),
        Question("mknod-fifo", "ok", "mknod p 0 0 /fifo"),
    ),
    Inside("mknod in the root", Question("mknod-in-the-root", "ok", "mknod c 1 3 /made-null", capable("MKNOD"))),
)


def test_dev(seen: Any, expected: Any) -> None:
    assert seen == expected
