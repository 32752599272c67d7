"""The front matter of README.md: base model and license."""

from __future__ import annotations

from typing import Any

from hubkit.checks.model.files import card_of, text_of
from hubkit.checks.rules import BASE_MODEL, LICENSE_MISSING, NO_CARD
from hubkit.checks.source import Source
from hubkit.core.findings import Finding
from hubkit.core.names import named_repo_problem

_FILE = "README.md"


def inspect(source: Source, found: list[Finding]) -> tuple[dict[str, Any], str]:
    """The front matter and the whole text, empty without one; what is wrong with it is added to ``found``."""
    if _FILE not in source.files():
        found.append(NO_CARD.finding("The model card (README.md) is missing.", "Write README.md with a front matter."))
        return {}, ""
    card = card_of(source, found)
    if card is None:
        return {}, ""
    bases = card.get("base_model")
    for base in bases if isinstance(bases, list) else [bases]:
        if base is None:
            message = (
                "The card names no base_model: if the model was trained from another one, the Hub cannot show which."
            )
            found.append(BASE_MODEL.finding(message, level="note", file=_FILE))
        elif problem := named_repo_problem(base):
            message = f"The card's base_model {base!r} is not a repo id: {problem}."
            found.append(BASE_MODEL.finding(message, file=_FILE))
    if not card.get("license"):
        found.append(LICENSE_MISSING.finding("The card names no license.", file=_FILE))
    return card, text_of(source, _FILE, found) or ""
