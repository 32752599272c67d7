"""A table of scores, read along its rows or down its columns: names, and a line of figures for each model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from hubkit.cards.lint.document import Table
from hubkit.cards.lint.figures import Figure
from hubkit.cards.lint.means import Part, factors

AVERAGE_LABEL = re.compile(
    r"\W*(?:overall |total )?(?:average|avg\.?|mean)(?: (?:of )?(?:score|accuracy|acc|all)s?)?\W*"
    r"|\W*overall\W*",
    re.IGNORECASE,
)
"""How a row or a column of averages is called."""
OVERALL = re.compile(r"\W*overall\W*", re.IGNORECASE)
_SUMMARY = re.compile(
    r"\W*(?:average|avg|mean|median|overall|total|sum|macro|micro|weighted)\b.*"
    r"|\W*(?:Δ|delta|diff)\b.*",
    re.IGNORECASE,
)
"""Other summaries beside the scores, such as 'Avg. (Hard)': no parts of an average."""
_WORD = (
    r"n|(?:number|num\.?|no\.?) of .*"
    r"|(?:model|total|active|trainable|parameter)? ?(?:size|params?|parameters?)(?: count)?"
    r"|rank(?:ing)?|position|(?:max\.? )?(?:context|sequence)(?: (?:length|window|size))?|ctx"
    r"|(?:n|num|few)?[-_ ]?shots?"
    r"|version|std\.?(?: ?err(?:or)?| ?dev)?|stderr|date|release(?: date|d)?|epochs?|steps?"
    r"|license|type|min|max|best|worst"
    r"|(?:\w+ )?(?:examples|samples|tokens|questions|instances)|support|count|gate|stops?|stop rate|year"
)
_NO_SCORE = re.compile(rf"\W*#.*|±|\W*(?:{_WORD})\W*(?:\(.*\)\W*)?", re.IGNORECASE)
"""Columns that describe and do not score. A task may have such a word in it: date_understanding, MMLU (5-shot)."""
_COUNTS = re.compile(
    r"\W*(?:#|n|(?:#|number|num\.?|no\.?)? ?(?:of )?(?:test )?(?:examples|samples|questions|items|instances)"
    r"|support|count)\W*",
    re.IGNORECASE,
)
_UNLIKE = re.compile(
    r"%|recovery|tok(?:en)?s?\s?/\s?s|\b(?:speed|latency|time|memory|vram|elo)\b|mt-?\s?bench", re.IGNORECASE
)
"""Scores in another unit than those beside them; and ratios, the mean of which is not the ratio of the means."""
WIDEST, _LONGEST, _MOST_AVERAGES = 24, 400, 40
"""Columns, rows, and averages among them, above which a table is none of scores."""


@dataclass(frozen=True)
class Line:
    """One model's scores: its name, where the average at each place stands, and the cells in the order of the names."""

    name: str
    places: tuple[int, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A table read one way. ``averages`` are their places among ``names``; ``kind`` names a line in messages."""

    kind: str
    names: tuple[str, ...]
    lines: tuple[Line, ...]
    averages: tuple[int, ...]

    def parts(self, line: Line, places: Sequence[int], scales: Sequence[Decimal], weights: Line | None) -> list[Part]:
        """What is at ``places`` of ``line``; down a column, empty cells are left out."""
        found = []
        for place in places:
            cell = line.cells[place]
            if cell or self.kind == "row":
                weight = Figure.of(weights.cells[place]) if weights else None
                found.append(Part(self.names[place], Figure.of(cell), scales[place], weight))
        return found

    def scales(self) -> list[Decimal]:
        """The factor of each place."""
        return factors([[Figure.of(cell) for cell in line.cells] for line in self.lines]) if self.lines else []

    def scored(self, *, like: bool) -> list[int]:
        """The places of scores; with ``like`` those alone that are of one unit."""
        places = [
            at for at, name in enumerate(self.names)
            if name.strip() and at not in self.averages
            and not _NO_SCORE.fullmatch(name) and not _SUMMARY.fullmatch(name)
        ]  # fmt: skip
        return [at for at in places if not _UNLIKE.search(self.names[at])] if like else places


def sheets(table: Table) -> Iterator[tuple[Sheet, Line | None]]:
    """``table`` along its rows and down its columns, where either has an average; and the line of weights in it."""
    if table.damaged or len(table.heads) > WIDEST:
        return
    across = _across(table)
    if 0 < len(across.averages) <= _MOST_AVERAGES:
        yield _without_counts(across)
    if len(table.rows) <= _LONGEST:
        down = _down(table)
        if 0 < len(down.averages) <= _MOST_AVERAGES:
            yield _without_counts(down)


def _across(table: Table) -> Sheet:
    """A line for each row; names are the heads. The first column names the rows, unless it is a score itself."""
    first = 0 if table.rows and all(row.cells and Figure.of(row.cells[0]) for row in table.rows) else 1
    names = table.heads[first:]
    averages = tuple(at for at, name in enumerate(names) if AVERAGE_LABEL.fullmatch(name))
    lines = []
    for row in table.rows:
        cells = (*row.cells, *[""] * len(table.heads))[first : len(table.heads)]
        lines.append(Line(row.cells[0] if row.cells else "", (row.line,) * len(cells), cells))
    return Sheet("row", names, tuple(lines), averages)


def _down(table: Table) -> Sheet:
    """A line for each column; names are the first cells of the rows."""
    rows = [row for row in table.rows if row.cells]
    names = tuple(row.cells[0] for row in rows)
    averages = tuple(at for at, name in enumerate(names) if AVERAGE_LABEL.fullmatch(name))
    lines = []
    for place in range(1, len(table.heads)):
        cells = tuple(row.cells[place] if place < len(row.cells) else "" for row in rows)
        lines.append(Line(table.heads[place], tuple(row.line for row in rows), cells))
    return Sheet("column", names, tuple(lines), averages)


def _without_counts(sheet: Sheet) -> tuple[Sheet, Line | None]:
    """``sheet`` without lines that are no scores, and the one that counts questions."""
    weights = next((line for line in sheet.lines if _COUNTS.fullmatch(line.name)), None)
    kept = tuple(
        line for line in sheet.lines
        if not (_NO_SCORE.fullmatch(line.name) or (sheet.kind == "column" and _UNLIKE.search(line.name)))
    )  # fmt: skip
    return Sheet(sheet.kind, sheet.names, kept, sheet.averages), weights
