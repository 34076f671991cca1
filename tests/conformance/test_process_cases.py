"""`process` of config.json, as the process finds itself (runtime-spec: config.md, "Process")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cases import PROBE, Inside, Question
from edits import linux, process

if TYPE_CHECKING:
    from cases import Config
    from runtimes import Edit

CHOWN, KILL, SETUID, NET_BIND_SERVICE, NET_RAW, AUDIT_WRITE, BPF = 0, 5, 7, 10, 13, 29, 39
SETS = ("status CapInh", "status CapPrm", "status CapEff", "status CapBnd", "status CapAmb")
UNLIMITED = 2**64 - 1


def mask(*capabilities: int) -> str:
    """As /proc/self/status has a set of capabilities."""
    return f"{sum(1 << number for number in capabilities):016x}"


def limited(kind: str, soft: int, hard: int) -> Edit:
    """Sets a resource limit."""

    def edit(config: Config) -> None:
        others = [limit for limit in config["process"]["rlimits"] if limit["type"] != f"RLIMIT_{kind}"]
        config["process"]["rlimits"] = [*others, {"type": f"RLIMIT_{kind}", "soft": soft, "hard": hard}]

    return edit


def limit(kind: str, soft: int, hard: int) -> Question:
    """A resource limit that nobody lacks the right to set."""
    return Question(f"rlimit-{kind.lower()}", f"{soft} {hard}", f"rlimit {kind}", limited(kind, soft, hard))


def capabilities(**sets: str) -> Edit:
    """Sets the capabilities to those that each set names."""
    named = {kind: [f"CAP_{name}" for name in names.split()] for kind, names in sets.items()}
    return process(capabilities=named)


GROUPS = (
    Inside(
        "limits",
        limit("CPU", 1000, 2000),
        limit("FSIZE", 1 << 30, 1 << 31),
        limit("DATA", 1 << 31, 1 << 32),
        limit("STACK", 1 << 22, 1 << 23),
        limit("CORE", 0, 4096),
        limit("RSS", 1 << 29, 1 << 30),
        limit("NPROC", 100, 200),
        limit("NOFILE", 123, 456),
        limit("MEMLOCK", 4096, 8192),
        limit("AS", 1 << 32, 1 << 33),
        limit("LOCKS", 10, 20),
        limit("SIGPENDING", 10, 20),
        limit("MSGQUEUE", 1000, 2000),
        limit("NICE", 0, 0),
        limit("RTPRIO", 0, 0),
        limit("RTTIME", 1000, 2000),
        Question("oom-score-adj", "500", "read /proc/self/oom_score_adj", process(oomScoreAdj=500)),
        Question("no-new-privileges", "1", "status NoNewPrivs"),
        Question("umask-default", "0022", "status Umask"),
        Question("ignored-signals", mask(), "status SigIgn"),
        Question("blocked-signals", mask(), "status SigBlk"),
        Question("open-files", "0 1 2", "open-files"),
        Question("ids", "pid=1 ppid=0 leader=1", "ids"),
        Question("no-terminal", "ENOTTY", "terminal"),
        Question("securebits", "0", "securebits"),
        Question("dumpable", "1", "dumpable"),
        Question("scheduler-default", "OTHER nice=0 priority=0 flags=0", "scheduler"),
        Question("ioprio-default", "none 0", "ioprio"),
        Question("personality-default", "0", "personality"),
        Question("capabilities-default", [mask(), *[mask(KILL, NET_BIND_SERVICE, AUDIT_WRITE)] * 3, mask()], SETS),
        Question("groups-none", "", "status Groups"),
        Question("session-keyring", "_ses.ID", "keyring"),
    ),
    Inside(
        "more than the host has",
        Question("rlimit-raised", "200000 200000", "rlimit NOFILE", limited("NOFILE", 200000, 200000)),
        Question(
            "rlimit-unlimited",
            "unlimited unlimited",
            "rlimit MEMLOCK",
            limited("MEMLOCK", UNLIMITED, UNLIMITED),
        ),
        Question("rlimit-nice-raised", "20 30", "rlimit NICE", limited("NICE", 20, 30)),
        Question("rlimit-rtprio-raised", "20 30", "rlimit RTPRIO", limited("RTPRIO", 20, 30)),
        Question("oom-score-lowered", "-500", "read /proc/self/oom_score_adj", process(oomScoreAdj=-500)),
    ),
    Inside(
        "a user",
        Question("user-uid", "1000 1000 1000 1000", "status Uid"),
        Question("user-gid", "100 100 100 100", "status Gid"),
        Question("user-groups", "5 6 2147483647", "status Groups"),
        Question("user-umask", "0027", "status Umask"),
        Question("user-home", "/tmp", "env HOME"),
        Question("user-env", "PATH=/bin|EMPTY=|EQUALS=a=b|SPACED= a b |UMLAUT=ü|HOME=/tmp", "env"),
        Question("user-cwd", "/home/of/user", "cwd"),
        Question("user-argv", "probe||a b|--|ü|\n|*", "argv"),
        Question("user-capabilities", [mask(), mask(), mask(), mask(KILL, NET_RAW), mask()], SETS),
        Question("user-cannot-write-root", "EACCES", "make /made"),
        Question("user-dumpable", "1", "dumpable"),
        Question("privileges-kept", "0", "status NoNewPrivs"),
        edit=lambda config: config["process"].update(
            args=["probe", "", "a b", "--", "ü", "\n", "*"],
            env=["PATH=/bin", "EMPTY=", "EQUALS=a=b", "SPACED= a b ", "UMLAUT=ü"],
            cwd="/home/of/user",
            user={"uid": 1000, "gid": 100, "additionalGids": [5, 6, 2147483647], "umask": 0o27},
            capabilities={"bounding": ["CAP_KILL", "CAP_NET_RAW"]},
            noNewPrivileges=False,
        ),
    ),
    Inside(
        "an unknown user",
        Question("unknown-user-uid", " ".join(["2147483647"] * 4), "status Uid"),
        Question("unknown-user-home", "/", "env HOME"),
        Question("unknown-user-umask", "0777", "status Umask"),
        Question(
            "ambient-capabilities",
            [mask(KILL), mask(KILL), mask(KILL), mask(CHOWN, KILL), mask(KILL)],
            SETS,
            capabilities(
                bounding="KILL CHOWN", effective="CHOWN", permitted="KILL CHOWN", inheritable="KILL", ambient="KILL"
            ),
        ),
        edit=process(user={"uid": 2147483647, "gid": 2147483647, "umask": 0o777}),
    ),
    Inside(
        "capabilities of root",
        Question(
            "root-gets-what-is-bounding",
            [mask(SETUID), *[mask(KILL, SETUID)] * 3, mask()],
            SETS,
            capabilities(bounding="KILL SETUID", effective="KILL", permitted="KILL SETUID", inheritable="SETUID"),
        ),
        Question("home-given", "/given", "env HOME", process(env=["PATH=/bin", "HOME=/given"])),
        Question("env-no-more", "PATH=/bin|HOME=/given", "env"),
    ),
    Inside(
        "no capabilities",
        Question("capabilities-none", [mask()] * 5, SETS, capabilities(bounding="", permitted="")),
        Question("capabilities-none-effect", "EPERM", "call 170 0 0"),
        Question("env-empty", "HOME=/root", "env", process(env=[], args=[PROBE])),
    ),
    Inside(
        "no process.capabilities",
        Question("capabilities-absent", [mask()] * 5, SETS, lambda config: config["process"].pop("capabilities")),
    ),
    Inside(
        "unknown capabilities",
        Question(
            "capabilities-unknown",
            [mask(), *[mask(KILL)] * 3, mask()],
            SETS,
            capabilities(bounding="KILL NONE_SUCH", effective="KILL", permitted="KILL", ambient="KILL"),
        ),
    ),
    Inside(
        "batch",
        Question(
            "scheduler-batch",
            "BATCH nice=5 priority=0 flags=0",
            "scheduler",
            process(scheduler={"policy": "SCHED_BATCH", "nice": 5}),
        ),
        Question(
            "ioprio-best-effort",
            "be 3",
            "ioprio",
            process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 3}),
        ),
    ),
    Inside(
        "idle",
        Question(
            "scheduler-idle",
            "IDLE nice=0 priority=0 flags=0",
            "scheduler",
            process(scheduler={"policy": "SCHED_IDLE"}),
        ),
        Question(
            "ioprio-idle",
            "idle 0",
            "ioprio",
            process(ioPriority={"class": "IOPRIO_CLASS_IDLE", "priority": 0}),
        ),
    ),
    Inside(
        "real time",
        Question(
            "scheduler-fifo",
            "FIFO nice=0 priority=10 flags=1",
            "scheduler",
            process(scheduler={"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
        ),
        Question(
            "ioprio-real-time",
            "rt 2",
            "ioprio",
            process(ioPriority={"class": "IOPRIO_CLASS_RT", "priority": 2}),
        ),
    ),
    Inside(
        "round robin",
        Question(
            "scheduler-rr",
            "RR nice=0 priority=20 flags=0",
            "scheduler",
            process(scheduler={"policy": "SCHED_RR", "priority": 20}),
        ),
    ),
    Inside(
        "deadline",
        Question(
            "scheduler-deadline",
            "DEADLINE nice=0 priority=0 flags=0 1000000/5000000/10000000",
            "scheduler",
            process(
                scheduler={"policy": "SCHED_DEADLINE", "runtime": 1000000, "deadline": 5000000, "period": 10000000}
            ),
        ),
    ),
    Inside(
        "an execution domain",
        Question(
            "personality-32",
            "8",
            "personality",
            linux(personality={"domain": "LINUX32"}),
        ),
        Question(
            "personality-32-machine",
            "i686",
            "uname machine",
            linux(personality={"domain": "LINUX32"}),
        ),
    ),
)


def test_process(seen: Any, expected: Any) -> None:
    assert seen == expected
