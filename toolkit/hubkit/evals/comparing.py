"""Two models on the same benchmarks: how far apart they are, and whether that is more than the noise.

The rule: a difference counts when it exceeds twice its standard error, which is the root of the sum of the squares of
both standard errors. That treats the two measurements as independent; models that were asked the same questions mostly
err on the same ones, so the rule is cautious: what exceeds it is a difference, what does not may still be one.
"""

from __future__ import annotations

import math

from hubkit.core import numbers
from hubkit.evals.averages import Average, counted_metric
from hubkit.evals.results import Metric, Part, Results, SuiteResult, TaskResult, directions

ERRORS = 2.0
"""How many standard errors a difference must exceed."""
COMPARISON_RULE = "a difference is significant if it exceeds two standard errors of the difference"


class Difference(Part):
    """One number of two models: of a task's metric, of a suite's average (``task`` None), or overall (both None).

    ``before`` and ``after`` are the two values, None where one was not measured; ``value`` is ``after - before`` and
    ``stderr`` its standard error, both in the metric's own unit. ``exceeds`` says whether the difference is more than
    ``ERRORS`` standard errors; None when it is unknown. ``better`` says whether ``after`` is the better one, None
    when they are equal or the metric has no direction. ``counts`` marks the metric that enters the suite's average.
    ``notes`` say why the two must not be compared, a clause each.
    """

    suite: str | None = None
    task: str | None = None
    metric: str | None = None
    before: float | None
    after: float | None
    value: float | None
    stderr: float | None
    exceeds: bool | None
    better: bool | None
    counts: bool = True
    notes: tuple[str, ...] = ()


class SuiteComparison(Part):
    """A suite of two models: a line for every metric of every task, in order, and one for the average."""

    name: str
    title: str
    tasks: tuple[Difference, ...]
    average: Difference


class Comparison(Part):
    """Two models compared. ``notes`` say where they were measured under different settings, a clause each."""

    suites: tuple[SuiteComparison, ...]
    average: Difference
    notes: tuple[str, ...] = ()
    rule: str = COMPARISON_RULE


def compare(before: Results, after: Results) -> Comparison:
    """``after`` against ``before``: every suite and metric that either has. Pure; the results are not changed."""
    names = dict.fromkeys([*before.suites, *after.suites])
    suites = tuple(_suite(name, before.suites.get(name), after.suites.get(name)) for name in names)
    ways = {way for suite in after.suites.values() for way in directions(suite)}
    overall = _of_averages(None, before.average, after.average, ways != {False})
    if set(before.suites) != set(after.suites):
        overall = overall.model_copy(update={"notes": (*overall.notes, "means of different suites")})
    return Comparison(suites=suites, average=overall, notes=_settings(before, after))


def _suite(name: str, before: SuiteResult | None, after: SuiteResult | None) -> SuiteComparison:
    either = after or before
    assert either is not None
    was, now = (dict(item.tasks) if item else {} for item in (before, after))
    lines = [
        line
        for task in dict.fromkeys([*was, *now])
        for line in _task(name, either.rule, task, was.get(task), now.get(task))
    ]
    average = _of_averages(
        name, before.average if before else None, after.average if after else None, directions(either) != {False}
    )
    if was and now and set(was) != set(now):
        average = average.model_copy(update={"notes": (*average.notes, "averages over different tasks")})
    return SuiteComparison(name=name, title=either.title, tasks=tuple(lines), average=average)


def _task(suite: str, rule: str, name: str, before: TaskResult | None, after: TaskResult | None) -> list[Difference]:
    was, now = (dict(item.metrics) if item else {} for item in (before, after))
    notes: list[str] = []
    if before and after:
        if before.version and after.version and before.version != after.version:
            notes.append(f"task versions {before.version} and {after.version}")
        if None not in {before.n_shot, after.n_shot} and before.n_shot != after.n_shot:
            notes.append(f"{before.n_shot} and {after.n_shot} examples in the prompt")
        if before.n and after.n and before.n != after.n:
            notes.append(f"{numbers.count(before.n)} and {numbers.count(after.n)} questions")
    chosen = {counted_metric(rule, item) for item in (before, after) if item}
    return [
        _difference(
            was.get(metric),
            now.get(metric),
            suite=suite,
            task=name,
            metric=metric,
            counts=metric in chosen,
            notes=tuple(notes),
        )
        for metric in dict.fromkeys([*was, *now])
    ]


def _of_averages(suite: str | None, before: Average | None, after: Average | None, upward: bool) -> Difference:
    def number(average: Average | None) -> Metric | None:
        if average is None or average.value is None:
            return None
        return Metric(value=average.value, stderr=average.stderr, n=0, higher_is_better=upward)

    notes = ("averages by different rules",) if before and after and before.text != after.text else ()
    return _difference(number(before), number(after), suite=suite, notes=notes)


def _difference(
    before: Metric | None,
    after: Metric | None,
    *,
    suite: str | None,
    task: str | None = None,
    metric: str | None = None,
    counts: bool = True,
    notes: tuple[str, ...] = (),
) -> Difference:
    value = stderr = exceeds = better = None
    if before is not None and after is not None:
        value = after.value - before.value
        if before.stderr is not None and after.stderr is not None:
            stderr = math.hypot(before.stderr, after.stderr)
            exceeds = abs(value) > ERRORS * stderr
        if value and after.higher_is_better is not None:
            better = (value > 0) == after.higher_is_better
    return Difference(
        suite=suite,
        task=task,
        metric=metric,
        before=before.value if before else None,
        after=after.value if after else None,
        value=value,
        stderr=stderr,
        exceeds=exceeds,
        better=better,
        counts=counts,
        notes=notes,
    )


_SETTINGS = {
    "backend": "backend",
    "apply_chat_template": "chat template applied",
    "limit": "limit",
    "num_fewshot": "examples in the prompt",
    "fewshot_as_multiturn": "examples as turns",
    "dtype": "dtype",
}
_UNSAID = {"backend", "apply_chat_template", "fewshot_as_multiturn", "dtype"}
"""Settings of which None or '' means that the source does not say."""


def _settings(before: Results, after: Results) -> tuple[str, ...]:
    notes = []
    for key, words in _SETTINGS.items():
        was, now = getattr(before.settings, key), getattr(after.settings, key)
        unknown = key in _UNSAID and {None, ""} & {was, now}
        if was != now and not unknown:
            notes.append(f"{words}: {_format_setting(was)} and {_format_setting(now)}")
    was, now = (item.libraries.get("lm_eval") for item in (before, after))
    if was and now and was != now:
        notes.append(f"lm-eval {was} and {now}")
    return tuple(notes)


def _format_setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
