"""Programs of the classic Berkeley packet filter, for a classifier of traffic control (tc-bpf(8)).

A packet begins with its Ethernet header. A conditional jump reaches 255 instructions only, so that each is made to skip
at most one unconditional jump, which has no such bound.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

MOST: Final = 4096
"""Instructions of one program (BPF_MAXINSNS)."""

# Codes of linux/bpf_common.h: load absolute by width, jumps, and the end.
_LOAD: Final = {4: 0x20, 2: 0x28, 1: 0x30}
_AND: Final = 0x54
_JUMP: Final = 0x05
_JUMP_IF_EQUAL: Final = 0x15
_JUMP_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_VLAN_TAG_PRESENT: Final = 0xFFFFF000 + 48  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT

_INSTRUCTION: Final = struct.Struct("=HBBI")


@dataclass
class Program:
    """A program under construction: instructions with jumps to labels that may be set later."""

    _code: list[tuple[int, int, int, int | str]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)

    def label(self, name: str) -> None:
        """What comes next is found by this name."""
        assert name not in self._labels
        self._labels[name] = len(self._code)

    def load(self, offset: int, width: int) -> None:
        """Loads 1, 2 or 4 bytes of the packet. A packet that is shorter ends the program with 0."""
        self._code.append((_LOAD[width], 0, 0, offset))

    def load_vlan(self) -> None:
        """Loads whether the packet came with a VLAN tag."""
        self._code.append((_LOAD[4], 0, 0, _VLAN_TAG_PRESENT))

    def mask(self, bits: int) -> None:
        """Keeps these bits of what is loaded."""
        self._code.append((_AND, 0, 0, bits))

    def jump(self, label: str) -> None:
        """Goes on elsewhere."""
        self._code.append((_JUMP, 0, 0, label))

    def if_equal(self, value: int, label: str) -> None:
        """Goes on elsewhere when what is loaded is this."""
        self._code.append((_JUMP_IF_EQUAL, 0, 1, value))
        self.jump(label)

    def unless_equal(self, value: int, label: str) -> None:
        """Goes on elsewhere unless what is loaded is this."""
        self._code.append((_JUMP_IF_EQUAL, 1, 0, value))
        self.jump(label)

    def unless_at_least(self, value: int, label: str) -> None:
        """Goes on elsewhere unless what is loaded is this or more."""
        self._code.append((_JUMP_IF_AT_LEAST, 1, 0, value))
        self.jump(label)

    def unless_bytes(self, offset: int, content: bytes, label: str) -> None:
        """Goes on elsewhere unless the packet has this content, of an even length, at an offset."""
        while content:
            width = 4 if len(content) >= 4 else 2
            self.load(offset, width)
            self.unless_equal(int.from_bytes(content[:width], "big"), label)
            offset, content = offset + width, content[width:]

    def give(self, value: int) -> None:
        """Ends the program with a value."""
        self._code.append((_RETURN, 0, 0, value & 0xFFFFFFFF))

    def assemble(self) -> bytes:
        """The array of struct sock_filter. ValueError when the kernel would not take it for its length."""
        if len(self._code) > MOST:
            raise ValueError(f"a packet filter of {len(self._code)} instructions, of which {MOST} are possible")
        return b"".join(
            _INSTRUCTION.pack(code, yes, no, k if isinstance(k, int) else self._labels[k] - at - 1)
            for at, (code, yes, no, k) in enumerate(self._code)
        )
