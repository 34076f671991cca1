"""An image's layers made a directory, by umoci, from a layout that has this one image alone.

umoci reads every blob against its digest, and each layer against its digest in the config.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from vruntime.image import tools
from vruntime.image.layout import INDEX, MARKER, REF_NAME
from vruntime.image.manifest import OCI_CONFIG, OCI_MANIFEST, Image
from vruntime.store import remove_tree

_TAG: Final = "image"


def unpack(image: Image, rootfs: Path, room: tools.Room) -> None:
    """Makes the directory `rootfs`; ImageError with the cause when the image does not allow it."""
    layout = rootfs.with_name("layout")
    _make_layout(image, layout)
    room.next_program()
    tools.run("umoci", ["raw", "unpack", "--image", f"{layout}:{_TAG}", str(rootfs)], room.watch)
    remove_tree(layout)


def _make_layout(image: Image, layout: Path) -> None:
    """A layout whose blobs are links to the image's: umoci finds what was checked, by the names that it knows."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest in {f"sha256:{image.id}", *(layer.digest for layer in image.layers)}:
        os.symlink(os.path.abspath(image.blob(digest)), blobs / digest.removeprefix("sha256:"))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(OCI_CONFIG, f"sha256:{image.id}", len(image.content)),
        "layers": [_descriptor(layer.media_type, layer.digest, layer.size) for layer in image.layers],
    }
    content = json.dumps(manifest).encode()
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    entry = _descriptor(OCI_MANIFEST, f"sha256:{digest}", len(content)) | {"annotations": {REF_NAME: _TAG}}
    (layout / INDEX).write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / MARKER).write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}
