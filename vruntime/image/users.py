"""Who an image's user is: names looked up in the image's own /etc/passwd and /etc/group, as runc and Docker do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vruntime import linux
from vruntime.errors import ImageError
from vruntime.image.files import read_probed
from vruntime.oci.document import Json, quoted

_ID_LIMIT: Final = 2**31 - 1
"""The largest id, as runc has it."""

_FILE_LIMIT: Final = 1 << 20
"""Most bytes of either file: some 20,000 users."""

_GROUPS_LIMIT: Final = 1024
"""Most additional groups that are taken: a process can have 65,536, and no image needs them."""

_ASKED: Final = "its /etc/{} is asked; --user overrides the image's own"


@dataclass(frozen=True)
class User:
    """Whom a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """The additional ones."""

    def document(self) -> Json:
        """For `process.user`."""
        return {"uid": self.uid, "gid": self.gid} | ({"additionalGids": list(self.groups)} if self.groups else {})


def find_user(root_fd: int, text: str) -> User:
    """The user of `USER[:GROUP]`, each a name or a number, in the root filesystem that `root_fd` is open at.

    Without a group it is the user's own with those that list the user; an empty text means uid 0. A number needs no
    entry. ImageError when there is no such name. No symlink leads out of the root filesystem.
    """
    wanted, _, group = text.partition(":")
    entry = _find_entry(root_fd, wanted)
    if entry is not None:
        name, user = entry
    elif (number := _number(wanted or "0")) is not None:
        name, user = "", User(number, 0)
    else:
        raise ImageError(f"the image has no user {quoted(wanted)}", hint=_ASKED.format("passwd"))
    if group:
        return User(user.uid, _find_group(root_fd, group))
    return User(user.uid, user.gid, tuple(_groups_of(root_fd, name)) if name else ())


def _find_entry(root_fd: int, wanted: str) -> tuple[str, User] | None:
    """The first line of passwd that has this name or number, as its name and user."""
    number = _number(wanted or "0")
    for name, _, uid_text, gid_text in _lines(root_fd, "etc/passwd", 4):
        uid, gid = _number(uid_text), _number(gid_text)
        if uid is not None and gid is not None and ((wanted and name == wanted) or uid == number):
            return name, User(uid, gid)
    return None


def _find_group(root_fd: int, wanted: str) -> int:
    number = _number(wanted)
    for name, _, gid_text in _lines(root_fd, "etc/group", 3):
        gid = _number(gid_text)
        if gid is not None and (name == wanted or gid == number):
            return gid
    if number is None:
        raise ImageError(f"the image has no group {quoted(wanted)}", hint=_ASKED.format("group"))
    return number


def _groups_of(root_fd: int, name: str) -> Iterator[int]:
    found = 0
    for _, _, gid_text, members in _lines(root_fd, "etc/group", 4):
        gid = _number(gid_text)
        if gid is not None and name in members.split(",") and found < _GROUPS_LIMIT:
            found += 1
            yield gid


def _lines(root_fd: int, path: str, columns: int) -> Iterator[list[str]]:
    """The first columns of each line of a file that may be missing; lines with fewer are passed over."""
    try:
        probe = linux.openat2(
            root_fd, path, flags=os.O_PATH, resolve=linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
        )
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ImageError(f"the image's /{path} cannot be read: {error.strerror}") from error
    content = read_probed(probe, f"the image's /{path}", _FILE_LIMIT)
    for line in content.decode(errors="replace").split("\n"):
        fields = line.strip().split(":")
        if len(fields) >= columns:
            yield fields[:columns]


def _number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _ID_LIMIT:
        return int(text)
    return None
