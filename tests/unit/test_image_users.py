"""Names of users and groups, looked up in an image as runc looks them up."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vruntime.errors import ImageError
from vruntime.image.users import User, find_user

PASSWD = """root:x:0:0:root:/root:/bin/sh
short:x
bad:x:one:two::/:/bin/sh
web:x:33:34:web:/var/www:/bin/sh
web:x:40:40:second of the name:/:/bin/sh
7:x:1007:1007:a name that is a number:/:/bin/sh
"""
GROUP = """root:x:0:
wheel:x:10:root,web
web:x:34:
www:x:35:other,web
bad:x:none:web
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (10,))),
        ("root", User(0, 0, (10,))),
        ("0", User(0, 0, (10,))),
        ("web", User(33, 34, (10, 35))),
        ("33", User(33, 34, (10, 35))),
        ("web:root", User(33, 0)),
        ("web:12", User(33, 12)),
        ("1234", User(1234, 0)),
        ("1234:wheel", User(1234, 10)),
        (":wheel", User(0, 10)),
        ("7", User(1007, 1007)),
        ("2147483647", User(2147483647, 0)),
    ],
)
def test_users(root: int, text: str, user: User) -> None:
    assert find_user(root, text) == user


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nobody", 'no user "nobody"'),
        ("-1", 'no user "-1"'),
        ("2147483648", 'no user "2147483648"'),
        ("bad", 'no user "bad"'),
        ("root:nogroup", 'no group "nogroup"'),
        ("root:bad", 'no group "bad"'),
    ],
)
def test_no_users(root: int, text: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        find_user(root, text)


def test_an_image_without_users_has_numbers(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    assert find_user(fd, "") == User(0, 0)
    assert find_user(fd, "5:6") == User(5, 6)
    with pytest.raises(ImageError, match='no user "root"'):
        find_user(fd, "root")
    os.close(fd)


def test_links_stay_in_the_image(root: int, tmp_path: Path) -> None:
    (tmp_path / "etc/passwd").rename(tmp_path / "users")
    (tmp_path / "etc/passwd").symlink_to("/users")
    assert find_user(root, "web").uid == 33
