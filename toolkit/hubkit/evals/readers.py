"""Results of other programs, read into the one model of :mod:`hubkit.evals.results`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hubkit.evals.results import Dataset, Metric, Results, Settings, Subject, SuiteResult, TaskResult, finite
from hubkit.evals.suites import Suite


def read_lm_eval(
    raw: Mapping[str, Any],
    suites: Iterable[Suite],
    *,
    subject: Subject,
    settings: Settings,
    libraries: Mapping[str, str],
    seconds: float,
) -> Results:
    """What ``lm_eval.simple_evaluate`` returned (0.4.x), as results of ``suites``.

    A task that ``raw`` lacks, or one without a finite number, becomes None: missing.
    """
    found = {
        suite.name: SuiteResult.of(
            suite.name,
            suite.title,
            suite.rule,
            {name: _task(raw, name, suite.renamed.get(name, {})) for name in suite.tasks},
        )
        for suite in suites
    }
    return Results.of(suites=found, subject=subject, settings=settings, libraries=libraries, seconds=seconds)


def _task(raw: Mapping[str, Any], name: str, renamed: Mapping[str, str]) -> TaskResult | None:
    values = raw.get("results", {}).get(name)
    if not values:
        return None
    samples = raw.get("n-samples", {}).get(name, {})
    n = int(samples.get("effective") or values.get("sample_len") or 0)
    better = raw.get("higher_is_better", {}).get(name, {})
    metrics = {}
    for key, value in values.items():
        metric, comma, filtered = key.partition(",")
        number = finite(value)
        if not comma or metric.endswith("_stderr") or number is None:
            continue
        shown = renamed.get(metric, metric)
        metrics[shown if filtered == "none" else f"{shown} ({filtered})"] = Metric(
            value=number,
            stderr=finite(values.get(f"{metric}_stderr,{filtered}")),
            n=n,
            higher_is_better=better.get(metric, True),
        )
    if not metrics:
        return None
    config = raw.get("configs", {}).get(name, {})
    own = bool((config.get("dataset_kwargs") or {}).get("data_files"))
    return TaskResult(
        name=name,
        version=str(raw.get("versions", {}).get(name, "")),
        n_shot=int(raw.get("n-shot", {}).get(name) or 0),
        n=n,
        available=samples.get("original"),
        dataset=Dataset(
            path=None if own else config.get("dataset_path"),
            config=config.get("dataset_name"),
            split=next(
                (config[key] for key in ("test_split", "validation_split", "training_split") if config.get(key)),
                None,
            ),
        ),
        metrics=metrics,
    )
