"""An image: its manifest, checked down to the presence of every layer (image-spec, manifest.md and config.md)."""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vruntime.errors import ImageError
from vruntime.image.files import read_file
from vruntime.image.reference import is_digest
from vruntime.oci import strict_json
from vruntime.oci.document import Json, array, mapping, member, quoted, string

ARCHITECTURE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""This host's, as images name it."""

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"

_LAYER_TYPES: Final = {
    OCI_LAYER: OCI_LAYER,
    f"{OCI_LAYER}+gzip": f"{OCI_LAYER}+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": f"{OCI_LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar": OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{OCI_LAYER}+gzip",
}
"""What umoci reads, by what manifests call it."""

_SHOWN: Final = 20


@dataclass(frozen=True)
class Layer:
    """One layer: a blob, and whether it is compressed."""

    digest: str
    size: int
    media_type: str


@dataclass(frozen=True)
class Image:
    """An image whose manifest and config have passed every check; its layers are there, and unread."""

    id: str
    """The digest of its config, without `sha256:`: the id that Docker and Podman show.

    The config has the digest of every uncompressed layer, so images of one id have one content.
    """

    content: bytes
    """The config as it is in the image."""

    config: Json
    layers: tuple[Layer, ...]
    blobs: Path
    """The directory of the image's blobs, each named by its digest without `sha256:`."""

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        return blob_path(self.blobs, digest)


def blob_path(blobs: Path, digest: str) -> Path:
    """The file of a blob; ImageError when `digest` is none."""
    if not is_digest(digest):
        raise ImageError(f"{quoted(digest)} is no digest in sha256, the algorithm that is supported")
    return blobs / digest.removeprefix("sha256:")


def read_blob(blobs: Path, descriptor: object) -> bytes:
    """A JSON blob that a descriptor names, of the bytes that its digest says; ImageError when it is another."""
    digest = string(descriptor, "digest")
    content = read_file(blob_path(blobs, digest), strict_json.SIZE_LIMIT)
    check_digest(content, digest)
    return content


def check_digest(content: bytes, digest: str) -> None:
    """ImageError unless `content` has this digest."""
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != digest:
        raise ImageError(f"the image is damaged: blob {digest} has the content of {found}")


def parse(content: bytes, name: str) -> Json:
    """A JSON object that was read as `name`; ConfigError or ImageError when it is none."""
    document = strict_json.loads(content, name)
    if not isinstance(document, dict):
        raise ImageError(f"{name} is not a JSON object")
    return document


def load_image(manifest: Json, config: bytes, blobs: Path) -> Image:
    """Checks a manifest and its config against each other and this host; ImageError says what does not fit."""
    digest = string(manifest, "config", "digest")
    check_digest(config, digest)
    document = parse(config, "the image's config")
    check_platform(document)
    layers, diff_ids = array(manifest, "layers"), array(document, "rootfs", "diff_ids")
    if len(layers) != len(diff_ids):
        raise ImageError(f"the image is damaged: {len(layers)} layers, and {len(diff_ids)} in its config")
    return Image(
        id=digest.removeprefix("sha256:"),
        content=config,
        config=document,
        layers=tuple(_layer(layer, diff_id, blobs) for layer, diff_id in zip(layers, diff_ids, strict=True)),
        blobs=blobs,
    )


def platform_of(architecture: str, system: str) -> str:
    """A platform as messages name it."""
    return f"{system or 'linux'}/{architecture or 'unknown'}"


def check_platform(config: Json) -> None:
    """ImageError unless the config is for this host."""
    architecture, system = string(config, "architecture"), string(config, "os")
    if architecture in ("", ARCHITECTURE) and system in ("", "linux"):
        return
    found = quoted(platform_of(architecture, system))
    raise ImageError(f"the image is for {found}, and this host is {platform_of(ARCHITECTURE, 'linux')}")


def _layer(descriptor: Any, diff_id: Any, blobs: Path) -> Layer:
    digest, size = string(descriptor, "digest"), member(descriptor, "size")
    path = blob_path(blobs, digest)
    kind = string(descriptor, "mediaType")
    if kind not in _LAYER_TYPES:
        raise ImageError(f"layer {digest}: media type {quoted(kind)} is not supported", hint="tar and tar+gzip are")
    try:
        status = os.stat(path)
    except OSError as error:
        raise ImageError(f"the image is damaged: layer {digest}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise ImageError(f"the image is damaged: layer {digest} is not a file of {quoted(size)} bytes")
    # skopeo calls a layer of a docker archive compressed, whether it is or not.
    return Layer(digest, size, OCI_LAYER if digest == diff_id else _LAYER_TYPES[kind])


def named(names: list[str]) -> str:
    """Names that an image's author chose, for a message."""
    shown = ", ".join(quoted(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def platforms(document: Json) -> list[tuple[Json, str, str]]:
    """The manifests of an index, each with its architecture and its system."""
    entries = [entry for entry in array(document, "manifests") if isinstance(entry, dict)]
    return [
        (entry, string(mapping(entry, "platform"), "architecture"), string(mapping(entry, "platform"), "os"))
        for entry in entries
    ]
