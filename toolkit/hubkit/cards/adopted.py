"""What a card says of a stage that was trained elsewhere: where it is from, and what its authors reported of it.

None of its figures was measured by this release, so each is printed with the name of the file that reports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubkit.cards.escape import clean

_LABELS: Mapping[str, tuple[str, str]] = {
    "steps": ("steps", "count"),
    "epochs": ("epochs", "short"),
    "rows": ("training rows", "count"),
    "seconds": ("training time", "duration"),
    "train_loss": ("mean training loss", "loss"),
    "first_loss": ("first training loss", "loss"),
    "last_loss": ("last training loss", "loss"),
    "eval_loss": ("evaluation loss", "loss"),
}
"""Figures of a report: their names on the card, and how they are formatted."""


def adopted_context(made: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates need of ``made``, the training.json of a stage that uses adopt, its numbers wrapped."""
    reported, origin = made.get("reported") or {}, made.get("origin") or {}
    return {
        "form": made.get("form") or "adapter",
        "name": clean(origin.get("name") or ""),
        "commit": origin.get("commit"),
        "folder": clean(origin.get("file") or ""),
        "base_name": clean(origin.get("base_name") or ""),
        "base_by": origin.get("base_by") or "config",
        "digests": list((origin.get("digests") or {}).items()),
        "trained_with": clean(reported.get("trained_with") or ""),
        "reports": [_report(item) for item in reported.get("files") or ()],
    }


def _report(found: Mapping[str, Any]) -> dict[str, Any]:
    values = found.get("values") or {}
    figures = [(label, values[key], form) for key, (label, form) in _LABELS.items() if values.get(key) is not None]
    return {
        "file": clean(found.get("file") or ""),
        "digest": found.get("sha256") or "",
        "figures": figures,
        "settings": list((found.get("settings") or {}).items()),
    }
