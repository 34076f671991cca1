"""What a process finds in its container, seen from inside, and from the host where that is what counts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waiting import eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Edit, Runtime

RUNC = "/usr/sbin/runc"

FOREVER = ("sleep", "1000")
ALL_CAPABILITIES = [
    f"CAP_{name}" for name in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SYS_ADMIN", "SETUID")
]


def inside(runtime: Runtime, bundles: Bundles, script: str, edit: Edit | None = None) -> list[str]:
    """The lines that a shell script prints in a container of its own."""
    bundle = bundles.busybox("sh", "-c", script, edit=edit)
    return runtime("run", "--bundle", str(bundle), runtime.new_id()).stdout.decode().splitlines()


def debian(runtime: Runtime, bundles: Bundles, script: str, edit: Edit | None = None) -> list[str]:
    """The lines that a Python script prints in a container of its own."""
    bundle = bundles.debian("python3", "-c", script, edit=edit)
    return runtime("run", "--bundle", str(bundle), runtime.new_id()).stdout.decode().splitlines()


def grant(config: dict[str, Any], capabilities: list[str] = ALL_CAPABILITIES) -> None:
    """Gives the process these capabilities in every set."""
    process = config["process"]
    process["capabilities"] = dict.fromkeys(
        ("bounding", "effective", "inheritable", "permitted", "ambient"), capabilities
    )
    process["noNewPrivileges"] = False


# -- the machine --------------------------------------------------------------------------------------------------


def test_the_kernel_is_the_guests_own(vruntime: Runtime, bundles: Bundles) -> None:
    script = """
    uname -r; cat /proc/sys/kernel/random/boot_id; cut -d. -f1 /proc/uptime; date +%s
    wc -c < /proc/cmdline; cat /proc/version; ls /sys/class/net; cat /proc/net/if_inet6; echo /dev/kv[m] /dev/vd*
    """
    began = time.time()
    kernel, boot_id, uptime, clock, *rest = inside(vruntime, bundles, script)
    assert kernel != os.uname().release
    assert boot_id != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert int(uptime) < 60
    assert began - 2 <= int(clock) <= time.time() + 2
    assert "lo" in rest
    assert any(re.fullmatch(r"0{31}1 .* lo", line) for line in rest), "no IPv6 on lo"
    assert "/dev/kv[m] /dev/vd*" in rest, "the machine has no such device"


def test_entropy_and_sockets(vruntime: Runtime, bundles: Bundles) -> None:
    script = """
import os, socket
print(len(os.getrandom(512, os.GRND_NONBLOCK)))
for family, address in (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"):
    with socket.create_server((address, 0), family=family) as server:
        with socket.create_connection(server.getsockname()[:2]) as client, server.accept()[0] as peer:
            client.sendall(b"over lo")
            print(peer.recv(100).decode())
"""
    assert debian(vruntime, bundles, script) == ["512", "over lo", "over lo"]


# -- the process --------------------------------------------------------------------------------------------------


def test_identity(any_runtime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["hostname"] = "its-own-name"
        config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [10, 20], "umask": 0o27}
        config["process"]["cwd"] = "/tmp"
        config["process"]["env"] = ["PATH=/bin", "EMPTY=", "EQUALS=a=b", "TWICE=1", "TWICE=2"]
        config["process"]["rlimits"] = [
            {"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]
        config["process"]["oomScoreAdj"] = 100

    script = """
    hostname; pwd; echo $$; umask; cat /proc/self/oom_score_adj; echo "$EMPTY|$EQUALS|$TWICE|$HOME"
    grep -E '^(Uid|Gid|Groups|NoNewPrivs):' /proc/self/status
    grep -E 'open files|core file' /proc/self/limits
    """
    lines = [" ".join(line.split()) for line in inside(any_runtime, bundles, script, edit)]
    assert lines == [
        "its-own-name",
        "/tmp",
        "1",
        "0027",
        "100",
        "|a=b|2|/tmp",
        "Uid: 1000 1000 1000 1000",
        "Gid: 1000 1000 1000 1000",
        "Groups: 10 20",
        "NoNewPrivs: 1",
        "Max core file size 0 0 bytes",
        "Max open files 123 456 files",
    ]


def test_namespaces(any_runtime: Runtime, bundles: Bundles) -> None:
    """Each that is listed is the container's own; an exec joins them all."""
    script = "for name in ipc mnt net pid uts; do readlink /proc/self/ns/$name; done"
    bundle = bundles.busybox("sh", "-c", f"{script}; sleep 1000")
    container = any_runtime.start(bundle)
    eventually(lambda: len((bundle / "create.log").read_text().splitlines()) == 5)
    init = (bundle / "create.log").read_text()
    assert any_runtime("exec", container, "sh", "-c", script).stdout.decode() == init
    host = {os.readlink(f"/proc/self/ns/{name}") for name in ("ipc", "mnt", "net", "pid", "uts")}
    assert any_runtime.program != RUNC or not host & set(init.split()), "numbers of two kernels may well coincide"
    processes = any_runtime("exec", container, "sh", "-c", "echo /proc/[0-9]*").stdout.split()
    assert len(processes) in (2, 3), "a process of another container, or the agent, shows"


def test_capabilities(any_runtime: Runtime, bundles: Bundles) -> None:
    """The five sets, for root and for a user, to whom only ambient ones pass."""

    def edit(config: dict[str, Any]) -> None:
        config["process"]["capabilities"] = {
            "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"],
            "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_CHOWN"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        }
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    lines = inside(any_runtime, bundles, "grep Cap /proc/self/status", edit)
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in lines}
    chown, kill, net_raw = 1 << 0, 1 << 5, 1 << 13
    assert sets == {"CapInh": kill, "CapPrm": kill, "CapEff": kill, "CapBnd": kill | chown | net_raw, "CapAmb": kill}


def test_seccomp(any_runtime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
                {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["unknown_to_all"], "action": "SCMP_ACT_ERRNO"},
                {
                    "names": ["kill"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 11,
                    "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}],
                },
            ],
        }

    script = "grep Seccomp: /proc/self/status; mkdir /tmp/x; hostname x; kill -USR1 $$; kill -0 $$; [ ! -d /tmp/x ]"
    bundle = bundles.busybox("sh", "-c", f"exec 2>&1; {script}", edit=edit)
    container = any_runtime.start(bundle)
    eventually(lambda: any_runtime.state(container)["status"] == "stopped")
    assert (bundle / "create.log").read_text().splitlines() == [
        "Seccomp:\t2",
        "mkdir: can't create directory '/tmp/x': Operation not supported",
        "hostname: sethostname: Operation not permitted",
        "sh: can't kill pid 1: Resource temporarily unavailable",
    ]


def test_seccomp_holds_for_exec(any_runtime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

    container = any_runtime.start(bundles.busybox(*FOREVER, edit=edit))
    assert any_runtime("exec", container, "mkdir", "/tmp/x", check=False).returncode == 1
    assert any_runtime("exec", container, "grep", "-c", "Seccomp:.2", "/proc/self/status").stdout == b"1\n"


def test_setuid_bits(vruntime: Runtime, bundles: Bundles) -> None:
    """They work in the guest, while on the host the shared mounts are nosuid, nodev and noexec."""

    def edit(config: dict[str, Any]) -> None:
        grant(config, ["CAP_SETUID", "CAP_SETGID"])
        config["process"]["capabilities"]["ambient"] = []
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    bundle = bundles.debian("sh", "-c", "/id; sleep 1000", edit=edit)
    program = bundle / "rootfs/id"
    program.write_bytes((bundle / "rootfs/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    container = vruntime.start(bundle)
    eventually((bundle / "create.log").read_text)
    assert (bundle / "create.log").read_text() == "uid=1000 gid=1000 euid=0(root) groups=1000\n"

    record = json.loads((vruntime.root / "containers" / container / "state.json").read_text())
    monitor = record["monitor"]["pid"]
    shared = [
        line.split()
        for line in Path(f"/proc/{monitor}/mountinfo").read_text().splitlines()
        if f"/sandboxes/{container}/share/{container}/" in line
    ]
    assert shared
    assert all({"nosuid", "nodev", "noexec"} <= set(line[5].split(",")) for line in shared)


# -- files --------------------------------------------------------------------------------------------------------


def test_mounts(any_runtime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        options = ["nosuid", "noexec", "nodev", "mode=1711", "size=1024k", "gid=5"]
        config["mounts"] += [{"destination": "/sized", "type": "tmpfs", "source": "tmpfs", "options": options}]

    script = r"""
    while read -r _ at type options _; do echo "$at $type $options"; done < /proc/mounts
    stat -c '%n %a %g' /sized /dev/shm /dev/pts /dev/mqueue
    dd if=/dev/zero of=/sized/file bs=1k count=1025 2>/dev/null; stat -c %s /sized/file
    """
    lines = inside(any_runtime, bundles, script, edit)
    mounts = {at: (kind, set(options.split(","))) for at, kind, options in (line.split(" ", 2) for line in lines[:-5])}
    for at, kind, options in [
        ("/proc", "proc", set()),
        ("/sys", "sysfs", {"ro", "nosuid", "noexec", "nodev"}),
        ("/dev", "tmpfs", {"nosuid", "mode=755"}),
        ("/dev/pts", "devpts", {"nosuid", "noexec", "ptmxmode=666", "mode=620"}),
        ("/dev/shm", "tmpfs", {"nosuid", "noexec", "nodev", "size=65536k"}),
        ("/dev/mqueue", "mqueue", {"nosuid", "noexec", "nodev"}),
        ("/sized", "tmpfs", {"nosuid", "noexec", "nodev", "mode=1711", "size=1024k", "gid=5"}),
    ]:
        assert mounts[at][0] == kind
        assert options <= mounts[at][1], at
    assert lines[-5:] == ["/sized 1711 5", "/dev/shm 1777 0", "/dev/pts 755 0", "/dev/mqueue 1777 0", str(1 << 20)]


def test_cgroup_mount(vruntime: Runtime, bundles: Bundles) -> None:
    """Version 2, whatever the host has, and the container's own group is its root."""

    script = """
    cat /proc/self/cgroup; grep /sys/fs/cgroup /proc/mounts | cut -d' ' -f3; cat /sys/fs/cgroup/cgroup.controllers
    mkdir /sys/fs/cgroup/x 2>&1 || true
    """
    group, kind, controllers, denied = inside(vruntime, bundles, script)
    assert group == "0::/"
    assert kind == "cgroup2"
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(controllers.split())
    assert denied.endswith("Read-only file system")


def test_bind_mounts(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    """Directories and files, both ways, writable and not."""
    for name in ("rw", "ro"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "from-host").write_text(name)
    (tmp_path / "file").write_text("a file")

    def edit(config: dict[str, Any]) -> None:
        config["mounts"] += [
            {"destination": "/rw", "type": "bind", "source": str(tmp_path / "rw"), "options": ["rbind", "rw"]},
            {"destination": "/ro", "type": "none", "source": str(tmp_path / "ro"), "options": ["rbind", "ro"]},
            {"destination": "/new/file", "type": "bind", "source": str(tmp_path / "file"), "options": ["bind"]},
        ]

    script = """
    exec 2>&1
    cat /rw/from-host /ro/from-host /new/file; echo
    echo by guest > /rw/from-guest; echo more >> /new/file
    touch /ro/x; rm /ro/from-host; touch /rw/ready
    until [ -e /rw/go ]; do sleep 0.05; done; cat /rw/go
    """
    bundle = bundles.busybox("sh", "-c", script, edit=edit)
    container = any_runtime.start(bundle)
    eventually((tmp_path / "rw/ready").exists)
    assert (tmp_path / "rw/from-guest").read_text() == "by guest\n"
    assert (tmp_path / "file").read_text() == "a filemore\n"
    (tmp_path / "rw/.go").write_text("by host\n")
    (tmp_path / "rw/.go").rename(tmp_path / "rw/go")
    eventually(lambda: any_runtime.state(container)["status"] == "stopped")
    assert (bundle / "create.log").read_text().splitlines() == [
        "rwroa file",
        "touch: /ro/x: Read-only file system",
        "rm: can't remove '/ro/from-host': Read-only file system",
        "by host",
    ]
    assert [entry.name for entry in (tmp_path / "ro").iterdir()] == ["from-host"]


def test_a_read_only_root(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox(
        "sh",
        "-c",
        "touch /etc/x; touch /tmp/x; touch /dev/shm/x && echo tmpfs",
        edit=lambda c: c["root"].update(readonly=True),
    )
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id())
    assert result.stdout == b"tmpfs\n"
    assert result.stderr.decode().splitlines() == [f"touch: /{at}/x: Read-only file system" for at in ("etc", "tmp")]


def test_read_only_holds_against_root_in_the_guest(vruntime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    """With CAP_SYS_ADMIN it can remount what it sees; the host's own mounts still refuse."""
    (tmp_path / "ro").mkdir()

    def edit(config: dict[str, Any]) -> None:
        grant(config)
        config["root"]["readonly"] = True
        mount = {"destination": "/mnt", "type": "bind", "source": str(tmp_path / "ro"), "options": ["rbind", "ro"]}
        config["mounts"].append(mount)

    script = """
    exec 2>&1
    mount -o remount,rw,bind / && mount -o remount,rw,bind /mnt && echo remounted
    touch /etc/x; touch /mnt/x; mkdir /dev/fresh; chmod 777 /etc/passwd
    """
    bundle = bundles.busybox("sh", "-c", script, edit=edit)
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert result.stdout.decode().splitlines() == [
        "remounted",
        "touch: /etc/x: Read-only file system",
        "touch: /mnt/x: Read-only file system",
        "chmod: /etc/passwd: Read-only file system",
    ]
    assert list((tmp_path / "ro").iterdir()) == []
    assert not (bundle / "rootfs/etc/x").exists()


def test_devices(any_runtime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["devices"] = [
            {"path": "/dev/extra/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 1, "gid": 2},
        ]

    script = r"""
    cd /dev; for name in null zero full random urandom tty extra/fuse; do stat -c '%n %F %t:%T %a %u:%g' $name; done
    for name in fd stdin stdout stderr ptmx; do echo $name $(readlink $name); done
    echo x > null; head -c 3 zero | wc -c; head -c 3 urandom | wc -c; (echo x > full) 2>&1 | grep -c 'No space'
    """
    assert inside(any_runtime, bundles, script, edit) == [
        "null character special file 1:3 666 0:0",
        "zero character special file 1:5 666 0:0",
        "full character special file 1:7 666 0:0",
        "random character special file 1:8 666 0:0",
        "urandom character special file 1:9 666 0:0",
        "tty character special file 5:0 666 0:0",
        "extra/fuse character special file a:e5 640 1:2",
        "fd /proc/self/fd",
        "stdin /proc/self/fd/0",
        "stdout /proc/self/fd/1",
        "stderr /proc/self/fd/2",
        "ptmx pts/ptmx",
        "3",
        "3",
        "1",
    ]


def test_pseudoterminals(vruntime: Runtime, bundles: Bundles) -> None:
    script = """
import os
master, slave = os.openpty()
print(os.ttyname(slave), os.listdir("/dev/pts"))
os.write(slave, b"through")
print(os.read(master, 100))
"""
    name, through = debian(vruntime, bundles, script)
    assert re.fullmatch(r"/dev/pts/\d+ \[.*\]", name)
    assert through == "b'through'"


def test_masked_and_read_only_paths(any_runtime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["maskedPaths"] += ["/secret-dir", "/secret-file", "/not-there"]
        config["linux"]["readonlyPaths"] += ["/etc", "/not-there"]

    script = """
    exec 2>&1
    wc -c < /secret-file; ls /secret-dir | wc -l; cat /proc/keys | wc -c; cat /proc/timer_list | wc -c
    touch /etc/x; touch /secret-dir/x; echo x > /proc/sys/kernel/domainname
    """
    bundle = bundles.busybox("sh", "-c", script, edit=edit)
    (bundle / "rootfs/secret-dir").mkdir()
    (bundle / "rootfs/secret-dir/file").write_text("secret")
    (bundle / "rootfs/secret-file").write_text("secret")
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
    assert result.stdout.decode().splitlines() == [
        *("0", "0", "0", "0"),
        "touch: /etc/x: Read-only file system",
        "touch: /secret-dir/x: Read-only file system",
        "sh: can't create /proc/sys/kernel/domainname: Read-only file system",
    ]


def test_sysctl(any_runtime: Runtime, bundles: Bundles) -> None:
    settings = {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": "4096", "net/ipv4/ip_forward": "1"}
    script = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/msgmax net/ipv4/ip_forward"
    lines = inside(any_runtime, bundles, script, lambda config: config["linux"].update(sysctl=settings))
    assert lines == ["80", "4096", "1"]


def test_a_container_engine_could_run_inside(vruntime: Runtime, bundles: Bundles) -> None:
    """Root with CAP_SYS_ADMIN makes user namespaces, overlays on a tmpfs and network devices."""
    script = r"""
    set -e
    unshare --user --map-root-user --mount --net sh -ec 'id -u; mount -t tmpfs none /mnt; cat /proc/net/dev > /mnt/x'
    mount -t tmpfs none /tmp; mkdir /tmp/lower /tmp/upper /tmp/work /tmp/merged; echo lower > /tmp/lower/file
    mount -t overlay overlay -o lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work /tmp/merged
    echo upper >> /tmp/merged/file; cat /tmp/merged/file; cat /tmp/lower/file
    """
    capabilities = [*ALL_CAPABILITIES, "CAP_NET_ADMIN", "CAP_SETGID", "CAP_DAC_READ_SEARCH", "CAP_SETFCAP"]
    bundle = bundles.debian("sh", "-c", script, edit=lambda config: grant(config, capabilities))
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert (result.stdout.decode().split(), result.returncode) == (["0", "lower", "upper", "lower"], 0), result.stderr


def test_files_keep_what_the_guest_gives_them(any_runtime: Runtime, bundles: Bundles) -> None:
    """Owner, mode, times, links and hard links are on the host as made inside."""

    def edit(config: dict[str, Any]) -> None:
        grant(config)

    script = """
    cd /tmp; echo x > file; chown 1234:4321 file; chmod 2751 file; touch -d @1000000000 file
    ln file hard; ln -s file link; mkfifo fifo; mkdir -m 1700 dir; mv dir moved; truncate -s 5000000000 sparse
    """
    bundle = bundles.busybox("sh", "-ec", script, edit=edit)
    any_runtime("run", "--bundle", str(bundle), any_runtime.new_id())
    at = bundle / "rootfs/tmp"
    file = (at / "file").stat()
    assert (file.st_uid, file.st_gid, file.st_mode, file.st_mtime) == (1234, 4321, 0o102751, 1_000_000_000)
    assert (at / "hard").stat().st_ino == file.st_ino
    assert os.readlink(at / "link") == "file"
    assert (at / "fifo").is_fifo()
    assert (at / "moved").stat().st_mode == 0o41700
    assert ((at / "sparse").stat().st_size, (at / "sparse").stat().st_blocks) == (5_000_000_000, 0)


def test_no_secret_of_the_host_is_inside(vruntime: Runtime, bundles: Bundles) -> None:
    """Neither the environment of the caller, nor its open files, nor its other directories."""
    with open("/etc/hostname", "rb") as leaked:
        os.set_inheritable(leaked.fileno(), True)
        script = "env; ls /proc/self/fd; cat /proc/1/environ; find / -xdev -name 'vruntime*'"
        bundle = bundles.busybox("sh", "-c", script)
        environment = {**os.environ, "CANARY": "a secret"}
        arguments = vruntime.command("run", "--bundle", str(bundle), vruntime.new_id())
        result = subprocess.run(
            arguments, env=environment, stdin=subprocess.DEVNULL, capture_output=True, close_fds=False, check=True
        )
    assert b"CANARY" not in result.stdout
    assert b"vruntime" not in result.stdout
    assert result.stdout.split().count(b"3") == 1, "beside ls's own directory, three streams"
    assert b"4" not in result.stdout.split()
