"""The mounts of a container, as /proc/self/mountinfo and its files show them: the same as with runc."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runtimes import Bundles, Edit, Runtime

Mount = dict[str, Any]


def mount(destination: str, kind: str, *options: str, source: str = "") -> Mount:
    """An entry of `mounts`; a source that begins with @ lies in the bundle."""
    return {"destination": destination, "type": kind, "source": source or kind, "options": list(options)}


def bind(destination: str, *options: str, source: str = "@source") -> Mount:
    """A bind mount of a directory with a file and a directory in it."""
    return mount(destination, "bind", *options, source=source)


def normal(line: str) -> str:
    """A line of mountinfo without what two kernels cannot have in common."""
    match = re.fullmatch(r"\d+ \d+ \d+:\d+ \S+ (\S+) (\S+) (.*?)- (\S+) (\S+) (\S+)", line)
    if match is None:
        return line
    at, options, propagation, kind, source, own = match.groups()
    propagation = re.sub(r":\d+", "", propagation)
    if kind not in ("devpts", "mqueue", "proc", "ramfs", "sysfs", "tmpfs"):
        kind, source, own = "of the host", "", ""
    if kind == "sysfs":
        own = ""  # one for all of the guest, which itself has it writable
    details = [option for option in own.split(",") if not option.startswith(("inode64", "mode="))]
    return f"{at} {sorted(options.split(','))} {propagation}{kind} {source} {sorted(details)}"


def made(bundles: Bundles, mounts: list[Mount], script: str, edit: Edit | None = None) -> Path:
    def both(config: dict[str, Any]) -> None:
        # The host's version of cgroups is not the guest's.
        config["mounts"] = [entry for entry in config["mounts"] if entry["type"] != "cgroup"] + mounts
        config["linux"] |= {"maskedPaths": [], "readonlyPaths": []}
        if edit is not None:
            edit(config)

    bundle = bundles.busybox("sh", "-c", f"cat /proc/self/mountinfo; exec 2>&1; {script}", edit=both)
    (bundle / "source/below").mkdir(parents=True)
    (bundle / "source/file").write_text("in source")
    (bundle / "one").write_text("one file")
    config = (bundle / "config.json").read_text()
    (bundle / "config.json").write_text(config.replace('"source": "@', f'"source": "{bundle}/'))
    links = {
        "absolute": "/real",
        "relative": "real",
        "up": "../../../../real2",
        "dangling": "/to/be",
        "file": "/etc/group",
    }
    (bundle / "rootfs/real").mkdir()
    (bundle / "rootfs/links").mkdir()
    for name, target in links.items():
        (bundle / "rootfs/links" / name).symlink_to(target)
    return bundle


def lines(runtime: Runtime, bundle: Path) -> list[str]:
    result = runtime("run", "--bundle", str(bundle), runtime.new_id(), check=False)
    assert result.stdout, result.stderr
    return [normal(line) for line in result.stdout.decode().splitlines()]


TMPFS = [
    mount("/t1", "tmpfs", "size=64k", "mode=1711", "uid=5", "gid=6", "nr_inodes=50"),
    mount("/t2", "tmpfs", "ro", "noatime", source="anything"),
    mount("/t3", "tmpfs", "nodiratime", "sync", "dirsync"),
    mount("/t4", "tmpfs", "strictatime", "nosuid", "noexec", "nodev", "private"),
    mount("/t5", "tmpfs", "relatime", "lazytime", "shared"),
    mount("/t5/in/it", "tmpfs", "unbindable"),
    mount("/tmp", "tmpfs"),
    mount("/etc", "tmpfs", "tmpcopyup"),
    mount("/new/copied", "tmpfs", "tmpcopyup", "mode=700"),
    mount("/again", "tmpfs", source="first"),
    mount("/again/x", "tmpfs"),
    mount("/again", "tmpfs", source="second"),
    mount("/changed", "tmpfs", "size=64k"),
    mount("/changed", "tmpfs", "remount", "ro", "nosuid"),
    mount("/r", "ramfs"),
]

BINDS = [
    bind("/b1", "bind", "ro"),
    bind("/b2", "rbind", "ro"),
    bind("/b3", "bind", "nosuid", "nodev", "noexec"),
    bind("/b4", "bind", "noatime"),
    bind("/b5", "rbind", "rro"),
    bind("/b6", "rbind", "rnosuid", "rnodev", "rnoexec", "rnoatime"),
    bind("/b7", "rbind", "nodiratime", "rprivate"),
    bind("/b8", "bind", "strictatime", "slave"),
    bind("/b9", "bind", "ro", "rw"),
    bind("/b10", "bind", "relatime", "unknown=1"),
    bind("/b11", "bind", "rnosymfollow"),
    bind("/b12", "rbind", "rshared"),
    bind("/b13", "bind", "unbindable"),
    bind("/changed", "rbind"),
    bind("/changed", "bind", "remount", "ro", "noexec"),
    bind("/a/file", "bind", source="@one"),
    bind("/etc/passwd", "bind", "ro", source="@one"),
    bind("/links/relative/x", "bind"),
    bind("/links/dangling", "bind"),
    bind("/links/file", "bind", source="@one"),
    bind("/a/../b", "bind"),
    bind("/proc/cpuinfo", "bind", source="@one"),
]

OTHERS = [
    mount("/links/absolute", "tmpfs"),
    mount("/links/up", "tmpfs"),
    mount("/pts", "devpts", "newinstance", "ptmxmode=0600", "mode=0600", "gid=7"),
    mount("/mq", "mqueue", "nosuid", "noexec"),
    mount("/p", "proc", "ro", "hidepid=2"),
    mount("/s", "sysfs", "nosuid"),
    mount("/proc/tty", "tmpfs", "ro"),
    mount("/sys/kernel", "tmpfs"),
]


@pytest.mark.parametrize(
    ("mounts", "script"),
    [
        (TMPFS, "stat -c '%n %a %u %g' /t* /tmp /etc /new /new/* /again; ls /etc; touch /t2/x /changed/x"),
        (BINDS, "stat -c '%n %F %a' /a /a/file /b /to/be; cat /a/file /etc/group; touch /b1/x /b5/x"),
        (OTHERS, "stat -c '%n %a %g' /pts/ptmx /real /real2; ls /proc/tty /sys/kernel; touch /proc/tty/x"),
    ],
    ids=["tmpfs", "bind", "others"],
)
def test_all_options(vruntime: Runtime, runc: Runtime, bundles: Bundles, mounts: list[Mount], script: str) -> None:
    expected = lines(runc, made(bundles, mounts, script))
    assert lines(vruntime, made(bundles, mounts, script)) == expected


@pytest.mark.parametrize("kind", ["/dev", "/proc"])
def test_read_only_ones_are_filled_before(vruntime: Runtime, runc: Runtime, bundles: Bundles, kind: str) -> None:
    def edit(config: dict[str, Any]) -> None:
        (entry,) = (entry for entry in config["mounts"] if entry["destination"] == kind)
        entry["options"] = ["nosuid", "ro", *(["mode=755"] if kind == "/dev" else [])]

    script = "touch /dev/x; echo 0 > /proc/self/oom_score_adj; ls -l /dev | cut -c1-10,57-"
    expected = lines(runc, made(bundles, [], script, edit))
    assert lines(vruntime, made(bundles, [], script, edit)) == expected


def test_mount_points_in_a_read_only_root(vruntime: Runtime, runc: Runtime, bundles: Bundles) -> None:
    """They are made in it; a tmpfs on a new one has its own mode, on an old one that of the directory."""
    mounts = [
        mount("/m/new", "tmpfs"),
        mount("/m/new/below", "tmpfs"),
        mount("/m/own", "tmpfs", "mode=711"),
        mount("/root", "tmpfs"),
        bind("/m/file", "bind", "ro", source="@one"),
    ]

    def edit(config: dict[str, Any]) -> None:
        config["root"]["readonly"] = True

    script = "stat -c '%n %a %F' /m /m/* /m/new/below /root; touch /x"
    bundle = made(bundles, mounts, script, edit)
    expected = lines(runc, made(bundles, mounts, script, edit))
    assert lines(vruntime, bundle) == expected
    assert (bundle / "rootfs/m/own").is_dir()


def test_a_device_as_source(any_runtime: Runtime, bundles: Bundles) -> None:
    """A guest has no device of the host, but its own of the same kind."""
    bundle = made(bundles, [bind("/dev/other", "bind", source="/dev/zero")], "head -c3 /dev/other | od -An -tx1")
    assert lines(any_runtime, bundle)[-1].split() == ["00", "00", "00"]


def test_masked_and_read_only_paths(vruntime: Runtime, runc: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["maskedPaths"] = ["/proc/timer_list", "/etc", "/real", "/missing", "/proc/tty"]
        config["linux"]["readonlyPaths"] = ["/root", "/proc/sys", "/missing", "/tmp"]

    script = "ls /etc /real; touch /etc/x /root/x /tmp/x; wc -c < /proc/timer_list"

    def seen(runtime: Runtime) -> list[str]:
        found = lines(runtime, made(bundles, [], script, edit))
        return [re.sub(r"/timer_list .*", "/timer_list", line) for line in found if "/proc/tty" not in line]

    expected = seen(runc)
    assert seen(vruntime) == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (bind("/proc", "bind"), '"/proc" cannot be mounted because it is not of type proc'),
        (bind("/proc/sys", "bind"), '"/proc/sys" cannot be mounted because it is inside /proc'),
        (mount("/t", "tmpfs", "size=x"), "invalid argument"),
        (mount("/t", "tmpfs", "nonsense=1"), "invalid argument"),
        (mount("/t", "tmpfs", "remount"), "invalid argument"),
        (bind("/etc", "bind", source="@one"), "not a directory"),
        (bind("/etc/passwd", "bind"), "not a directory"),
        (mount("/links/absolute", "proc"), 'filesystem "proc" must be mounted on ordinary directory'),
        (mount("/links/absolute", "sysfs"), 'filesystem "sysfs" must be mounted on ordinary directory'),
        (mount("/", "tmpfs"), ""),
    ],
    ids=lambda value: value["destination"] if isinstance(value, dict) else "",
)
def test_refused(any_runtime: Runtime, bundles: Bundles, entry: Mount, message: str) -> None:
    bundle = made(bundles, [entry], "true")
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
    said = result.stderr.decode().replace("\\", "")
    said = said.replace(f"{bundle}/rootfs", "")  # which runc names
    assert (result.returncode, message in said) == (1, True), said
