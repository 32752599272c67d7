"""Averages by named rules. A rule says which metric of each task counts, and is printed beside its number.

The classic rules are those by which the published tables of the OpenHermes family come out right; an average over
fewer tasks than the suite has is no average of the suite, so it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from hubkit.evals.leaderboard import BENCHMARKS, Benchmark
from hubkit.evals.measurements import Metric, TaskResult


@dataclass(frozen=True)
class Rule:
    """How a suite's average is made.

    ``metrics`` are looked for in this order, the first that a task has counts. A task that has none of them counts with
    its first metric under ``or_first``, not at all under ``or_skip`` (while another has one), and is missing else.
    ``note`` says what the average must not be compared with. With ``benchmarks`` the average is that of those, each
    made from its own tasks. Numbers of unlike metrics have no average under ``or_first``.
    """

    text: str
    metrics: tuple[str, ...]
    or_first: bool = False
    or_skip: bool = False
    note: str | None = None
    benchmarks: tuple[Benchmark, ...] = ()


RULES: Mapping[str, Rule] = {
    "acc_norm else acc": Rule(
        "unweighted mean over the tasks of acc_norm, or of acc where a task has no acc_norm",
        ("acc_norm", "acc"),
    ),
    "multiple_choice_grade": Rule(
        "unweighted mean over the tasks of multiple_choice_grade", ("multiple_choice_grade",)
    ),
    "mc2": Rule("mc2", ("mc2",), or_skip=True),
    "acc": Rule(
        "unweighted mean over the tasks of acc",
        ("acc",),
        note="not comparable with averages of multiple_choice_grade, which older cards give for this suite",
    ),
    "leaderboard": Rule(
        "mean of the six benchmarks of the Open LLM Leaderboard, each rescaled from chance (0) to perfect (1)",
        ("acc_norm", "acc", "exact_match", "inst_level_strict_acc"),
        note="the Leaderboard writes it times 100; not comparable with its first version's averages",
        benchmarks=BENCHMARKS,
    ),
    "own": Rule(
        "unweighted mean over the tasks of acc_norm, else acc, else the task's first metric",
        ("acc_norm", "acc"),
        or_first=True,
    ),
}
OVERALL = "mean of the suites' averages"
UNLIKE = "no average: the metrics differ in direction or unit"


class Average(BaseModel):
    """A mean with the rule that made it.

    ``stderr`` treats the parts as independent. ``value`` is None when a part is missing, and ``missing`` names them;
    or when the parts are unlike, and ``note`` says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None
    stderr: float | None = None
    text: str
    note: str | None = None
    missing: tuple[str, ...] = ()

    def agrees(self, other: Average) -> bool:
        """Whether both say the same, floats up to rounding."""
        return (self.text, self.missing) == (other.text, other.missing) and all(
            (a is None) == (b is None) and math.isclose(a or 0.0, b or 0.0, rel_tol=1e-9, abs_tol=1e-12)
            for a, b in ((self.value, other.value), (self.stderr, other.stderr))
        )


def counted_metric(rule: str, task: TaskResult) -> str | None:
    """The name of the metric of ``task`` that counts under ``rule``; None when it has none."""
    named = RULES[rule]
    for name in named.metrics:
        if name in task.metrics:
            return name
    return next(iter(task.metrics), None) if named.or_first else None


def average_of_tasks(rule: str, tasks: Mapping[str, TaskResult | None]) -> Average:
    """The average of a suite's ``tasks``. KeyError for a rule that does not exist."""
    named = RULES[rule]
    if named.benchmarks:
        return _of_benchmarks(named, tasks)
    found: dict[str, Metric] = {}
    metrics: set[str] = set()
    for name, task in tasks.items():
        metric = counted_metric(rule, task) if task else None
        if task and metric:
            found[name] = task.metrics[metric]
            metrics.add(metric)
    missing = tuple(name for name in tasks if name not in found and not (named.or_skip and found))
    value, stderr = _mean([(item.value, item.stderr) for item in found.values()] if not missing else [])
    note = named.note
    one_unit = len(metrics) == 1 or metrics <= {"acc", "acc_norm"}
    sizes = [] if one_unit else [item.value for item in found.values()]
    if value is not None and named.or_first and not _alike([item.higher_is_better for item in found.values()], sizes):
        value, stderr, note = None, None, UNLIKE
    return Average(value=value, stderr=stderr, text=named.text, note=note, missing=missing)


def _alike(better: Iterable[bool | None], values: Iterable[float]) -> bool:
    """Whether numbers can have a mean: none grows for the ``better`` while another falls, and no share is among
    ``values`` that are none.
    """
    return len({*better} - {None}) < 2 and len({abs(value) <= 1 for value in values if value}) < 2


def _of_benchmarks(rule: Rule, tasks: Mapping[str, TaskResult | None]) -> Average:
    missing: list[str] = []
    parts = []
    for benchmark in rule.benchmarks:
        lacking = [name for name in benchmark.tasks if not _has_all_subtasks(benchmark, tasks.get(name))]
        missing += lacking
        if not lacking:
            parts.append(_rescaled(benchmark, [task for name in benchmark.tasks if (task := tasks[name])]))
    value, stderr = _mean(parts if not missing else [])
    return Average(value=value, stderr=stderr, text=rule.text, note=rule.note, missing=tuple(missing))


def _has_all_subtasks(benchmark: Benchmark, task: TaskResult | None) -> bool:
    """Whether ``task`` has all that its benchmark's score is made of."""
    if task is None or (benchmark.by_size and not task.n):
        return False
    return all(name in task.metrics for name in benchmark.metrics)


def _rescaled(benchmark: Benchmark, tasks: list[TaskResult]) -> tuple[float, float | None]:
    """The score of one benchmark with its standard error; metrics of one task count as wholly dependent."""
    raw = []
    for task in tasks:
        chosen = [task.metrics[name] for name in benchmark.metrics]
        errors = [item.stderr for item in chosen if item.stderr is not None]
        error = math.fsum(errors) / len(errors) if len(errors) == len(chosen) else None
        raw.append((math.fsum(item.value for item in chosen) / len(chosen), error))
    chances = [benchmark.chance(task.name) for task in tasks]
    if benchmark.by_size:
        weights = [task.n / sum(item.n for item in tasks) for task in tasks]
        raw = [_weighted(raw, weights)]
        chances = [math.fsum(weight * chance for weight, chance in zip(weights, chances, strict=True))]
    scaled = [
        (max(0.0, (value - chance) / (1 - chance)), None if error is None else error / (1 - chance))
        for (value, error), chance in zip(raw, chances, strict=True)
    ]
    value, stderr = _mean(scaled)
    assert value is not None
    return value, stderr


def average_of_averages(averages: Mapping[str, Average], directions: set[bool | None]) -> Average:
    """The mean of the ``averages`` of suites, by name; none where they are unlike.

    ``directions`` says of each metric that counts in them whether more is better (None: it has no direction).
    """
    missing = tuple(name for name, average in averages.items() if average.value is None)
    parts = [(average.value, average.stderr) for average in averages.values() if average.value is not None]
    value, stderr = _mean(parts if not missing else [])
    if value is not None and not _alike(directions, [item for item, _ in parts]):
        return Average(value=None, text=OVERALL, note=UNLIKE)
    return Average(value=value, stderr=stderr, text=OVERALL, missing=missing)


def _mean(parts: list[tuple[float, float | None]]) -> tuple[float | None, float | None]:
    if not parts:
        return None, None
    try:
        value = math.fsum(item for item, _ in parts) / len(parts)
    except OverflowError:
        value = math.fsum(item / len(parts) for item, _ in parts)
    errors = [error / len(parts) for _, error in parts if error is not None]
    return value, math.hypot(*errors) if len(errors) == len(parts) else None


def _weighted(parts: list[tuple[float, float | None]], weights: list[float]) -> tuple[float, float | None]:
    value = math.fsum(weight * item for (item, _), weight in zip(parts, weights, strict=True))
    errors = [weight * error for (_, error), weight in zip(parts, weights, strict=True) if error is not None]
    return value, math.hypot(*errors) if len(errors) == len(parts) else None
