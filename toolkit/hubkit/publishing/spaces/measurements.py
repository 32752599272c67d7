"""What was measured, as the Space of a release shows it: real answers, and the benchmarks as on the card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hubkit.core.numbers import score
from hubkit.evals.averages import Average, counted_metric
from hubkit.evals.results import Results, SuiteResult
from hubkit.models.chat.stop_rates import MeasuredRate

BASE = "base"
"""The revision under which the answers and the benchmarks of the base are shown."""


@dataclass(frozen=True)
class MeasuredAnswer:
    """The answer of ``revision`` to a held-out prompt, verbatim; ``tokens`` counts the end-of-turn token too."""

    prompt: str
    revision: str
    answer: str
    ended: Literal["eos", "limit"]
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """As in ``release.json``."""
        return asdict(self)


@dataclass(frozen=True)
class BenchmarkTable:
    """Benchmarks: ``columns`` are revisions; a row is a label, then a text for each column, None: not measured."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str | None, ...]], ...]

    def to_json(self) -> dict[str, Any]:
        """As in ``release.json``."""
        return {"columns": list(self.columns), "rows": [[label, *cells] for label, cells in self.rows]}


def measured_answers(rates: Mapping[str, MeasuredRate | None]) -> tuple[MeasuredAnswer, ...]:
    """The kept answers of each revision, prompt by prompt, in the order of ``rates``."""
    kept = {name: rate.answers for name, rate in rates.items() if rate}
    prompts = dict.fromkeys(answer.prompt for answers in kept.values() for answer in answers)
    return tuple(
        MeasuredAnswer(prompt, name, answer.answer, answer.ended, answer.tokens)
        for prompt in prompts
        for name, answers in kept.items()
        for answer in answers
        if answer.prompt == prompt
    )


def benchmark_table(results: Mapping[str, Results | None]) -> BenchmarkTable | None:
    """The table of ``results`` by revision, or None when none of them has any.

    A suite with one task is that task's row; one with more has a row for each task and its average.
    """
    suites = {name: suite for item in results.values() if item for name, suite in item.suites.items()}
    rows: list[tuple[str, tuple[str | None, ...]]] = []
    for name, suite in suites.items():
        columns = [item.suites.get(name) if item else None for item in results.values()]
        rows += [(task, tuple(_task(column, task) for column in columns)) for task in suite.tasks]
        if len(suite.tasks) > 1:
            rows.append(
                (f"{suite.title} (average)", _averages(column.average if column else None for column in columns))
            )
    if len(suites) > 1:
        rows.append(("All suites (average)", _averages(item.average if item else None for item in results.values())))
    return BenchmarkTable(tuple(results), tuple(rows)) if rows else None


def _task(suite: SuiteResult | None, name: str) -> str | None:
    task = suite.tasks.get(name) if suite else None
    metric = counted_metric(suite.rule, task) if suite and task else None
    return _text(task.metrics[metric].value, task.metrics[metric].stderr) if task and metric else None


def _averages(found: Iterable[Average | None]) -> tuple[str | None, ...]:
    return tuple(_text(item.value, item.stderr) if item and item.value is not None else None for item in found)


def _text(value: float, stderr: float | None) -> str:
    """As on a card: '0.4421 ± 0.0061'."""
    return score(value) if stderr is None else f"{score(value)} ± {score(stderr)}"
