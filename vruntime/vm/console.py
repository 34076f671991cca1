"""What the guest and the helpers print: kept in a bounded ring, shown escaped, and read for the cause of a death."""

from __future__ import annotations

import re
from collections import deque

LIMIT = 1 << 20
TAIL_LINES = 6
TAIL_LINE_LENGTH = 200

# The kernel's lines that name the cause of its own end, the most telling first.
_CAUSES = (
    re.compile(rb"Kernel panic - not syncing: (?!Fatal exception)([^\r\n]{1,200})"),
    re.compile(rb"((?:BUG|Oops|kernel BUG at)[: ][^\r\n]{1,200})"),
    re.compile(rb"((?:general protection fault|invalid opcode|divide error)[^\r\n]{1,200})"),
    re.compile(rb"Kernel panic - not syncing: ([^\r\n]{1,200})"),
    re.compile(rb"(Out of memory: Killed process[^\r\n]{1,200})"),
)


class Ring:
    """The last bytes of an endless output, at most `limit`."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._size = 0
        self._pieces: deque[bytes] = deque()

    def write(self, data: bytes) -> None:
        """Adds bytes, dropping the oldest beyond the limit."""
        data = data[-self._limit :]
        self._pieces.append(data)
        self._size += len(data)
        while self._size > self._limit:
            self._size -= len(self._pieces.popleft())

    def contents(self) -> bytes:
        """All that is kept."""
        return b"".join(self._pieces)


def tail(output: bytes) -> list[str]:
    """The last lines of an output, bounded and without a control character."""
    lines = [escape(line.strip()) for line in output[-16384:].splitlines() if line.strip()]
    return lines[-TAIL_LINES:]


def cause(output: bytes) -> str | None:
    """What the kernel said of its own end, or None."""
    for pattern in _CAUSES:
        found = pattern.findall(output)
        if found:
            return f"guest kernel: {escape(found[-1])}"
    return None


def escape(data: bytes, limit: int = TAIL_LINE_LENGTH) -> str:
    """Text that a terminal or a log shows as one line: whatever is not printable is written as Python would."""
    text = data.decode("utf-8", "backslashreplace")[:limit]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
