"""A program that takes the memory that its control group has left, until the kernel kills it. Run by its path.

`ballast.py BYTES`: takes no more than that; exits with 1 when the kernel lets it have that much.
"""

from __future__ import annotations

import sys

MEBIBYTE = 1 << 20


def main() -> None:
    """The kernel's choice is certain: nothing in the group can be a better one."""
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")
    held = [b"\1" * MEBIBYTE for _ in range(int(sys.argv[1]) // MEBIBYTE)]
    sys.exit(f"got {len(held)} MiB")


if __name__ == "__main__":
    main()
