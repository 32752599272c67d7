"""Averages that a card states, compared with the means of its tables under all the named rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hubkit.cards.lint.document import Document, Row, Table
from hubkit.cards.lint.figures import Figure, Mean, Sum
from hubkit.cards.lint.harness_tables import AVERAGE_LABEL, STATED, HarnessTables
from hubkit.cards.lint.rules import AVERAGE
from hubkit.cards.lint.suites import TITLES, named_suites, suite_of
from hubkit.core.findings import Finding

_BARE = re.compile(r"\W*(?P<of>[A-Za-z][\w -]{2,20}?)(?: score| average)?\s?\W{1,4}(?P<value>\d+(?:\.\d+)?)\s*%?\W*")
_NO_SCORE = re.compile(
    r"param|size|rank|^#|\bn\b|examples|samples|context|shots?\b|version|stderr|date|epoch|gate|stop", re.IGNORECASE
)
_UNLIKE = re.compile(
    r"%|recovery|tok(?:en)?s?\s?/\s?s|\b(?:speed|latency|time|memory|vram|elo)\b|mt-?\s?bench", re.IGNORECASE
)
"""Columns in another unit than the scores beside them; and ratios, the mean of which is not the ratio of the means."""
_WE = re.compile(
    r"(?:^|[.!?]\s+)(?:We|This model|Our model) (?:reach|achieve|get|obtain|score)(?:s|es)? an average"
    r"(?: score| accuracy)? of (?P<value>\d+(?:\.\d+)?)\s?%? on (?:the )?"
    r"(?P<of>[A-Za-z][\w -]{2,20}?)(?=\W*(?:$|[.,;]))"
)
_WIDEST, _MOST_AVERAGES = 24, 4
"""Columns, and averages among them, above which a table is none of scores."""


def find(document: Document) -> Iterator[Finding]:
    """Averages that no rule gives."""
    measured = HarnessTables(document)
    for table in document.tables:
        yield from _rows(document, table, measured)
        if not measured.has(table):
            yield from _columns(document, table)
            yield from _summary(document, table, measured)
    yield from _statements(document, measured)


def _wrong_average(document: Document, line: int, stated: Figure, mean: Mean, of: str) -> Finding:
    percent = stated.value > 1 >= mean.largest
    decimals = mean.most - 2 * percent
    shown = mean.shown(max(stated.decimals, decimals), percent=percent)
    return AVERAGE.finding(
        f"The average is given as {stated.value:.{stated.decimals}f}, and {of} gives {shown} ({mean.text}).",
        f"Write {shown}, or say how the average was computed.",
        file=document.path,
        line=line,
    )


def _rows(document: Document, table: Table, measured: HarnessTables) -> Iterator[Finding]:
    """A row 'Average': the mean of the figures above it, column by column.

    The Open LLM Leaderboard's second version rescales each benchmark before it takes the mean, which cannot be done
    from rounded figures.
    """
    if table.damaged or any(row.cells and row.cells[0].startswith("leaderboard_") for row in table.rows):
        return
    if measured.has(table):
        for row in table.rows:
            if row.cells and AVERAGE_LABEL.fullmatch(row.cells[0]):
                stated = next((figure for figure in map(Figure.of, row.cells[1:]) if figure), None)
                if stated:
                    yield from _compare(document, row.line, stated, measured.means(table), "its table")
        return
    if len(table.heads) > _WIDEST:
        return
    for place in range(1, len(table.heads)):
        if not _UNLIKE.search(table.heads[place]):
            yield from _column(document, table, place)


def _column(document: Document, table: Table, place: int) -> Iterator[Finding]:
    """The averages down one column, which may have one below each block of rows. Averages above theirs are ignored."""
    blocks: list[list[Figure | None]] = [[]]
    averages: list[tuple[Row, Figure | None]] = []
    for row in table.rows:
        cell = row.cells[place] if place < len(row.cells) else ""
        if row.cells and AVERAGE_LABEL.fullmatch(row.cells[0]):
            averages.append((row, Figure.of(cell)))
            blocks.append([])
        elif cell:
            blocks[-1].append(Figure.of(cell))
    whole, before = Sum(), Sum()
    for at, (row, stated) in enumerate(averages):
        for figure in blocks[at]:
            whole.add(figure)
        own = Sum.of(blocks[at]) if blocks[at] else whole
        text = "mean of the rows above it" if at == 0 or own is whole else "mean of the rows since the last average"
        mean = own.mean(text)
        if stated and mean and blocks[0]:
            others = [whole.mean(), before.mean(), Sum.of(blocks[at + 1]).mean(), *_ends(blocks[at])]
            if not any(stated.is_mean(other) for other in (mean, *others) if other):
                yield _wrong_average(document, row.line, stated, mean, f"the column {table.heads[place]!r}")
        before.add(stated)


def _ends(parts: Sequence[Figure | None]) -> Iterator[Mean | None]:
    """The means of the first and of the last of ``parts``, two and half of them at least: others may be no scores."""
    for order in (parts, parts[::-1]):
        total = Sum()
        for part in order:
            total.add(part)
            if total.count > 1 and total.count * 2 >= len(parts):
                yield total.mean()


def _compare(document: Document, line: int, stated: Figure, found: Sequence[Mean], of: str) -> Iterator[Finding]:
    """``stated`` compared with the means by every rule that a table can be read by."""
    if found and not any(stated.is_mean(mean) for mean in found):
        yield _wrong_average(document, line, stated, found[0], of)


def _columns(document: Document, table: Table) -> Iterator[Finding]:
    """A column 'Average': the mean of the other scores of its row, or of those between it and another average."""
    heads = table.heads
    averages = [place for place, head in enumerate(heads) if place and AVERAGE_LABEL.fullmatch(head)]
    if len(heads) > _WIDEST or len(averages) > _MOST_AVERAGES:
        return
    others = [at for at, name in enumerate(heads) if at and not _NO_SCORE.search(name)]
    like = [at for at in others if not _UNLIKE.search(heads[at])]
    for row in table.rows:
        figures = [Figure.of(cell) for cell in row.cells]
        figures += [None] * (len(heads) - len(figures))
        for place in averages:
            stated = figures[place]
            parts = [figures[at] for at in like if at != place]
            mean = Sum.of(parts).mean("mean of the row")
            if stated is None or mean is None or len(parts) < 2 or stated.is_mean(mean):
                continue
            first = max((at for at in averages if at < place), default=0)
            last = min((at for at in averages if at > place), default=len(heads))
            may_be = [Sum.of([figures[at] for at in others if at != place]).mean()]
            for chosen in (others, like):
                may_be += _ends([figures[at] for at in chosen if first < at < place])
                may_be += _ends([figures[at] for at in chosen if place < at < last])
            if not any(stated.is_mean(other) for other in may_be if other):
                yield _wrong_average(document, row.line, stated, mean, f"the row {row.cells[0]!r}")


def _statements(document: Document, measured: HarnessTables) -> Iterator[Finding]:
    """'Average: 0.4364' on a line of its own, or as the last line of a table that has only one cell filled.

    So is 'AGIEval: 0.4364', in a list or in a table of the suites, when the card has one table of that suite.
    """
    stated = [(line.line, line.section, line.text) for line in document.prose]
    for table in document.tables:
        for row in table.rows:
            filled = [cell for cell in row.cells if cell]
            if len(filled) == 1 or (len(row.cells) == 2 and named_suites(row.cells[0])):
                stated.append((row.line, table.section, ": ".join(filled)))
    for line, section, text in stated:
        found = STATED.fullmatch(text) or _BARE.fullmatch(text) or _WE.search(text)
        figure = Figure.of(found["value"]) if found else None
        if found is None or figure is None:
            continue
        if found.re is not STATED and suite_of(found["of"]) is None:
            continue
        about = measured.about(line, section, named_suites(found["of"]))
        if about is not None:
            yield from _compare(document, line, figure, measured.means(about), "its table")


def _summary(document: Document, table: Table, measured: HarnessTables) -> Iterator[Finding]:
    """A table with a column for each suite, against the tables of those suites.

    Rows may be of other models: looked at is the one row of which another suite's figure is that of its table.
    """
    columns = {place: suite for place, head in enumerate(table.heads) if place and (suite := suite_of(head))}
    known: dict[int, list[Mean]] = {}
    for place, suite in columns.items():
        of_suite = measured.of_suites(frozenset({suite}))
        if len(of_suite) == 1:
            known[place] = measured.means(of_suite[0])
    ours: list[tuple[Row, list[tuple[int, Figure]]]] = []
    for row in table.rows:
        held = [
            (place, figure)
            for place in known
            if known[place] and place < len(row.cells) and (figure := Figure.of(row.cells[place]))
        ]
        wrong = [(place, figure) for place, figure in held if not any(map(figure.is_mean, known[place]))]
        if len(wrong) < len(held):
            ours.append((row, wrong))
    if len(ours) == 1:
        row, wrong = ours[0]
        for place, figure in wrong:
            of = f"the table of {TITLES[columns[place]]}"
            yield from _compare(document, row.line, figure, known[place], of)
