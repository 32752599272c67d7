"""The benchmark tables of a card: this branch in the classic layout, and the base and all the variants side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubkit.cards.escape import clean
from hubkit.cards.evidence import Evidence
from hubkit.cards.metadata import Score
from hubkit.config import MAIN, Recipe
from hubkit.evals.averages import counted
from hubkit.evals.results import RESULTS_FILE, Results
from hubkit.evals.tables import classic_rows

BASE = "base"


def columns(recipe: Recipe) -> dict[str, str]:
    """The columns of the comparison, by heading: the step whose results stand in it. The base first, ``main`` last."""
    order = sorted(recipe.variants, key=lambda name: name == MAIN)
    return {BASE: "base-scores", **{name: f"evaluate[{name}]" for name in order}}


def benchmarks(recipe: Recipe, variant: str, files: Mapping[str, Any], evidence: Evidence) -> dict[str, Any] | None:
    """``settings`` (this branch's), ``columns``, ``averages`` (overall, a cell for each column) and ``suites``.

    ``overall`` has the averages once more, as (column, cell).

    None when this branch was not measured. A cell is ``{"value", "stderr"}`` or None: missing.
    """
    mine = evidence.results(f"evaluate[{variant}]")
    if mine is None:
        return None
    found = {name: evidence.results(step) for name, step in columns(recipe).items()}
    wrapped = {name: files.get(step, {}).get(RESULTS_FILE) for name, step in columns(recipe).items()}
    own = wrapped[variant]
    return {
        "settings": own["settings"],
        "harness": own["libraries"].get("lm_eval", ""),
        "columns": [clean(name) for name in found],
        "same_settings": len({_settings(item) for item in found.values() if item}) <= 1,
        "dtypes": _dtypes(found),
        "averages": [_cell((made or {}).get("average")) for made in wrapped.values()],
        "overall": [(clean(name), _cell((made or {}).get("average"))) for name, made in wrapped.items()],
        "rule": clean(mine.average.text),
        "several": len(mine.suites) > 1,
        "suites": [_suite(name, mine, found, wrapped, own) for name in mine.suites],
    }


def _settings(results: Results) -> str:
    return results.settings.model_dump_json(exclude={"device", "batch_size", "dtype"})


def _dtypes(found: Mapping[str, Results | None]) -> list[tuple[str, str]]:
    """(column, dtype) of every column that was measured, when they are not all alike; else empty."""
    dtypes = [(clean(name), clean(item.settings.dtype)) for name, item in found.items() if item]
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
        classic.append(
            {
                "task": clean(row.task),
                "first": row.first,
                "version": clean(row.version),
                "metric": clean(row.metric),
                "measured": task["metrics"][clean(row.metric)] if task else None,
            }
        )
    rows = []
    for task_name, task in suite.tasks.items():
        metric = counted(suite.rule, task) if task else None
        if metric is None:
            continue
        cells = []
        for column in found:
            tasks = ((wrapped[column] or {}).get("suites", {}).get(key) or {}).get("tasks", {})
            cells.append(((tasks.get(clean(task_name)) or {}).get("metrics") or {}).get(clean(metric)))
        facts = own["suites"][key]["tasks"][clean(task_name)]
        rows.append(
            {
                "task": clean(task_name),
                "metric": clean(metric),
                "n": facts["n"],
                "shots": facts["n_shot"],
                "cells": cells,
            }
        )
    return {
        "title": clean(suite.title),
        "rule": clean(suite.average.text),
        "note": clean(suite.average.note or ""),
        "missing": [clean(item) for item in suite.average.missing],
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
    wrapped = files[step][RESULTS_FILE]["suites"]
    found = []
    for name, suite in results.suites.items():
        for task_name, task in suite.tasks.items():
            metric = counted(suite.rule, task) if task else None
            if task is None or metric is None:
                continue
            facts = wrapped[clean(name)]["tasks"][clean(task_name)]
            found.append(
                Score(
                    task=task.name,
                    dataset=task.dataset.path or task.name,
                    config=task.dataset.config,
                    split=task.dataset.split,
                    metric=metric,
                    value=facts["metrics"][clean(metric)]["value"],
                    shots=facts["n_shot"],
                )
            )
    return found
