"""The administrator's settings: files, precedence, and every refusal by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vruntime import settings
from vruntime.errors import SettingsError


@pytest.fixture(autouse=True)
def etc(tmp_path, monkeypatch):
    """Settings in a directory of the test's own, which is /etc/vruntime to the module."""
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "config.toml")
    monkeypatch.setattr(settings, "DROP_INS", tmp_path / "config.d")
    (tmp_path / "config.d").mkdir()
    return tmp_path


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_table_in_the_specification_is_current():
    script = Path(__file__).parents[2] / "scripts/lib/settings_table.py"
    check = subprocess.run([sys.executable, script, "--check"])
    assert check.returncode == 0, "SPECIFICATION.md is behind: run scripts/settings-table"


def test_defaults(etc):
    (etc / "config.d").rmdir()
    loaded = settings.load()
    assert loaded.vm.accelerator == "auto"
    assert loaded.vm.allow_emulation is False
    assert loaded.vm.qemu == Path("/usr/bin/qemu-system-x86_64")
    assert loaded.vm.memory == 512 * 1024**2
    assert loaded.agent.boot_timeout == 60
    assert set(loaded.sources.values()) == {"default"}


def test_the_last_file_wins_key_by_key(etc):
    main = write(etc / "config.toml", '[vm]\nmemory = "1G"\nvcpus = 2\n[agent]\nboot_timeout = 5')
    first = write(etc / "config.d" / "10-a.toml", "[vm]\nvcpus = 3\nallow_emulation = true")
    last = write(etc / "config.d" / "20-b.toml", "[vm]\nvcpus = 4")
    write(etc / "config.d" / "30-c.toml.bak", "not read")
    loaded = settings.load()
    assert (loaded.vm.memory, loaded.vm.vcpus, loaded.agent.boot_timeout) == (1024**3, 4, 5)
    assert loaded.vm.allow_emulation is True
    assert loaded.sources["vm.memory"] == str(main)
    assert loaded.sources["vm.vcpus"] == str(last)
    assert loaded.sources["vm.allow_emulation"] == str(first)
    assert loaded.sources["vm.qemu"] == "default"


def test_a_named_file_is_read_instead_of_all(etc):
    write(etc / "config.toml", "[vm]\nvcpus = 2")
    write(etc / "config.d" / "a.toml", "[vm]\nvcpus = 3")
    named = write(etc / "other.toml", '[vm]\nmemory = "2G"')
    loaded = settings.load(named)
    assert (loaded.vm.vcpus, loaded.vm.memory) == (1, 2 * 1024**3)


def test_a_named_file_must_exist(etc):
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read: No such file"):
        settings.load(etc / "absent.toml")


@pytest.mark.parametrize("allowed", [True, False])
def test_the_command_line_wins(etc, allowed):
    write(etc / "config.toml", f"[vm]\nallow_emulation = {str(not allowed).lower()}")
    loaded = settings.load(allow_emulation=allowed)
    assert loaded.vm.allow_emulation is allowed
    assert loaded.sources["vm.allow_emulation"] == "command line"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[vm", "is not valid TOML"),
        ("x = 1", "unknown key 'x' (known: vm, agent, network, image)"),
        ("[vm]\nmemmory = 1", "unknown key 'vm.memmory' (known: accelerator, allow_emulation"),
        ("[agent]\nqemu = 1", "unknown key 'agent.qemu' (known: boot_timeout"),
        ("vm = 1", "vm must be a table: [vm]"),
        ("[vm]\naccelerator = 'xen'", 'vm.accelerator must be one of "auto", "kvm", "tcg"'),
        ("[vm]\naccelerator = []", "vm.accelerator must be one of"),
        ("[vm]\nallow_emulation = 1", "vm.allow_emulation must be true or false"),
        ("[vm]\nallow_emulation = 'yes'", "vm.allow_emulation must be true or false"),
        ("[vm]\nqemu = 'qemu'", "vm.qemu must be an absolute path"),
        ("[vm]\nqemu = '/a\tb'", "vm.qemu must be an absolute path"),
        ("[vm]\nvirtiofsd = 'virtiofsd'", "vm.virtiofsd must be an absolute path"),
        ("[vm]\nmemory = '12'", "vm.memory must be from 128M to 1T, not 12"),
        ("[vm]\nmemory = '2T'", "vm.memory must be from 128M to 1T, not 2T"),
        ("[vm]\nmemory = '1.5G'", "vm.memory must be a size such as"),
        ("[vm]\nmemory = '1GiB'", "vm.memory must be a size such as"),
        ("[vm]\nmemory = true", "vm.memory must be a size such as"),
        ("[vm]\nmemory = '-1G'", "vm.memory must be a size such as"),
        ("[vm]\nvcpus = 0", "vm.vcpus must be from 1 to 255, not 0"),
        ("[vm]\nvcpus = 1.5", "vm.vcpus must be a whole number from 1 to 255"),
        ("[vm]\nvcpus = true", "vm.vcpus must be a whole number from 1 to 255"),
        ("[vm]\nkernel_parameters = 'a\u00a0b'", "must be a string of printable ASCII"),
        ("[vm]\nkernel_parameters = '" + "x" * 1025 + "'", "at most 1024 characters, not 1025"),
        ("[agent]\nboot_timeout = 0", "agent.boot_timeout must be from 1 to 3600, not 0"),
    ],
)
def test_refuses_by_name(etc, text, reason):
    file = write(etc / "config.d" / "a.toml", text)
    with pytest.raises(SettingsError) as caught:
        settings.load()
    message = str(caught.value)
    assert message.startswith(str(file))
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(etc, mode):
    write(etc / "config.toml", "", mode)
    with pytest.raises(SettingsError, match="can be changed by others than root"):
        settings.load()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_owner_is_refused(etc):
    os.chown(write(etc / "config.toml", ""), 65534, -1)
    with pytest.raises(SettingsError, match="can be changed by others than root"):
        settings.load()


def test_a_fifo_is_refused_without_waiting(etc):
    os.mkfifo(etc / "config.toml")
    with pytest.raises(SettingsError, match="is not a regular file"):
        settings.load()


def test_a_large_file_is_refused(etc):
    write(etc / "config.toml", "#" * (1024**2 + 1))
    with pytest.raises(SettingsError, match="larger than 1 MiB"):
        settings.load()


def test_virtiofsd_is_the_first_that_exists(etc, monkeypatch):
    candidates = (etc / "a", etc / "b", etc / "c")
    monkeypatch.setattr(settings, "VIRTIOFSD_CANDIDATES", candidates)
    assert settings.load().vm.virtiofsd == etc / "a"
    write(etc / "b", "")
    write(etc / "c", "")
    assert settings.load().vm.virtiofsd == etc / "b"


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512M", 2**29), ("1g", 2**30), ("4K", 4096), ("1T", 2**40), (4096, 4096)],
)
def test_sizes(text, size):
    assert settings.parse_size(text) == size
    assert settings.parse_size(settings.format_size(size)) == size


def test_the_records_are_the_settings():
    loaded = settings.load()
    described = settings.describe(loaded)
    assert list(described) == [record.name for record in settings.RECORDS]
    assert described["vm.memory"] == {"value": "512M", "source": "default"}
    assert described["vm.vcpus"] == {"value": 1, "source": "default"}
    assert all(record.help.endswith(".") for record in settings.RECORDS)


def test_what_is_described_can_be_written_back(etc):
    described = settings.describe(settings.load())
    lines = []
    for name, setting in described.items():
        section, key = name.split(".")
        value = setting["value"]
        shown = str(value).lower() if isinstance(value, bool | int) else f"'{value}'"
        lines.append(f"{section}.{key} = {shown}")
    before = settings.load()
    write(etc / "config.toml", "\n".join(lines))
    after = settings.load()
    assert (after.vm, after.agent) == (before.vm, before.agent)
