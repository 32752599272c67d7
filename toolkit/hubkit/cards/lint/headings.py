"""Tables of scores under the heading of another benchmark suite."""

from __future__ import annotations

from collections.abc import Iterator

from hubkit.cards.lint.document import Document, Table
from hubkit.cards.lint.rules import TABLE_HEADING
from hubkit.cards.lint.suites import TITLES, named_suites, suite_of, suites_of
from hubkit.core.findings import Finding


def find(document: Document) -> Iterator[Finding]:
    """Tables under the wrong heading."""
    for table in document.tables:
        yield from _heading(document, table)


def _heading(document: Document, table: Table) -> Iterator[Finding]:
    rows = [row for row in table.rows if row.cells and suite_of(row.cells[0]) is None]  # else the rows are suites
    tasks = [(row, suites_of(row.cells[0])) for row in rows]
    known = [(row, suites) for row, suites in tasks if suites]
    label = next((label for label in table.labels if named_suites(label)), None)
    if not known or label is None or len(named_suites(label)) > 1:
        return
    (named,) = named_suites(label)
    strange = [(row, suites) for row, suites in known if named not in suites]
    if len(strange) * 2 > len(known):
        row, suites = strange[0]
        belongs = " or ".join(TITLES[suite] for suite in sorted(suites))
        yield TABLE_HEADING.finding(
            f"The table is under {label!r}, but its task {row.cells[0]} belongs to {belongs}.",
            f"Move it under a heading {belongs}, or replace it with the table of {TITLES[named]}.",
            file=document.path,
            line=table.line,
        )
