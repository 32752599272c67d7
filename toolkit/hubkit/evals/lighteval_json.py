"""Read the JSON that lighteval saves (results_*.json)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hubkit.core.errors import UsageError
from hubkit.evals.grouping import own_suite
from hubkit.evals.parsing import finite, upward, why
from hubkit.evals.results import Dataset, Metric, Results, Settings, Subject, TaskResult


def read_lighteval(raw: Mapping[str, Any], where: str, name: str) -> Results:
    """What lighteval saves as results_*.json.

    Its averages ('all', 'mmlu:_average') are left out and made anew from their tasks. A task is called 'name|shots',
    'suite|name|shots' or, in older files, 'suite|name|shots|truncation'.
    """
    try:
        return _lighteval(raw, where, name)
    except (TypeError, AttributeError, ValueError, KeyError, OverflowError) as error:
        raise UsageError(f"{where} is not a valid lighteval results file: {why(error)}.") from error


def _lighteval(raw: Mapping[str, Any], where: str, name: str) -> Results:
    general = raw["config_general"] or {}
    model = general.get("model_config") or {}
    suites: dict[str, dict[str, TaskResult | None]] = {}
    parents: dict[str, int] = {}
    called = Counter(_lighteval_name(key)[0] for key in raw["results"])
    for key in raw["results"]:
        parent = _lighteval_name(key)[0].partition(":")[0]
        parents[parent] = parents.get(parent, 0) + (":_average" not in key)
    for key, values in raw["results"].items():
        task, shots = _lighteval_name(key)
        if key == "all" or ":_average" in task or not values:
            continue
        made = _lighteval_task(raw, key, task, shots, values)
        parent, _, subset = task.partition(":")
        tasks = suites.setdefault(parent if subset and parents[parent] > 1 else "lighteval", {})
        tasks[task if called[task] == 1 else key] = made
    if not any(task for tasks in suites.values() for task in tasks.values()):
        raise UsageError(f"{where} contains no measured number.", hint="Check that the run finished.")
    limit = general.get("max_samples")
    return Results.of(
        suites={key: own_suite(key, tasks) for key, tasks in suites.items()},
        subject=Subject(
            repo=str(general.get("model_name") or model.get("model_name") or name),
            commit=str(general.get("model_sha") or ""),
            form="other",
        ),
        settings=Settings(
            backend="lighteval",
            apply_chat_template=None,
            limit=limit if isinstance(limit, int) and limit > 0 else None,
            dtype=str(general.get("model_dtype") or model.get("dtype") or "").removeprefix("torch."),
            batch_size=model.get("batch_size") if isinstance(model.get("batch_size"), int) else None,
            device="",
        ),
        libraries={},
        seconds=finite(float(general.get("total_evaluation_time_secondes") or "nan")),
    )


def _lighteval_name(key: str) -> tuple[str, int | None]:
    """The task of a key of lighteval's, without its suite, and its examples in the prompt."""
    parts = key.split("|")
    numbers = 0
    while len(parts) > numbers + 1 and parts[-1 - numbers].isdecimal():
        numbers += 1
    names = parts[: len(parts) - numbers]
    return names[-1], int(parts[len(names)]) if numbers else None


def _lighteval_task(
    raw: Mapping[str, Any], key: str, task: str, shots: int | None, values: Mapping[str, Any]
) -> TaskResult | None:
    configs: Mapping[str, Mapping[str, Any]] = raw.get("config_tasks") or {}
    config: Mapping[str, Any] = configs.get(key) or next(
        (item for full, item in configs.items() if _lighteval_name(full)[0] == task), {}
    )
    n, available = (max(0, int(config.get(f"{what}_num_docs") or 0)) for what in ("effective", "original"))
    better: dict[str, bool] = {}
    for metric in config.get("metric") or config.get("metrics") or ():
        direction = metric.get("higher_is_better") if isinstance(metric, Mapping) else None
        if isinstance(direction, Mapping):
            better |= {str(part): bool(up) for part, up in direction.items()}
        elif isinstance(direction, bool):
            better[str(metric["metric_name"])] = direction
    metrics = {
        metric: Metric(
            value=number,
            stderr=finite(values.get(f"{metric}_stderr")),
            n=n,
            higher_is_better=better.get(metric, upward(metric)),
        )
        for metric, value in values.items()
        if not metric.endswith("_stderr") and (number := finite(value)) is not None
    }
    if not metrics:
        return None
    splits = config.get("evaluation_splits") or ()
    return TaskResult(
        name=task,
        version=str((raw.get("versions") or {}).get(key, "")),
        n_shot=shots,
        n=n,
        available=available or None,
        dataset=Dataset(
            path=config.get("hf_repo"), config=config.get("hf_subset"), split=str(splits[0]) if splits else None
        ),
        metrics=metrics,
    )
