"""Values of config.json that cannot be: what `create` comes to with each, and that nothing is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cases import FOREVER, Apart, Call, Caller
from edits import linux, mounted, namespaces, process, resources, several, top

if TYPE_CHECKING:
    from cases import Config
    from runtimes import Edit

MAPPING = [{"containerID": 0, "hostID": 100000, "size": 1000}]


def case(name: str, edit: Edit, expected: str = "refused") -> Call:
    """A value that `create` refuses, unless something else is expected."""

    def do(caller: Caller) -> str:
        told = caller.create(caller.bundle(*FOREVER, edit=edit))
        return "accepted" if told.startswith("exit 0") else "refused" if told.startswith("exit 1") else told

    return Call(f"value-{name}", expected, do)


def without(*keys: str) -> Edit:
    """Takes a member away."""

    def edit(config: Config) -> None:
        for key in keys[:-1]:
            config = config[key]
        del config[keys[-1]]

    return edit


def rlimit(kind: str, soft: Any = 1, hard: Any = 2) -> Edit:
    return process(rlimits=[{"type": kind, "soft": soft, "hard": hard}])


def seccomp(**values: Any) -> Edit:
    return linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW", **values})


def filter_rule(**values: Any) -> Edit:
    return seccomp(syscalls=[{"names": ["sync"], "action": "SCMP_ACT_ERRNO", **values}])


def argument(**values: Any) -> Edit:
    return filter_rule(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **values}])


def sysctl(key: str) -> Edit:
    return linux(sysctl={key: "1"})


GROUPS = (
    Apart(
        "values",
        case("no-version", without("ociVersion"), "accepted"),
        case("version-unknown", top(ociVersion="9.0.0"), "accepted"),
        case("no-root", without("root")),
        case("no-process", without("process")),
        case("no-linux", without("linux")),
        case("root-empty", lambda config: config["root"].update(path="")),
        case("args-empty", process(args=[])),
        case("args-missing", without("process", "args")),
        case("cwd-empty", process(cwd="")),
        case("cwd-relative", process(cwd="tmp")),
        case("env-without-value", process(env=["PATH=/bin", "NO_VALUE"])),
        case("uid-negative", process(user={"uid": -1, "gid": 0})),
        case("uid-too-big", process(user={"uid": 2**32, "gid": 0})),
        case("uid-beyond-range", process(user={"uid": 2**31, "gid": 0})),
        case("gid-no-number", process(user={"uid": 0, "gid": "root"})),
        case("rlimit-unknown", rlimit("RLIMIT_NONE")),
        case("rlimit-no-name", rlimit("")),
        case("rlimit-soft-above-hard", rlimit("RLIMIT_NOFILE", 3, 2)),
        case("rlimit-negative", rlimit("RLIMIT_NOFILE", -1, 2)),
        case("rlimit-twice", process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}] * 2)),
        case("oom-score-too-high", process(oomScoreAdj=1001)),
        case("oom-score-too-low", process(oomScoreAdj=-1001)),
        case(
            "capability-lower-case",
            lambda config: config["process"]["capabilities"].update(bounding=["cap_kill"]),
            "accepted",
        ),
        case("scheduler-unknown", process(scheduler={"policy": "SCHED_NONE"})),
        case("scheduler-nice-too-high", process(scheduler={"policy": "SCHED_OTHER", "nice": 20})),
        case("scheduler-priority-for-others", process(scheduler={"policy": "SCHED_OTHER", "priority": 1})),
        case("scheduler-deadline-for-others", process(scheduler={"policy": "SCHED_OTHER", "runtime": 1})),
        case("ioprio-unknown", process(ioPriority={"class": "IOPRIO_CLASS_NONE_SUCH", "priority": 1})),
        case("hostname-too-long", top(hostname="a" * 65)),
        case("mount-no-destination", lambda config: config["mounts"].append({"type": "tmpfs", "source": "t"})),
        case("mount-unknown-type", mounted("/m", "nonesuch", "none")),
        case("mount-no-type", mounted("/m", None, "none")),
        case("mount-bind-no-source", mounted("/m", "bind", None, "rbind")),
        case("mount-bind-source-missing", mounted("/m", "bind", "/no/such/source", "rbind")),
        case("mount-unknown-option", mounted("/m", "tmpfs", "t", "nonesuch")),
        case("mount-bad-size", mounted("/m", "tmpfs", "t", "size=big")),
        case("mount-over-a-file", mounted("/etc/passwd", "tmpfs", "t")),
        case("mount-below-a-file", mounted("/etc/passwd/m", "tmpfs", "t")),
        case("mount-tmpfs-on-proc", mounted("/proc", "tmpfs", "t")),
        case("mount-tmpfs-in-proc", mounted("/proc/sys", "tmpfs", "t"), "accepted"),
        case("mount-bind-on-proc", mounted("/proc", "bind", "rootfs", "rbind")),
        case("mount-bind-in-proc", mounted("/proc/self", "bind", "rootfs", "rbind")),
        case("mount-bind-on-a-replaceable", mounted("/proc/uptime", "bind", "/etc/hostname", "bind"), "accepted"),
        case("mount-tmpfs-on-sys", mounted("/sys", "tmpfs", "t"), "accepted"),
        case(
            "mount-idmap-without-namespace",
            mounted("/m", "bind", "rootfs", "bind", uidMappings=MAPPING, gidMappings=MAPPING),
            "accepted",
        ),
        case("mount-idmap-one-sided", mounted("/m", "bind", "rootfs", "bind", uidMappings=MAPPING)),
        case("namespace-unknown", namespaces("nonesuch")),
        case("namespace-twice", lambda config: config["linux"]["namespaces"].append({"type": "pid"})),
        case("namespace-path-missing", lambda config: config["linux"]["namespaces"][0].update(path="/no/such/path")),
        case("no-mount-namespace", namespaces(without=("mount",))),
        case("hostname-without-uts", namespaces(without=("uts",))),
        case("mappings-without-user", linux(uidMappings=MAPPING, gidMappings=MAPPING)),
        case("user-without-mappings", namespaces("user")),
        case("mappings-overlap", several(namespaces("user"), linux(uidMappings=MAPPING * 2, gidMappings=MAPPING))),
        case("offsets-without-time", linux(timeOffsets={"monotonic": {"secs": 1}})),
        case("device-unknown-type", linux(devices=[{"path": "/dev/x", "type": "x", "major": 1, "minor": 3}])),
        case("device-no-path", linux(devices=[{"type": "c", "major": 1, "minor": 3}])),
        case("device-rule-unknown-access", resources(devices=[{"allow": True, "type": "c", "access": "q"}])),
        case("pids-no-number", resources(pids={"limit": "many"})),
        case("cpu-shares-negative", resources(cpu={"shares": -1})),
        case("io-weight-too-high", resources(blockIO={"weight": 1001})),
        case("sysctl-of-the-kernel", sysctl("kernel.panic")),
        case("sysctl-vm", sysctl("vm.swappiness")),
        case("sysctl-fs", sysctl("fs.file-max")),
        case("sysctl-hostname", sysctl("kernel.hostname")),
        case("sysctl-climbing", sysctl("net/../kernel/panic")),
        case("sysctl-net-without-namespace", several(namespaces(without=("network",)), sysctl("net.ipv4.ip_forward"))),
        case("sysctl-ipc-without-namespace", several(namespaces(without=("ipc",)), sysctl("kernel.msgmax"))),
        case("propagation-unknown", linux(rootfsPropagation="none")),
        case("masked-relative", linux(maskedPaths=["proc/kcore"])),
        case("seccomp-unknown-action", seccomp(defaultAction="SCMP_ACT_NONE")),
        case("seccomp-no-default", linux(seccomp={"syscalls": []})),
        case(
            "seccomp-unknown-architecture",
            seccomp(architectures=["SCMP_ARCH_NONE"], syscalls=[{"names": ["sync"], "action": "SCMP_ACT_ERRNO"}]),
        ),
        case(
            "seccomp-unknown-flag",
            seccomp(flags=["SECCOMP_FILTER_FLAG_NONE"], syscalls=[{"names": ["sync"], "action": "SCMP_ACT_ERRNO"}]),
        ),
        case("seccomp-rule-unknown-action", filter_rule(action="SCMP_ACT_NONE")),
        case("seccomp-rule-no-names", seccomp(syscalls=[{"names": [], "action": "SCMP_ACT_ERRNO"}]), "refused"),
        case("seccomp-unknown-operator", argument(op="SCMP_CMP_NONE")),
        case("seccomp-index-too-high", argument(index=6)),
        case("seccomp-notify-without-listener", filter_rule(action="SCMP_ACT_NOTIFY")),
        case("rdt", linux(intelRdt={"closID": "a"})),
        case("personality-unknown", linux(personality={"domain": "NONE"})),
        case("annotations-no-strings", top(annotations={"key": 1})),
        case("annotations-empty-key", top(annotations={"": "value"}), "accepted"),
        case("unknown-member", top(nonesuch={"a": 1}), "accepted"),
        case("selinux-label", process(selinuxLabel="system_u:system_r:container_t:s0")),
        case("apparmor-profile", process(apparmorProfile="unconfined")),
        case("other-platforms", top(windows={"layerFolders": ["a"]}), "accepted"),
    ),
)


def test_refusals(seen: Any, expected: Any) -> None:
    assert seen == expected
