"""`vruntime check`: what of the host is fit, what each miss means, and how to mend it."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import click

from vruntime import accelerator, engines, linux, namespaces
from vruntime.cgroups import layout as cgroup_layout
from vruntime.cgroups.layout import Layout
from vruntime.engines import change
from vruntime.engines.engine import Engine, Runtime
from vruntime.errors import AcceleratorError, EngineError, HostError, SettingsError
from vruntime.globals import Globals
from vruntime.network import policy, tap
from vruntime.programs import output_of, version_key, version_of
from vruntime.settings import Settings, format_size
from vruntime.spawn import SETPRIV

QEMU_LEAST: Final = "7.2"
QEMU_DEVICES: Final = (
    "vhost-user-fs-device", "virtio-net-device", "virtio-rng-device", "virtio-serial-device", "virtserialport",
)  # fmt: skip
VIRTIOFSD_OPTIONS: Final = (
    "--announce-submounts", "--fd", "--inode-file-handles", "--modcaps", "--posix-acl", "--rlimit-nofile",
    "--sandbox", "--seccomp",
)  # fmt: skip
OPEN_FILES_LEAST: Final = 65_536
STATE_SPACE_LEAST: Final = 16 * 1024**2
"""Bytes; a container's state takes some 100 KiB, with its console's log at most 1 MiB more."""

CONTROLLERS: Final = ("cpu", "cpuset", "memory", "pids")
"""Those that engines limit containers by; others are asked for rarely."""

SYSTEMD_RUNNING: Final = "/run/systemd/system"


class Status(StrEnum):
    """How fit a part of the host is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One part of the host: what was found and, unless it is fit, what that means."""

    name: str
    status: Status
    found: str
    meaning: str = ""
    remedy: str = ""


@click.command("check", short_help="Check whether this host is fit.")
@click.option(
    "-f", "--format", "form", type=click.Choice(["text", "json"]), default="text",
    help="Format of the output.",
)  # fmt: skip
@click.pass_obj
def command(globals_: Globals, form: str) -> None:
    """Check whether this host can run containers, and say how to mend what it lacks.

    The exit code is 0 when nothing fails (warnings are no failures), else 1.
    """
    findings = list(examine(globals_))
    if form == "json":
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=4))
    else:
        click.echo("\n".join(_lines(findings)))
    if any(finding.status is Status.FAIL for finding in findings):
        raise click.exceptions.Exit(1)


def examine(globals_: Globals) -> Iterator[Finding]:
    """Every finding, in the order in which a user would mend them."""
    yield _user()
    try:
        settings = globals_.settings
    except SettingsError as error:
        meaning = "No command that needs the settings works, and the rest cannot be checked."
        yield Finding("settings", Status.FAIL, str(error), meaning, "Correct the file.")
        return
    yield from (check(settings) for check in _WITH_SETTINGS)
    yield from (check() for check in _OF_THE_KERNEL)
    yield _state_directory(globals_.root)
    yield _engines()


def _lines(findings: list[Finding]) -> Iterator[str]:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        yield f"{finding.status:<5} {finding.name:<{width}}  {finding.found}"
        for text in filter(None, (finding.meaning, finding.remedy)):
            yield f"{'':<{width + 8}}{text}"


def _user() -> Finding:
    uid = os.geteuid()
    if uid == 0:
        return Finding("user", Status.OK, "root")
    meaning = "Mount namespaces and binds of other users' files need root."
    return Finding("user", Status.FAIL, f"uid {uid}", meaning, "Run it as root, as engines do.")


def _processor(settings: Settings) -> Finding:
    extensions = sorted({"vmx", "svm"} & accelerator.cpu_flags())
    if extensions:
        return Finding("cpu", Status.OK, f"hardware virtualisation ({extensions[0]})")
    return Finding(
        "cpu",
        Status.WARN if settings.vm.allow_emulation else Status.FAIL,
        "no hardware virtualisation (neither vmx nor svm)",
        "Guests can only be emulated: many times slower, and no security boundary.",
        "Enable VT-x or AMD-V in the firmware, or nested virtualisation for this machine.",
    )


def _accelerator(settings: Settings) -> Finding:
    obstacle = accelerator.kvm_obstacle()
    try:
        chosen = accelerator.choose(settings)
    except AcceleratorError as error:
        remedy = "Mend KVM, or allow emulation where guests are trusted."
        return Finding("accelerator", Status.FAIL, error.message, "No container can start.", remedy)
    if chosen.secure:
        return Finding("accelerator", Status.OK, f"{chosen}: {accelerator.KVM_DEVICE} opens")
    return Finding(
        "accelerator",
        Status.WARN,
        f"{chosen}, allowed by {settings.sources['vm.allow_emulation']}"
        + (f"; KVM cannot be used: {obstacle}" if obstacle else ""),
        "INSECURE: QEMU gives no guarantee that an emulated guest stays inside.",
        "Run only what you trust.",
    )


def _qemu(settings: Settings) -> Finding:
    qemu = settings.vm.qemu
    try:
        version = version_of(qemu)
        # A QEMU built without seccomp refuses the option -sandbox itself.
        machines = output_of([str(qemu), "-sandbox", "on", "-machine", "help"])
        devices = output_of([str(qemu), "-machine", "microvm", "-device", "help"])
    except HostError as error:
        return _no_qemu(str(error))
    if version_key(version) < version_key(QEMU_LEAST):
        return _no_qemu(f"{qemu} is version {version}, older than {QEMU_LEAST}")
    if "microvm" not in machines:
        return _no_qemu(f"{qemu} has no machine type microvm")
    missing = [device for device in QEMU_DEVICES if f'"{device}"' not in devices]
    if missing:
        return _no_qemu(f"{qemu} has no device {', '.join(missing)}")
    return Finding("qemu", Status.OK, f"{qemu} {version} with microvm and seccomp")


def _no_qemu(found: str) -> Finding:
    remedy = f"Install QEMU {QEMU_LEAST} or later (Debian: qemu-system-x86), or set vm.qemu."
    return Finding("qemu", Status.FAIL, found, "No container can start.", remedy)


def _virtiofsd(settings: Settings) -> Finding:
    program = settings.vm.virtiofsd
    try:
        options = output_of([str(program), "--help"])
        version = version_of(program)
    except HostError as error:
        return _no_virtiofsd(str(error))
    missing = [option for option in VIRTIOFSD_OPTIONS if option not in options]
    if missing:
        return _no_virtiofsd(f"{program} has no {', '.join(missing)}: not the one in Rust, or old")
    return Finding("virtiofsd", Status.OK, f"{program} {version}")


def _no_virtiofsd(found: str) -> Finding:
    remedy = "Install the virtiofsd written in Rust (scripts/setup does), or set vm.virtiofsd."
    return Finding("virtiofsd", Status.FAIL, found, "No container can start.", remedy)


def _setpriv(_settings: Settings) -> Finding:
    if os.access(SETPRIV, os.X_OK):
        return Finding("setpriv", Status.OK, SETPRIV)
    meaning = "QEMU and virtiofsd cannot be started without privileges."
    return Finding("setpriv", Status.FAIL, f"{SETPRIV} is missing", meaning, "Install util-linux.")


def _guest_kernel(settings: Settings) -> Finding:
    return _guest_file("guest kernel", settings.vm.kernel, b"\x7fELF", "an ELF file")


def _guest_initramfs(settings: Settings) -> Finding:
    return _guest_file("guest initramfs", settings.vm.initramfs, b"", "")


def _guest_file(name: str, path: Path, magic: bytes, form: str) -> Finding:
    """A file that an unprivileged QEMU must be able to read, and that nobody else may change."""

    def fail(found: str, remedy: str) -> Finding:
        return Finding(name, Status.FAIL, found, "No container can start safely.", remedy)

    try:
        with open(path, "rb") as file:
            status, start = os.fstat(file.fileno()), file.read(len(magic))
    except OSError as error:
        return fail(f"{path}: {error.strerror}", "Run scripts/setup, or correct the setting.")
    if start != magic:
        return fail(f"{path} is not {form}", "Use the uncompressed kernel (vmlinux).")
    if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        remedy = f"chown root: {path}; chmod go-w {path}"
        return fail(f"{path} can be changed by others than root", remedy)
    closed = [parent for parent in path.parents if not parent.stat().st_mode & stat.S_IXOTH]
    if closed or not status.st_mode & stat.S_IROTH:
        remedy = f"chmod o+r {path}; chmod o+x {' '.join(map(str, path.parents))}"
        return fail(f"{path} cannot be read without privileges", remedy)
    return Finding(name, Status.OK, f"{path}, {status.st_size / 1024**2:.1f} MiB")


def _memory(settings: Settings) -> Finding:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    found = f"{available // 1024**2} MiB available, {format_size(settings.vm.memory)} a guest"
    if available >= settings.vm.memory:
        return Finding("memory", Status.OK, found)
    meaning = "The next guest may meet the host's out-of-memory killer."
    return Finding("memory", Status.WARN, found, meaning, "Lower vm.memory, or limit containers.")


def _mount_namespaces() -> Finding:
    """Tried in a child, since a namespace cannot be left again."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
            linux.mount("tmpfs", "/tmp", fstype="tmpfs")
            code = 0
        except OSError as error:
            code = error.errno or 1
        finally:
            os._exit(min(code, 255))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        return Finding("mount namespaces", Status.OK, "can be made, and mounted in")
    return Finding(
        "mount namespaces",
        Status.FAIL,
        f"cannot be made: {os.strerror(code)}",
        "The directory that host and guest share cannot be built.",
        "Give CAP_SYS_ADMIN, and allow unshare and mount in the seccomp filter around this.",
    )


def _network() -> Finding:
    """Tries it, in a network namespace that is gone afterwards."""
    from vruntime.network import rtnetlink  # noqa: PLC0415  heavy

    try:
        namespace = namespaces.new_network()
        with namespaces.network(namespace):
            (made,), _ = tap.create(1)
        with rtnetlink.Stack.of(namespace) as stack:
            stack.renew_ingress(made.index)
            stack.redirect(made.index, 1, policy.everything(policy.MATCH), target=made.index)
            stack.decide(made.index, 2, policy.everything(policy.DROP))
    except (HostError, OSError) as error:
        return Finding(
            "network",
            Status.FAIL,
            str(error),
            "No container can start: each has a network namespace, and a tap that traffic control joins with it.",
            "Load the kernel's modules tun, sch_ingress, cls_bpf and act_mirred, and run it as root.",
        )
    return Finding("network", Status.OK, "taps, and traffic control by bpf and mirred")


def _system_calls() -> Finding:
    wanted: dict[str, Callable[[], int]] = {
        "openat2": lambda: linux.openat2(-100, "/", flags=os.O_PATH),
        "pidfd_open": lambda: os.pidfd_open(os.getpid()),
        "memfd_create": lambda: os.memfd_create("check"),
    }
    missing = []
    for name, call in wanted.items():
        try:
            os.close(call())
        except OSError as error:
            missing.append(f"{name} ({error.strerror})")
    if not missing:
        return Finding("system calls", Status.OK, ", ".join(wanted))
    return Finding(
        "system calls",
        Status.FAIL,
        f"missing: {', '.join(missing)}",
        "Processes and paths cannot be held safely.",
        "Use Linux 5.12 or later, and allow them in the seccomp filter around this.",
    )


def _open_files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES_LEAST:
        return Finding("open files", Status.OK, f"hard limit {hard}")
    return Finding(
        "open files",
        Status.WARN,
        f"hard limit {hard}",
        "Each file that a guest has open or cached takes one: busy guests will see EMFILE.",
        f"Raise the hard limit of RLIMIT_NOFILE to {OPEN_FILES_LEAST} or more.",
    )


def _cgroups() -> Finding:
    meaning = "No container can start: its processes on the host would have no limits."
    try:
        layout = Layout.of_this_host()
    except HostError as error:
        return Finding("cgroups", Status.FAIL, error.message, meaning, f"Mount cgroup2 on {cgroup_layout.ROOT}.")
    found = f"{layout.kind}, with {'systemd' if os.path.isdir(SYSTEMD_RUNNING) else 'no systemd'} to manage it"
    read_only = [point for point in layout.points() if os.statvfs(point).f_flag & os.ST_RDONLY]
    if read_only:
        remedy = "Mount it writable; or give --rootless=true, and limit no container."
        return Finding("cgroups", Status.FAIL, f"{found}; {read_only[0]} is read-only", meaning, remedy)
    missing = [name for name in CONTROLLERS if name not in layout.controllers()]
    if missing:
        return Finding(
            "cgroups",
            Status.WARN,
            f"{found}; no controller {', '.join(missing)}",
            "A container that asks for a limit of it is refused.",
            "Enable it in the kernel, or pass it on in cgroup.subtree_control.",
        )
    return Finding("cgroups", Status.OK, found)


def _state_directory(root: Path) -> Finding:
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize
    kind = _file_system(existing)
    found = f"{root} on {kind}, {free // 1024**2} MiB free"
    remedy = "Name another with --root; /run is a tmpfs on most hosts."
    if status.f_flag & os.ST_RDONLY:
        return Finding("state", Status.FAIL, f"{found}, read-only", "Nothing can be kept.", remedy)
    if free < STATE_SPACE_LEAST:
        return Finding("state", Status.FAIL, found, "The next container may find it full.", remedy)
    if kind not in ("tmpfs", "ramfs"):
        meaning = "State of containers that a reboot has ended stays until they are deleted."
        return Finding("state", Status.WARN, found, meaning, remedy)
    return Finding("state", Status.OK, found)


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`, by the device number in mountinfo."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == number:
                return fields[fields.index("-") + 1]
    return "an unknown file system"


def _engines() -> Finding:
    installed = {name: engine for name in engines.NAMES if (engine := engines.find(name)).installed()}
    if not installed:
        return Finding("engines", Status.OK, "none is installed")
    aware = [name for name, engine in installed.items() if _knows_us(engine)]
    found = f"set up: {', '.join(aware) or 'none'}"
    if others := [name for name in installed if name not in aware]:
        found += f"; not: {', '.join(others)} (`vruntime setup ENGINE` shows what it takes)"
    return Finding("engines", Status.OK, found)


def _knows_us(engine: Engine) -> bool:
    try:
        return change.plan_adding(engine, engine.file(Runtime.name), Runtime()).empty
    except EngineError:
        return False  # setup says why


_WITH_SETTINGS: Final = (
    _processor,
    _accelerator,
    _qemu,
    _virtiofsd,
    _setpriv,
    _guest_kernel,
    _guest_initramfs,
    _memory,
)

_OF_THE_KERNEL: Final = (_mount_namespaces, _network, _system_calls, _open_files, _cgroups)
