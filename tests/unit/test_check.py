"""`vruntime check`: each miss of the host is found, explained and given a remedy."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from vruntime.commands.check import Status, command, examine
from vruntime.globals import Globals

VIRTIOFSD_HELP = "--announce-submounts --fd --inode-file-handles --modcaps --posix-acl --rlimit-nofile --sandbox"


class Host:
    """A host whose programs and files are the test's, and fit at first."""

    def __init__(self, path) -> None:
        self.path = path
        self.program("qemu", machines="microvm  x", devices=True)
        self.program("virtiofsd", options=f"{VIRTIOFSD_HELP} --seccomp")
        self.file("vmlinux", b"\x7fELF")
        self.file("initramfs", b"070701")
        self.settings = {"allow_emulation": "true"}

    def file(self, name, content=b"", mode=0o644):
        (self.path / name).write_bytes(content)
        (self.path / name).chmod(mode)

    def program(self, name, version="7.2.1", machines="", devices=False, options=""):
        listed = ["vhost-user-fs-device", "virtio-net-device", "virtio-rng-device", "virtio-serial-device"]
        listed = [*listed, "virtserialport"] if devices else []
        script = f"""#!/bin/sh
case "$*" in
--version) echo "{name} version {version}" ;;
--help) echo "{options}" ;;
*"-sandbox on -machine help") echo "{machines}" ;;
*"-device help") echo '{" ".join(f'name "{device}",' for device in listed)}' ;;
esac
"""
        self.file(name, script.encode(), 0o755)

    def globals_(self):
        lines = [
            f"qemu = '{self.path / 'qemu'}'",
            f"virtiofsd = '{self.path / 'virtiofsd'}'",
            f"kernel = '{self.path / 'vmlinux'}'",
            f"initramfs = '{self.path / 'initramfs'}'",
            *(f"{key} = {value}" for key, value in self.settings.items()),
        ]
        self.file("config.toml", "\n".join(["[vm]", *lines]).encode())
        return Globals(config=self.path / "config.toml", root=self.path / "root")

    def finding(self, name):
        return {finding.name: finding for finding in examine(self.globals_())}[name]


@pytest.fixture
def host(tmp_path):
    # QEMU reads its files without privileges, and pytest's directories are private.
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    return Host(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as the runtime does")
def test_a_fit_host_does_not_fail(host):
    findings = list(examine(host.globals_()))
    assert [finding for finding in findings if finding.status is Status.FAIL] == []
    for finding in findings:
        if finding.status is not Status.OK:
            assert finding.meaning
            assert finding.remedy


@pytest.mark.parametrize(
    ("name", "break_it", "found"),
    [
        ("qemu", lambda host: (host.path / "qemu").unlink(), "No such file or directory"),
        ("qemu", lambda host: host.program("qemu", version="6.2.0"), "version 6.2.0, older than"),
        ("qemu", lambda host: host.program("qemu", machines="pc"), "no machine type microvm"),
        ("qemu", lambda host: host.program("qemu", machines="microvm"), "no device vhost-user-fs"),
        ("qemu", lambda host: host.file("qemu", b"#!/bin/sh\nexit 3\n", 0o755), "exit code 3"),
        ("qemu", lambda host: host.file("qemu", b"#!/bin/sh\necho x\n", 0o755), "no version"),
        (
            "virtiofsd",
            lambda host: host.program("virtiofsd", options=VIRTIOFSD_HELP),
            "has no --seccomp: not the one in Rust, or old",
        ),
        ("guest kernel", lambda host: host.file("vmlinux", b"MZ"), "is not an ELF file"),
        ("guest kernel", lambda host: host.file("vmlinux", b"\x7fELF", 0o666), "by others than"),
        ("guest kernel", lambda host: host.file("vmlinux", b"\x7fELF", 0o600), "cannot be read w"),
        ("guest initramfs", lambda host: (host.path / "initramfs").unlink(), "No such file"),
        ("guest initramfs", lambda host: host.path.chmod(0o700), "cannot be read without priv"),
        ("settings", lambda host: host.settings.update(vcpus="0"), "vm.vcpus must be from 1"),
    ],
)
def test_misses(host, name, break_it, found):
    break_it(host)
    finding = host.finding(name)
    assert finding.status is Status.FAIL
    assert found in finding.found
    assert finding.meaning
    assert finding.remedy


def test_emulation_is_called_insecure(host):
    host.settings["accelerator"] = "'tcg'"
    finding = host.finding("accelerator")
    assert finding.status is Status.WARN
    assert "INSECURE" in finding.meaning


def test_forbidden_emulation_fails(host):
    host.settings = {"accelerator": "'tcg'"}
    assert host.finding("accelerator").status is Status.FAIL


@pytest.mark.parametrize("broken", [False, True])
def test_exit_code_and_formats(host, broken):
    if broken:
        (host.path / "vmlinux").unlink()
    text = CliRunner().invoke(command, [], obj=host.globals_())
    shown = CliRunner().invoke(command, ["--format", "json"], obj=host.globals_())
    findings = json.loads(shown.output)
    fails = any(finding["status"] == "fail" for finding in findings)
    assert fails or not broken
    assert text.exit_code == shown.exit_code == int(fails)
    for finding in findings:
        assert f"{finding['status']:<5} {finding['name']}" in text.output
        assert finding["remedy"] in text.output


def test_a_host_without_taps(host, monkeypatch):
    monkeypatch.setattr("vruntime.network.tap.DEVICE", str(host.path / "none"))
    finding = host.finding("network")
    assert finding.status is Status.FAIL
    assert "No such file or directory" in finding.found


def test_it_leaves_no_mount_behind(host):
    mounts = Path("/proc/self/mountinfo")
    before = mounts.read_text()
    list(examine(host.globals_()))
    assert mounts.read_text() == before
