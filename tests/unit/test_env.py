"""`vruntime env`: versions, paths and settings as JSON."""

import hashlib
import json

import pytest
from click.testing import CliRunner

from vruntime.commands.env import command
from vruntime.globals import Globals


@pytest.fixture
def settings_file(tmp_path):
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"kernel")
    qemu = tmp_path / "qemu"
    qemu.write_text("#!/bin/sh\necho 'QEMU emulator version 9.8.7 (x)'\n")
    qemu.chmod(0o755)
    path = tmp_path / "config.toml"
    path.write_text(
        f"[vm]\nkernel = '{kernel}'\nqemu = '{qemu}'\ninitramfs = '{tmp_path}/missing'\n"
        f"virtiofsd = '{tmp_path}/missing'\nmemory = '1G'\n"
    )
    path.chmod(0o644)
    return path


def env(settings_file, **flags):
    globals_ = Globals(config=settings_file, **flags)
    done = CliRunner().invoke(command, [], obj=globals_, catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.output)


def test_what_is_installed(settings_file, tmp_path):
    shown = env(settings_file)
    assert shown["guest"]["kernel"] == {
        "path": str(tmp_path / "vmlinux"),
        "size": 6,
        "sha256": hashlib.sha256(b"kernel").hexdigest(),
    }
    assert shown["qemu"] == {"path": str(tmp_path / "qemu"), "version": "9.8.7"}


def test_what_is_missing_is_shown_with_its_reason(settings_file):
    shown = env(settings_file)
    assert shown["guest"]["initramfs"]["error"] == "No such file or directory"
    assert shown["virtiofsd"]["version"] is None
    assert "/missing" in shown["virtiofsd"]["error"]


def test_settings_and_their_sources(settings_file):
    shown = env(settings_file, allow_emulation=True)["settings"]
    assert shown["vm.memory"] == {"value": "1G", "source": str(settings_file)}
    assert shown["vm.vcpus"] == {"value": 1, "source": "default"}
    assert shown["vm.allow_emulation"] == {"value": True, "source": "command line"}
