"""Averages that a card states, compared with the means of its tables under all the named rules (``means.py``).

Where most lines of a table fit no rule, it has one that the card does not show: such tables are left alone. So are
those of suites that weigh their parts (C-Eval's subjects, FastEval), and columns 'Overall', which mostly do so too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from hubkit.cards.lint.document import Document, Row, Table
from hubkit.cards.lint.figures import Figure, Mean, Sum
from hubkit.cards.lint.harness_tables import STATED, HarnessTables, mean_of_means
from hubkit.cards.lint.means import Part, others, plain
from hubkit.cards.lint.rules import AVERAGE
from hubkit.cards.lint.sheets import AVERAGE_LABEL, OVERALL, Line, Sheet, sheets
from hubkit.cards.lint.suites import TITLES, named_suites, suite_of
from hubkit.core.findings import Finding

_BARE = re.compile(r"\W*(?P<of>[A-Za-z][\w -]{2,20}?)(?: score| average)?\s?\W{1,4}(?P<value>\d+(?:\.\d+)?)\s*%?\W*")
_WE = re.compile(
    r"(?:^|[.!?]\s+)(?:We|This model|Our model) (?:reach|achieve|get|obtain|score)(?:s|es)? an average"
    r"(?: score| accuracy)? of (?P<value>\d+(?:\.\d+)?)\s?%? on (?:the )?"
    r"(?P<of>[A-Za-z][\w -]{2,20}?)(?=\W*(?:$|[.,;]))"
)
_WEIGHS = re.compile(
    r"\bc-?eval\b|\bc-?mmlu\b|\bfast-?eval\b|\bopen-?compass\b|\bhelm\b|\blong-?bench\b|\blive-?bench\b|\bmteb\b"
    r"|\breward-?bench\b",
    re.IGNORECASE,
)
"""Suites whose average is not the plain mean of what is shown: it counts subjects, questions or groups."""
_SUBJECT = re.compile(
    r"\W*(?:stem|humanities|social ?(?:sciences?|studies)|others?|hard|china ?-?specific)\W*", re.IGNORECASE
)
"""Groups of subjects, as MMLU, C-Eval and CMMLU have them: their average is one over the subjects."""


_MOST_TOLD = 40
"""Averages stated one by one, above which their mean is not looked for."""


def find(document: Document) -> Iterator[Finding]:
    """Averages that no rule gives."""
    measured = HarnessTables(document)
    for table in document.tables:
        if measured.has(table):
            yield from _of_harness_table(document, table, measured)
        elif not any(row.cells and row.cells[0].startswith("leaderboard_") for row in table.rows):
            # the Open LLM Leaderboard's second version rescales each benchmark, which rounded figures do not allow
            for sheet, weights in sheets(table):
                yield from _of_sheet(document, table, sheet, weights)
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


def _of_harness_table(document: Document, table: Table, measured: HarnessTables) -> Iterator[Finding]:
    if table.damaged:
        return
    for row in table.rows:
        if row.cells and AVERAGE_LABEL.fullmatch(row.cells[0]):
            stated = next((figure for figure in map(Figure.of, row.cells[1:]) if figure), None)
            if stated:
                yield from _compare(document, row.line, stated, measured.means(table), "its table")


def _of_sheet(document: Document, table: Table, sheet: Sheet, weights: Line | None) -> Iterator[Finding]:
    """The averages of a table read one way, where most of its lines fit a rule."""
    if _weighs(table, sheet):
        return
    scales = sheet.scales()
    wrong: list[Finding] = []
    fitting = 0
    for line in sheet.lines:
        for place in sheet.averages:
            stated = Figure.of(line.cells[place])
            parts = sheet.parts(line, _block(sheet, place, like=True), scales, weights)
            text = _text(sheet, place)
            mean = plain(parts, text)
            if stated is None or mean is None or (len(parts) < 2 and sheet.kind == "row"):
                continue
            if any(stated.is_mean(other) for other in (mean, *_may_be(sheet, line, place, scales, weights))):
                fitting += 1
            else:
                of = f"the {sheet.kind} {line.name!r}"
                wrong.append(_wrong_average(document, line.places[place], stated, mean, of))
    if len(wrong) == 1 or fitting >= len(wrong):
        yield from wrong


def _text(sheet: Sheet, place: int) -> str:
    if sheet.kind == "row":
        return "mean of the row"
    return f"mean of the rows {'since the last average' if place > sheet.averages[0] else 'above it'}"


def _weighs(table: Table, sheet: Sheet) -> bool:
    """Whether the average of a table may count what it does not show."""
    subjects = sum(bool(_SUBJECT.fullmatch(name)) for name in sheet.names)
    overall = all(OVERALL.fullmatch(sheet.names[place]) for place in sheet.averages)
    return subjects > 1 or overall or any(_WEIGHS.search(label) for label in table.labels)


def _block(sheet: Sheet, place: int, *, like: bool) -> list[int]:
    """The places that an average most likely is of: of a row all, of a column those since the last average."""
    places = sheet.scored(like=like)
    if sheet.kind == "row":
        return places
    first = max((at for at in sheet.averages if at < place), default=-1)
    return [at for at in places if first < at < place] or [at for at in places if at < place]


def _may_be(sheet: Sheet, line: Line, place: int, scales: Sequence[Decimal], weights: Line | None) -> Iterator[Mean]:
    """The means that the average at ``place`` may be besides the most likely one."""
    first = max((at for at in sheet.averages if at < place), default=-1)
    last = min((at for at in sheet.averages if at > place), default=len(sheet.names))
    for like in (True, False):
        places = sheet.scored(like=like)
        blocks = (
            places,
            [at for at in places if at < place],
            [at for at in places if first < at < place],
            [at for at in places if place < at < last],
        )
        for block in blocks:
            parts = sheet.parts(line, block, scales, weights)
            if mean := plain(parts):
                yield mean
            yield from others(parts)
        for block in blocks[2:]:
            yield from _ends(sheet.parts(line, block, scales, weights))
    before = [Figure.of(line.cells[at]) for at in sheet.averages if at < place]
    if mean := Sum.of(before).mean("mean of the averages"):
        yield mean


def _ends(parts: Sequence[Part]) -> Iterator[Mean]:
    """The means of the first and of the last of ``parts``, two and half of them at least: others may be no scores."""
    for order in (parts, parts[::-1]):
        total = Sum()
        for part in order:
            total.add(part.figure)
            if total.count > 1 and total.count * 2 >= len(parts) and (mean := total.mean()):
                yield mean


def _compare(document: Document, line: int, stated: Figure, found: Sequence[Mean], of: str) -> Iterator[Finding]:
    """``stated`` compared with the means by every rule that a table can be read by."""
    if found and not any(stated.is_mean(mean) for mean in found):
        yield _wrong_average(document, line, stated, found[0], of)


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
    told: list[Mean] = []
    fitting: set[int] = set()
    for line, section, text in sorted(stated):
        found = STATED.fullmatch(text) or _BARE.fullmatch(text) or _WE.search(text)
        figure = Figure.of(found["value"]) if found else None
        if found is None or figure is None:
            continue
        if found.re is not STATED and suite_of(found["of"]) is None:
            continue
        about = measured.about(line, section, named_suites(found["of"]))
        means = measured.means(about) if about is not None else []
        own = Mean("as stated", figure.exact, figure.decimals, figure.decimals, figure.value)
        whole = [*measured.of_all, *([mean_of_means(told)] if 1 < len(told) <= _MOST_TOLD else [])]
        if not any(map(figure.is_mean, whole)):
            if about is not None and id(about) in fitting and len(told) > 1:
                means, of = whole[::-1], "the mean of the averages above it"
            else:
                of = "its table"
            yield from _compare(document, line, figure, means, of)
            told.append(own)
            if about is not None and any(map(figure.is_mean, means)):
                fitting.add(id(about))


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
