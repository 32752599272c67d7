"""Read benchmark tables that are text: as lm-eval prints them, and as cards hold them (Markdown, ASCII with borders).

Two layouts: that of lm-eval 0.3 (Task, Version, Metric, Value, ±, Stderr) and today's (Tasks, Version, Filter, n-shot,
Metric, arrow, Value, ±, Stderr). A cell that is empty continues what is above it. Rows that measure nothing are passed
over: averages, and the names of tasks that scripts print as a metric 'alias'. Tables in HTML are read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from hubkit.core.errors import UsageError
from hubkit.core.html_tables import html_tables
from hubkit.core.numbers import NOT_MEASURED
from hubkit.evals.grouping import RENAMED, group_by_suite, refuse_empty
from hubkit.evals.parsing import KNOWN_FILES, finite_text, parse_int, upward
from hubkit.evals.results import Metric, Results, Settings, Subject, TaskResult

_HEADS = {"task": "task", "tasks": "task", "version": "version", "filter": "filter", "n-shot": "shots"}
_HEADS |= {"metric": "metric", "value": "value", "stderr": "stderr"}
_BORDER = re.compile(r"[\s|+:=-]+")
_MISSING = {"", "-", "n/a", "nan", "missing", NOT_MEASURED}
_DIRECTIONS = {"↑": True, "↓": False}
_SUMMARY = re.compile(
    r"\W*(?:(?:overall|total|grand) )?(?:average|avg\.?|mean|overall|total)(?: (?:score|accuracy|acc))?\W*", re.I
)
"""How a row of averages is called, which is no task."""
_ALIAS = "alias"
_STDERR = "_stderr"


@dataclass(frozen=True)
class Row:
    """One metric in a table. ``depth`` counts how deep lm-eval set the task below its group; ``line`` counts from 1.

    ``value`` is None when the cell says that there is none.
    """

    line: int
    task: str
    depth: int
    version: str
    filter: str
    shots: int | None
    metric: str
    value: float | None
    stderr: float | None
    higher_is_better: bool | None = True
    asked: bool = True
    """Whether it is of a measurement: it names a metric, or says that the value is missing. Headings do neither."""


@dataclass(frozen=True)
class Table:
    """A table with the heading above it (empty: none); ``line`` is that of its header."""

    line: int
    heading: str
    rows: tuple[Row, ...]
    groups: frozenset[str] = field(default=frozenset())
    """Tasks of it that are only the averages of those below them."""


def read_text(text: str, where: str, name: str) -> Results:
    """The benchmark tables in ``text``, all of them together; lm-eval's line above them tells the settings."""
    tables = read_tables(text, where)
    if not tables:
        raise UsageError(
            f"{where} contains no benchmark table with the columns Task, Metric and Value.", hint=KNOWN_FILES
        )
    rows: dict[str, list[Row]] = {}
    groups = frozenset().union(*(table.groups for table in tables))
    for table in tables:
        for row in table.rows:
            if row.asked and row.task not in groups:
                rows.setdefault(row.task, []).append(row)
    call = call_line(text)
    tasks = {task: _of_rows(task, found, where) for task, found in rows.items()}
    shots, limit = call.get("num_fewshot", ""), call.get("limit", "")
    return Results.of(
        suites=refuse_empty(group_by_suite(tasks), where),
        subject=Subject(repo=call.get("pretrained") or name, form="other"),
        settings=Settings(
            backend=call.get("model", ""),
            apply_chat_template=None,
            limit=int(float(limit)) if re.fullmatch(r"[1-9]\d{0,14}(\.\d+)?", limit.strip()) else None,
            num_fewshot=parse_int(shots.strip()),
            dtype=call.get("dtype", ""),
            batch_size=parse_int(call.get("batch_size", "").split(" ")[0]),
            device=call.get("device", ""),
        ),
        libraries={},
        seconds=None,
    )


def _of_rows(task: str, rows: list[Row], where: str) -> TaskResult | None:
    """One task; None when none of its rows has a number."""
    metrics: dict[str, Metric] = {}
    lines: dict[str, int] = {}
    for row in rows:
        if row.value is None:
            continue
        key = row.metric if row.filter == "none" else f"{row.metric} ({row.filter})"
        key = RENAMED.get(task, {}).get(key, key)
        made = Metric(value=row.value, stderr=row.stderr, n=0, higher_is_better=row.higher_is_better, filter=row.filter)
        if key in metrics and metrics[key] != made:
            raise UsageError(
                f"{where} gives two different values of {key} of {task}: lines {lines[key]} and {row.line}.",
                hint="Keep the correct one, or move the tables of different models to separate files.",
            )
        metrics[key], lines[key] = made, row.line
    if not metrics:
        return None
    return TaskResult(name=task, version=rows[0].version, n_shot=rows[0].shots, n=0, metrics=metrics)


def read_tables(text: str, name: str = "the text") -> tuple[Table, ...]:
    """Every benchmark table in ``text``, in order; other tables are passed over.

    UsageError for a row that does not fit its header, and for a value that is no number.
    """
    found: list[Table] = []
    heading, lines = "", text.splitlines()
    place = 0
    while place < len(lines):
        line = lines[place]
        if re.match(r" {0,3}#{1,6}[ \t]", line):
            heading = line.strip().strip("#").strip()
        columns = _columns(line)
        place += 1
        if columns is None:
            continue
        start, body = place, []
        while place < len(lines) and ("|" in lines[place] or _is_border(lines[place])):
            if not _is_border(lines[place]) and lines[place].replace("|", "").strip():
                body.append((place + 1, lines[place]))
            place += 1
        rows = _measured(_rows(body, columns, name))
        found.append(Table(start, heading, rows, _groups(rows)))
    return tuple(sorted((*found, *_html(text, name)), key=lambda table: table.line))


def _html(text: str, name: str) -> Iterator[Table]:
    """The benchmark tables that ``text`` holds as HTML."""
    for table in html_tables(text) if "<table" in text.lower() else ():
        lines = [
            (row.line, f"|{'|'.join(cell.replace('|', chr(92) + '|') for cell in row.cells)}|") for row in table.rows
        ]
        columns = _columns(lines[0][1])
        if columns is not None:
            rows = _measured(_rows(lines[1:], columns, name))
            yield Table(table.line, table.caption, rows, _groups(rows))


def _measured(rows: Iterable[Row]) -> tuple[Row, ...]:
    """``rows`` without averages and aliases; rows of standard errors are joined with what they are the errors of."""
    kept: list[Row] = []
    errors: dict[tuple[str, str], float | None] = {}
    for row in rows:
        metric, comma, filtered = row.metric.partition(",")
        if metric.endswith(_STDERR):
            errors[row.task, f"{metric.removesuffix(_STDERR)}{comma}{filtered}"] = row.value
        elif metric != _ALIAS and not _SUMMARY.fullmatch(row.task):
            kept.append(row)
    return tuple(_joined(row, errors) for row in kept)


def _joined(row: Row, errors: Mapping[tuple[str, str], float | None]) -> Row:
    """``row`` with its error from another row, and the filter that lm-eval writes after a comma."""
    error = errors.get((row.task, row.metric)) if row.stderr is None else row.stderr
    metric, comma, filtered = row.metric.partition(",")
    if comma and row.filter == "none":
        return replace(row, metric=metric, filter=filtered or "none", stderr=error)
    return replace(row, stderr=error)


def call_line(text: str) -> Mapping[str, str]:
    """What lm-eval prints above its tables: 'model', 'pretrained', 'limit', 'num_fewshot', 'batch_size', as words."""
    found = re.search(
        r"^[ \t]{0,9}`?(?P<model>[\w.-]+) \((?P<args>[^)\n]*)\), (?P<rest>[^\n]*limit: [^\n]*)$", text, re.MULTILINE
    )
    if not found:
        return {}
    options = dict(re.findall(r"(\w+): ([^,`\n]+)", found["rest"]))
    named = dict(item.split("=", 1) for item in found["args"].split(",") if "=" in item)
    return {**options, **named, "model": found["model"]}


def _is_border(line: str) -> bool:
    return bool(line.strip()) and _BORDER.fullmatch(line) is not None and ("-" in line or "=" in line)


def _cells(line: str) -> list[str]:
    text = line.strip().removeprefix("|")
    return re.split(r"(?<!\\)\|", re.sub(r"(?<!\\)\|$", "", text))


def _plain(cell: str) -> str:
    """The words of a cell without markdown's emphasis, code marks and escapes."""
    return re.sub(r"\\([_*|-])", r"\1", cell.strip()).strip("*` ")


def _columns(line: str) -> dict[str, int] | None:
    """The place of each known column; None when this is no header of a benchmark table."""
    if "|" not in line:
        return None
    found: dict[str, int] = {}
    cells = [_plain(cell).lower() for cell in _cells(line)]
    for place, cell in enumerate(cells):
        if cell in _HEADS:
            found.setdefault(_HEADS[cell], place)
    if not {"task", "metric", "value"} <= found.keys():
        return None
    if found["value"] > 0 and cells[found["value"] - 1] == "":
        found["direction"] = found["value"] - 1
    return found


def _rows(body: Sequence[tuple[int, str]], columns: Mapping[str, int], name: str) -> Iterator[Row]:
    above = {"task": "", "version": "", "filter": "none", "shots": ""}
    depth = 0
    for line, text in body:
        cells = _cells(text)
        if len(cells) <= max(columns.values()):
            raise UsageError(
                f"{name}, line {line}: this row has {len(cells)} cells, fewer than its header.",
                hint="Fix the row, or remove it.",
            )
        values = {key: _plain(cells[place]) for key, place in columns.items()}
        if values["task"]:
            above = {"task": "", "version": "", "filter": "none", "shots": ""}
            raw = cells[columns["task"]]
            depth = len(raw) - len(raw.lstrip()) if raw.lstrip().startswith("- ") else 0
            values["task"] = _plain(raw.lstrip().removeprefix("- "))
        for key in above:
            above[key] = values.get(key) or above[key]
        if not above["task"]:
            raise UsageError(f"{name}, line {line}: this row belongs to no task.", hint="Name its task.")
        shots = above["shots"]
        yield Row(
            line=line,
            task=above["task"],
            depth=depth,
            version=above["version"].removesuffix("N/A").strip(),
            filter=above["filter"],
            shots=parse_int(shots),
            metric=values["metric"],
            value=None if values["metric"] == _ALIAS else _number(values["value"], name, line),
            stderr=_number(values.get("stderr", ""), name, line),
            higher_is_better=_DIRECTIONS.get(values["direction"])
            if "direction" in columns
            else upward(values["metric"]),
            asked=bool(values["metric"] or values["value"]),
        )


def _groups(rows: Sequence[Row]) -> frozenset[str]:
    """The tasks directly below which others are set deeper."""
    return frozenset(one.task for one, after in pairwise(rows) if after.depth > one.depth)


def _number(text: str, name: str, line: int) -> float | None:
    if text.lower() in _MISSING:
        return None
    value = finite_text(text)
    if value is None:
        raise UsageError(
            f"{name}, line {line}: {text!r} is not a number.",
            hint="Write the measured value, or leave the cell empty when there is none.",
        )
    return value
