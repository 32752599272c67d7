"""The conditions on benchmarks, ``gates.benchmarks``: not worse than the base, or than what the branch publishes now.

Every condition is one hypothesis, "the score fell by no more than the margin" (:mod:`hubkit.evals.paired`). All of
those that are enforced are tested together, and so are all that are only reported, by Holm's method: the chance of a
false alarm is at most ``LEVEL`` for the release, however many conditions it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hubkit.core.numbers import counted, score, share
from hubkit.evals.averages import RULES, counted_metric
from hubkit.evals.paired import LEVEL, POWER, Drop, Stratum, holm, least_detectable, paired_drop, unpaired_drop
from hubkit.evals.results import Results, SuiteResult, TaskResult, directions
from hubkit.evals.scores import Measured
from hubkit.evals.suites import Suite
from hubkit.models.chat.gate_verdicts import BenchmarkVerdict
from hubkit.recipe.benchmark_keys import BenchmarkCondition

_REPRODUCED = 1e-5
"""How far the mean of the scores may be from the reported number: they are kept with seven decimals."""
_LARGEST = 0.2
"""A limit with which only a larger drop is found is refused: a fifth of all answers."""


@dataclass(frozen=True)
class Comparison:
    """A condition with what was measured: of the variant, and of what it is compared with.

    ``before`` is None when there is nothing to compare with, as ``why`` says. ``commit`` is where it was published.
    """

    condition: BenchmarkCondition
    after: Measured
    before: Measured | None
    why: str = ""
    commit: str | None = None


@dataclass(frozen=True)
class _Line:
    """One number of one model: the tasks that it is the mean of, with the metric and the weight of each."""

    value: float
    stderr: float | None
    tasks: Mapping[str, tuple[TaskResult, str, float]]
    upward: bool
    linear: bool


def judge(comparisons: Sequence[Comparison], level: float = LEVEL) -> list[BenchmarkVerdict]:
    """The verdict of each, in order: all are tested together."""
    tested = [_test(item) for item in comparisons]
    places = [place for place, (_, drop) in enumerate(tested) if drop is not None]
    worse = holm([drop.p for _, drop in tested if drop is not None], level)
    verdicts = [verdict for verdict, _ in tested]
    for place, (refuted, own) in zip(places, worse, strict=True):
        verdict, drop = tested[place]
        assert drop is not None
        known = drop.stderr if drop.stderr else None
        verdicts[place] = replace(
            verdict,
            result="failed" if refuted else "passed",
            level=own,
            detectable=least_detectable(max(drop.n, 1), verdict.margin, own, known) if drop.n or known else None,
        )
    return verdicts


def _test(item: Comparison) -> tuple[BenchmarkVerdict, Drop | None]:
    condition = item.condition
    verdict = BenchmarkVerdict(
        condition.benchmark, condition.against, condition.margin, "not compared", commit=item.commit
    )
    after = _line(item.after.results, condition.benchmark)
    if after is None:
        return replace(verdict, note="it was not measured"), None
    verdict = replace(verdict, after=after.value)
    before = _line(item.before.results, condition.benchmark) if item.before else None
    if item.before is None or before is None:
        return replace(verdict, note=item.why or "no result of it is known"), None
    verdict = replace(verdict, before=before.value)
    if different := _settings(item.before.results, item.after.results) or _tasks(before, after):
        return replace(verdict, note=f"measured otherwise: {different}"), None
    drop, note = _drop(item, before, after)
    if drop is None:
        return replace(verdict, note=note), None
    return replace(
        verdict, drop=drop.value, stderr=drop.stderr, p=drop.p, n=drop.n, changed=drop.changed, note=note or None
    ), drop  # fmt: skip


def _drop(item: Comparison, before: _Line, after: _Line) -> tuple[Drop | None, str]:
    """The drop, paired where it can be; and what is to be said of it."""
    assert item.before is not None
    margin, sign = item.condition.margin, 1.0 if after.upward else -1.0
    strata, problem = _strata(item.before, item.after, before, after)
    if strata is not None:
        return paired_drop(strata, margin), ""
    was, now = before.stderr if before.stderr is not None else after.stderr, after.stderr
    if was is None or now is None:
        return None, f"{problem}, and its standard error is unknown"
    n = sum(task.n for task, _, _ in after.tasks.values())
    return unpaired_drop((sign * before.value, was), (sign * after.value, now), margin, n), f"unpaired: {problem}"


def _strata(was: Measured, now: Measured, before: _Line, after: _Line) -> tuple[list[Stratum] | None, str]:
    """The differences, question by question; None, and why, when they are not known."""
    if not (before.linear and after.linear):
        return None, "its score is no mean over the questions"
    strata = []
    for name, (task, metric, weight) in after.tasks.items():
        pairs = [made.scores[name].by_question(metric) if name in made.scores else {} for made in (was, now)]
        if not pairs[0]:
            return None, "the scores of its questions are not known" if len(after.tasks) == 1 else (
                f"the scores of the questions of {name} are not known"
            )
        values = (before.tasks[name][0].metrics[metric].value, task.metrics[metric].value)
        for scores, value in zip(pairs, values, strict=True):
            if not scores or abs(math.fsum(scores.values()) / len(scores) - value) > _REPRODUCED:
                return None, f"{metric} of {name} is no mean over the questions"
        both = [question for question in pairs[1] if question in pairs[0]]
        if len(both) < 2 or 2 * len(both) < min(map(len, pairs)):
            return None, f"{name} has other questions now"
        sign = 1.0 if task.metrics[metric].higher_is_better is not False else -1.0
        strata.append(Stratum([sign * (pairs[0][question] - pairs[1][question]) for question in both], weight))
    return strata, ""


def _line(results: Results, name: str) -> _Line | None:
    """The number called ``name``: of a suite, its average; of a task, the metric that counts. None: not measured."""
    suite = results.suites.get(name)
    if suite is not None and not (len(suite.tasks) == 1 and name in suite.tasks):
        return _of_suite(suite)
    for suite in results.suites.values():
        task = suite.tasks.get(name)
        metric = counted_metric(suite.rule, task) if task else None
        if task is not None and metric is not None:
            number = task.metrics[metric]
            return _Line(
                number.value, number.stderr, {name: (task, metric, 1.0)}, number.higher_is_better is not False, True
            )
    return None


def _of_suite(suite: SuiteResult) -> _Line | None:
    if suite.average.value is None:
        return None
    counted = {
        name: (task, metric)
        for name, task in suite.tasks.items()
        if task is not None and (metric := counted_metric(suite.rule, task)) is not None
    }
    tasks = {name: (task, metric, 1 / len(counted)) for name, (task, metric) in counted.items()}
    return _Line(
        suite.average.value,
        suite.average.stderr,
        tasks,
        directions(suite) != {False},
        linear=not RULES[suite.rule].benchmarks,
    )


_WORDS = {"apply_chat_template": "chat template applied", "fewshot_as_multiturn": "examples as turns"}


def _settings(before: Results, after: Results) -> str:
    """What of the settings differs, in words; empty when nothing does, or it is not known."""
    for key, words in _WORDS.items():
        was, now = getattr(before.settings, key), getattr(after.settings, key)
        if None not in (was, now) and was != now:
            return f"{words}: {'yes' if was else 'no'} then, {'yes' if now else 'no'} now"
    return ""


def _tasks(before: _Line, after: _Line) -> str:
    """What of the tasks differs, in words."""
    if before.tasks.keys() != after.tasks.keys():
        return "the suite has other tasks"
    for name, (now, metric, _) in after.tasks.items():
        was = before.tasks[name][0]
        if metric not in was.metrics:
            return f"{name} has no {metric}"
        if was.version and now.version and was.version != now.version:
            return f"version {was.version} of {name}, now {now.version}"
        if None not in (was.n_shot, now.n_shot) and was.n_shot != now.n_shot:
            return f"{was.n_shot} examples in the prompt of {name}, now {now.n_shot}"
    return ""


def condition_problems(
    conditions: Iterable[BenchmarkCondition], suites: Iterable[Suite], limit: int | None
) -> Iterator[tuple[BenchmarkCondition, str, bool]]:
    """What is wrong with ``conditions``, before anything is measured: a clause each, and whether it must be fixed."""
    known, conditions = list(suites), tuple(conditions)
    for condition in conditions:
        tasks = next((len(suite.tasks) for suite in known if suite.name == condition.benchmark), None)
        if tasks is None:
            tasks = 1 if any(condition.benchmark in suite.tasks for suite in known) else None
        if tasks is None:
            there = ", ".join(dict.fromkeys(suite.name for suite in known)) or "none"
            yield condition, f"{condition.benchmark!r} is not among the recipe's benchmarks ({there})", True
        elif limit is not None:
            n = limit * tasks
            least = least_detectable(n, condition.margin, LEVEL / len(conditions))
            drop = f"only a drop of {score(least)} or more is found"
            if least - condition.margin > _LARGEST:
                what = (
                    f"with `limit: {limit}` ({counted(n, 'question')}) {drop}; raise the limit, or remove the condition"
                )
                yield condition, what, True
            else:
                yield condition, f"with `limit: {limit}` {drop} (in {share(POWER)} of cases)", False
