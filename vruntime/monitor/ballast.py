"""A program that takes the memory that a control group has left, until the kernel kills it. Run by its path.

`ballast.py PROCESSES BYTES`: joins the group with this file of its processes, and takes no more than that many bytes;
exits with 1 when the kernel lets it have them.
"""

from __future__ import annotations

import sys

MEBIBYTE = 1 << 20


def main() -> None:
    """The kernel's choice is certain: nothing in the group can be a better one."""
    _, processes, size = sys.argv
    for file, value in (("/proc/self/oom_score_adj", "1000"), (processes, "0")):
        with open(file, "w", encoding="ascii") as setting:
            setting.write(value)
    held = [b"\1" * MEBIBYTE for _ in range(int(size) // MEBIBYTE)]
    sys.exit(f"got {len(held)} MiB")


if __name__ == "__main__":
    main()
