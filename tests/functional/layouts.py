"""OCI layouts written byte by byte, for what well-kept tools would not make."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
DIRECTORY, FIFO, BLOCK, SYMLINK, HARDLINK = (
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
    tarfile.BLKTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
)


def entry(
    name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o755
) -> tuple[tarfile.TarInfo, bytes]:
    """One entry of a layer, of root's; a block device is the host's first disk."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(content)
    info.devmajor, info.devminor = (254, 0) if kind == BLOCK else (0, 0)
    return info, content


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A layer, not compressed."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def busybox() -> bytes:
    """A layer with a shell."""
    return layer(
        entry("bin", kind=DIRECTORY),
        entry("bin/busybox", Path("/bin/busybox").read_bytes()),
        *(entry(f"bin/{name}", kind=SYMLINK, link="busybox") for name in ("sh", "ls", "cat", "id", "stat", "true")),
    )


class Layout:
    """A layout with one image, whose parts a test can exchange for others."""

    def __init__(self, directory: Path, *layers: bytes, config: dict[str, Any] | None = None, **other: Any) -> None:
        self.path = directory
        self.blobs = directory / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["true"]} if config is None else config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in layers]},
            **other,
        }
        self.layers = [self.add(gzip.compress(each, 1), LAYER) for each in layers]
        self.config = self.add(json.dumps(document).encode(), CONFIG)
        self.index({"schemaVersion": 2, "config": self.config, "layers": self.layers})
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def add(self, content: bytes, media_type: str) -> dict[str, Any]:
        """A blob; its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        (self.blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def index(self, manifest: dict[str, Any]) -> None:
        """Makes a manifest the only one."""
        self.manifest = self.add(json.dumps(manifest).encode(), MANIFEST)
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [self.manifest]}))

    def blob(self, descriptor: dict[str, Any]) -> Path:
        """The file of a blob."""
        return self.blobs / str(descriptor["digest"]).removeprefix("sha256:")
