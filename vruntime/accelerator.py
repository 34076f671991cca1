"""What executes a guest's instructions, and whether it may be used."""

from __future__ import annotations

import errno
import os
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Final

from vruntime.errors import AcceleratorError
from vruntime.settings import AcceleratorChoice, Settings

KVM_DEVICE: Final = Path("/dev/kvm")
CPU_INFORMATION: Final = Path("/proc/cpuinfo")

_EXTENSIONS: Final = frozenset(("vmx", "svm"))


class Accelerator(StrEnum):
    """An accelerator of QEMU, by the name that QEMU has for it."""

    KVM = "kvm"
    TCG = "tcg"

    @property
    def secure(self) -> bool:
        """Whether QEMU treats a guest's escape as a vulnerability: not under emulation."""
        return self is Accelerator.KVM


def choose(settings: Settings) -> Accelerator:
    """The accelerator that the host has and the settings allow; raises AcceleratorError.

    `auto` means KVM, or emulation where KVM is missing and emulation is allowed.
    """
    choice = settings.vm.accelerator
    obstacle = kvm_obstacle() if choice is not AcceleratorChoice.TCG else None
    if choice is AcceleratorChoice.KVM or (choice is AcceleratorChoice.AUTO and not obstacle):
        if obstacle:
            raise AcceleratorError(f"KVM cannot be used: {obstacle}")
        return Accelerator.KVM
    if not settings.vm.allow_emulation:
        reason = f"KVM cannot be used: {obstacle}" if obstacle else "the settings ask for tcg"
        raise AcceleratorError(
            f"emulation is not allowed, and {reason}",
            hint="emulation is slow and no security boundary; allow it with allow_emulation = true "
            "below [vm] in the settings, or with --allow-emulation",
        )
    return Accelerator.TCG


def kvm_obstacle() -> str | None:
    """Why KVM cannot be used here, or None.

    That /dev/kvm opens proves nothing: without the CPU's extensions the kernel emulates the
    guest's privileged code, too slowly and not completely.
    """
    if not _EXTENSIONS & cpu_flags():
        return "the CPU has neither VT-x (vmx) nor AMD-V (svm)"
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedies = {
            errno.ENOENT: "load the module kvm_intel or kvm_amd",
            errno.EACCES: "this user needs access to it",
            errno.EPERM: "the device cgroup of this process forbids it",
        }
        remedy = remedies.get(error.errno or 0)
        return f"{KVM_DEVICE}: {error.strerror}" + (f": {remedy}" if remedy else "")
    return None


def cpu_flags() -> frozenset[str]:
    """The features of the first CPU; all CPUs of a machine that runs guests have the same."""
    return frozenset(_first_cpu().get("flags", "").split())


def tsc_khz() -> int | None:
    """Frequency of the host's time-stamp counter, which an emulated guest reads, in kHz; None where it is not known.

    The kernel tells it to nobody. Where it knows the CPU's speed by the counter alone (on a virtual machine without
    frequency counters) it shows it as "cpu MHz".
    """
    cpu = _first_cpu()
    flags = set(cpu.get("flags", "").split())
    if not {"hypervisor", "constant_tsc"} <= flags or "aperfmperf" in flags:
        return None
    try:
        return round(float(cpu["cpu MHz"]) * 1000)
    except (KeyError, ValueError):
        return None


def _first_cpu() -> dict[str, str]:
    # The kernel writes /proc/cpuinfo CPU by CPU while it is read: the first one's lines suffice.
    cpu: dict[str, str] = {}
    with open(CPU_INFORMATION, encoding="ascii", errors="replace") as lines:
        for line in islice(lines, 64):
            name, colon, value = line.partition(":")
            if not colon:
                break
            cpu[name.strip()] = value.strip()
    return cpu
