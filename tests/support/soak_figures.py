"""docs/soak.md: what the last long run found, a line for each check, written by the checks themselves."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "soak.md"
_HEAD = """\
# What the long runs found

Written by `make soak`; each line is replaced when its check runs again.

| check | date | machine | found |
|---|---|---|---|
"""


def record(check: str, found: str) -> None:
    """Put the line of ``check`` in its place."""
    lines = DOCS.read_text(encoding="utf-8").splitlines() if DOCS.exists() else _HEAD.splitlines()
    kept = [line for line in lines if not line.startswith(f"| {check} |")]
    machine = f"{platform.system()} {platform.machine()}"
    kept.append(f"| {check} | {datetime.now(UTC):%Y-%m-%d} | {machine} | {found} |")
    DOCS.write_text("\n".join(kept) + "\n", encoding="utf-8")
