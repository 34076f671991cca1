"""Writes the table of settings into SPECIFICATION.md, or with --check says whether it is current."""

from __future__ import annotations

import json
import sys

from specification import write_or_check

from vruntime.settings import RECORDS


def table() -> str:
    """Every setting with its default, as a file would have it."""
    rows = [f"| `{record.name}` | `{json.dumps(record.default)}` | {record.help} |" for record in RECORDS]
    return "\n".join(["| setting | default | |", "|---|---|---|", *rows])


if __name__ == "__main__":
    sys.exit(write_or_check("scripts/settings-table", table()))
