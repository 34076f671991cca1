"""An image in a docker archive, read by skopeo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from vruntime.errors import ImageError
from vruntime.image import manifest, tools
from vruntime.image.files import read_file
from vruntime.image.manifest import Image
from vruntime.image.reference import Reference
from vruntime.oci import strict_json
from vruntime.oci.document import Json, array, mapping, string

_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def find_id(reference: Reference) -> str:
    """The id of the image that the reference names; ImageError says what is wrong."""
    _check_file(reference.path)
    inspected = manifest.parse(_skopeo(reference, ["inspect", "--raw"]), str(reference))
    digest = string(mapping(inspected, "config"), "digest")
    return manifest.blob_path(Path(), digest).name


def read_config(reference: Reference, image_id: str) -> Json:
    """The config of the image; ImageError when this host cannot run it."""
    content = _skopeo(reference, ["inspect", "--config", "--raw"])
    manifest.check_digest(content, f"sha256:{image_id}")
    config = manifest.parse(content, "the image's config")
    manifest.check_platform(config)
    return config


def extract(reference: Reference, target: Path, room: tools.Room) -> Image:
    """The image, with its blobs as files of the directory `target`, which is made."""
    arguments = ["--insecure-policy", "copy", "--quiet", _name(reference), f"dir:{target}"]
    tools.run("skopeo", arguments, room.watch)
    document = manifest.parse(read_file(target / "manifest.json", strict_json.SIZE_LIMIT), str(reference))
    return manifest.load_image(document, manifest.read_blob(target, document.get("config")), target)


def _check_file(path: Path) -> None:
    try:
        if not path.is_file():
            raise ImageError(f"{path} is not a file" if path.exists() else f"{path}: No such file or directory")
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise ImageError(f"{path} is compressed with {name}", hint="decompress it once, not at every run")


def _skopeo(reference: Reference, command: Sequence[str]) -> bytes:
    try:
        return tools.run("skopeo", ["--insecure-policy", *command, _name(reference)])
    except ImageError as error:
        raise ImageError(f"{reference}: {error.message}", hint=_names(reference)) from error


def _names(reference: Reference) -> str | None:
    """What the archive has, where that can be found out."""
    with suppress(ImageError, ValueError):
        listed: Json = json.loads(tools.run("skopeo", ["list-tags", f"{reference.kind}:{reference.path}"]))
        names = [name for name in array(listed, "Tags") if isinstance(name, str)]
        return f"it has {manifest.named(names)}" if names else None
    return None


def _name(reference: Reference) -> str:
    return f"{reference.kind}:{reference.path}" + (f":{reference.name}" if reference.name else "")
