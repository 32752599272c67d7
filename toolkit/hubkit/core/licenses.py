"""The license identifiers that the Hub accepts in a card. ``licenses.txt`` holds them and names its source."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("licenses.txt")


@cache
def license_identifiers() -> tuple[str, ...]:
    """The identifiers, in the order of the Hub's documentation."""
    lines = (line.strip() for line in _FILE.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def license_problem(identifier: object) -> str | None:
    """Why the Hub would not accept ``identifier`` as a license, in one clause; None when it would."""
    known = license_identifiers()
    if identifier in known:
        return None
    close = difflib.get_close_matches(str(identifier).lower(), known, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ", such as apache-2.0, cc-by-4.0 or other"
    return f"the license {identifier!r} is none of the Hub's identifiers{meant}"
