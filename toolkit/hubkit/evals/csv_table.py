"""Read results from a plain CSV that anybody can write.

The columns of the CSV, in any order; the first three are required, and there are no others:

=====================  =================================================================================
``task``               its name
``metric``             its name, such as acc
``value``              a number, in the metric's own unit: a share from 0 to 1 for accuracies
``stderr``             its standard error, in the same unit
``suite``              which suite the task belongs to; left out, suites are found by the tasks' names
``version``            the task's version
``n_shot``             examples in the prompt
``n``                  questions asked
``higher_is_better``   true (when left out) or false
``filter``             what picked the answer out of the text
=====================  =================================================================================
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from hubkit.core.errors import UsageError
from hubkit.evals.grouping import KNOWN, group_by_suite, of_known, own_suite, unique
from hubkit.evals.parsing import finite_text, parse_int
from hubkit.evals.results import Metric, Results, Settings, Subject, SuiteResult, TaskResult

REQUIRED = ("task", "metric", "value")
OPTIONAL = ("stderr", "suite", "version", "n_shot", "n", "higher_is_better", "filter")
_COLUMNS = f"The columns are {', '.join(REQUIRED)} and, when known, {', '.join(OPTIONAL)}."


def read_csv(text: str, where: str, name: str) -> Results:
    """Results in the columns above; ``where`` is what messages call the file, ``name`` the model."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    suites: dict[str, dict[str, TaskResult]] = {}
    try:
        heads = [head.strip() for head in reader.fieldnames or ()]
        reader.fieldnames = heads
        if problem := _head_problem(heads):
            raise UsageError(f"{where}: {problem}.", hint=_COLUMNS)
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"{where}, line {reader.line_num}: this row does not fit the header.", hint=_COLUMNS)
            cells = {key: str(value).strip() for key, value in row.items()}
            tasks = suites.setdefault(cells.get("suite", ""), {})
            _add(tasks, cells, f"{where}, line {reader.line_num}")
    except csv.Error as error:
        raise UsageError(f"{where}, line {reader.line_num}: {error}.", hint="Write it as CSV, in UTF-8.") from error
    if not suites:
        raise UsageError(f"{where} has no rows.", hint=_COLUMNS)
    found: list[SuiteResult] = []
    for suite, tasks in suites.items():
        if not suite:
            found += group_by_suite(tasks).values()
            continue
        fitting = [item for item in KNOWN if item.name == suite and tasks.keys() <= set(item.tasks)]
        found.append(of_known(fitting[0], tasks) if fitting else own_suite(suite, tasks))
    return Results.of(
        suites=unique(found),
        subject=Subject(repo=name, form="other"),
        settings=Settings(backend="", apply_chat_template=None, dtype="", batch_size=None, device=""),
        libraries={},
        seconds=None,
    )


def _head_problem(heads: list[str]) -> str | None:
    if len(heads) == 1 and ";" in heads[0]:
        return "its columns are separated by semicolons, not commas"
    if lacking := [name for name in REQUIRED if name not in heads]:
        return f"the first line names no column {', '.join(lacking)}"
    if unknown := [name for name in heads if name not in (*REQUIRED, *OPTIONAL)]:
        return f"unknown column {', '.join(unknown)}"
    return "a column is named twice" if len(set(heads)) < len(heads) else None


def _add(tasks: dict[str, TaskResult], cells: Mapping[str, str], where: str) -> None:
    """Enter one row into ``tasks``."""
    name, metric = cells["task"], cells["metric"]
    if not name or not metric:
        raise UsageError(f"{where}: a row needs a task and a metric.", hint=_COLUMNS)
    better = cells.get("higher_is_better", "").lower() or "true"
    if better not in {"true", "false"}:
        raise UsageError(f"{where}: higher_is_better is {better!r}.", hint="Write true or false.")
    filtered = cells.get("filter") or "none"
    n = _count(cells.get("n", ""), "n", where)
    key = metric if filtered == "none" else f"{metric} ({filtered})"
    value = _number(cells["value"], "value", where)
    stderr = _number(cells["stderr"], "stderr", where) if cells.get("stderr") else None
    before = tasks.get(name)
    if before is not None and key in before.metrics:
        raise UsageError(f"{where}: {key} of {name} appears twice.", hint="Keep the right one.")
    made = Metric(value=value, stderr=stderr, n=n or 0, higher_is_better=better == "true", filter=filtered)
    tasks[name] = TaskResult(
        name=name,
        version=cells.get("version", "") if before is None else before.version,
        n_shot=_count(cells.get("n_shot", ""), "n_shot", where) if before is None else before.n_shot,
        n=(n or 0) if before is None else before.n,
        metrics={**(before.metrics if before else {}), key: made},
    )


def _number(text: str, column: str, where: str) -> float:
    value = finite_text(text)
    if value is None:
        raise UsageError(
            f"{where}: {text!r} in the column {column} is not a number.", hint="Leave out unmeasured rows."
        )
    return value


def _count(text: str, column: str, where: str) -> int | None:
    if not text:
        return None
    if (number := parse_int(text)) is None:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise UsageError(f"{where}: {shown!r} in the column {column} is not an integer.", hint=_COLUMNS)
    return number
