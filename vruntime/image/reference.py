"""What --image names: an image on this host, in one of three forms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from vruntime.errors import ImageError
from vruntime.oci.document import quoted

FORMS: Final = "an image is oci:DIR[:TAG], docker-archive:FILE[:REF], dir:DIR or a directory"

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+-]*):")
_NAME_LIMIT: Final = 512


class Kind(StrEnum):
    """The form of an image."""

    OCI = "oci"
    """An OCI image layout (image-spec, image-layout.md)."""

    ARCHIVE = "docker-archive"
    """What `docker save` and `podman save` write."""

    DIRECTORY = "dir"
    """A root filesystem."""


@dataclass(frozen=True)
class Reference:
    """Where an image is, and which of those there."""

    kind: Kind
    path: Path
    name: str | None = None
    """The tag or the digest in a layout, the reference in an archive; None: the only one, or `latest`."""

    def __str__(self) -> str:
        separator = "@" if self.name and is_digest(self.name) else ":"
        return f"{self.kind}:{self.path}" + (f"{separator}{self.name}" if self.name else "")


def is_digest(text: str) -> bool:
    """Whether it is a digest in the one algorithm that is supported."""
    return _DIGEST.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """What --image says; ImageError when it is of no known form.

    As skopeo has it, the first colon after the form ends the path.
    """
    if not text or not text.isprintable():
        raise _no_image(text, FORMS)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Reference(Kind.DIRECTORY, Path(text))
    rest = text[scheme.end() :]
    try:
        kind = Kind(scheme[1])
    except ValueError:
        if scheme[1] in ("docker", "http", "https"):
            hint = f"registries are not asked: `skopeo copy {text:.64} oci:DIR:TAG` fetches it"
        else:
            hint = FORMS
        raise _no_image(text, hint) from None
    path, name = (rest, None) if kind is Kind.DIRECTORY else _split(kind, rest)
    if not path or name == "":
        raise _no_image(text, FORMS)
    if name and len(name) > _NAME_LIMIT:
        raise _no_image(text, f"a name has at most {_NAME_LIMIT} characters")
    return Reference(kind, Path(path), name)


def _split(kind: Kind, rest: str) -> tuple[str, str | None]:
    if kind is Kind.OCI and (at := rest.rfind("@sha")) >= 0:
        digest = rest[at + 1 :]
        if not is_digest(digest):
            raise ImageError(f"{quoted(digest)} is no digest", hint="it is sha256: and 64 lower-case digits 0 to f")
        return rest[:at], digest
    path, colon, name = rest.partition(":")
    return path, name if colon else None


def _no_image(text: str, hint: str) -> ImageError:
    return ImageError(f"{quoted(text)} names no image", hint=hint)
