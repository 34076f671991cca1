"""An image in an OCI layout: index.json, and blobs by digest (image-spec, image-layout.md and image-index.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vruntime.errors import ImageError
from vruntime.image import manifest
from vruntime.image.files import read_file
from vruntime.image.manifest import Image
from vruntime.image.reference import Reference, is_digest
from vruntime.oci import strict_json
from vruntime.oci.document import Json, array, mapping, quoted, string

REF_NAME: Final = "org.opencontainers.image.ref.name"
"""The annotation that holds a manifest's tag."""

MARKER: Final = "oci-layout"
INDEX: Final = "index.json"

_INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFEST_TYPES: Final = (manifest.OCI_MANIFEST, manifest.DOCKER_MANIFEST)
_NESTING: Final = 4
"""Most indexes within each other: one for the tag and one for the platform are usual."""


def find_image(reference: Reference) -> Image:
    """The image that the reference names, for this host's architecture; ImageError says what is wrong."""
    layout = reference.path
    if not (layout / MARKER).exists():
        what = "has no file oci-layout" if layout.is_dir() else "is not a directory"
        raise ImageError(f"{layout} is no OCI layout: it {what}")
    version = manifest.parse(read_file(layout / MARKER, 4096), str(layout / MARKER))
    if not string(version, "imageLayoutVersion").startswith("1."):
        raise ImageError(f"{layout} is an OCI layout of version {quoted(version.get('imageLayoutVersion'))}, not 1")
    index = manifest.parse(read_file(layout / INDEX, strict_json.SIZE_LIMIT), str(layout / INDEX))
    blobs = layout / "blobs" / "sha256"
    found = _manifest(_named(index, reference), blobs)
    return manifest.load_image(found, manifest.read_blob(blobs, found.get("config")), blobs)


def _named(index: Json, reference: Reference) -> Json:
    """The descriptor that the tag or the digest names, or the only one, or `latest`."""
    entries = [entry for entry in array(index, "manifests") if isinstance(entry, dict)]
    wanted = reference.name
    if wanted and is_digest(wanted):
        found = [entry for entry in entries if entry.get("digest") == wanted]
    elif wanted is None and len(entries) == 1:
        found = entries
    else:
        found = [entry for entry in entries if _tag(entry) == (wanted or "latest")]
    if found:
        return found[0]
    tags = [tag for entry in entries if (tag := _tag(entry))]
    what = "tag latest, which is meant where none is named" if wanted is None else quoted(wanted)
    hint = f"it has {manifest.named(tags)}" if tags else "it has no tag"
    raise ImageError(f"{reference.path} has no {what}", hint=hint)


def _tag(entry: Json) -> str:
    return string(mapping(entry, "annotations"), REF_NAME)


def _manifest(descriptor: Json, blobs: Path) -> Json:
    """The manifest that a descriptor leads to, through indexes by platform."""
    for _ in range(_NESTING):
        kind = string(descriptor, "mediaType")
        if kind not in (*_INDEX_TYPES, *_MANIFEST_TYPES):
            raise ImageError(f"media type {quoted(kind)} is not an image's")
        digest = string(descriptor, "digest")
        document = manifest.parse(manifest.read_blob(blobs, descriptor), f"blob {digest}")
        if kind in _MANIFEST_TYPES:
            return document
        descriptor = _for_this_host(document)
    raise ImageError(f"the image's indexes are nested more than {_NESTING} deep")


def _for_this_host(index: Json) -> Json:
    found = manifest.platforms(index)
    for entry, architecture, system in found:
        if architecture == manifest.ARCHITECTURE and system in ("", "linux"):
            return entry
    names = [manifest.platform_of(architecture, system) for _, architecture, system in found]
    hint = f"it is for {manifest.named(names)}" if names else None
    raise ImageError(f"the image is not for {manifest.platform_of(manifest.ARCHITECTURE, 'linux')}", hint=hint)
