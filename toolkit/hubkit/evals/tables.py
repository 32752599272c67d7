"""Results as markdown tables: the layout that cards of this field have used since lm-eval 0.3, and today's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hubkit.core.numbers import NOT_MEASURED, decimals, score, signed
from hubkit.evals.averages import Average
from hubkit.evals.comparing import Comparison, Difference
from hubkit.evals.results import Metric, Results, SuiteResult

Layout = Literal["classic", "today"]
CLASSIC = ("Task", "Version", "Metric", "Value", "", "Stderr")
TODAY = ("Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr")
_RIGHT = {"Version", "n-shot", "Value", "Stderr", "Difference", "before", "after"}


@dataclass(frozen=True)
class Row:
    """One metric of one task; ``measured`` is None when the task was not measured.

    ``first`` is set on the task's first row, where its name and version are shown. ``shots`` are the examples in the
    prompt, None when they are not known.
    """

    task: str
    version: str
    metric: str
    measured: Metric | None
    first: bool
    shots: int | None = None


def classic_rows(suite: SuiteResult) -> Iterator[Row]:
    """The rows of ``suite``, tasks and metrics in order; a task that was not measured has one row."""
    for name, task in suite.tasks.items():
        if task is None:
            yield Row(name, "", "", None, True)
            continue
        for place, (metric, measured) in enumerate(task.metrics.items()):
            yield Row(name, task.version, metric, measured, place == 0, task.n_shot)


def cell(text: str) -> str:
    """``text`` for a cell of a Markdown table: one line, and no bar that would end the cell."""
    return "".join(char if char.isprintable() else " " for char in text).replace("|", "\\|")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; numbers to the right. The cells are written as they are: escape them before."""
    rule = ["---:" if name in _RIGHT else "---" for name in header]
    lines = [header, rule, *rows]
    return "\n".join("|" + "|".join(cell if cell else " " for cell in line) + "|" for line in lines) + "\n"


def classic_table(suite: SuiteResult) -> str:
    """``suite`` as a table of Task, Version, Metric, Value, ±, Stderr; four decimals."""
    rows = []
    for row in classic_rows(suite):
        head = [cell(row.task), cell(row.version)] if row.first else ["", ""]
        rows.append([*head, cell(row.metric), *_measured(row.measured)])
    return markdown(CLASSIC, rows)


def today_table(suite: SuiteResult) -> str:
    """``suite`` in the layout of lm-eval 0.4: Tasks, Version, Filter, n-shot, Metric, arrow, Value, ±, Stderr."""
    rows = []
    for row in classic_rows(suite):
        head = [cell(row.task), cell(row.version)] if row.first else ["", ""]
        if row.measured is None:
            rows.append([*head, "", "", "", "", NOT_MEASURED, "", ""])
            continue
        filtered, better = row.measured.filter, row.measured.higher_is_better
        rows.append(
            [
                *head,
                cell(filtered),
                "" if row.shots is None else str(row.shots),
                cell(row.metric.removesuffix(f" ({filtered})")),
                "" if better is None else "↑" if better else "↓",
                *_measured(row.measured),
            ]
        )
    return markdown(TODAY, rows)


def _measured(measured: Metric | None) -> list[str]:
    if measured is None:
        return [NOT_MEASURED, "", ""]
    tail = ["±", score(measured.stderr)] if measured.stderr is not None else ["", ""]
    return [score(measured.value), *tail]


def classic_tables(results: Results) -> str:
    """Every suite of ``results`` under its heading, with its average and the rule that made it."""
    return tables(results, "classic")


def tables(results: Results, layout: Layout = "classic", published: Mapping[str, str] | None = None) -> str:
    """Every suite of ``results`` under its heading, with its average, the rule that made it, and what ``published``
    (by suite, as it was written) gave instead.
    """
    table = classic_table if layout == "classic" else today_table
    given = published or {}
    parts = [
        f"### {suite.title}\n\n{table(suite)}\n{_average_line(suite.average, given.get(name))}\n"
        for name, suite in results.suites.items()
    ]
    if len(results.suites) > 1:
        parts.append(f"{_average_line(results.average, given.get('average'), 'Average of all', 'without one')}\n")
    return "\n".join(parts)


def agrees(average: Average, published: str) -> bool | None:
    """Whether ``published`` is ``average``, rounded to as many decimals; a share may be given in per cent.

    None when there is no average. ValueError when ``published`` is no number.
    """
    number = float(published)
    if average.value is None:
        return None
    places = len(published.partition(".")[2])
    scale = 100 if number > 1 >= abs(average.value) else 1
    return decimals(average.value * scale, places) == decimals(number, places)


def _average_line(
    average: Average, published: str | None, title: str = "Average", without: str = "not measured"
) -> str:
    value = score(average.value) if average.value is not None else NOT_MEASURED
    note = f"; {average.note}" if average.note else ""
    lacking = f"; {without}: {', '.join(cell(name) for name in average.missing)}" if average.missing else ""
    remark = ""
    if published is not None:
        remark = " As published." if agrees(average, published) else f" Note: {published} was published."
    return f"{title}: {value} ({average.text}{note}{lacking}).{remark}"


def comparison_table(comparison: Comparison) -> str:
    """Every metric that counts, the averages of the suites and of all: before, after, difference ± error, verdict."""
    rows = []
    for suite in comparison.suites:
        rows += [_compared(line, cell(line.task or ""), cell(line.metric or "")) for line in suite.tasks if line.counts]
        rows.append(_compared(suite.average, f"**{cell(suite.title)}**", "average"))
    if len(comparison.suites) > 1:
        rows.append(_compared(comparison.average, "**All**", "average"))
    return markdown(("Task", "Metric", "before", "after", "Difference", "", "Stderr", "Verdict"), rows)


def _compared(line: Difference, task: str, metric: str) -> list[str]:
    before, after = (score(value) if value is not None else NOT_MEASURED for value in (line.before, line.after))
    if line.value is None:
        return [task, metric, before, after, "", "", "", ""]
    error = ["±", score(line.stderr)] if line.stderr is not None else ["", ""]
    verdict = {None: "error unknown", False: "not significant", True: "differs"}[line.exceeds]
    if line.exceeds and line.better is not None:
        verdict = "better" if line.better else "worse"
    notes = f" ({'; '.join(line.notes)})" if line.notes else ""
    return [task, metric, before, after, signed(line.value), *error, f"{verdict}{notes}"]
