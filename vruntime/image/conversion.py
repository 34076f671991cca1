"""An image's config made a config.json (image-spec, conversion.md), with the defaults that Docker gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vruntime.errors import ImageError
from vruntime.image.users import User
from vruntime.oci.defaults import default_spec
from vruntime.oci.document import Json, mapping, member, quoted, string

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CAPABILITIES: Final = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
)  # fmt: skip
"""Docker's."""

_OPEN_FILES: Final = 1_048_576
_VOLUMES_LIMIT: Final = 64
_PREFIX: Final = "org.opencontainers.image."
_ANNOTATIONS: Final = {
    "os": "os",
    "os.version": "os.version",
    "architecture": "architecture",
    "variant": "variant",
    "author": "author",
    "created": "created",
}
"""Members of the config that become an annotation as they are."""


@dataclass(frozen=True)
class Overrides:
    """What the command line says in place of the image."""

    args: tuple[str, ...] = ()
    entrypoint: str | None = None
    """In place of the image's, whose Cmd does not belong to it; empty: none."""

    env: tuple[str, ...] = ()
    """NAME=VALUE, or NAME for the caller's own value."""

    user: str | None = None
    workdir: str | None = None
    hostname: str | None = None
    terminal: bool = False


@dataclass(frozen=True)
class Own:
    """Files of the container's own, as its bundle has them."""

    volumes: dict[str, str]
    """The host's directory of each volume, by its path in the container."""

    files: dict[str, str]
    """The same for files."""


def user_text(image: Json, overrides: Overrides) -> str:
    """The user that is to be looked up."""
    return overrides.user if overrides.user is not None else string(image, "config", "User")


def volume_paths(image: Json) -> list[str]:
    """The absolute paths of the image's volumes, those above before those below; ImageError when one cannot be."""
    paths = sorted({_absolute(path) for path in _keys(image, "Volumes")})
    if "/" in paths:
        raise ImageError("the image's volume / would hide the image")
    if len(paths) > _VOLUMES_LIMIT:
        raise ImageError(f"the image has {len(paths)} volumes; at most {_VOLUMES_LIMIT} are possible")
    return paths


def check(image: Json, overrides: Overrides) -> None:
    """Refuses, before an image is unpacked, a config of which no config.json can be made."""
    command_line(image, overrides)
    environment(image, overrides, "", {})
    volume_paths(image)
    image_annotations(image)


def convert(image: Json, overrides: Overrides, user: User, own: Own, container_id: str) -> Json:
    """The config.json of a container; ImageError when the image's config does not have the right form."""
    hostname = overrides.hostname or container_id[:64]
    spec = default_spec()
    spec["process"] = {
        "terminal": overrides.terminal,
        "user": user.document(),
        "args": command_line(image, overrides),
        "env": environment(image, overrides, hostname, os.environ),
        "cwd": _working_directory(image, overrides),
        "capabilities": {kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": _OPEN_FILES, "soft": _OPEN_FILES}],
        "noNewPrivileges": False,
    }
    if user.uid:  # as Docker has it: another user has them within reach of a setuid program alone
        spec["process"]["capabilities"] |= {"effective": [], "permitted": []}
    spec["root"]["readonly"] = False
    spec["hostname"] = hostname
    spec["mounts"] += [_bind(source, path) for path, source in (own.files | own.volumes).items()]
    spec["annotations"] = image_annotations(image)
    return spec


def command_line(image: Json, overrides: Overrides) -> list[str]:
    """Entrypoint and Cmd, or what the command line has in their place, as Docker has it."""
    entrypoint, cmd = _strings(image, "Entrypoint"), _strings(image, "Cmd")
    if overrides.entrypoint is not None:
        entrypoint, cmd = ([overrides.entrypoint] if overrides.entrypoint else []), []
    args = [*entrypoint, *(overrides.args or cmd)]
    if not args:
        raise ImageError("the image names no command", hint="give one after the container's id")
    return args


def environment(image: Json, overrides: Overrides, hostname: str, caller: Mapping[str, str]) -> list[str]:
    """The image's environment with what the command line changes; ImageError for an entry without a name."""
    values = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if overrides.terminal:
        values["TERM"] = "xterm"
    for entry in (*_strings(image, "Env"), *_completed(overrides.env, caller)):
        name, _, value = entry.partition("=")
        if not name:
            raise ImageError(f"environment: {quoted(entry)} does not have the form NAME=VALUE")
        values[name] = value
    return [f"{name}={value}" for name, value in values.items()]


def image_annotations(image: Json) -> dict[str, str]:
    """The image's properties and labels; a label counts for more."""
    found = {f"{_PREFIX}{name}": image[key] for key, name in _ANNOTATIONS.items() if string(image, key)}
    if stop := string(image, "config", "StopSignal"):
        found[f"{_PREFIX}stopSignal"] = stop
    if ports := _keys(image, "ExposedPorts"):
        found[f"{_PREFIX}exposedPorts"] = ",".join(sorted(ports))
    labels: dict[str, str] = _member(image, "Labels", dict, "an object of strings")
    if not all(isinstance(value, str) for value in labels.values()):
        raise _wrong("Labels", "an object of strings")
    return found | labels


def _working_directory(image: Json, overrides: Overrides) -> str:
    path = overrides.workdir if overrides.workdir is not None else string(image, "config", "WorkingDir")
    return _absolute(path)


def _absolute(path: str) -> str:
    return os.path.normpath("/" + path.lstrip("/"))


def _completed(env: Iterable[str], caller: Mapping[str, str]) -> Iterable[str]:
    for entry in env:
        if "=" in entry or not entry:
            yield entry
        elif entry in caller:
            yield f"{entry}={caller[entry]}"


def _bind(source: str, destination: str) -> Json:
    return {"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rw", "rprivate"]}


def _strings(image: Json, key: str) -> list[str]:
    values: list[Any] = _member(image, key, list, "an array of strings")
    if not all(isinstance(value, str) for value in values):
        raise _wrong(key, "an array of strings")
    return values


def _keys(image: Json, key: str) -> list[str]:
    return list(_member(image, key, dict, "an object"))


def _member(image: Json, key: str, kind: type, form: str) -> Any:
    """A member of the config's `config`, or an empty one of its kind."""
    value = member(mapping(image, "config"), key)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise _wrong(key, form)
    return value


def _wrong(key: str, form: str) -> ImageError:
    return ImageError(f"the image's config: config.{key} is not {form}")
