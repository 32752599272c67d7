"""The front matter of README.md: base model and license."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hubkit.checks.model.files import card_of, text_of
from hubkit.checks.rules import BASE_MODEL, FRONT_MATTER, LICENSE_MISSING, NO_CARD
from hubkit.checks.source import Source
from hubkit.core.card_metadata import metadata_problems
from hubkit.core.findings import Finding

_FILE = "README.md"


def inspect(source: Source, found: list[Finding]) -> tuple[dict[str, Any], str]:
    """The front matter and the whole text, empty without one; what is wrong with it is added to ``found``."""
    if _FILE not in source.files():
        found.append(NO_CARD.finding("The model card (README.md) is missing.", "Write README.md with a front matter."))
        return {}, ""
    card = card_of(source, found)
    if card is None:
        return {}, ""
    if not card.get("base_model"):
        message = "The card names no base_model: if the model was trained from another one, the Hub cannot show which."
        found.append(BASE_MODEL.finding(message, level="note", file=_FILE))
    found += _refused(card)
    if not card.get("license"):
        found.append(LICENSE_MISSING.finding("The card names no license.", file=_FILE))
    return card, text_of(source, _FILE, found) or ""


def _refused(card: Mapping[str, Any]) -> Iterator[Finding]:
    """What the Hub refuses in the front matter. `hubkit card lint` tells what else is wrong with a card."""
    for item in metadata_problems(card):
        if item.level == "error":
            rule = BASE_MODEL if item.key == "base_model" else FRONT_MATTER
            message = f"{item.refused_by} refuses the front matter. {item.message}"
            yield rule.finding(message, item.hint, level="error", file=_FILE)
