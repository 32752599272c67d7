"""Placeholders for numbers: TBD, XX.X, 'pending' in a column of scores."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hubkit.cards.lint.document import Document, Line
from hubkit.cards.lint.rules import PLACEHOLDER
from hubkit.core.findings import Finding

_PLACEHOLDER = re.compile(
    r"\bT\.?B\.?[DA]\b\.?|(?<![\w-])tbd(?![\w-])|\bTODO\b(?=\W*$|\s*:)|\bFIXME\b|(?:^|[:=]\s*)\?\?\?+(?=\W*$)"
    r"|(?<![\w.])[xX]{1,3}\.[xX]{1,4}\b(?!\.\w)|\b[xX]{2,}\s?%"
    r"|\[More Information Needed\]|\b(?i:results|scores|numbers|benchmarks)(?: are)? (?i:coming soon)\b"
)
_EMPTY = re.compile(r"\W*(?:XX+|pending|coming soon)\W*", re.IGNORECASE)
"""A cell that is still to be filled, in a column of figures."""
_FIGURES = re.compile(r"\W*\d+(?:\.\d+)?\s*(?:%|±.*)?\W*")


def find(document: Document) -> Iterator[Finding]:
    """Placeholders in prose and in the cells of tables."""
    cells = [
        Line(row.line, table.section, cell) for table in document.tables for row in table.rows for cell in row.cells
    ]
    seen: set[int] = set()
    for line in (*document.prose, *cells):
        found = _PLACEHOLDER.search(line.text)
        if found and line.line in document.headings and found[0].startswith("TODO"):
            continue  # a list of what is still to be done has such a title
        if found and line.line not in seen:
            seen.add(line.line)
            yield PLACEHOLDER.finding(
                f"{found[0].strip(' :=')!r} is a placeholder.",
                "Replace it with the measured value, or remove the row.",
                file=document.path,
                line=line.line,
            )
    for line in _to_be_filled(document):
        if line.line not in seen:
            seen.add(line.line)
            yield PLACEHOLDER.finding(
                f"{line.text!r} is a placeholder.",
                "Replace it with the measured value, or remove the row.",
                file=document.path,
                line=line.line,
            )


def _to_be_filled(document: Document) -> Iterator[Line]:
    """Cells that say 'pending', in a column that has figures too."""
    for table in document.tables:
        columns = {at for row in table.rows for at, cell in enumerate(row.cells) if _FIGURES.fullmatch(cell)}
        for row in table.rows:
            for at, cell in enumerate(row.cells):
                if at in columns and _EMPTY.fullmatch(cell):
                    yield Line(row.line, table.section, cell)
