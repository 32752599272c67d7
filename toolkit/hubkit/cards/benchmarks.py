"""The benchmark tables of a card: this branch in the classic layout, and the base and all the variants side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hubkit.cards.escape import clean
from hubkit.cards.evidence import Evidence
from hubkit.cards.measured import wrap
from hubkit.cards.metadata import Score
from hubkit.evals.averages import counted_metric
from hubkit.evals.comparing import COMPARISON_RULE, compare
from hubkit.evals.results import RESULTS_FILE, Results
from hubkit.evals.tables import classic_rows
from hubkit.recipe.models import Recipe
from hubkit.recipe.names import MAIN

BASE = "base"
COMPARISONS = "comparisons.json"


def columns(recipe: Recipe) -> dict[str, str]:
    """The columns of the comparison, by heading: the step whose results stand in it. The base first, ``main`` last."""
    order = sorted(recipe.variants, key=lambda name: name == MAIN)
    return {BASE: "base-scores", **{name: f"evaluate[{name}]" for name in order}}


def heading(recipe: Recipe, column: str) -> str:
    """What stands over a column: 'base', or what a reader calls the variant."""
    return clean(recipe.label(column) if column in recipe.variants else column)


def benchmarks(recipe: Recipe, variant: str, files: Mapping[str, Any], evidence: Evidence) -> dict[str, Any] | None:
    """``settings`` (this branch's), ``columns``, ``averages`` (overall, a cell for each column) and ``suites``.

    ``overall`` has the averages once more, as (column, cell); ``comparisons`` this branch against the other columns.

    None when no suite of this branch was measured. A cell is ``{"value", "stderr"}`` or None: missing.
    """
    mine = evidence.results(f"evaluate[{variant}]")
    if mine is None or not mine.suites:
        return None
    found = {name: evidence.results(step) for name, step in columns(recipe).items()}
    wrapped = {name: files.get(step, {}).get(RESULTS_FILE) for name, step in columns(recipe).items()}
    own = wrapped[variant]
    return {
        "settings": own["settings"],
        "harness": own["libraries"].get("lm_eval", ""),
        "columns": [heading(recipe, name) for name in found],
        "same_settings": len({_settings(item) for item in found.values() if item}) <= 1,
        "dtypes": [(heading(recipe, name), dtype) for name, dtype in _dtypes(found)],
        "averages": [_cell((made or {}).get("average")) for made in wrapped.values()],
        "overall": [(heading(recipe, name), _cell((made or {}).get("average"))) for name, made in wrapped.items()],
        "rule": clean(mine.average.text),
        "several": len(mine.suites) > 1,
        "suites": [_suite(name, mine, found, wrapped, own) for name in mine.suites],
        "comparisons": (compared := _comparisons(recipe, variant, found, evidence)),
        "against_base": _against_base(compared),
        "comparison_rule": COMPARISON_RULE,
    }


def _comparisons(
    recipe: Recipe, variant: str, found: Mapping[str, Results | None], evidence: Evidence
) -> list[dict[str, Any]]:
    """This branch against every other column: a line for each suite's average and the overall one.

    The differences are kept as ``comparisons.json`` of the card's own step, so that each can be traced.
    """
    mine = found[variant]
    assert mine is not None
    made = {
        name: compare(of_averages(other), of_averages(mine))
        for name, other in found.items()
        if other and name != variant
    }
    step = f"card[{variant}]"
    parts: Any = {"suites": {"__all__": {"name", "title", "average"}}, "average": True, "notes": True}
    plain = {name: item.model_dump(mode="json", include=parts) for name, item in made.items()}
    evidence.derived.setdefault(step, {})[COMPARISONS] = plain
    wrapped = wrap(plain, step, COMPARISONS)
    lines = []
    for name in plain:
        said = wrapped[clean(name)]
        rows = [(suite["title"], suite["average"]) for suite in said["suites"] if suite["average"]["value"] is not None]
        if len(said["suites"]) > 1 and said["average"]["value"] is not None:
            rows.append(("all suites", said["average"]))
        if rows:
            lines.append({"against": heading(recipe, name), "rows": rows, "notes": said["notes"]})
    return lines


def _against_base(comparisons: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The widest comparison with the base: ``name`` of what was averaged, and the ``difference``. None without one."""
    for comparison in comparisons:
        if comparison["against"] == BASE:
            name, difference = comparison["rows"][-1]
            return {
                "name": "the average of all suites" if len(comparison["rows"]) > 1 else name,
                "difference": difference,
            }
    return None


def of_averages(results: Results) -> Results:
    """``results`` with the names of the tasks alone: to compare averages, thousands of tasks need not be compared."""
    suites = {
        name: suite.model_copy(update={"tasks": dict.fromkeys(suite.tasks)}) for name, suite in results.suites.items()
    }
    return results.model_copy(update={"suites": suites})


def _settings(results: Results) -> str:
    return json.dumps(results.settings.model_dump(exclude={"device", "batch_size", "dtype"}))


def _dtypes(found: Mapping[str, Results | None]) -> list[tuple[str, str]]:
    """(column, dtype) of every column that was measured, when they are not all alike; else empty."""
    dtypes = [(name, clean(item.settings.dtype)) for name, item in found.items() if item]
    return dtypes if len({dtype for _, dtype in dtypes}) > 1 else []


def _suite(
    name: str,
    mine: Results,
    found: Mapping[str, Results | None],
    wrapped: Mapping[str, Any],
    own: Mapping[str, Any],
) -> dict[str, Any]:
    suite, key = mine.suites[name], clean(name)
    classic = []
    for row in classic_rows(suite):
        task = own["suites"][key]["tasks"][clean(row.task)]
        measured = task["metrics"][clean(row.metric)] if task else None
        shown = (clean(row.task), clean(row.version)) if row.first else ("", "")
        classic.append((*shown, clean(row.metric), measured))
    rows = []
    for task_name, task in suite.tasks.items():
        metric = counted_metric(suite.rule, task) if task else None
        if metric is None:
            continue
        cells = []
        for column in found:
            tasks = ((wrapped[column] or {}).get("suites", {}).get(key) or {}).get("tasks", {})
            cells.append(((tasks.get(clean(task_name)) or {}).get("metrics") or {}).get(clean(metric)))
        facts = own["suites"][key]["tasks"][clean(task_name)]
        rows.append((clean(task_name), clean(metric), facts["n"], facts["n_shot"], cells))
    return {
        "title": clean(suite.title),
        "rule": clean(suite.average.text),
        "note": clean(suite.average.note or ""),
        "missing": [clean(item) for item in suite.average.missing],
        "several": len(rows) > 1 or bool(suite.average.missing),
        "classic": classic,
        "rows": rows,
        "averages": [
            _cell(((made or {}).get("suites", {}).get(key) or {}).get("average")) for made in wrapped.values()
        ],
    }


def _cell(average: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if average is None or average.get("value") is None:
        return None
    return {"value": average["value"], "stderr": average.get("stderr")}


def scores(variant: str, files: Mapping[str, Any], evidence: Evidence) -> list[Score]:
    """What ``model-index`` says: of each task the metric that counts. Rehearsals are not entered."""
    step = f"evaluate[{variant}]"
    results = evidence.results(step)
    if results is None or results.rehearsal:
        return []
    return list(counted_scores(results, files[step][RESULTS_FILE]["suites"]))


def counted_scores(
    results: Results, wrapped: Mapping[str, Any], source: tuple[str, str] | None = None
) -> Iterator[Score]:
    """Of each task of ``results`` the metric that counts; ``wrapped`` are its suites with numbers that know their file.

    ``source`` is the name and the URL of where they were reported; None: measured in the release.
    """
    for name, suite in results.suites.items():
        for task_name, task in suite.tasks.items():
            metric = counted_metric(suite.rule, task) if task else None
            if task is None or metric is None:
                continue
            facts = wrapped[clean(name)]["tasks"][clean(task_name)]
            yield Score(
                task=task.name,
                dataset=task.dataset.path or task.name,
                config=task.dataset.config,
                split=task.dataset.split,
                metric=metric,
                value=facts["metrics"][clean(metric)]["value"],
                shots=facts["n_shot"],
                source=source,
            )
