"""The resolv.conf of a container on the host, as far as the guest must be told of it.

Who is root in the container may write to the file. So it is opened once, when the container is made: no other file of
the host can come in its place.
"""

from __future__ import annotations

import os
import socket
import stat

# What is read of it, in bytes.
_LIMIT = 1 << 16
MOST_NAME_SERVERS = 3


class ResolvConf:
    """The file that a container has as its /etc/resolv.conf; `path` is None when that is none of the host's."""

    def __init__(self, path: str | None) -> None:
        self._fd = -1 if path is None else _open(path)

    def loopback_servers(self) -> list[str]:
        """The name servers that only the namespace on the host can reach, at 127.0.0.0/8."""
        if self._fd < 0:
            return []
        try:
            content = os.pread(self._fd, _LIMIT, 0)
        except OSError:  # the disk it is on: as without name servers
            return []
        lines = (line.split() for line in content.decode(errors="replace").splitlines())
        listed = (words[1] for words in lines if len(words) > 1 and words[0] == "nameserver")
        return list(dict.fromkeys(filter(_is_loopback, listed)))[:MOST_NAME_SERVERS]

    def close(self) -> None:
        """Nothing is read any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: str) -> int:
    """A descriptor of a regular file; -1 when there is none, which then says nothing of name servers."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return -1


def _is_loopback(address: str) -> bool:
    try:
        return socket.inet_pton(socket.AF_INET, address)[0] == 127
    except (OSError, ValueError):  # ValueError: a character that no address has
        return False
