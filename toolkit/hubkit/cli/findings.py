"""How findings are printed: the same lines for `check`, `card lint` and `plan`."""

from __future__ import annotations

from rich.text import Text

from hubkit.core.findings import Finding
from hubkit.core.printable import printable

_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


def printed(finding: Finding) -> Text:
    """``README.md:12: error: What is wrong. What to do. [rule]``."""
    place = f"{finding.place}: " if finding.place else ""
    hint = f" {printable(finding.hint)}" if finding.hint else ""
    return Text.assemble(
        (printable(place), "bold"),
        (f"{finding.level}: ", _STYLES[finding.level]),
        f"{printable(finding.message)}{hint} ",
        (f"[{finding.rule}]", "dim"),
    )
