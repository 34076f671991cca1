"""`root.readonly`, masked and read-only paths, the root's propagation, and sysctl (runtime-spec: config-linux.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cases import REFUSED, Inside, Question
from edits import linux, mounted, several
from test_mount_cases import but_nodev, propagation

if TYPE_CHECKING:
    from pathlib import Path

    from cases import Config
    from runtimes import Edit


def masked(*paths: str) -> Edit:
    """Masks more paths."""
    return lambda config: config["linux"]["maskedPaths"].extend(paths)


def protected(*paths: str) -> Edit:
    """Makes more paths read-only."""
    return lambda config: config["linux"]["readonlyPaths"].extend(paths)


def hidden(content: str) -> str:
    """Whether nothing of a path shows: it is empty, or the kernel has none."""
    return "hidden" if content in ("", "ENOENT") else content


def hides(name: str, question: str) -> Question:
    """That a path which `runc spec` masks shows nothing."""
    return Question(f"masked-{name}", "hidden", question, read=hidden)


def fill(bundle: Path) -> None:
    rootfs = bundle / "rootfs"
    for name in ("secret", "kept", "kept/below", "tree"):
        (rootfs / name).mkdir()
        (rootfs / name / "file").write_text("content")
    for name in ("secret-file", "kept-file"):
        (rootfs / name).write_text("content")
    (rootfs / "secret-link").symlink_to("tree")


def spread(value: str, expected: str) -> Inside:
    """What the root's propagation is."""
    edit = linux(rootfsPropagation=value)
    return Inside(f"root {value}", Question(f"root-propagation-{value}", expected, "mount /", edit, propagation))


def sysctl(**values: str) -> Edit:
    """Sets kernel parameters; `__` stands for the dot."""

    def edit(config: Config) -> None:
        config["linux"].setdefault("sysctl", {}).update(
            {name.replace("__", "."): text for name, text in values.items()}
        )

    return edit


def parameter(name: str, value: str, key: str = "") -> Question:
    """A kernel parameter, whose file has this value afterwards."""

    def edit(config: Config) -> None:
        config["linux"].setdefault("sysctl", {})[key or name.replace("/", ".")] = value

    return Question(
        f"sysctl-{name.replace('/', '.')}",
        value.replace("\t", " "),
        f"read /proc/sys/{name}",
        edit,
        lambda text: text.replace("\t", " "),
    )


GROUPS = (
    Inside(
        "paths",
        hides("kcore", "read /proc/kcore"),
        hides("keys", "read /proc/keys"),
        hides("timer-list", "read /proc/timer_list"),
        hides("acpi", "list /proc/acpi"),
        hides("scsi", "list /proc/scsi"),
        hides("firmware", "list /sys/firmware"),
        Question(
            "masked-file", ["", "c 666 0:0 1:3"], ("read /secret-file", "stat /secret-file"), masked("/secret-file")
        ),
        Question("masked-directory", "", "list /secret", masked("/secret")),
        Question("masked-directory-is-read-only", "EROFS", "make /secret/made"),
        Question("masked-through-a-link", "", "list /tree", masked("/secret-link")),
        Question("masked-missing", "ENOENT", "stat /not-there", masked("/not-there")),
        Question(
            "readonly-directory", ["EROFS", "EROFS"], ("make /kept/made", "make /kept/below/made"), protected("/kept")
        ),
        Question("readonly-directory-reads", "content", "read /kept/file"),
        Question("readonly-file", "EROFS", "open w /kept-file", protected("/kept-file")),
        Question("readonly-missing", "ENOENT", "stat /not-there-either", protected("/not-there-either")),
        Question("readonly-proc-sys", "EROFS", "open w /proc/sys/kernel/domainname"),
        Question(
            "readonly-sysrq",
            "closed",
            "open w /proc/sysrq-trigger",
            read=lambda how: "closed" if how in ("EROFS", "ENOENT") else how,
        ),
        Question(
            "readonly-with-a-mount-below",
            ["EROFS", "ok"],
            ("make /over/made", "make /over/below/made"),
            several(mounted("/over", "tmpfs", "t"), mounted("/over/below", "tmpfs", "t"), protected("/over")),
        ),
        Question("proc-is-writable", "ok", "write /proc/self/oom_score_adj 1000"),
        prepare=fill,
    ),
    Inside(
        "a read-only root",
        Question(
            "root-readonly",
            ["EROFS", "ro,relatime"],
            ("make /new", "mount /"),
            read=lambda made, root: [made, but_nodev(root)],
        ),
        Question("root-readonly-tmpfs", "ok", "make /dev/shm/made"),
        Question("root-readonly-dev", "ok", "make /dev/made"),
        Question(
            "root-readonly-mounts-are-made", "d 1777 0:0", "stat /made/for/it", mounted("/made/for/it", "tmpfs", "t")
        ),
        Question("root-readonly-cwd-is-made", "/a/cwd", "cwd", lambda config: config["process"].update(cwd="/a/cwd")),
        edit=lambda config: config["root"].update(readonly=True),
    ),
    Inside(
        "nothing masked",
        Question(
            "masked-none",
            "open",
            "read /proc/version",
            linux(maskedPaths=[], readonlyPaths=[]),
            lambda text: "open" if text.startswith("Linux") else text,
        ),
        Question("readonly-none", "ok", "open w /proc/sys/kernel/domainname"),
    ),
    Inside("the root's default", Question("root-propagation-default", "private", "mount /", read=propagation)),
    spread("shared", "shared"),
    spread("private", "private"),
    spread("rslave", "private"),
    Inside(
        "kernel parameters",
        parameter("net/ipv4/ip_unprivileged_port_start", "80"),
        parameter("net/ipv4/ip_forward", "1"),
        parameter("net/ipv4/conf/lo/rp_filter", "2", key="net/ipv4/conf/lo/rp_filter"),
        parameter("net/core/somaxconn", "77"),
        parameter("kernel/msgmax", "4096"),
        parameter("kernel/msgmni", "123"),
        parameter("kernel/sem", "100 2000 50 60"),
        parameter("kernel/shmall", "1000"),
        parameter("kernel/shmmax", "65536"),
        parameter("kernel/shmmni", "100"),
        parameter("kernel/shm_rmid_forced", "1"),
        parameter("fs/mqueue/msg_max", "20"),
        parameter("fs/mqueue/queues_max", "30"),
    ),
    Inside(
        "a domain by sysctl",
        Question("sysctl-domainname", "by.sysctl", "uname domainname", sysctl(kernel__domainname="by.sysctl")),
    ),
    Inside("a wrong value", Question("sysctl-wrong-value", REFUSED, "cwd", sysctl(kernel__msgmax="many"))),
    Inside("a parameter that is not there", Question("sysctl-unknown", REFUSED, "cwd", sysctl(net__none="1"))),
)


def test_paths(seen: Any, expected: Any) -> None:
    assert seen == expected
