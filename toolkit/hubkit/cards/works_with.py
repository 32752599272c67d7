"""What a card says of the programs that read its model: the table "Works with"."""

from __future__ import annotations

from typing import Any

from hubkit.cards.evidence import Evidence, readers_step
from hubkit.models.readers.made import ReadBy
from hubkit.models.readers.readers import FORM_NAMES

_NAMES = {"transformers": "transformers", "peft": "PEFT"}
_UNSAID = frozenset({"torch", "tokenizers", "node"})


def works_with(variant: str, evidence: Evidence) -> dict[str, Any] | None:
    """The template variable ``works_with``; None where no other program read the model.

    Keys: ``date`` (a day, ISO 8601), ``machine``, ``max_new_tokens``, ``reference`` (what the others are compared with:
    the first that read it) and ``rows``: ``program`` with its versions,
    ``what`` it read, ``works``, ``why`` it does not (or ''), and ``conversations``, ``stopped``, ``same`` of
    ``answers`` (None where that was not compared). What was not run is not among them.
    """
    found = evidence.wrapped().get(readers_step(variant), {}).get(ReadBy.FILE)
    if found is None:
        return None
    rows = [_row(cell) for cell in found["cells"] if cell["status"] != "not run"]
    if not rows:
        return None
    installed: dict[str, str] = next(
        (cell["versions"] for cell in found["cells"] if cell["versions"].get("transformers")), {}
    )
    reference = f"transformers {installed['transformers']}" if installed else "the installed transformers"
    return {
        **{name: found[name] for name in ("date", "machine", "max_new_tokens")},
        "reference": reference,
        "rows": rows,
    }


def _row(cell: dict[str, Any]) -> dict[str, Any]:
    shown = {name: version for name, version in cell["versions"].items() if name not in _UNSAID}
    versions = [f"{_NAMES.get(name, name)} {version}" for name, version in shown.items()]
    return {
        "program": ", ".join(versions) or cell["reader"],
        "what": " ".join([FORM_NAMES[cell["form"]], *([cell["file"]] if cell.get("file") else [])]),
        "works": cell["status"] == "works",
        "why": cell["why"] or "",
        **{name: cell[name] for name in ("conversations", "answers", "stopped", "same")},
    }
