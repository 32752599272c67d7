"""Tables of scores: their averages by the named rules, and the headings under which they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from hubkit.evals.averages import RULES
from hubkit.evals.suites import SUITES
from hubkit.lint.document import Document, Row, Table
from hubkit.lint.finding import Fault

_NUMBER = re.compile(r"^[^\w.+-]*(?:±\s*)?([+-]?\d+(?:\.\d+)?)\s*(?:%|±.*|\(.*\))?\W*$")
_AVERAGE = re.compile(r"(?:overall |total )?(?:average|avg\.?|mean)(?: score| accuracy| acc)?|overall", re.IGNORECASE)
_STATED = re.compile(
    r"\W*(?P<of>[\w ./()-]{0,40}?)\b(?:average|avg)\b\.?(?: score| accuracy| acc)?\W{0,6}(?:is|of|was)?\W{0,4}"
    r"(?P<value>\d+(?:\.\d+)?)\s*%?\W*",
    re.IGNORECASE,
)
_BARE = re.compile(r"\W*(?P<of>[A-Za-z][\w -]{2,20}?)(?: score| average)?\s?\W{1,4}(?P<value>\d+(?:\.\d+)?)\s*%?\W*")
_NO_SCORE = re.compile(
    r"param|size|rank|^#|\bn\b|examples|samples|context|shots?\b|version|stderr|date|epoch|gate|stop", re.IGNORECASE
)
_CLASSIC = ("multiple_choice_grade", "mc2", "acc_norm else acc")
"""The rules that a table of metrics is held against, in the order in which its metrics are looked for."""
_SUITE_NAMES = {
    "agieval": re.compile(r"agi[\s_-]?eval", re.IGNORECASE),
    "bigbench": re.compile(r"big[\s_-]?bench(?:[\s_-]?hard)?|\bbbh\b", re.IGNORECASE),
    "gpt4all": re.compile(r"gpt[\s_-]?4[\s_-]?all", re.IGNORECASE),
    "truthfulqa": re.compile(r"truthful[\s_-]?qa", re.IGNORECASE),
    "openllm": re.compile(r"open[\s_-]?llm", re.IGNORECASE),
}
_TITLES = {"agieval": "AGIEval", "bigbench": "BigBench", "gpt4all": "GPT4All", "truthfulqa": "TruthfulQA",
           "openllm": "Open LLM"}  # fmt: skip
_OPENLLM = frozenset({"arc_challenge", "hellaswag", "winogrande", "gsm8k", "ifeval", "gpqa", "musr"})
_PREFIXES = (
    ("agieval_", "agieval"), ("bigbench_", "bigbench"), ("bbh_", "bigbench"), ("truthfulqa", "truthfulqa"),
    ("truthfulqa", "openllm"), ("leaderboard_", "openllm"), ("mmlu", "openllm"), ("hendryckstest", "openllm"),
)  # fmt: skip
"""Also the task names of lm-evaluation-harness 0.3, by which the classic tables were printed."""


def find(document: Document) -> Iterator[Fault]:
    """Wrong averages, and tables under the wrong heading."""
    for table in document.tables:
        yield from _heading(document, table)
        yield from _rows(document, table)
        yield from _columns(document, table)
    yield from _statements(document)


# --- headings


def suites_of(task: str) -> frozenset[str]:
    """The suites that have a task of this name, in today's names and in the classic ones; empty when none has."""
    name = re.sub(r"[\s:-]+", "_", task.strip().lower())
    found = {suite.name for suite in SUITES.values() if name in suite.tasks and suite.name in _SUITE_NAMES}
    found |= {suite for prefix, suite in _PREFIXES if name.startswith(prefix)}
    return frozenset(found | ({"openllm"} if name in _OPENLLM else set()))


def named_suites(text: str) -> frozenset[str]:
    """The suites that a title names."""
    return frozenset(suite for suite, pattern in _SUITE_NAMES.items() if pattern.search(text))


def _heading(document: Document, table: Table) -> Iterator[Fault]:
    tasks = [(row, suites_of(row.cells[0])) for row in table.rows if row.cells]
    known = [(row, suites) for row, suites in tasks if suites]
    label = next((label for label in table.labels if named_suites(label)), None)
    if not known or label is None or len(named_suites(label)) > 1:
        return
    (named,) = named_suites(label)
    strange = [(row, suites) for row, suites in known if named not in suites]
    if len(strange) * 2 > len(known):
        row, suites = strange[0]
        belongs = " or ".join(_TITLES[suite] for suite in sorted(suites))
        yield Fault(
            "table-heading", document.path, table.line,
            f"The table stands under {label!r}, and its task {row.cells[0]} is one of {belongs}.",
            f"Put it under {belongs}, or put the table of {_TITLES[named]} in its place.",
        )  # fmt: skip


# --- averages


@dataclass(frozen=True)
class _Figure:
    """A number as it is written."""

    exact: Decimal
    decimals: int

    @classmethod
    def of(cls, text: str) -> _Figure | None:
        found = _NUMBER.match(text)
        return cls(Decimal(found[1]), len(found[1].partition(".")[2])) if found else None

    @property
    def value(self) -> float:
        return float(self.exact)

    def is_mean(self, parts: Sequence[_Figure], mean: float) -> bool:
        """Whether this is ``mean`` of ``parts``, allowing for rounding of both; percent and shares are the same."""
        rounding = 0.5 * 10.0 ** -min(part.decimals for part in parts)
        return any(
            abs(self.value - mean * scale) <= 10.0**-self.decimals + rounding * scale for scale in (1.0, 100.0, 0.01)
        )


@dataclass(frozen=True)
class _Mean:
    """A mean of a table's figures, and by which rule."""

    text: str
    parts: tuple[_Figure, ...]

    @property
    def value(self) -> float:
        return float(self._exact)

    @property
    def _exact(self) -> Decimal:
        return sum((part.exact for part in self.parts), Decimal()) / len(self.parts)

    def shown(self, decimals: int, *, percent: bool = False) -> str:
        """The mean as people round it: a half goes up."""
        value = self._exact * 100 if percent else self._exact
        return str(value.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def means(table: Table) -> list[_Mean]:
    """The averages that a table of metrics may have, the classic rule's first; empty for a table of another kind."""
    tasks = metrics_of(table)
    if not tasks or table.damaged:
        return []
    found = []
    for rule in (*_CLASSIC, "acc", "acc_norm"):
        wanted = RULES[rule].metrics if rule in RULES else (rule,)
        parts = [next((task[name] for name in wanted if name in task), None) for task in tasks.values()]
        if rule == "mc2":
            parts = [part for part in parts if part is not None]
        if parts and None not in parts:
            text = RULES[rule].text if rule in RULES else f"unweighted mean over the tasks of {rule}"
            found.append(_Mean(text, tuple(part for part in parts if part is not None)))
    return found


def metrics_of(table: Table) -> dict[str, dict[str, _Figure]]:
    """The figures of a table in the layout of lm-evaluation-harness, by task and metric; empty for another table."""
    heads = [head.lower() for head in table.heads]
    task, metric, value = (
        next((place for place, head in enumerate(heads) if head in names), None)
        for names in (("task", "tasks"), ("metric", "metrics"), ("value", "score"))
    )
    if task is None or metric is None or value is None:
        return {}
    found: dict[str, dict[str, _Figure]] = {}
    name = ""
    for row in table.rows:
        if max(task, metric, value) >= len(row.cells) or _AVERAGE.fullmatch(row.cells[task]):
            continue
        name = row.cells[task] or name
        figure = _Figure.of(row.cells[value])
        if name and figure and row.cells[metric]:
            found.setdefault(name, {}).setdefault(row.cells[metric], figure)
    return found


def _fault(document: Document, line: int, stated: _Figure, mean: _Mean, of: str) -> Fault:
    percent = stated.value > 1 >= max(part.value for part in mean.parts)
    decimals = max(part.decimals for part in mean.parts) - 2 * percent
    shown = mean.shown(max(stated.decimals, decimals), percent=percent)
    return Fault(
        "average", document.path, line,
        f"The average is given as {stated.value:.{stated.decimals}f}, and {of} gives {shown} ({mean.text}).",
        f"Write {shown}, or name the rule by which the average was made.",
    )  # fmt: skip


def _rows(document: Document, table: Table) -> Iterator[Fault]:
    """A row 'Average': the mean of the figures above it, column by column.

    The Open LLM Leaderboard's second version rescales each benchmark before it takes the mean, which cannot be done
    from rounded figures.
    """
    if table.damaged or any(row.cells and row.cells[0].startswith("leaderboard_") for row in table.rows):
        return
    if metrics_of(table):
        yield from _metric_rows(document, table)
        return
    above: list[Row] = []
    for row in table.rows:
        if not row.cells or not _AVERAGE.fullmatch(row.cells[0]):
            above.append(row)
            continue
        for place in range(1, len(row.cells)):
            stated = _Figure.of(row.cells[place])
            held = [item.cells[place] for item in above if place < len(item.cells) and item.cells[place]]
            parts = [figure for figure in map(_Figure.of, held) if figure]
            if stated and parts and len(parts) == len(held):
                mean = _Mean("mean of the rows above it", tuple(parts))
                if not stated.is_mean(parts, mean.value):
                    yield _fault(document, row.line, stated, mean, f"the column {table.heads[place]!r}")


def _metric_rows(document: Document, table: Table) -> Iterator[Fault]:
    for row in table.rows:
        if row.cells and _AVERAGE.fullmatch(row.cells[0]):
            stated = next((figure for figure in map(_Figure.of, row.cells[1:]) if figure), None)
            if stated:
                yield from _held(document, row.line, stated, table)


def _held(document: Document, line: int, stated: _Figure, table: Table) -> Iterator[Fault]:
    """``stated`` against every rule that the table can be read by."""
    found = means(table)
    if found and not any(stated.is_mean(mean.parts, mean.value) for mean in found):
        yield _fault(document, line, stated, found[0], "its table")


def _columns(document: Document, table: Table) -> Iterator[Fault]:
    """A column 'Average': the mean of the other scores of its row."""
    for place, head in enumerate(table.heads):
        if place == 0 or not _AVERAGE.fullmatch(head) or metrics_of(table):
            continue
        others = [at for at, name in enumerate(table.heads) if at not in {0, place} and not _NO_SCORE.search(name)]
        for row in table.rows:
            cells = [row.cells[at] for at in others if at < len(row.cells)]
            stated = _Figure.of(row.cells[place]) if place < len(row.cells) else None
            parts = [figure for figure in map(_Figure.of, cells) if figure]
            if stated and len(parts) > 1 and len(parts) == len(cells):
                mean = _Mean("mean of the row", tuple(parts))
                if not stated.is_mean(parts, mean.value):
                    yield _fault(document, row.line, stated, mean, f"the row {row.cells[0]!r}")


def _statements(document: Document) -> Iterator[Fault]:
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
        found = _STATED.fullmatch(text) or _BARE.fullmatch(text)
        figure = _Figure.of(found["value"]) if found else None
        if found is None or figure is None:
            continue
        named = named_suites(found["of"])
        if found.re is _BARE and not any(pattern.fullmatch(found["of"].strip()) for pattern in _SUITE_NAMES.values()):
            continue
        about = _table_of(document, line, section, named)
        if about is not None:
            yield from _held(document, line, figure, about)


def _table_of(document: Document, line: int, section: int, named: frozenset[str]) -> Table | None:
    """The table that a statement is about: the one of the suite that it names, else the one next to it.

    Next to it: with no words between the two, but other statements.
    """
    fitting = [table for table in document.tables if metrics_of(table)]
    if named:
        fitting = [table for table in fitting if named <= _about(table)]
        near = [table for table in fitting if table.section == section]
        return near[-1] if near else fitting[0] if len(fitting) == 1 else None
    words = [item.line for item in document.prose if item.text and not _STATED.fullmatch(item.text)]
    for table in reversed(fitting):
        if table.last <= line and not any(table.last < at < line for at in words):
            return table
    for table in fitting:
        if line < table.line and not any(line < at < table.line for at in words):
            return table
    return None


def _about(table: Table) -> frozenset[str]:
    """The suites that all of a table's known tasks belong to."""
    suites = [known for name in metrics_of(table) if (known := suites_of(name))]
    return frozenset.intersection(*suites) if suites else frozenset()
