"""`linux.seccomp`, by what becomes of real system calls (runtime-spec: config-linux.md, "Seccomp")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cases import Inside, Question
from edits import linux, process, several

if TYPE_CHECKING:
    from cases import Config
    from runtimes import Edit

# Numbers of x86-64, of calls that do no harm and always succeed.
GETPRIORITY, SCHED_GET_MAX, SCHED_GET_MIN, GETSID, UMASK, ALARM, PERSONALITY, SETPRIORITY = (
    140,
    146,
    147,
    124,
    95,
    37,
    135,
    141,
)
GETPGID, SYSINFO, GETPPID, SYNC, GETEUID, GETEGID, GETPGRP, TIMES = 121, 99, 110, 162, 107, 108, 111, 100
GETEUID_OF_386 = 49
X32 = 0x40000000

# What it takes to become the probe, and to be it.
NEEDED = [
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "clone",
    "clone3",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "eventfd2",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fchown",
    "fcntl",
    "fgetxattr",
    "fstat",
    "fstatfs",
    "fsync",
    "futex",
    "getcwd",
    "getdents64",
    "getgid",
    "getgroups",
    "getpgid",
    "getpid",
    "getppid",
    "getrandom",
    "getrlimit",
    "gettid",
    "getuid",
    "getxattr",
    "ioctl",
    "kill",
    "lseek",
    "lstat",
    "madvise",
    "membarrier",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe2",
    "poll",
    "prctl",
    "pread64",
    "prlimit64",
    "pwrite64",
    "read",
    "readlink",
    "readlinkat",
    "recvfrom",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "seccomp",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setrlimit",
    "setsid",
    "setuid",
    "sigaltstack",
    "socket",
    "stat",
    "statfs",
    "statx",
    "sysinfo",
    "tgkill",
    "umask",
    "uname",
    "wait4",
    "write",
    "writev",
]


def rule(*names: str, action: str = "ERRNO", errno: int | None = None, **arguments: Any) -> Edit:
    """Adds a rule; an argument is `arg0=(operator, value, second value)`."""
    args = [
        {
            "index": int(name[3:]),
            "op": f"SCMP_CMP_{op}",
            "value": value[0],
            **({"valueTwo": value[1]} if value[1:] else {}),
        }
        for name, (op, *value) in arguments.items()
    ]
    made = {"names": list(names), "action": f"SCMP_ACT_{action}", "errnoRet": errno, "args": args or None}

    def edit(config: Config) -> None:
        seccomp = config["linux"].setdefault("seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []})
        seccomp["syscalls"].append({key: value for key, value in made.items() if value is not None})

    return edit


def seccomp(**values: Any) -> Edit:
    """Sets members of `linux.seccomp`."""
    return lambda config: (
        config["linux"].setdefault("seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}).update(values)
    )


def compared(name: str, expected: list[str], edit: Edit, number: int, *arguments: str) -> Question:
    """What becomes of a call with each of these arguments."""
    return Question(f"seccomp-{name}", expected, tuple(f"call {number} {values}" for values in arguments), edit)


def filtered(name: str, expected: Any, ask: Any, *edits: Edit) -> Inside:
    """A container with a filter of its own."""
    return Inside(name, Question(f"seccomp-{name}", expected, ask, several(*edits)))


REFUSES, ALLOWS = "EOPNOTSUPP", "ok"

GROUPS = (
    Inside("no filter", Question("seccomp-none", "0", "status Seccomp")),
    Inside(
        "rules",
        Question("seccomp-filter", "2", "status Seccomp"),
        Question("seccomp-errno-default", "EPERM", f"call {GETEUID}", rule("geteuid")),
        Question("seccomp-errno", "EHWPOISON", f"call {GETEGID}", rule("getegid", errno=133)),
        Question("seccomp-errno-zero", "ok", f"call {GETPPID}", rule("getppid", errno=0)),
        Question(
            "seccomp-several-names", ["EPERM", "EPERM"], (f"call {SYNC}", f"call {TIMES} 0"), rule("sync", "times")
        ),
        Question("seccomp-unknown-name", "ok", "cwd", rule("none_such"), lambda cwd: "ok"),
        Question("seccomp-other-calls", "ok", f"call {GETPGRP}"),
        compared(
            "equal",
            [REFUSES, ALLOWS],
            rule("sched_get_priority_max", errno=95, arg0=("EQ", 1)),
            SCHED_GET_MAX,
            "1",
            "2",
        ),
        compared(
            "not-equal",
            [ALLOWS, REFUSES],
            rule("sched_get_priority_min", errno=95, arg0=("NE", 1)),
            SCHED_GET_MIN,
            "1",
            "2",
        ),
        compared("less", [REFUSES, ALLOWS, ALLOWS], rule("umask", errno=95, arg0=("LT", 10)), UMASK, "9", "10", "11"),
        compared(
            "less-or-equal",
            [REFUSES, REFUSES, ALLOWS],
            rule("alarm", errno=95, arg0=("LE", 10)),
            ALARM,
            "9",
            "10",
            "11",
        ),
        compared(
            "greater-or-equal",
            [ALLOWS, REFUSES, REFUSES],
            rule("getpriority", errno=95, arg0=("GE", 1)),
            GETPRIORITY,
            "0 0",
            "1 0",
            "2 0",
        ),
        compared("greater", [ALLOWS, REFUSES], rule("getsid", errno=95, arg0=("GT", 0)), GETSID, "0", "1"),
        compared(
            "masked",
            [REFUSES, REFUSES, ALLOWS],
            rule("personality", errno=95, arg0=("MASKED_EQ", 0xFF, 8)),
            PERSONALITY,
            "0x8",
            "0x40008",
            "0x40000",
        ),
        compared(
            "two-arguments",
            [REFUSES, ALLOWS, ALLOWS],
            rule("setpriority", errno=95, arg0=("EQ", 0), arg2=("EQ", 3)),
            SETPRIORITY,
            "0 0 3",
            "0 0 4",
            "2 0 3",
        ),
        compared(
            "one-of-two-rules",
            [REFUSES, "EPERM", "ESRCH"],
            several(rule("getpgid", errno=95, arg0=("EQ", 1)), rule("getpgid", errno=1, arg0=("EQ", 0))),
            GETPGID,
            "1",
            "0",
            "2",
        ),
    ),
    filtered(
        "value-of-64-bits",
        [REFUSES, ALLOWS],
        (f"call {UMASK} 0x100000012", f"call {UMASK} 0x12"),
        rule("umask", errno=95, arg0=("EQ", 0x100000012)),
    ),
    filtered("kill", "SIGSYS", f"call {SYNC}", rule("sync", action="KILL")),
    filtered(
        "kill-process", ["SIGSYS", "SIGSYS"], (f"call {SYNC}", f"thread {SYNC}"), rule("sync", action="KILL_PROCESS")
    ),
    filtered(
        "kill-thread", ["SIGSYS", "ESRCH"], (f"call {SYNC}", f"thread {SYNC}"), rule("sync", action="KILL_THREAD")
    ),
    filtered("trap", "trapped", f"call {SYNC}", rule("sync", action="TRAP")),
    filtered("trace-without-tracer", "ENOSYS", f"call {SYNC}", rule("sync", action="TRACE")),
    filtered("log", "ok", f"call {SYNC}", rule("sync", action="LOG")),
    filtered(
        "allow-in-a-list",
        ["ok", "EPERM", "ok"],
        (f"call {GETPGRP}", f"call {SYNC}", f"call {UMASK} 0x12"),
        seccomp(defaultAction="SCMP_ACT_ERRNO"),
        rule(*NEEDED, "getpgrp", action="ALLOW"),
    ),
    filtered(
        "default-errno",
        [REFUSES, "ok"],
        (f"call {SYNC}", f"call {UMASK} 0x12"),
        seccomp(defaultAction="SCMP_ACT_ERRNO", defaultErrnoRet=95),
        rule(*NEEDED, action="ALLOW"),
    ),
    filtered(
        "default-kill",
        ["SIGSYS", "ok"],
        (f"call {SYNC}", f"call {UMASK} 0x12"),
        seccomp(defaultAction="SCMP_ACT_KILL_PROCESS"),
        rule(*NEEDED, action="ALLOW"),
    ),
    filtered(
        "architecture-386",
        ["EPERM", "EPERM"],
        (f"call {GETEUID}", f"call32 {GETEUID_OF_386}"),
        seccomp(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]),
        rule("geteuid", "geteuid32"),
    ),
    filtered(
        "architecture-386-missing",
        "SIGSYS",
        f"call32 {GETEUID_OF_386}",
        seccomp(architectures=["SCMP_ARCH_X86_64"]),
        rule("geteuid"),
    ),
    filtered(
        "architecture-x32-missing",
        "SIGSYS",
        f"call {X32 + GETEUID}",
        seccomp(architectures=["SCMP_ARCH_X86_64"]),
        rule("geteuid"),
    ),
    filtered(
        "architecture-foreign",
        "EPERM",
        f"call {GETEUID}",
        seccomp(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]),
        rule("geteuid"),
    ),
    filtered("flag-log", "EPERM", f"call {GETEUID}", seccomp(flags=["SECCOMP_FILTER_FLAG_LOG"]), rule("geteuid")),
    filtered(
        "flag-spec-allow",
        "EPERM",
        f"call {GETEUID}",
        seccomp(flags=["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
        rule("geteuid"),
    ),
    filtered("flag-tsync", "EPERM", f"call {GETEUID}", seccomp(flags=["SECCOMP_FILTER_FLAG_TSYNC"]), rule("geteuid")),
    filtered(
        "privileges-kept",
        ["EPERM", "2", "0"],
        (f"call {GETEUID}", "status Seccomp", "status NoNewPrivs"),
        process(noNewPrivileges=False),
        rule("geteuid"),
    ),
    filtered(
        "as-a-user",
        ["EPERM", "1000 1000 1000 1000"],
        (f"call {GETEUID}", "status Uid"),
        process(user={"uid": 1000, "gid": 1000}),
        rule("geteuid"),
    ),
    filtered("empty", "2", "status Seccomp", linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW"})),
)


def test_filters(seen: Any, expected: Any) -> None:
    assert seen == expected
