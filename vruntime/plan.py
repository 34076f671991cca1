"""What a container is to have on the host, from its config and the settings: its virtual machine, its control group."""

from __future__ import annotations

import os
from pathlib import Path

from vruntime import accelerator
from vruntime.cgroups.group import Group, is_rootless
from vruntime.cgroups.limits import Overhead
from vruntime.errors import HostError
from vruntime.globals import Globals
from vruntime.monitor.config import SandboxConfig
from vruntime.oci.config import OciConfig
from vruntime.settings import Settings, VmSettings
from vruntime.vm.machine import Machine

# What the guest itself boots in, in bytes.
LEAST_MEMORY = 128 << 20


def sandbox(settings: Settings, config: OciConfig, sandbox_id: str, directory: Path) -> SandboxConfig:
    """A machine for one container; HostError when a part of it is not installed."""
    vm = settings.vm
    _check_installed(vm)
    return SandboxConfig(
        id=sandbox_id,
        directory=directory,
        machine=Machine(
            name=sandbox_id,
            qemu=str(vm.qemu),
            kernel=str(vm.kernel),
            initramfs=str(vm.initramfs),
            accelerator=accelerator.choose(settings),
            memory=_memory(vm, config),
            vcpus=_vcpus(vm, config),
            tsc_khz=accelerator.tsc_khz(),
            extra_kernel_parameters=vm.kernel_parameters,
        ),
        virtiofsd=str(vm.virtiofsd),
        boot_timeout=settings.agent.boot_timeout,
        request_timeout=settings.agent.request_timeout,
    )


def group(globals_: Globals, config: OciConfig, container_id: str, machine: Machine) -> Group:
    """The group of a container that runs in this machine, which is not made yet."""
    vm = globals_.settings.vm
    return Group.plan(
        config.cgroups_path,
        container_id,
        Overhead(machine.memory, guest=vm.memory_overhead, helpers=vm.host_overhead, vcpus=machine.vcpus),
        systemd=globals_.systemd_cgroup,
        rootless=is_rootless(globals_.rootless),
    )


def _check_installed(vm: VmSettings) -> None:
    for name in ("qemu", "kernel", "initramfs", "virtiofsd"):
        path: Path = getattr(vm, name)
        if not path.is_file():
            raise HostError(f"vm.{name}: {path} does not exist", hint="`vruntime check` tells how to mend the host")


def _memory(vm: VmSettings, config: OciConfig) -> int:
    """The guest's memory: the container's limit and what the guest itself needs, at most what the host has."""
    if config.memory_limit is None:
        return vm.memory
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = max(LEAST_MEMORY, min(config.memory_limit + vm.memory_overhead, host))
    return -(-wanted >> 20) << 20


def _vcpus(vm: VmSettings, config: OciConfig) -> int:
    """Enough for what the container may use, at most what the host has."""
    if config.cpu_count is None:
        return vm.vcpus
    return max(1, min(config.cpu_count, os.cpu_count() or 1))
