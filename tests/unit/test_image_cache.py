"""The kept images: made once, whole or not at all, and not removed while they are used."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vruntime.errors import HostError, ImageError
from vruntime.image.cache import Cache, Entry, Fill
from vruntime.image.progress import Progress
from vruntime.image.reference import parse_reference
from vruntime.log import Log

ID, OTHER = "a" * 64, "ab" * 32
REFERENCE = parse_reference("oci:somewhere")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "kept")


def fill(new: Path) -> tuple[bytes, int]:
    (new / "rootfs").mkdir()
    return b'{"os": "linux"}', 5


def obtain(cache: Cache, image_id: str = ID, made_by: Fill = fill) -> Entry:
    return cache.obtain(image_id, REFERENCE, made_by, Progress(Log(), "unpacking"))


def kept(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "kept/images"))


def test_what_is_kept_is_not_made_again(cache: Cache) -> None:
    first = obtain(cache)
    second = obtain(cache, made_by=lambda _: pytest.fail("made again"))
    assert first.rootfs == second.rootfs
    assert second.rootfs.is_dir()
    assert second.config == {"os": "linux"}
    assert (second.about.reference, second.about.size) == ("oci:somewhere", 5)
    for entry in (first, second):
        os.close(entry.lock)


def test_many_at_once_make_it_once(cache: Cache) -> None:
    made = []

    def counted(new: Path) -> tuple[bytes, int]:
        made.append(new)
        return fill(new)

    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda _: obtain(cache, made_by=counted), range(16)))
    assert len(made) == 1
    for entry in entries:
        os.close(entry.lock)


def test_what_failed_leaves_nothing(cache: Cache, tmp_path: Path) -> None:
    def fails(new: Path) -> tuple[bytes, int]:
        (new / "rootfs").mkdir()
        raise ImageError("broken")

    def full(_: Path) -> tuple[bytes, int]:
        raise OSError(28, "No space left on device")

    def interrupted(_: Path) -> tuple[bytes, int]:
        raise KeyboardInterrupt

    with pytest.raises(ImageError, match="broken"):
        obtain(cache, made_by=fails)
    with pytest.raises(HostError, match="No space left on device"):
        obtain(cache, made_by=full)
    with pytest.raises(KeyboardInterrupt):
        obtain(cache, made_by=interrupted)
    assert kept(tmp_path) == []


def test_what_a_killed_one_left_is_made_anew(cache: Cache, tmp_path: Path) -> None:
    left = tmp_path / "kept/images" / ID / "new/rootfs"
    left.mkdir(parents=True)
    (left / "half").touch()
    entry = obtain(cache)
    assert os.listdir(entry.rootfs) == []
    os.close(entry.lock)


def test_a_used_one_is_not_removed(cache: Cache, tmp_path: Path) -> None:
    entry = obtain(cache)
    assert cache.remove(ID) is False
    assert entry.rootfs.is_dir()
    os.close(entry.lock)
    assert cache.remove(ID) is True
    assert cache.remove(ID) is True
    assert kept(tmp_path) == []


def test_the_sweep_takes_what_is_not_whole(cache: Cache, tmp_path: Path) -> None:
    os.close(obtain(cache).lock)
    (tmp_path / "kept/images" / OTHER / "new").mkdir(parents=True)
    cache.sweep()
    assert kept(tmp_path) == [ID]


def test_ids_are_found_by_their_beginning(cache: Cache) -> None:
    for image_id in (ID, OTHER):
        os.close(obtain(cache, image_id).lock)
    assert cache.find("aa") == ID
    assert cache.find("sha256:ab") == OTHER
    for prefix, said in (("a", "several kept images have"), ("b", "no kept image has"), ("", "no kept image has")):
        with pytest.raises(ImageError, match=said):
            cache.find(prefix)


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept/images").mkdir(parents=True, mode=0o755)
    with pytest.raises(HostError, match="is not a directory for root alone"):
        Cache(tmp_path / "kept")


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "kept/images").symlink_to(tmp_path / "target")
    with pytest.raises(HostError, match="is not a directory for root alone"):
        Cache(tmp_path / "kept")
