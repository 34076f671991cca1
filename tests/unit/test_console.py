"""What the guest prints: bounded, escaped, and read for the cause of a death."""

import pytest

from vruntime.vm import console


def test_ring_keeps_the_last_bytes() -> None:
    ring = console.Ring(limit=10)
    for piece in (b"12345", b"67890", b"abc"):
        ring.write(piece)
    assert ring.contents() == b"67890abc"


def test_ring_cuts_a_piece_over_the_limit() -> None:
    ring = console.Ring(limit=4)
    ring.write(b"0123456789")
    assert ring.contents() == b"6789"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain text", "plain text"),
        (b"\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        (b'a\r\n{"level":"info"}', 'a\\r\\n{"level":"info"}'),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\u202egnp.exe".encode(), "\\u202egnp.exe"),
    ],
)
def test_escape_shows_what_does_not_print(raw: bytes, shown: str) -> None:
    assert console.escape(raw) == shown


def test_tail_is_bounded() -> None:
    lines = console.tail(b"x" * 100_000 + b"\n" + b"\n".join(b"line %d" % n for n in range(100)))
    assert lines == [f"line {n}" for n in range(94, 100)]
    assert len(console.tail(b"y" * 100_000)[0]) == console.TAIL_LINE_LENGTH


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        (b"", None),
        (b"login: \n", None),
        (
            b"[ 1.0] BUG: bad\r\n[ 1.1] Kernel panic - not syncing: Attempted to kill init!\r\n",
            "guest kernel: Attempted to kill init!",
        ),
        (
            b"[ 1.0] Out of memory: Killed process 9 (cc1)\n[ 1.1] general protection fault: 0000\n"
            b"[ 1.2] Kernel panic - not syncing: Fatal exception in interrupt\n",
            "guest kernel: general protection fault: 0000",
        ),
        (b"Kernel panic - not syncing: Fatal exception\n", "guest kernel: Fatal exception"),
        (b"[ 2.0] BUG: soft lockup\n", "guest kernel: BUG: soft lockup"),
        (
            b"[ 3.0] Out of memory: Killed process 9 (cc1)\n",
            "guest kernel: Out of memory: Killed process 9 (cc1)",
        ),
    ],
)
def test_cause_is_what_the_kernel_said(output: bytes, cause: str | None) -> None:
    assert console.cause(output) == cause
