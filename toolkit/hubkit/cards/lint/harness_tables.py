"""The tables of a card in the layout of lm-evaluation-harness: a row for each metric of a task."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import cached_property

from hubkit.cards.lint.document import Document, Table
from hubkit.cards.lint.figures import Figure, Mean, Sum
from hubkit.cards.lint.sheets import AVERAGE_LABEL
from hubkit.cards.lint.suites import suites_of
from hubkit.evals.averages import RULES

STATED = re.compile(
    r"\W*(?P<of>[\w ./()-]{0,40}?)\b(?:average|avg)\b\.?(?: score| accuracy| acc)?\W{0,6}(?:is|of|was)?\W{0,4}"
    r"(?P<value>\d+(?:\.\d+)?)\s*%?(?:\s*±\s*\d+(?:\.\d+)?\s*%?)?\W*",
    re.IGNORECASE,
)
"""A line that states an average: 'Average: 0.4364', and what it is the average of."""
_COUNTED = ("multiple_choice_grade", "mc2", "acc_norm", "acc", "exact_match")
"""Metrics of which the first that a task has counts in an average over several tables."""
_CLASSIC = ("multiple_choice_grade", "mc2", "acc_norm else acc")
"""The rules that a table of metrics is compared with, in the order in which its metrics are looked for."""


def means(table: Table) -> list[Mean]:
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
        if mean := Sum.of(parts).mean(text):
            found.append(mean)
    return found


def metrics_of(table: Table) -> dict[str, dict[str, Figure]]:
    """The figures of a table in the layout of lm-evaluation-harness, by task and metric; empty for another table."""
    heads = [head.lower() for head in table.heads]
    task, metric, value = (
        next((place for place, head in enumerate(heads) if head in names), None)
        for names in (("task", "tasks"), ("metric", "metrics"), ("value", "score"))
    )
    if task is None or metric is None or value is None:
        return {}
    found: dict[str, dict[str, Figure]] = {}
    name = ""
    for row in table.rows:
        if max(task, metric, value) >= len(row.cells) or AVERAGE_LABEL.fullmatch(row.cells[task]):
            continue
        name = row.cells[task] or name
        figure = Figure.of(row.cells[value])
        if name and figure and row.cells[metric]:
            found.setdefault(name, {}).setdefault(row.cells[metric], figure)
    return found


def mean_of_means(means: Sequence[Mean]) -> Mean:
    """The mean of averages, which knows the rounding of the figures that they are made of."""
    value = sum((mean.exact for mean in means), Decimal()) / len(means)
    fewest, most = min(mean.fewest for mean in means), max(mean.most for mean in means)
    return Mean("mean of the averages", value, fewest, most, max(mean.largest for mean in means))


class HarnessTables:
    """The card's tables in the layout of lm-evaluation-harness, each read once."""

    def __init__(self, document: Document) -> None:
        self.metrics = {id(table): found for table in document.tables if (found := metrics_of(table))}
        self.tables = [table for table in document.tables if self.has(table)]
        self._means: dict[int, list[Mean]] = {}
        self._of_suites: dict[frozenset[str], list[Table]] = {}
        self._about = {id(table): _about(self.metrics[id(table)]) for table in self.tables}
        self._firsts = [table.line for table in self.tables]
        self._lasts = [table.last for table in self.tables]
        self._words = [item.line for item in document.prose if item.text and not STATED.fullmatch(item.text)]

    def has(self, table: Table) -> bool:
        """Whether it is such a table."""
        return id(table) in self.metrics

    def means(self, table: Table) -> list[Mean]:
        """:func:`means` of it."""
        if id(table) not in self._means:
            self._means[id(table)] = means(table)
        return self._means[id(table)]

    @cached_property
    def of_all(self) -> list[Mean]:
        """The averages over all these tables of the card: of their means, and of their tasks together."""
        firsts = [found[0] for table in self.tables if (found := self.means(table))]
        if len(firsts) < 2:
            return []
        tasks = {
            (at, name): held for at, table in enumerate(self.tables) for name, held in self.metrics[id(table)].items()
        }
        counted = [next((held[name] for name in _COUNTED if name in held), None) for held in tasks.values()]
        over_tasks = Sum.of(counted).mean("mean over the tasks of all tables")
        return [mean for mean in (mean_of_means(firsts), over_tasks) if mean]

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
