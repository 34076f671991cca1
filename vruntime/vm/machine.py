"""From a frozen description of a machine to QEMU's command line: pure functions, no side effect.

The machine is QEMU's `microvm`: no PCI, no ACPI, no firmware tables; devices are virtio over MMIO, announced to the
guest on the kernel's command line. It is given everything as a file descriptor, but the kernel and the initramfs.
"""

from __future__ import annotations

from dataclasses import dataclass

from vruntime.accelerator import Accelerator

AGENT_PORT = "vruntime.agent"
SHARE_TAG = "vruntime"

KERNEL_PARAMETERS = (
    "console=ttyS0",
    "quiet",  # a console is read when something failed: warnings and worse are all it need show
    "panic=-1",  # a panic resets at once, and -no-reboot makes a reset the end of QEMU
    "reboot=t",  # without ACPI the one way to end the machine is a reset: by triple fault, the quickest
    "dummy.numdummies=0",  # a container's network starts with its loopback alone
    "rcupdate.rcu_expedited=1",  # who waits for all readers waits for no timer tick: 11 ms of a boot's 49
    "noreplace-smp",  # leaves thousands of lock prefixes alone, which cost more to patch than to execute
)
# What calibration would find out it must be told: microvm lacks the port by which a PC measures its counters. And TCG
# interprets `rep movs` step by step: without these features the kernel and libc copy with loops of moves.
TCG_KERNEL_PARAMETERS = ("no_timer_check", "tsc=reliable", "clearcpuid=rep_good")

# Room for all the code that a container's start translates, 45 MB: a cache that is full is emptied and filled anew.
_ACCEL = {Accelerator.KVM: "kvm", Accelerator.TCG: "tcg,tb-size=64"}

_CPU = {Accelerator.KVM: "host", Accelerator.TCG: "max,-erms,-fsrm"}

# Under KVM the paravirtual clock and the local timer replace the PC's; under TCG nothing else keeps time.
_TIMERS = {Accelerator.KVM: "pit=off,pic=off,rtc=off", Accelerator.TCG: "pit=on,pic=on,rtc=on"}


@dataclass(frozen=True)
class Descriptors:
    """The descriptors that QEMU is given in place of paths, by their numbers in its process."""

    console: int
    qmp: int
    agent: int
    virtiofs: int
    taps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Machine:
    """A virtual machine as asked for; sizes in bytes. `tsc_khz` is the host's time-stamp frequency, if known."""

    name: str
    qemu: str
    kernel: str
    initramfs: str
    accelerator: Accelerator
    memory: int
    vcpus: int = 1
    tsc_khz: int | None = None
    extra_kernel_parameters: str = ""


def command_line(machine: Machine, fds: Descriptors) -> list[str]:
    """QEMU's argv."""
    return [
        machine.qemu,
        *_identity(machine),
        *_board(machine),
        *_boot(machine),
        *_console(fds),
        *_control(fds),
        *_agent_channel(fds.agent),
        *_shared_directory(fds),
        *_entropy(),
        *_network(fds.taps),
    ]


def bare_command_line(machine: Machine, agent: int) -> list[str]:
    """The same machine with the agent's channel alone: the floor that a container's start is measured against."""
    bare = [*_identity(machine), *_board(machine), *_boot(machine), *_agent_channel(agent)]
    return [machine.qemu, *bare, "-serial", "null"]


def kernel_command_line(machine: Machine) -> str:
    """The guest kernel's command line; nothing of it comes from a bundle."""
    parameters = list(KERNEL_PARAMETERS)
    if machine.accelerator is Accelerator.TCG:
        parameters += _tcg_parameters(machine)
    if machine.extra_kernel_parameters:
        parameters.append(machine.extra_kernel_parameters)
    return " ".join(parameters)


def _tcg_parameters(machine: Machine) -> list[str]:
    parameters = list(TCG_KERNEL_PARAMETERS)
    if machine.tsc_khz is not None:
        parameters.append(f"tsc_early_khz={machine.tsc_khz}")
    if machine.vcpus == 1:
        parameters.append("nolapic_timer")  # the PIT serves one CPU, and the calibration of the other is 200 ms
    return parameters


def _identity(machine: Machine) -> list[str]:
    return [
        "-name",
        f"guest={quote(machine.name)},debug-threads=on",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]


def _board(machine: Machine) -> list[str]:
    return [
        "-machine",
        f"microvm,acpi=off,{_TIMERS[machine.accelerator]},usb=off,x-option-roms=off,"
        "isa-serial=on,auto-kernel-cmdline=on,mem-merge=off,dump-guest-core=off,"
        "memory-backend=memory",
        "-accel",
        _ACCEL[machine.accelerator],
        # The guest's memory is a memfd, shared with virtiofsd, which reads and writes the requests in it.
        "-object",
        f"memory-backend-memfd,id=memory,size={machine.memory},share=on",
        "-m",
        f"size={machine.memory}B",
        "-smp",
        f"cpus={machine.vcpus}",
        "-cpu",
        _CPU[machine.accelerator],
        # Without it the devices are legacy virtio, which virtiofsd refuses.
        "-global",
        "virtio-mmio.force-legacy=false",
    ]


def _boot(machine: Machine) -> list[str]:
    return [
        "-kernel",
        machine.kernel,
        "-initrd",
        machine.initramfs,
        "-append",
        kernel_command_line(machine),
    ]


def _console(fds: Descriptors) -> list[str]:
    return ["-chardev", f"socket,id=console,fd={fds.console}", "-serial", "chardev:console"]


def _control(fds: Descriptors) -> list[str]:
    return ["-chardev", f"socket,id=qmp,fd={fds.qmp}", "-mon", "chardev=qmp,mode=control"]


def _agent_channel(fd: int) -> list[str]:
    # `server`: the descriptor listens already, so that the host may dial before QEMU runs, and may dial again.
    return [
        "-chardev",
        f"socket,id=agent,fd={fd},server=on,wait=off",
        "-device",
        "virtio-serial-device,max_ports=2",
        "-device",
        f"virtserialport,chardev=agent,name={AGENT_PORT}",
    ]


def _shared_directory(fds: Descriptors) -> list[str]:
    return [
        "-chardev",
        f"socket,id=virtiofs,fd={fds.virtiofs}",
        "-device",
        f"vhost-user-fs-device,chardev=virtiofs,tag={SHARE_TAG},queue-size=1024",
    ]


def _entropy() -> list[str]:
    return [
        "-object",
        "rng-random,id=entropy,filename=/dev/urandom",
        "-device",
        "virtio-rng-device,rng=entropy",
    ]


def _network(taps: tuple[int, ...]) -> list[str]:
    """A device for each tap; the guest knows them by their first addresses, as agent.proto has it."""
    arguments = []
    for number, fd in enumerate(taps):
        arguments += ["-netdev", f"tap,id=net{number},fd={fd}"]
        arguments += ["-device", f"virtio-net-device,netdev=net{number},mac=02:76:72:00:00:{number:02x}"]
    return arguments


def quote(value: str) -> str:
    """A value as QEMU's option parser reads it back: a comma is written twice."""
    return value.replace(",", ",,")
