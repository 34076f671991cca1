"""Processes that join a running container: `exec` with its flags and files; signals; limits changed by `update`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cases import FOREVER, PROBE, Alive, Apart, Call, Caller, answers_in
from edits import process, resources, several
from test_process_cases import AUDIT_WRITE, CHOWN, KILL, NET_BIND_SERVICE, NET_RAW, SETS, mask
from waiting import eventually

Do = Callable[[Caller], Any]

GIVEN = (KILL, NET_BIND_SERVICE, AUDIT_WRITE)


def asked(*questions: str, flags: tuple[str, ...] = ()) -> Do:
    """What a process that joins with these flags answers."""
    return lambda caller: caller.ask(*questions, flags=flags)


def executed(*words: str, flags: tuple[str, ...] = ()) -> Do:
    """What `exec` of a program comes to."""
    return lambda caller: caller.told("exec", *flags, caller.id, *words)


def code(do: Do) -> Do:
    """The exit code alone."""
    return lambda caller: do(caller).partition(":")[0]


def from_file(*questions: str, **changes: Any) -> Do:
    """What a process from a file answers."""

    def do(caller: Caller) -> Any:
        document = {
            "args": [PROBE, "--ask", *questions],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        }
        file = caller.directory / "process.json"
        file.write_text(json.dumps(document | changes))
        told = caller.told("exec", "--process", str(file), caller.id)
        if not told.startswith("exit 0"):
            return told
        answers = answers_in(told.removeprefix("exit 0: ").encode())
        seen = [answers[question] for question in questions]
        return seen[0] if len(seen) == 1 else seen

    return do


def detached(caller: Caller) -> Any:
    """A detached process: its pid file, and that it runs."""
    pid_file = caller.directory / "pid"
    told = caller.told("exec", "--detach", "--pid-file", str(pid_file), caller.id, "touch", "/tmp/was-here")
    eventually((caller.rootfs / "tmp/was-here").exists)
    return [told, pid_file.read_text().isdigit()]


def on_terminal(*questions: str, rows: int, columns: int) -> Do:
    """What a process on a terminal of this size answers."""

    def do(caller: Caller) -> Any:
        ours, theirs = os.openpty()
        subprocess.run(["stty", "rows", str(rows), "cols", str(columns)], stdin=theirs, check=True)
        command = caller.runtime.command("exec", "--tty", caller.id, PROBE, "--ask", *questions)
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True):
            os.close(theirs)
            output = all_of(ours)
        answers = answers_in(output.replace(b"\r", b""))
        seen = [answers.get(question) for question in questions]
        return seen[0] if len(seen) == 1 else seen

    return do


def terminal_of_init(*questions: str, **size: int) -> Do:
    """What init answers on a terminal that its engine gets through the console socket."""

    def do(caller: Caller) -> Any:
        bundle = caller.bundle(PROBE, "--ask", *questions, edit=process(consoleSize=size), terminal=True)
        path = str(caller.directory / "console.sock")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            server.settimeout(30)
            container_id = caller.runtime.new_id()
            told = caller.told("create", "--bundle", str(bundle), "--console-socket", path, container_id)
            if not told.startswith("exit 0"):
                return told
            connection, _ = server.accept()
            with connection:
                _, (master,), _, _ = socket.recv_fds(connection, 100, 1)
        caller.runtime("start", container_id)
        answers = answers_in(all_of(master).replace(b"\r", b""))
        return [answers.get(question) for question in questions]

    return do


def kinds(seen: Any) -> Any:
    """The size of a terminal, and its node without numbers."""
    return [seen[0], " ".join(str(seen[1]).split()[:3])] if isinstance(seen, list) else seen


def all_of(terminal: int) -> bytes:
    """What comes out of a terminal until nobody has it open any more, which reads as EIO."""
    output = b""
    with suppress(OSError):
        while piece := os.read(terminal, 65536):
            output += piece
    os.close(terminal)
    return output


def affine(caller: Caller) -> Any:
    """The CPUs of a process that joins a container with `execCPUAffinity`."""
    bundle = caller.bundle(*FOREVER, edit=process(execCPUAffinity={"initial": "0", "final": "0"}))
    caller.id = caller.runtime.new_id()
    told = caller.told("create", "--bundle", str(bundle), caller.id)
    if not told.startswith("exit 0"):
        return told
    caller.runtime("start", caller.id)
    return caller.ask("affinity")


FAILED = "exit 255: unable to start container process: "
NOT_FOUND = f'{FAILED}exec: "none": executable file not found in $PATH'

EXEC = Alive(
    "exec",
    Call("exec-exit-0", "exit 0: ", executed("true")),
    Call("exec-exit-7", "exit 7", code(executed("sh", "-c", "exit 7"))),
    Call("exec-exit-255", "exit 255", code(executed("sh", "-c", "exit 255"))),
    Call("exec-output", "exit 0: out", executed("sh", "-c", "echo out; echo err >&2")),
    Call("exec-program-missing", NOT_FOUND, executed("none")),
    Call(
        "exec-program-missing-absolute",
        f'{FAILED}exec: "/none": stat /none: no such file or directory',
        executed("/none"),
    ),
    Call("exec-program-not-executable", f'{FAILED}exec: "/etc/passwd": permission denied', executed("/etc/passwd")),
    Call("exec-program-a-directory", "exit 255", code(executed("/etc"))),
    Call("exec-no-program", "exit 255: process args cannot be empty", executed()),
    Call("exec-uid", ["0 0 0 0", "0 0 0 0"], asked("status Uid", "status Gid")),
    Call("exec-user", ["1000 1000 1000 1000", "0 0 0 0"], asked("status Uid", "status Gid", flags=("--user", "1000"))),
    Call(
        "exec-user-and-group",
        ["1000 1000 1000 1000", "100 100 100 100"],
        asked("status Uid", "status Gid", flags=("-u", "1000:100")),
    ),
    Call("exec-user-home", "/tmp", asked("env HOME", flags=("-u", "1000"))),
    Call("exec-user-unknown-home", "/", asked("env HOME", flags=("-u", "4242"))),
    Call("exec-user-name", "exit 255", code(executed("true", flags=("--user", "user")))),
    Call("exec-user-capabilities", [mask(), mask(), mask(), mask(*GIVEN), mask()], asked(*SETS, flags=("-u", "1000"))),
    Call("exec-groups", "7", asked("status Groups")),
    Call("exec-additional-gids", "7 20 30", asked("status Groups", flags=("-g", "20", "-g", "30"))),
    Call("exec-cwd", "/etc", asked("cwd")),
    Call("exec-cwd-given", "/tmp", asked("cwd", flags=("--cwd", "/tmp"))),
    Call("exec-cwd-missing", "exit 255", code(executed("true", flags=("--cwd", "/none")))),
    Call("exec-env", ["kept", "unset"], asked("env KEPT", "env NONE")),
    Call(
        "exec-env-given",
        ["changed", "a=b"],
        asked("env KEPT", "env NEW", flags=("-e", "KEPT=changed", "-e", "NEW=a=b")),
    ),
    Call("exec-env-empty", "", asked("env KEPT", flags=("-e", "KEPT="))),
    Call("exec-umask", "0027", asked("status Umask")),
    Call("exec-rlimit", "123 456", asked("rlimit NPROC")),
    Call("exec-oom-score-adj", "500", asked("read /proc/self/oom_score_adj")),
    Call("exec-no-new-privileges-not", "0", asked("status NoNewPrivs")),
    Call("exec-no-new-privileges", "1", asked("status NoNewPrivs", flags=("--no-new-privs",))),
    Call("exec-capabilities", [mask(), mask(*GIVEN), mask(*GIVEN), mask(*GIVEN), mask()], asked(*SETS)),
    Call(
        "exec-capabilities-added",
        [mask(*GIVEN, NET_RAW, CHOWN)] * 2,
        asked("status CapEff", "status CapBnd", flags=("--cap", "CAP_NET_RAW", "--cap", "CAP_CHOWN")),
    ),
    Call(
        "exec-capabilities-of-a-user",
        [mask(), mask(*GIVEN, NET_RAW)],
        asked("status CapEff", "status CapBnd", flags=("-u", "1000", "-c", "CAP_NET_RAW")),
    ),
    Call("exec-capability-unknown", mask(*GIVEN), asked("status CapEff", flags=("--cap", "CAP_NONE_SUCH"))),
    Call("exec-no-terminal", "ENOTTY", asked("terminal")),
    Call(
        "exec-terminal",
        ["40 rows, 90 columns", "c 620 0:5"],
        lambda caller: kinds(on_terminal("terminal", "stat /dev/pts/0", rows=40, columns=90)(caller)),
    ),
    Call("exec-open-files", "0 1 2", asked("open-files")),
    Call("exec-ids", ["ppid=0", "leader=1"], lambda caller: caller.ask("ids").split()[1:]),
    Call(
        "exec-namespaces",
        [True] * 4,
        lambda caller: [
            caller.ask(f"namespace {kind}", f"link /proc/1/ns/{kind}") == [caller.ask(f"link /proc/1/ns/{kind}")] * 2
            for kind in ("net", "pid", "mnt", "uts")
        ],
    ),
    Call("exec-hostname", "its-name", asked("uname nodename")),
    Call("exec-signals", [mask(), mask()], asked("status SigIgn", "status SigBlk")),
    Call("exec-detached", ["exit 0: ", True], detached),
    Call("exec-flags-of-the-program", "exit 0: --cwd -x", executed("echo", "-e", "--cwd", "-x")),
    Call("exec-process-file", ["0 0 0 0", "/", "PATH=/bin|HOME=/root"], from_file("status Uid", "cwd", "env")),
    Call(
        "exec-process-file-user",
        ["1000 1000 1000 1000", "100 100 100 100", "5 6", "0077"],
        from_file(
            "status Uid",
            "status Gid",
            "status Groups",
            "status Umask",
            user={"uid": 1000, "gid": 100, "additionalGids": [5, 6], "umask": 0o77},
        ),
    ),
    Call(
        "exec-process-file-capabilities",
        [mask(), mask(KILL), mask(KILL), mask(KILL), mask()],
        from_file(*SETS, capabilities={kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")}),
    ),
    Call("exec-process-file-no-capabilities", [mask()] * 5, from_file(*SETS, capabilities={})),
    Call(
        "exec-process-file-rlimit",
        "50 60",
        # Not of open files: Go's start raises the soft limit of those, which races with what runc sets.
        from_file("rlimit MEMLOCK", rlimits=[{"type": "RLIMIT_MEMLOCK", "soft": 50, "hard": 60}]),
    ),
    Call("exec-process-file-oom", "700", from_file("read /proc/self/oom_score_adj", oomScoreAdj=700)),
    Call("exec-process-file-no-new-privileges", "1", from_file("status NoNewPrivs", noNewPrivileges=True)),
    Call("exec-process-file-cwd", "/tmp", from_file("cwd", cwd="/tmp")),
    Call("exec-process-file-without-args", "exit 255", code(from_file("cwd", args=[]))),
    Call("exec-process-file-missing", "exit 255", code(executed(flags=("--process", "/no/such/file")))),
    edit=several(
        process(
            env=["PATH=/bin", "KEPT=kept"],
            cwd="/etc",
            noNewPrivileges=False,
            oomScoreAdj=500,
            rlimits=[{"type": "RLIMIT_NPROC", "soft": 123, "hard": 456}],
            user={"uid": 0, "gid": 0, "additionalGids": [7], "umask": 0o27},
        ),
        lambda config: config.update(hostname="its-name"),
    ),
)

# -- signals --------------------------------------------------------------------------------------------------------

ENDING = [
    "HUP",
    "INT",
    "QUIT",
    "ILL",
    "TRAP",
    "ABRT",
    "BUS",
    "FPE",
    "KILL",
    "USR1",
    "SEGV",
    "USR2",
    "PIPE",
    "ALRM",
    "TERM",
    "STKFLT",
    "XCPU",
    "XFSZ",
    "VTALRM",
    "PROF",
    "POLL",
    "PWR",
    "SYS",
    "RTMIN",
    "RTMAX",
]
IGNORED = ("CHLD", "CONT", "URG", "WINCH")
TRAPPED = ("HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "WINCH", "PWR")


def ended_by(name: str) -> Call:
    """The exit code of a process that a signal ends: 128 and its number."""
    number = int(getattr(signal, f"SIG{name}"))
    return Call(
        f"signal-ends-{name.lower()}", f"exit {128 + number}", code(executed(PROBE, "--ask", f"raise {number}"))
    )


def not_ended_by(name: str) -> Call:
    number = int(getattr(signal, f"SIG{name}"))
    return Call(f"signal-ignored-{name.lower()}", "exit 0", code(executed(PROBE, "--ask", f"raise {number}")))


def delivered(name: str, *arguments: str) -> Do:
    """Whether `kill` with this signal reaches init."""

    def do(caller: Caller) -> str:
        got = caller.rootfs / "got"
        got.write_text("")
        told = caller.told("kill", *arguments[1:], caller.id, arguments[0])
        if told.startswith("exit 0"):
            try:
                eventually(lambda: name in got.read_text().split(), timeout=5)
            except AssertionError:
                return "exit 0, but nothing came"
        return told

    return do


SIGNALS = Alive(
    "signals",
    *map(ended_by, ENDING),
    *map(not_ended_by, IGNORED),
    *(Call(f"kill-{name.lower()}", "exit 0: ", delivered(name, name)) for name in TRAPPED),
    Call("kill-with-prefix", "exit 0: ", delivered("USR1", "SIGUSR1")),
    Call("kill-in-lower-case", "exit 0: ", delivered("USR1", "usr1")),
    Call("kill-by-number", "exit 0: ", delivered("USR1", "10")),
    Call("kill-all", "exit 0: ", delivered("USR1", "USR1", "--all")),
    Call("kill-negative", "exit 1", code(lambda caller: caller.told("kill", caller.id, "--", "-1"))),
    args=(
        "sh",
        "-c",
        "".join(f"trap 'echo {name} >> /got' {name};" for name in TRAPPED) + "while :; do sleep 0.05; done",
    ),
    prepare=lambda bundle: (bundle / "rootfs/got").touch(),
)

# -- update ---------------------------------------------------------------------------------------------------------

MEBIBYTE = 1 << 20


def updated(*flags: str, v2: str, v1: str, input: dict[str, Any] | None = None) -> Do:
    """What a file of the cgroup holds after `update` with these flags."""

    def do(caller: Caller) -> str:
        if input is None:
            told = caller.told("update", *flags, caller.id)
        else:
            (file := caller.directory / "resources.json").write_text(json.dumps(input))
            told = caller.told("update", "--resources", str(file), caller.id)
        if not told.startswith("exit 0"):
            return told
        answers = caller.ask(f"read /sys/fs/cgroup/{v2}", f"read /sys/fs/cgroup/{v1}")
        return next((answer for answer in answers if answer != "ENOENT"), "no such file")

    return do


def from_standard_input(caller: Caller) -> str:
    with (caller.directory / "resources.json").open() as file:
        return caller.told("update", "--resources", "-", caller.id, stdin=file).partition(":")[0]


def refused_update(*flags: str) -> Do:
    return lambda caller: caller.told("update", *flags, caller.id).partition(":")[0]


MEMORY_V1, SOFT_V1, SWAP_V1 = (f"memory/memory.{name}_in_bytes" for name in ("limit", "soft_limit", "memsw.limit"))
M32, M64, M80 = (str(size * MEBIBYTE) for size in (32, 64, 80))

UPDATE = Alive(
    "update",
    Call("update-pids", "33", updated("--pids-limit", "33", v2="pids.max", v1="pids/pids.max")),
    Call("update-pids-unlimited", "max", updated("--pids-limit", "-1", v2="pids.max", v1="pids/pids.max")),
    Call(
        "update-cpu-shares",
        "20",
        updated("--cpu-share", "512", v2="cpu.weight", v1="cpu/cpu.shares"),
        on_cgroup_v1="512",
    ),
    Call(
        "update-cpu-quota",
        "50000 100000",
        updated("--cpu-quota", "50000", "--cpu-period", "100000", v2="cpu.max", v1="cpu/cpu.cfs_quota_us"),
        on_cgroup_v1="50000",
    ),
    Call("update-cpus", "0", updated("--cpuset-cpus", "0", v2="cpuset.cpus", v1="cpuset/cpuset.cpus")),
    Call("update-mems", "0", updated("--cpuset-mems", "0", v2="cpuset.mems", v1="cpuset/cpuset.mems")),
    Call("update-memory", M80, updated("--memory", "80M", "--memory-swap", "96M", v2="memory.max", v1=MEMORY_V1)),
    Call("update-memory-lower", M64, updated("--memory", M64, v2="memory.max", v1=MEMORY_V1)),
    Call("update-reservation", M32, updated("--memory-reservation", "32m", v2="memory.low", v1=SOFT_V1)),
    Call("update-from-a-document", "44", updated(v2="pids.max", v1="pids/pids.max", input={"pids": {"limit": 44}})),
    Call("update-from-standard-input", "exit 0", from_standard_input),
    Call("update-nothing", "exit 0", refused_update()),
    Call("update-memory-no-number", "exit 1", refused_update("--memory", "much")),
    Call("update-cpus-missing", "exit 1", refused_update("--cpuset-cpus", "900")),
    Call("update-unknown-flag", "exit 1", refused_update("--no-such-flag")),
    edit=resources(memory={"limit": 128 * MEBIBYTE}),
)

OTHERS = Apart(
    "others",
    Call(
        "terminal-size",
        ["30 rows, 100 columns", "c 620 0:5"],
        lambda caller: kinds(terminal_of_init("terminal", "stat /dev/console", height=30, width=100)(caller)),
    ),
    Call("exec-cpu-affinity", "0", affine),
)

GROUPS = (EXEC, SIGNALS, UPDATE, OTHERS)


def test_joining(seen: Any, expected: Any) -> None:
    assert seen == expected
