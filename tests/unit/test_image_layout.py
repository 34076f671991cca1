"""Which image of a layout is meant, and for which machine."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from vruntime.errors import ImageError
from vruntime.image import manifest
from vruntime.image.layout import REF_NAME, find_image
from vruntime.image.reference import parse_reference

INDEX = "application/vnd.oci.image.index.v1+json"


class Layout:
    """A layout of images that differ in their author alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def add(self, document: dict[str, Any], media_type: str, **other: Any) -> dict[str, Any]:
        content = json.dumps(document).encode()
        digest = hashlib.sha256(content).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **other}

    def image(self, author: str, **other: Any) -> dict[str, Any]:
        config = self.add({"author": author, "architecture": "amd64", "os": "linux"}, manifest.OCI_CONFIG)
        return self.add({"config": config, "layers": []}, manifest.OCI_MANIFEST, **other)

    def index(self, *entries: dict[str, Any]) -> None:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))

    def author(self, suffix: str = "") -> str:
        return str(find_image(parse_reference(f"oci:{self.path}{suffix}")).config["author"])


def tagged(name: str) -> dict[str, str]:
    return {REF_NAME: name}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def test_the_only_one_needs_no_tag(layout: Layout) -> None:
    layout.index(layout.image("a", annotations=tagged("v1")))
    assert layout.author() == layout.author(":v1") == "a"


def test_latest_is_meant_among_several(layout: Layout) -> None:
    layout.index(layout.image("a", annotations=tagged("v1")), layout.image("b", annotations=tagged("latest")))
    assert layout.author() == "b"


def test_a_digest_names_one(layout: Layout) -> None:
    first, second = layout.image("a"), layout.image("b")
    layout.index(first, second)
    assert layout.author(f"@{second['digest']}") == "b"


@pytest.mark.parametrize(("suffix", "said"), [("", "tag latest"), (":v3", '"v3"')])
def test_the_tags_are_told(suffix: str, said: str, layout: Layout) -> None:
    layout.index(layout.image("a", annotations=tagged("v1")), layout.image("b", annotations=tagged("v2")))
    with pytest.raises(ImageError) as raised:
        layout.author(suffix)
    assert said in raised.value.message
    assert raised.value.hint == 'it has "v1", "v2"'


def test_many_tags_make_a_short_message(layout: Layout) -> None:
    layout.index(*(layout.image("a", annotations=tagged("x" * 100_000)) for _ in range(30)))
    with pytest.raises(ImageError) as raised:
        layout.author(":v1")
    assert str(raised.value).endswith("and 10 more)")
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("nested", [False, True])
def test_an_index_is_searched_for_this_machine(nested: bool, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ARCHITECTURE", "amd64")
    other = layout.image("other", platform={"architecture": "arm64", "os": "linux"})
    ours = layout.image("ours", platform={"architecture": "amd64", "os": "linux"})
    index = {"manifests": [other, ours]}
    if nested:
        index = {"manifests": [layout.add(index, INDEX, platform={"architecture": "amd64"})]}
    layout.index(layout.add(index, INDEX))
    assert layout.author() == "ours"


def test_the_platforms_are_told(layout: Layout) -> None:
    other = layout.image("other", platform={"architecture": "m68k", "os": "linux"})
    layout.index(layout.add({"manifests": [other]}, INDEX))
    with pytest.raises(ImageError) as raised:
        layout.author()
    assert raised.value.hint == 'it is for "linux/m68k"'


def test_indexes_are_nested_to_a_bound(layout: Layout) -> None:
    entry = layout.image("a")
    for _ in range(5):
        entry = layout.add({"manifests": [entry | {"platform": {"architecture": manifest.ARCHITECTURE}}]}, INDEX)
    layout.index(entry)
    with pytest.raises(ImageError, match="nested more than 4 deep"):
        layout.author()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"mediaType": "text/plain"}, "is not an image's"),
        ({"mediaType": manifest.OCI_MANIFEST, "digest": "sha256:../../../etc/passwd"}, "is no digest"),
        ({"mediaType": manifest.OCI_MANIFEST, "digest": "sha512:00"}, "is no digest"),
        ({"mediaType": manifest.OCI_MANIFEST, "digest": 7}, "is no digest"),
        ({"mediaType": manifest.OCI_MANIFEST, "digest": f"sha256:{'0' * 64}"}, "No such file or directory"),
    ],
)
def test_entries_that_lead_nowhere(entry: dict[str, Any], said: str, layout: Layout) -> None:
    layout.index(entry)
    with pytest.raises(ImageError, match=said):
        layout.author()


def test_a_layout_of_another_version(layout: Layout) -> None:
    (layout.path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    layout.index()
    with pytest.raises(ImageError, match=r'of version "2\.0\.0", not 1'):
        layout.author()
