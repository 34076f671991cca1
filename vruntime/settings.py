"""The administrator's settings: /etc/vruntime/config.toml and its drop-ins.

/etc/vruntime/config.toml is read first, then /etc/vruntime/config.d/*.toml in lexical order; the
last file that has a key decides it. The global flag --config names one file that is read instead
of all of these. None needs to exist but that one.

The files choose programs that run as root: each must belong to root and be writable by nobody else.
A key or a value that is not known is an error that names it.

`RECORDS` describes every setting once: it is the parser, the defaults and the documentation.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from vruntime.errors import SettingsError

DEFAULT_FILE: Final = Path("/etc/vruntime/config.toml")
DROP_INS: Final = Path("/etc/vruntime/config.d")
COMMAND_LINE: Final = "command line"
DEFAULT: Final = "default"

_LIBRARY: Final = Path("/usr/local/lib/vruntime")
VIRTIOFSD_CANDIDATES: Final = (
    _LIBRARY / "virtiofsd",
    Path("/usr/libexec/virtiofsd"),
    Path("/usr/lib/virtiofsd"),
)
"""Where the Rust virtiofsd may be. QEMU's own in /usr/lib/qemu is the old one, in C."""

_UNITS: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_FILE_LIMIT: Final = 1024 * 1024
_PARAMETERS_LIMIT: Final = 1024


class AcceleratorChoice(StrEnum):
    """What may execute the guest's instructions."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True)
class VmSettings:
    """[vm]: the virtual machine. Sizes are in bytes."""

    accelerator: AcceleratorChoice
    allow_emulation: bool
    qemu: Path
    kernel: Path
    initramfs: Path
    virtiofsd: Path
    memory: int
    memory_overhead: int
    host_overhead: int
    vcpus: int
    kernel_parameters: str


@dataclass(frozen=True)
class AgentSettings:
    """[agent]: the agent in the guest. Times are in seconds."""

    boot_timeout: int
    request_timeout: int


@dataclass(frozen=True)
class NetworkSettings:
    """[network]: the network of containers."""

    devices: int
    pin_addresses: bool


@dataclass(frozen=True)
class ImageSettings:
    """[image]: images and what containers made of them write. Sizes are in bytes."""

    directory: Path
    size_limit: int


@dataclass(frozen=True)
class Settings:
    """All settings, and where each came from."""

    vm: VmSettings
    agent: AgentSettings
    network: NetworkSettings
    image: ImageSettings
    sources: Mapping[str, str]
    """The file of each setting by its name (`vm.memory`), or `default` or `command line`."""


@dataclass(frozen=True)
class Record:
    """One setting."""

    section: str
    key: str
    default: Any
    """As it is written in the file; `auto` has its meaning in `help`."""

    parse: Callable[[Any], Any]
    """From the value in the file to the value in `Settings`; raises ValueError with the reason."""

    help: str

    @property
    def name(self) -> str:
        """The setting's name in messages, such as `vm.memory`."""
        return f"{self.section}.{self.key}"


def parse_size(value: object) -> int:
    """Bytes of `"512M"`, `"2G"` or a plain number of bytes; raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        digits, unit = (value[:-1], value[-1:].upper()) if value[-1:].isalpha() else (value, "")
        if digits.isascii() and digits.isdigit() and len(digits) <= 18 and unit in _UNITS:
            return int(digits) * _UNITS[unit]
    raise ValueError('must be a size such as "512M" or "2G" (units K, M, G, T of 1024)')


def format_size(size: int) -> str:
    """The shortest exact way to write `size` for `parse_size`."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def _size(least: str, most: str) -> Callable[[Any], int]:
    def parse(value: object) -> int:
        size = parse_size(value)
        if not parse_size(least) <= size <= parse_size(most):
            raise ValueError(f"must be from {least} to {most}, not {format_size(size)}")
        return size

    return parse


def _number(least: int, most: int) -> Callable[[Any], int]:
    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"must be a whole number from {least} to {most}")
        if not least <= value <= most:
            raise ValueError(f"must be from {least} to {most}, not {value}")
        return value

    return parse


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _choice(kind: type[StrEnum]) -> Callable[[Any], StrEnum]:
    def parse(value: str) -> StrEnum:
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(f'"{choice}"' for choice in kind)
            raise ValueError(f"must be one of {known}, not {value!r:.64}") from None

    return parse


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise ValueError("must be an absolute path")
    return Path(value)


def _virtiofsd(value: object) -> Path:
    if value != "auto":
        return _path(value)
    present = (candidate for candidate in VIRTIOFSD_CANDIDATES if candidate.exists())
    return next(present, VIRTIOFSD_CANDIDATES[0])


def _parameters(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or not (value + " ").isprintable():
        raise ValueError("must be a string of printable ASCII characters")
    if len(value) > _PARAMETERS_LIMIT:
        raise ValueError(f"must have at most {_PARAMETERS_LIMIT} characters, not {len(value)}")
    return value


RECORDS: Final = (
    Record(
        "vm", "accelerator", "auto", _choice(AcceleratorChoice),
        'What executes the guest: "kvm", "tcg" (emulation), or "auto": KVM where the host has it.',
    ),
    Record(
        "vm", "allow_emulation", False, _boolean,
        "Let tcg be used: slow, and QEMU does not count it as a security boundary.",
    ),
    Record(
        "vm", "qemu", "/usr/bin/qemu-system-x86_64", _path,
        "QEMU, 7.2 or later, with the machine type microvm.",
    ),
    Record(
        "vm", "kernel", str(_LIBRARY / "vmlinux"), _path,
        "The guest's kernel: an uncompressed ELF file with a PVH entry.",
    ),
    Record(
        "vm", "initramfs", str(_LIBRARY / "initramfs.cpio"), _path,
        "The guest's initial file system, which holds the agent.",
    ),
    Record(
        "vm", "virtiofsd", "auto", _virtiofsd,
        'virtiofsd, the one in Rust; "auto" takes the first of '
        + ", ".join(str(candidate) for candidate in VIRTIOFSD_CANDIDATES) + " that exists.",
    ),
    Record(
        "vm", "memory", "512M", _size("128M", "1T"),
        "Memory of a guest whose container has no limit of its own (128M to 1T).",
    ),
    Record(
        "vm", "memory_overhead", "64M", _size("16M", "4G"),
        "Memory added to a container's own limit for the guest's kernel and agent (16M to 4G).",
    ),
    Record(
        "vm", "host_overhead", "256M", _size("64M", "4G"),
        "Memory added to the guest's for the limit on the host: QEMU, virtiofsd, monitor and shims (64M to 4G).",
    ),
    Record(
        "vm", "vcpus", 1, _number(1, 255),
        "Virtual CPUs of a guest whose container has no CPU limit of its own (1 to 255).",
    ),
    Record(
        "vm", "kernel_parameters", "", _parameters,
        "Added to the kernel's command line.",
    ),
    Record(
        "agent", "boot_timeout", 60, _number(1, 3600),
        "Seconds from QEMU's start to the agent's first answer (1 to 3600).",
    ),
    Record(
        "agent", "request_timeout", 30, _number(1, 3600),
        "Seconds for any later answer of the agent (1 to 3600).",
    ),
    Record(
        "network", "devices", 4, _number(1, 5),
        "Network devices of a guest whose engine gives it a network: as many interfaces can be connected (1 to 5).",
    ),
    Record(
        "network", "pin_addresses", True, _boolean,
        "Drop what a guest sends with an address that its interface does not have on the host.",
    ),
    Record(
        "image", "directory", "/var/lib/vruntime", _path,
        "Where images are unpacked, and what a container made of one writes is kept until it is deleted.",
    ),
    Record(
        "image", "size_limit", "16G", _size("1M", "16T"),
        "Most that is written while one image is unpacked (1M to 16T).",
    ),
)  # fmt: skip
"""Every setting."""

_BY_NAME: Final = {record.name: record for record in RECORDS}
_SECTIONS: Final = tuple(dict.fromkeys(record.section for record in RECORDS))


def load(config: Path | None = None, *, allow_emulation: bool | None = None) -> Settings:
    """Read the settings; `config` and `allow_emulation` are the global flags of these names.

    Raises SettingsError that names the file, the key, what is wrong and what is allowed.
    """
    values = {record.name: record.parse(record.default) for record in RECORDS}
    sources = dict.fromkeys(values, DEFAULT)
    for file in _files(config):
        for name, value in _read(file).items():
            values[name], sources[name] = value, str(file)
    if allow_emulation is not None:
        values["vm.allow_emulation"] = allow_emulation
        sources["vm.allow_emulation"] = COMMAND_LINE
    return Settings(
        vm=VmSettings(**_section(values, "vm")),
        agent=AgentSettings(**_section(values, "agent")),
        network=NetworkSettings(**_section(values, "network")),
        image=ImageSettings(**_section(values, "image")),
        sources=MappingProxyType(sources),
    )


def describe(settings: Settings) -> dict[str, dict[str, Any]]:
    """Every setting by name: its value as it is written in a file, and its source."""
    described = {}
    for record in RECORDS:
        value = getattr(getattr(settings, record.section), record.key)
        if record.default and isinstance(record.default, str) and isinstance(value, int):
            value = format_size(value)
        shown = value if isinstance(value, bool | int) else str(value)
        described[record.name] = {"value": shown, "source": settings.sources[record.name]}
    return described


def _section(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {record.key: values[record.name] for record in RECORDS if record.section == section}


def _files(config: Path | None) -> list[Path]:
    if config is not None:
        return [config]
    try:
        drop_ins = sorted(entry.path for entry in os.scandir(DROP_INS))
    except FileNotFoundError:
        drop_ins = []
    except OSError as error:
        raise SettingsError(f"{DROP_INS} cannot be read: {error.strerror}") from error
    first = [DEFAULT_FILE] if DEFAULT_FILE.exists() else []
    return [*first, *(Path(path) for path in drop_ins if path.endswith(".toml"))]


def _read(file: Path) -> dict[str, Any]:
    """The parsed settings of one file, by name."""
    try:
        document = tomllib.loads(_content(file).decode("utf-8"))
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from None
    settings = {}
    for section, members in document.items():
        if section not in _SECTIONS:
            raise _unknown(file, section, _SECTIONS)
        if not isinstance(members, dict):
            raise SettingsError(f"{file}: {section} must be a table: [{section}]")
        for key, value in members.items():
            record = _BY_NAME.get(f"{section}.{key}")
            if record is None:
                keys = [record.key for record in RECORDS if record.section == section]
                raise _unknown(file, f"{section}.{key}", keys)
            try:
                settings[record.name] = record.parse(value)
            except ValueError as error:
                raise SettingsError(f"{file}: {record.name} {error}") from None
    return settings


def _unknown(file: Path, name: str, known: Iterable[str]) -> SettingsError:
    return SettingsError(f"{file}: unknown key {name!r:.64}", hint=f"known: {', '.join(known)}")


def _content(file: Path) -> bytes:
    """The bytes of a file that only root can have written."""
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError(f"{file} is not a regular file")
        if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SettingsError(
                f"{file} can be changed by others than root, and it chooses what runs as root",
                hint=f"chown root: {file}; chmod go-w {file}",
            )
        if status.st_size > _FILE_LIMIT:
            raise SettingsError(f"{file} is larger than {_FILE_LIMIT // 1024**2} MiB")
        return opened.read(_FILE_LIMIT)
