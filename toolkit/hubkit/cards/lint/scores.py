"""Tables of scores: their averages by the named rules, and the headings under which they stand."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from hubkit.cards.lint.document import Document, Row, Table
from hubkit.cards.lint.finding import Fault
from hubkit.evals.averages import RULES
from hubkit.evals.suites import SUITES

_NUMBER = re.compile(r"^[^\w.+-]*(?:±\s*)?([+-]?\d+(?:\.\d+)?)\s*(?:%|±.*|\(.*\))?\W*$")
_AVERAGE = re.compile(r"(?:overall |total )?(?:average|avg\.?|mean)(?: score| accuracy| acc)?|overall", re.IGNORECASE)
_STATED = re.compile(
    r"\W*(?P<of>[\w ./()-]{0,40}?)\b(?:average|avg)\b\.?(?: score| accuracy| acc)?\W{0,6}(?:is|of|was)?\W{0,4}"
    r"(?P<value>\d+(?:\.\d+)?)\s*%?(?:\s*±\s*\d+(?:\.\d+)?\s*%?)?\W*",
    re.IGNORECASE,
)
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
_WIDEST, _MOST_AVERAGES, _LONGEST = 24, 4, 60
"""Columns, and averages among them, above which a table is none of scores; characters above which a cell is no figure.
"""
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
    measured = _Measured(document)
    for table in document.tables:
        yield from _heading(document, table)
        yield from _rows(document, table, measured)
        if not measured.has(table):
            yield from _columns(document, table)
            yield from _summary(document, table, measured)
    yield from _statements(document, measured)


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
        found = _NUMBER.match(text) if len(text) <= _LONGEST else None
        return cls(Decimal(found[1]), len(found[1].partition(".")[2])) if found else None

    @property
    def value(self) -> float:
        return float(self.exact)

    def is_mean(self, mean: _Mean) -> bool:
        """Whether this is ``mean``, allowing for rounding of both; percent and shares are the same."""
        rounding = 0.5 * 10.0**-mean.fewest
        return any(
            abs(self.value - mean.value * scale) <= 10.0**-self.decimals + rounding * scale
            for scale in (1.0, 100.0, 0.01)
        )


@dataclass(frozen=True)
class _Mean:
    """A mean of figures, and by which rule.

    Of the figures it keeps the fewest and the most decimals, and the largest: to hold it against a number takes no
    second look at a long table.
    """

    text: str
    exact: Decimal
    fewest: int
    most: int
    largest: float

    @property
    def value(self) -> float:
        return float(self.exact)

    def shown(self, decimals: int, *, percent: bool = False) -> str:
        """The mean as people round it: a half goes up."""
        value = self.exact * 100 if percent else self.exact
        return str(value.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


@dataclass
class _Sum:
    """Figures added up; ``strange`` counts what was none."""

    total: Decimal = Decimal()
    count: int = 0
    strange: int = 0
    fewest: int = _LONGEST
    most: int = 0
    largest: float = -math.inf

    @classmethod
    def of(cls, parts: Iterable[_Figure | None]) -> _Sum:
        """All of ``parts``."""
        made = cls()
        for part in parts:
            made.add(part)
        return made

    def add(self, part: _Figure | None) -> None:
        """One more."""
        if part is None:
            self.strange += 1
            return
        self.total += part.exact
        self.count += 1
        self.fewest, self.most = min(self.fewest, part.decimals), max(self.most, part.decimals)
        self.largest = max(self.largest, part.value)

    def mean(self, text: str = "") -> _Mean | None:
        """Their mean; None when there are none, or something strange is among them."""
        if not self.count or self.strange:
            return None
        return _Mean(text, self.total / self.count, self.fewest, self.most, self.largest)


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
        text = RULES[rule].text if rule in RULES else f"unweighted mean over the tasks of {rule}"
        if mean := _Sum.of(parts).mean(text):
            found.append(mean)
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
    percent = stated.value > 1 >= mean.largest
    decimals = mean.most - 2 * percent
    shown = mean.shown(max(stated.decimals, decimals), percent=percent)
    return Fault(
        "average", document.path, line,
        f"The average is given as {stated.value:.{stated.decimals}f}, and {of} gives {shown} ({mean.text}).",
        f"Write {shown}, or name the rule by which the average was made.",
    )  # fmt: skip


class _Measured:
    """The card's tables in the layout of lm-evaluation-harness, each read once."""

    def __init__(self, document: Document) -> None:
        self.metrics = {id(table): found for table in document.tables if (found := metrics_of(table))}
        self.tables = [table for table in document.tables if self.has(table)]
        self._means: dict[int, list[_Mean]] = {}
        self._of_suites: dict[frozenset[str], list[Table]] = {}
        self._about = {id(table): _about(self.metrics[id(table)]) for table in self.tables}
        self._firsts = [table.line for table in self.tables]
        self._lasts = [table.last for table in self.tables]
        self._words = [item.line for item in document.prose if item.text and not _STATED.fullmatch(item.text)]

    def has(self, table: Table) -> bool:
        """Whether it is such a table."""
        return id(table) in self.metrics

    def means(self, table: Table) -> list[_Mean]:
        """:func:`means` of it."""
        if id(table) not in self._means:
            self._means[id(table)] = means(table)
        return self._means[id(table)]

    def of_suites(self, named: frozenset[str]) -> list[Table]:
        """The tables of all suites that are ``named``."""
        if named not in self._of_suites:
            self._of_suites[named] = [table for table in self.tables if named <= self._about[id(table)]]
        return self._of_suites[named]

    def about(self, line: int, section: int, named: frozenset[str]) -> Table | None:
        """The table that a statement is about: the one of the suite that it names, else the one next to it.

        Next to it: with no words between the two, but other statements.
        """
        if named:
            fitting = self.of_suites(named)
            place = bisect_right(fitting, section, key=lambda table: table.section) - 1
            if place >= 0 and fitting[place].section == section:
                return fitting[place]
            return fitting[0] if len(fitting) == 1 else None
        place = bisect_right(self._lasts, line) - 1
        if place >= 0 and not self._spoken(self._lasts[place], line):
            return self.tables[place]
        place = bisect_right(self._firsts, line)
        if place < len(self.tables) and not self._spoken(line, self._firsts[place]):
            return self.tables[place]
        return None

    def _spoken(self, after: int, before: int) -> bool:
        place = bisect_right(self._words, after)
        return place < bisect_left(self._words, before)


def _about(metrics: Iterable[str]) -> frozenset[str]:
    """The suites that all known ones of these tasks belong to."""
    suites = [known for name in metrics if (known := suites_of(name))]
    return frozenset.intersection(*suites) if suites else frozenset()


def _rows(document: Document, table: Table, measured: _Measured) -> Iterator[Fault]:
    """A row 'Average': the mean of the figures above it, column by column.

    The Open LLM Leaderboard's second version rescales each benchmark before it takes the mean, which cannot be done
    from rounded figures.
    """
    if table.damaged or any(row.cells and row.cells[0].startswith("leaderboard_") for row in table.rows):
        return
    if measured.has(table):
        for row in table.rows:
            if row.cells and _AVERAGE.fullmatch(row.cells[0]):
                stated = next((figure for figure in map(_Figure.of, row.cells[1:]) if figure), None)
                if stated:
                    yield from _held(document, row.line, stated, measured.means(table), "its table")
        return
    if len(table.heads) > _WIDEST:
        return
    for place in range(1, len(table.heads)):
        if not _UNLIKE.search(table.heads[place]):
            yield from _column(document, table, place)


def _column(document: Document, table: Table, place: int) -> Iterator[Fault]:
    """The averages down one column, which may have one below each block of rows. Averages above theirs are let be."""
    blocks: list[list[_Figure | None]] = [[]]
    averages: list[tuple[Row, _Figure | None]] = []
    for row in table.rows:
        cell = row.cells[place] if place < len(row.cells) else ""
        if row.cells and _AVERAGE.fullmatch(row.cells[0]):
            averages.append((row, _Figure.of(cell)))
            blocks.append([])
        elif cell:
            blocks[-1].append(_Figure.of(cell))
    whole, before = _Sum(), _Sum()
    for at, (row, stated) in enumerate(averages):
        for figure in blocks[at]:
            whole.add(figure)
        own = _Sum.of(blocks[at]) if blocks[at] else whole
        text = "mean of the rows above it" if at == 0 or own is whole else "mean of the rows since the last average"
        mean = own.mean(text)
        if stated and mean and blocks[0]:
            others = [whole.mean(), before.mean(), _Sum.of(blocks[at + 1]).mean(), *_ends(blocks[at])]
            if not any(stated.is_mean(other) for other in (mean, *others) if other):
                yield _fault(document, row.line, stated, mean, f"the column {table.heads[place]!r}")
        before.add(stated)


def _ends(parts: Sequence[_Figure | None]) -> Iterator[_Mean | None]:
    """The means of the first and of the last of ``parts``, two and half of them at least: others may be no scores."""
    for order in (parts, parts[::-1]):
        total = _Sum()
        for part in order:
            total.add(part)
            if total.count > 1 and total.count * 2 >= len(parts):
                yield total.mean()


def _held(document: Document, line: int, stated: _Figure, found: Sequence[_Mean], of: str) -> Iterator[Fault]:
    """``stated`` against the means by every rule that a table can be read by."""
    if found and not any(stated.is_mean(mean) for mean in found):
        yield _fault(document, line, stated, found[0], of)


def _columns(document: Document, table: Table) -> Iterator[Fault]:
    """A column 'Average': the mean of the other scores of its row, or of those between it and another average."""
    heads = table.heads
    averages = [place for place, head in enumerate(heads) if place and _AVERAGE.fullmatch(head)]
    if len(heads) > _WIDEST or len(averages) > _MOST_AVERAGES:
        return
    others = [at for at, name in enumerate(heads) if at and not _NO_SCORE.search(name)]
    like = [at for at in others if not _UNLIKE.search(heads[at])]
    for row in table.rows:
        figures = [_Figure.of(cell) for cell in row.cells]
        figures += [None] * (len(heads) - len(figures))
        for place in averages:
            stated = figures[place]
            parts = [figures[at] for at in like if at != place]
            mean = _Sum.of(parts).mean("mean of the row")
            if stated is None or mean is None or len(parts) < 2 or stated.is_mean(mean):
                continue
            first = max((at for at in averages if at < place), default=0)
            last = min((at for at in averages if at > place), default=len(heads))
            may_be = [_Sum.of([figures[at] for at in others if at != place]).mean()]
            for chosen in (others, like):
                may_be += _ends([figures[at] for at in chosen if first < at < place])
                may_be += _ends([figures[at] for at in chosen if place < at < last])
            if not any(stated.is_mean(other) for other in may_be if other):
                yield _fault(document, row.line, stated, mean, f"the row {row.cells[0]!r}")


def _statements(document: Document, measured: _Measured) -> Iterator[Fault]:
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
        found = _STATED.fullmatch(text) or _BARE.fullmatch(text) or _WE.search(text)
        figure = _Figure.of(found["value"]) if found else None
        if found is None or figure is None:
            continue
        if found.re is not _STATED and _suite_of(found["of"]) is None:
            continue
        about = measured.about(line, section, named_suites(found["of"]))
        if about is not None:
            yield from _held(document, line, figure, measured.means(about), "its table")


def _suite_of(name: str) -> str | None:
    """The suite of which this is a name, and nothing more."""
    return next((suite for suite, pattern in _SUITE_NAMES.items() if pattern.fullmatch(name.strip())), None)


def _summary(document: Document, table: Table, measured: _Measured) -> Iterator[Fault]:
    """A table with a column for each suite, against the tables of those suites.

    Rows may be of other models: looked at is the one row of which another suite's figure is that of its table.
    """
    columns = {place: suite for place, head in enumerate(table.heads) if place and (suite := _suite_of(head))}
    known: dict[int, list[_Mean]] = {}
    for place, suite in columns.items():
        of_suite = measured.of_suites(frozenset({suite}))
        if len(of_suite) == 1:
            known[place] = measured.means(of_suite[0])
    ours: list[tuple[Row, list[tuple[int, _Figure]]]] = []
    for row in table.rows:
        held = [
            (place, figure)
            for place in known
            if known[place] and place < len(row.cells) and (figure := _Figure.of(row.cells[place]))
        ]
        wrong = [(place, figure) for place, figure in held if not any(map(figure.is_mean, known[place]))]
        if len(wrong) < len(held):
            ours.append((row, wrong))
    if len(ours) == 1:
        row, wrong = ours[0]
        for place, figure in wrong:
            of = f"the table of {_TITLES[columns[place]]}"
            yield from _held(document, row.line, figure, known[place], of)
