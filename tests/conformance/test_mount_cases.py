"""`root` and `mounts` of config.json, as the process finds them (runtime-spec: config.md, "Root" and "Mounts")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cases import Inside, Question
from edits import mounted, several

if TYPE_CHECKING:
    from pathlib import Path


def attributes(mountinfo: str) -> str:
    """The attributes of a mount, by /proc/self/mountinfo."""
    fields = mountinfo.split()
    return fields[5] if len(fields) > 5 else mountinfo


def but_nodev(mountinfo: str) -> str:
    """The attributes but nodev, which all that comes from the host has in a machine of its own."""
    return attributes(mountinfo).replace(",nodev", "")


def propagation(mountinfo: str) -> str:
    """How mounts below a mount spread: its optional fields without numbers."""
    names = (name.partition(":")[0] for name in mountinfo.partition(" - ")[0].split()[6:])
    return " ".join(name for name in names if name != "propagate_from") or "private"


def kind(mountinfo: str) -> str:
    """The type of a mount, and the options of its file system."""
    fields = mountinfo.partition(" - ")[2].split()
    return f"{fields[0]} {fields[2]}" if fields else mountinfo


def having(*wanted: str) -> Any:
    """Which of these options the file system of a mount has."""

    def read(mountinfo: str) -> str:
        present = mountinfo.partition(" - ")[2].partition(" ")[2].replace(" ", ",").split(",")
        return " ".join(option for option in wanted if option in present)

    return read


def tmpfs(name: str, expected: str, *options: str) -> Question:
    """What attributes these options of a tmpfs give it."""
    at = f"/tmpfs/{name}"
    return Question(f"tmpfs-{name}", expected, f"mount {at}", mounted(at, "tmpfs", "tmpfs", *options), read=attributes)


def tmpfs_data(name: str, *options: str) -> Question:
    """That these options reach the file system as they are."""
    at = f"/tmpfs/{name}"
    return Question(
        f"tmpfs-{name}",
        " ".join(options),
        f"mount {at}",
        mounted(at, "tmpfs", "tmpfs", *options),
        read=having(*options),
    )


def bind(name: str, expected: str, *options: str, type: str | None = "bind") -> Question:
    """What attributes these options of a bind mount give it."""
    at = f"/bind/{name}"
    edit = mounted(at, type, "source", *options)
    return Question(f"bind-{name}", expected, f"mount {at}", edit, read=but_nodev)


def spread(name: str, expected: str, *options: str, type: str = "tmpfs") -> Question:
    """What propagation an option gives."""
    at = f"/spread/{name}"
    edit = mounted(at, type, "source", *options)
    return Question(f"propagation-{name}", expected, f"mount {at}", edit, read=propagation)


def fill(bundle: Path) -> None:
    """What mounts of the bundle's own are made of."""
    source, rootfs = bundle / "source", bundle / "rootfs"
    (source / "below").mkdir(parents=True)
    (source / "file").write_text("of the host")
    (source / "program").symlink_to("/bin/probe")
    (bundle / "one-file").write_text("a file of the host")
    (rootfs / "covered").mkdir(mode=0o711)
    (rootfs / "covered/file").write_text("covered")
    (rootfs / "copied/below").mkdir(parents=True)
    (rootfs / "copied/file").write_text("copied up")
    (rootfs / "copied/file").chmod(0o640)
    (rootfs / "existing-file").write_text("of the image")
    (rootfs / "real").mkdir()
    (rootfs / "link").symlink_to("/real")
    (rootfs / "climbing").symlink_to("../../../../real")
    (rootfs / "file-link").symlink_to("existing-file")


PLAIN = "rw,relatime"

GROUPS = (
    Inside(
        "file systems",
        tmpfs("plain", PLAIN),
        tmpfs("ro", "ro,relatime", "ro"),
        tmpfs("ro-rw", PLAIN, "ro", "rw"),
        tmpfs("nosuid", "rw,nosuid,relatime", "nosuid"),
        tmpfs("nosuid-suid", PLAIN, "nosuid", "suid"),
        tmpfs("nodev", "rw,nodev,relatime", "nodev"),
        tmpfs("nodev-dev", PLAIN, "nodev", "dev"),
        tmpfs("noexec", "rw,noexec,relatime", "noexec"),
        tmpfs("noexec-exec", PLAIN, "noexec", "exec"),
        tmpfs("noatime", "rw,noatime", "noatime"),
        tmpfs("strictatime", "rw", "strictatime"),
        tmpfs("relatime", PLAIN, "relatime"),
        tmpfs("norelatime", PLAIN, "norelatime"),
        tmpfs("nodiratime", "rw,nodiratime,relatime", "nodiratime"),
        tmpfs("nosymfollow", "rw,relatime,nosymfollow", "nosymfollow"),
        tmpfs("defaults", PLAIN, "defaults"),
        tmpfs(
            "all",
            "ro,nosuid,nodev,noexec,noatime,nodiratime",
            "ro",
            "nosuid",
            "nodev",
            "noexec",
            "noatime",
            "nodiratime",
        ),
        tmpfs_data("size", "size=1024k"),
        tmpfs_data("inodes", "nr_inodes=50"),
        tmpfs_data("mode", "mode=711"),
        tmpfs_data("owner", "uid=7", "gid=8"),
        tmpfs_data("sync", "sync"),
        tmpfs_data("dirsync", "dirsync"),
        tmpfs_data("lazytime", "lazytime"),
        Question("tmpfs-size-holds", "1024 ENOSPC", "fill /tmpfs/size/file"),
        Question("tmpfs-mode-shows", "d 711 0:0", "stat /tmpfs/mode"),
        Question("tmpfs-owner-shows", "d 1777 7:8", "stat /tmpfs/owner"),
        Question("tmpfs-ro-holds", "EROFS", "make /tmpfs/ro/file"),
        Question(
            "tmpfs-covers",
            ["d 711 0:0", ""],
            ("stat /covered", "list /covered"),
            mounted("/covered", "tmpfs", "tmpfs"),
        ),
        Question("tmpfs-copy-up", "below file", "list /copied", mounted("/copied", "tmpfs", "tmpfs", "tmpcopyup")),
        Question("tmpfs-copy-up-mode", "- 640 0:0", "stat /copied/file"),
        Question("tmpfs-copy-up-content", "copied up", "read /copied/file"),
        Question(
            "tmpfs-source",
            "my-source",
            "mount /source",
            mounted("/source", "tmpfs", "my-source"),
            read=lambda mountinfo: mountinfo.partition(" - ")[2].split()[1],
        ),
        Question(
            "order-nested",
            ["d 1777 0:0", "d 755 0:0"],
            ("stat /outer", "stat /outer/inner"),
            several(mounted("/outer", "tmpfs", "t"), mounted("/outer/inner", "tmpfs", "t", "mode=755")),
        ),
        Question(
            "order-covering",
            ["ENOENT", "1"],
            ("stat /late/early", "mounts /late"),
            several(mounted("/late/early", "tmpfs", "t"), mounted("/late", "tmpfs", "t")),
        ),
        Question(
            "twice-the-same",
            ["2", "d 700 0:0"],
            ("mounts /twice", "stat /twice"),
            several(mounted("/twice", "tmpfs", "t"), mounted("/twice", "tmpfs", "t", "mode=700")),
        ),
        Question(
            "through-a-link",
            ["1", "l 777 0:0"],
            ("mounts /real", "stat /link"),
            mounted("/link", "tmpfs", "t"),
        ),
        Question("through-a-climbing-link", "1", "mounts /real/deep", mounted("/climbing/deep", "tmpfs", "t")),
        Question("climbing-path", "1", "mounts /up", mounted("/../../up", "tmpfs", "t")),
        Question("relative-destination", "1", "mounts /relative/path", mounted("relative/path", "tmpfs", "t")),
        Question("proc-second", "proc rw", "mount /proc2", mounted("/proc2", "proc", "proc"), read=kind),
        Question("sysfs-second", PLAIN, "mount /sys2", mounted("/sys2", "sysfs", "sysfs"), read=attributes),
        Question("mqueue-second", "mqueue rw", "mount /mqueue2", mounted("/mqueue2", "mqueue", "mqueue"), read=kind),
        Question(
            "devpts-second",
            "gid=5 mode=620 ptmxmode=666",
            "mount /pts2",
            mounted("/pts2", "devpts", "devpts", "newinstance", "gid=5", "mode=0620", "ptmxmode=0666"),
            read=having("gid=5", "mode=620", "ptmxmode=666"),
        ),
        Question("proc-default", "rw,relatime", "mount /proc", read=attributes),
        Question(
            "dev-default",
            ["tmpfs", "rw,nosuid"],
            "mount /dev",
            read=lambda mountinfo: [kind(mountinfo).split()[0], attributes(mountinfo)],
        ),
        Question("dev-pts-default", "rw,nosuid,noexec,relatime", "mount /dev/pts", read=attributes),
        Question("dev-shm-default", "rw,nosuid,nodev,noexec,relatime", "mount /dev/shm", read=attributes),
        Question("dev-mqueue-default", "rw,nosuid,nodev,noexec,relatime", "mount /dev/mqueue", read=attributes),
        Question("sys-default", "ro,nosuid,nodev,noexec,relatime", "mount /sys", read=attributes),
        Question(
            "cgroup-default",
            "ro,nosuid,nodev,noexec,relatime",
            "mount /sys/fs/cgroup",
            read=attributes,
            on_cgroup_v1="rw,nosuid,nodev,noexec,relatime",
        ),
        prepare=fill,
    ),
    Inside(
        "binds",
        bind("plain", PLAIN, "bind"),
        bind("recursive", PLAIN, "rbind"),
        bind("by-type", PLAIN),
        bind("by-option", PLAIN, "rbind", type="none"),
        bind("no-type", PLAIN, "rbind", type=None),
        bind("ro", "ro,relatime", "rbind", "ro"),
        bind("ro-rw", PLAIN, "rbind", "ro", "rw"),
        bind("nosuid", "rw,nosuid,relatime", "rbind", "nosuid"),
        Question(
            "bind-dev",
            PLAIN,
            "mount /bind/dev",
            mounted("/bind/dev", "bind", "source", "rbind"),
            read=attributes,
        ),
        Question(
            "bind-nodev",
            "rw,nodev,relatime",
            "mount /bind/nodev",
            mounted("/bind/nodev", "bind", "source", "rbind", "nodev"),
            read=attributes,
        ),
        bind("noexec", "rw,noexec,relatime", "rbind", "noexec"),
        bind("noatime", "rw,noatime", "rbind", "noatime"),
        bind("nosymfollow", "rw,relatime,nosymfollow", "rbind", "nosymfollow"),
        bind("all", "ro,nosuid,noexec,noatime", "rbind", "ro", "nosuid", "nodev", "noexec", "noatime"),
        bind("rro", "ro,relatime", "rbind", "rro"),
        bind("rnosuid", "rw,nosuid,relatime", "rbind", "rnosuid"),
        bind("rnodev-rnoexec", "rw,noexec,relatime", "rbind", "rnodev", "rnoexec"),
        Question("bind-content", ["below file program", "of the host"], ("list /bind/plain", "read /bind/plain/file")),
        Question("bind-writes", "ok", "make /bind/plain/made"),
        Question("bind-ro-holds", ["EROFS", "EROFS"], ("make /bind/ro/made", "open w /bind/ro/file")),
        Question(
            "bind-noexec-holds",
            "EACCES",
            "exec /bind-program",
            mounted("/bind-program", "bind", "program", "bind", "noexec"),
        ),
        Question("bind-nosymfollow-holds", "ELOOP", "open r /bind/nosymfollow/program"),
        Question(
            "bind-file",
            "a file of the host",
            "read /new/file",
            mounted("/new/file", "bind", "one-file", "bind"),
        ),
        Question(
            "bind-over-a-file",
            "a file of the host",
            "read /existing-file",
            mounted("/existing-file", "bind", "one-file", "bind", "ro"),
        ),
        Question("bind-over-a-file-ro", "EROFS", "open w /existing-file"),
        Question(
            "bind-makes-directories",
            ["d 755 0:0", "d 755 0:0"],
            ("stat /deep", "stat /deep/er"),
            mounted("/deep/er/est", "bind", "source", "rbind"),
        ),
        Question(
            "root-writable",
            ["ok", "rw,relatime"],
            ("make /made", "mount /"),
            read=lambda made, root: [made, but_nodev(root)],
        ),
        prepare=lambda bundle: [fill(bundle), (bundle / "program").hardlink_to(bundle / "rootfs/bin/probe")],
    ),
    Inside(
        "an id-mapped bind",
        Question(
            "bind-id-mapped",
            "100000:200000",
            "stat /mapped",
            mounted(
                "/mapped",
                "bind",
                "/etc/hostname",
                "bind",
                "idmap",
                uidMappings=[{"containerID": 0, "hostID": 100000, "size": 1000}],
                gidMappings=[{"containerID": 0, "hostID": 200000, "size": 1000}],
            ),
            lambda stat: stat.split()[2],
        ),
    ),
    Inside(
        "propagation",
        spread("default", "private"),
        spread("private", "private", "private"),
        spread("rprivate", "private", "rprivate"),
        spread("shared", "shared", "shared"),
        spread("rshared", "shared", "rshared"),
        spread("unbindable", "unbindable", "unbindable"),
        spread("bind-private", "private", "rbind", "rprivate", type="bind"),
        spread("bind-shared", "shared", "rbind", "rshared", type="bind"),
        spread("bind-unbindable", "unbindable", "bind", "unbindable", type="bind"),
        prepare=fill,
    ),
)


def test_mounts(seen: Any, expected: Any) -> None:
    assert seen == expected
