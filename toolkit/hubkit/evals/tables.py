"""Results as markdown tables, in the layout that cards of this field have used since lm-eval 0.3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hubkit.evals.figures import four
from hubkit.evals.results import Metric, Results, SuiteResult

CLASSIC = ("Task", "Version", "Metric", "Value", "", "Stderr")
_RIGHT = {"Version", "Value", "Stderr"}
MISSING = "missing"


@dataclass(frozen=True)
class Row:
    """One metric of one task; ``measured`` is None when the task was not measured.

    ``first`` is set on the task's first row, where its name and version are shown.
    """

    task: str
    version: str
    metric: str
    measured: Metric | None
    first: bool


def classic_rows(suite: SuiteResult) -> Iterator[Row]:
    """The rows of ``suite``, tasks and metrics in order; a task that was not measured has one row."""
    for name, task in suite.tasks.items():
        if task is None:
            yield Row(name, "", "", None, True)
            continue
        for place, (metric, measured) in enumerate(task.metrics.items()):
            yield Row(name, task.version, metric, measured, place == 0)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; numbers to the right. The cells are written as they are: escape them before."""
    rule = ["---:" if name in _RIGHT else "---" for name in header]
    lines = [header, rule, *rows]
    return "\n".join("|" + "|".join(cell if cell else " " for cell in line) + "|" for line in lines) + "\n"


def classic_table(suite: SuiteResult) -> str:
    """``suite`` as a table of Task, Version, Metric, Value, ±, Stderr; four decimals."""
    rows = []
    for row in classic_rows(suite):
        head = [row.task, row.version] if row.first else ["", ""]
        if row.measured is None:
            rows.append([*head, row.metric, MISSING, "", ""])
            continue
        error = row.measured.stderr
        tail = ["±", four(error)] if error is not None else ["", ""]
        rows.append([*head, row.metric, four(row.measured.value), *tail])
    return markdown(CLASSIC, rows)


def classic_tables(results: Results) -> str:
    """Every suite of ``results`` under its heading, with its average and the rule that made it."""
    parts = []
    for suite in results.suites.values():
        parts.append(f"### {suite.title}\n\n{classic_table(suite)}\n{_average_line(suite)}\n")
    return "\n".join(parts)


def _average_line(suite: SuiteResult) -> str:
    average = suite.average
    value = four(average.value) if average.value is not None else MISSING
    note = f"; {average.note}" if average.note else ""
    lacking = f"; not measured: {', '.join(average.missing)}" if average.missing else ""
    return f"Average: {value} ({average.text}{note}{lacking})"
