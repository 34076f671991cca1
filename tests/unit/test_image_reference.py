"""What --image can name."""

from pathlib import Path

import pytest

from vruntime.errors import ImageError
from vruntime.image.reference import Kind, Reference, parse_reference

DIGEST = f"sha256:{'0a' * 32}"


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("oci:/images/a", Reference(Kind.OCI, Path("/images/a"))),
        ("oci:a:v1", Reference(Kind.OCI, Path("a"), "v1")),
        ("oci:a:v1:x/y", Reference(Kind.OCI, Path("a"), "v1:x/y")),
        (f"oci:a@{DIGEST}", Reference(Kind.OCI, Path("a"), DIGEST)),
        (f"oci:me@home/a@{DIGEST}", Reference(Kind.OCI, Path("me@home/a"), DIGEST)),
        ("docker-archive:a.tar", Reference(Kind.ARCHIVE, Path("a.tar"))),
        ("docker-archive:a.tar:debian:12", Reference(Kind.ARCHIVE, Path("a.tar"), "debian:12")),
        ("dir:a:b", Reference(Kind.DIRECTORY, Path("a:b"))),
        ("/a:b", Reference(Kind.DIRECTORY, Path("/a:b"))),
        ("rootfs", Reference(Kind.DIRECTORY, Path("rootfs"))),
    ],
)
def test_references(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no image"),
        ("oci:", "names no image"),
        ("oci::v1", "names no image"),
        ("oci:a:", "names no image"),
        ("dir:", "names no image"),
        ("oci:a\0b", "names no image"),
        ("oci:a\nb", "names no image"),
        (f"oci:a:{'v' * 513}", "at most 512 characters"),
        ("oci:a@sha256:12", "is no digest"),
        ("oci:a@sha512:12", "is no digest"),
        ("docker://debian", "registries are not asked"),
        ("containers-storage:debian", "an image is oci:DIR"),
    ],
)
def test_no_references(text: str, reason: str) -> None:
    with pytest.raises(ImageError) as raised:
        parse_reference(text)
    assert reason in str(raised.value)
    assert len(str(raised.value)) < 300
