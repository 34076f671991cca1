"""From a machine's description to QEMU's command line."""

from dataclasses import replace
from typing import Any

import pytest

from vruntime.accelerator import Accelerator
from vruntime.vm.machine import Descriptors, Machine, command_line, kernel_command_line

MACHINE = Machine(
    name="web",
    qemu="/usr/bin/qemu-system-x86_64",
    kernel="/lib/vmlinux",
    initramfs="/lib/initramfs.cpio",
    accelerator=Accelerator.KVM,
    memory=512 << 20,
)
FDS = Descriptors(console=3, qmp=4, agent=5, virtiofs=6)


def value_of(argv: list[str], switch: str) -> str:
    """What follows a switch that occurs once."""
    assert argv.count(switch) == 1
    return argv[argv.index(switch) + 1]


@pytest.mark.parametrize(("accelerator", "cpu"), [(Accelerator.KVM, "host"), (Accelerator.TCG, "max,-erms,-fsrm")])
def test_accelerator_chooses_the_cpu(accelerator: Accelerator, cpu: str) -> None:
    argv = command_line(replace(MACHINE, accelerator=accelerator), FDS)
    assert value_of(argv, "-accel").split(",")[0] == accelerator
    assert value_of(argv, "-cpu") == cpu


def test_sandbox_denies_all_four() -> None:
    assert value_of(command_line(MACHINE, FDS), "-sandbox") == (
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    )


def test_nothing_that_was_not_asked_for() -> None:
    argv = command_line(MACHINE, FDS)
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)
    devices = [argv[i + 1].split(",")[0] for i, word in enumerate(argv) if word == "-device"]
    assert sorted(devices) == [
        "vhost-user-fs-device",
        "virtio-rng-device",
        "virtio-serial-device",
        "virtserialport",
    ]


def test_memory_is_shared_and_of_the_size() -> None:
    argv = command_line(MACHINE, FDS)
    assert "memory-backend-memfd,id=memory,size=536870912,share=on" in argv
    assert value_of(argv, "-m") == "size=536870912B"


@pytest.mark.parametrize(("name", "quoted"), [("a,b", "a,,b"), ("a,debug=on", "a,,debug=on")])
def test_a_comma_in_a_name_stays_in_the_name(name: str, quoted: str) -> None:
    assert value_of(command_line(replace(MACHINE, name=name), FDS), "-name").startswith(f"guest={quoted},")


def test_every_channel_is_a_descriptor() -> None:
    argv = command_line(MACHINE, FDS)
    chardevs = [argv[i + 1] for i, word in enumerate(argv) if word == "-chardev"]
    assert [int(c.split("fd=")[1].split(",")[0]) for c in chardevs] == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "expected", "unexpected"),
    [
        ({}, [], ["nolapic_timer", "tsc=reliable"]),
        ({"accelerator": Accelerator.TCG}, ["nolapic_timer", "tsc=reliable"], ["tsc_early_khz=None"]),
        ({"accelerator": Accelerator.TCG, "vcpus": 2}, ["tsc=reliable"], ["nolapic_timer"]),
        ({"accelerator": Accelerator.TCG, "tsc_khz": 2445426}, ["tsc_early_khz=2445426"], []),
    ],
)
def test_clocks_suit_the_accelerator(changes: dict[str, Any], expected: list[str], unexpected: list[str]) -> None:
    parameters = kernel_command_line(replace(MACHINE, **changes)).split()
    assert set(expected) <= set(parameters)
    assert not set(unexpected) & set(parameters)


def test_kernel_parameters_of_the_administrator_come_last() -> None:
    line = kernel_command_line(replace(MACHINE, extra_kernel_parameters="loglevel=7"))
    assert line.endswith(" loglevel=7")
    assert "panic=-1" in line.split()


def test_each_tap_is_a_device_that_the_guest_can_tell_apart() -> None:
    argv = command_line(MACHINE, replace(FDS, taps=(7, 9)))
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "-netdev"] == ["tap,id=net0,fd=7", "tap,id=net1,fd=9"]
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "-device" and "net" in argv[i + 1]] == [
        "virtio-net-device,netdev=net0,mac=02:76:72:00:00:00",
        "virtio-net-device,netdev=net1,mac=02:76:72:00:00:01",
    ]
