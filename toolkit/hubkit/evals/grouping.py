"""Group the tasks of a file by suite: files of other programs name tasks, and only suites have averages.

A suite is found when at least half of its tasks are there; the others are then missing, and so is its average. What
belongs to none makes a suite of its own, averaged by the rule 'own'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hubkit.core.errors import UsageError
from hubkit.evals.results import SuiteResult, TaskResult
from hubkit.evals.suites import SUITES, Suite

_CLASSIC_BIGBENCH = (
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "geometric_shapes",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "navigate",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
)
CLASSIC: tuple[Suite, ...] = (
    Suite(
        "bigbench",
        "BigBench",
        "multiple_choice_grade",
        tuple(f"bigbench_{name}" for name in _CLASSIC_BIGBENCH),
    ),
    Suite("truthfulqa", "TruthfulQA", "mc2", ("truthfulqa_mc",)),
)
"""Suites whose tasks have other names today; lm-eval 0.3 and its tables still hold these."""
KNOWN: tuple[Suite, ...] = (*SUITES.values(), *CLASSIC)
RENAMED: Mapping[str, Mapping[str, str]] = {task: names for suite in KNOWN for task, names in suite.renamed.items()}
"""Metrics that are called otherwise in lm-eval's files, by task."""
OTHER = "other"


def group_by_suite(
    tasks: Mapping[str, TaskResult | None], groups: Mapping[str, Iterable[str]] | None = None
) -> dict[str, SuiteResult]:
    """``tasks`` by suite, in the order of the file; None is a task that the file names and has no number of.

    ``groups`` are the file's own groups of them: name to tasks.
    """
    suites: list[SuiteResult] = []
    rest = dict(tasks)
    for known in KNOWN:
        there = [name for name in known.tasks if name in rest]
        if there and 2 * len(there) >= len(known.tasks):
            suites.append(of_known(known, {name: rest.pop(name) for name in there}))
    for name, members in (groups or {}).items():
        mine = {task: rest.pop(task) for task in members if task in rest}
        if mine:
            suites.append(SuiteResult.of(name, name, "own", mine))
    if rest:
        suites.append(SuiteResult.of(OTHER, "Other tasks" if suites else "Tasks", "own", rest))
    order = {name: place for place, name in enumerate(tasks)}
    suites.sort(key=lambda suite: min(order[name] for name in suite.tasks if name in order))
    return unique(suites)


def refuse_empty(suites: Mapping[str, SuiteResult], where: str) -> Mapping[str, SuiteResult]:
    """``suites`` again; UsageError when the file ``where`` contains no measured number."""
    if not any(task for suite in suites.values() for task in suite.tasks.values()):
        raise UsageError(f"{where} contains no measured number.", hint="A row needs a task, a metric and a value.")
    return suites


def of_known(suite: Suite, tasks: Mapping[str, TaskResult | None]) -> SuiteResult:
    """``suite`` with those of its tasks that there are."""
    return SuiteResult.of(suite.name, suite.title, suite.rule, {name: tasks.get(name) for name in suite.tasks})


def own_suite(name: str, tasks: Mapping[str, TaskResult | None]) -> SuiteResult:
    """A suite of the file's own, averaged by the rule 'own'."""
    return SuiteResult.of(name, name, "own", dict(tasks))


def unique(suites: Iterable[SuiteResult]) -> dict[str, SuiteResult]:
    """``suites`` by name; a second one of the same name is numbered."""
    found: dict[str, SuiteResult] = {}
    for suite in suites:
        name, number = suite.name, 2
        while name in found:
            name, number = f"{suite.name}-{number}", number + 1
        found[name] = suite if name == suite.name else suite.model_copy(update={"name": name})
    return found
