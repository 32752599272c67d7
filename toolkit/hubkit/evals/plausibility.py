"""Find values that are implausible: copied rows, chance level, impossible shares, standard errors that do not fit.

Nothing is changed. Tables of this field are pasted by hand, and a harness that found no answer reports a number anyway.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from hubkit.core.numbers import count, counted, exact, score
from hubkit.evals.leaderboard import benchmark_of
from hubkit.evals.results import Metric, Part, Results, TaskResult

FEW = 100
"""Questions below which equal values, and exactly a half, are no surprise."""
_COUNTED = {"acc", "acc_norm", "acc_bytes", "exact_match", "mc1", "multiple_choice_grade", "exact_str_match", "em"}
_COUNTED |= {"prompt_level_strict_acc", "prompt_level_loose_acc"}
"""Metrics that are a mean of rights and wrongs, so that the value and the number of questions give the error."""
_SHARES = _COUNTED | {"mc2", "f1", "inst_level_strict_acc", "inst_level_loose_acc", "quasi_exact_match"}
"""Metrics that are a share from 0 to 1."""
_ROUNDED = 0.00005
"""Half of the last decimal of what tables show."""
_SLACK = 0.02
"""How far an error may lie from what the number of questions gives, as a share of it: some harnesses divide by n."""


class ImplausibleValue(Part):
    """What looks wrong: ``code`` names the rule, ``tasks`` whom it is about, ``message`` says it in a sentence."""

    code: str
    suite: str
    tasks: tuple[str, ...]
    metric: str
    message: str


def implausible_values(results: Results) -> tuple[ImplausibleValue, ...]:
    """Everything in ``results`` that deserves a second look, suite by suite. Pure; nothing is changed."""
    found: list[ImplausibleValue] = []
    for name, suite in results.suites.items():
        tasks = {key: task for key, task in suite.tasks.items() if task is not None}
        for key, task in tasks.items():
            for metric, measured in task.metrics.items():
                for code, message in _of_metric(key, metric, measured):
                    found.append(ImplausibleValue(code=code, suite=name, tasks=(key,), metric=metric, message=message))
            found += _of_task(name, key, task, limited=results.settings.limit is not None)
        found += _equal(name, tasks)
    return tuple(found)


def _base(metric: str, measured: Metric) -> str:
    return metric.removesuffix(f" ({measured.filter})")


def _of_metric(task: str, metric: str, measured: Metric) -> Iterator[tuple[str, str]]:
    value, stderr, n = measured.value, measured.stderr, measured.n
    base, name = _base(metric, measured), f"{metric} of {task}"
    if base in _SHARES and not 0 <= value <= 1:
        more = "; it may be a percentage" if 1 < value <= 100 else ""
        yield "not-a-share", f"{name} is {exact(value)}, outside 0–1{more}."
        return
    if stderr is not None and stderr < 0:
        yield "negative-error", f"The standard error of {name} is negative ({exact(stderr)})."
        return
    few = 0 < n < FEW
    benchmark = benchmark_of(task)
    chance = benchmark.chance(task) if benchmark else 0.0
    if base in _COUNTED and not few:
        if score(value) == "0.5000" or (chance and score(value) == score(chance)):
            known = f" among {counted(round(1 / chance), 'answer')}" if chance and score(value) == score(chance) else ""
            yield "chance", f"{name} equals chance level ({score(value)}: guessing{known or ' between two answers'})."
        elif value == 0:
            yield "none-right", f"{name} is 0: no answer was correct, or none could be extracted from the text."
        elif chance and stderr and value + 3 * stderr < chance:
            yield (
                "below-chance",
                f"{name} is {score(value)}, more than three standard errors below chance level ({score(chance)}).",
            )
    if base in _COUNTED and stderr is not None:
        if stderr == 0 and 0 < value < 1:
            yield "error-does-not-fit", f"{name} is {score(value)} with a standard error of 0."
        elif n > 1 and 0 < value < 1 and not _fits(value, stderr, n):
            expected = math.sqrt(value * (1 - value) / (n - 1))
            yield (
                "error-does-not-fit",
                f"{name} has the standard error {score(stderr)}, but {counted(n, 'question')} give {score(expected)}.",
            )


def _fits(value: float, stderr: float, n: int) -> bool:
    expected = math.sqrt(value * (1 - value) / (n - 1))
    return abs(stderr - expected) <= expected * max(_SLACK, 1 / n) + _ROUNDED


def _of_task(suite: str, name: str, task: TaskResult, *, limited: bool) -> Iterator[ImplausibleValue]:
    if task.available and task.n and task.n < task.available and not limited:
        yield ImplausibleValue(
            code="not-all-questions",
            suite=suite,
            tasks=(name,),
            metric="",
            message=f"{name} was measured on {count(task.n)} of {counted(task.available, 'question')} without a limit.",
        )
    ranges = {
        metric: found
        for metric, measured in task.metrics.items()
        if _base(metric, measured) in _COUNTED and not measured.n and (found := _questions(measured)) is not None
    }
    for place, (metric, (low, high)) in enumerate(ranges.items()):
        for other, (least, most) in list(ranges.items())[place + 1 :]:
            if high < least or most < low:
                yield ImplausibleValue(
                    code="error-does-not-fit",
                    suite=suite,
                    tasks=(name,),
                    metric=other,
                    message=(
                        f"The errors of {metric} and {other} of {name} do not fit one number of questions: they say "
                        f"{_about(low, high)} and {_about(least, most)}."
                    ),
                )


def _questions(measured: Metric) -> tuple[float, float] | None:
    """Between which numbers of questions ``measured`` can lie, given that it was rounded to four decimals."""
    value, stderr = measured.value, measured.stderr
    if stderr is None or stderr <= 2 * _ROUNDED or not 0 < value < 1:
        return None
    spread = value * (1 - value)
    slack = _ROUNDED * abs(1 - 2 * value) + _ROUNDED**2
    return (
        (spread - slack) / (stderr + _ROUNDED) ** 2 * (1 - _SLACK),
        ((spread + slack) / (stderr - _ROUNDED) ** 2 + 1) * (1 + _SLACK),
    )


def _about(low: float, high: float) -> str:
    return f"{count(max(1.0, low))} to {count(high)}"


def _equal(suite: str, tasks: dict[str, TaskResult]) -> Iterator[ImplausibleValue]:
    """Different tasks with the same value and the same error in the same metric, as a row pasted twice has them."""
    same: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name, task in tasks.items():
        for metric, measured in task.metrics.items():
            if measured.stderr and 0 < measured.value < 1 and not 0 < measured.n < FEW:
                same[metric, score(measured.value), score(measured.stderr)].append(name)
    for (metric, value, stderr), names in same.items():
        exact = {(tasks[name].metrics[metric].value, tasks[name].metrics[metric].stderr) for name in names}
        if len(names) > 1 and len(exact) == 1:
            yield ImplausibleValue(
                code="equal",
                suite=suite,
                tasks=tuple(names),
                metric=metric,
                message=f"{' and '.join(names)} have the same {metric}, {value} ± {stderr}: is one a copy?",
            )
