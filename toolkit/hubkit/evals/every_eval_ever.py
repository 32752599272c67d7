"""Read the records of Every Eval Ever: one JSON file with the results of one model (schema 0.2 and 0.3).

Schema: ``eval.schema.json`` of github.com/evaleval/every_eval_ever. Scores in per cent become shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubkit.core.errors import UsageError
from hubkit.evals.grouping import group_by_suite, refuse_empty
from hubkit.evals.parsing import finite, parse_int, upward, why
from hubkit.evals.results import Dataset, Metric, Results, Settings, Subject, TaskResult


def is_record(value: Any) -> bool:
    """Whether the JSON ``value`` is such a record."""
    return isinstance(value, Mapping) and isinstance(value.get("evaluation_results"), list) and "model_info" in value


def read_record(raw: Mapping[str, Any], where: str, name: str) -> Results:
    """The results of the record ``raw``. UsageError when it does not fit the schema, or has no number."""
    try:
        tasks: dict[str, TaskResult | None] = {}
        for entry in raw["evaluation_results"]:
            task = _task(entry)
            before = tasks.get(task.name)
            if before is not None:
                if both := before.metrics.keys() & task.metrics.keys():
                    raise UsageError(
                        f"{where} gives {' and '.join(sorted(both))} of {task.name} twice.",
                        hint="Keep the record of one run in one file.",
                    )
                task = before.model_copy(update={"metrics": {**before.metrics, **task.metrics}})
            tasks[task.name] = task
        library, model = raw.get("eval_library") or {}, raw["model_info"]
        more = model.get("additional_details") or {}
        version = str(library.get("version") or "")
        return Results.of(
            suites=refuse_empty(group_by_suite(tasks), where),
            subject=Subject(
                repo=str(model.get("id") or model.get("name") or name), commit=str(more.get("sha") or ""), form="other"
            ),
            settings=Settings(
                backend=str((model.get("inference_engine") or {}).get("name") or ""),
                apply_chat_template=None,
                dtype=str(more.get("dtype") or "").removeprefix("torch."),
                batch_size=None,
                device="",
            ),
            libraries={str(library["name"]): version} if library.get("name") and version not in {"", "unknown"} else {},
            seconds=None,
        )
    except (TypeError, AttributeError, ValueError, KeyError, OverflowError) as error:
        raise UsageError(f"{where} is not a valid record of Every Eval Ever: {why(error)}.") from error


def _task(entry: Mapping[str, Any]) -> TaskResult:
    config, details, data = entry["metric_config"], entry["score_details"], entry["source_data"]
    value = finite(details["score"])
    if value is None:
        raise ValueError(f"the score of {entry['evaluation_name']} is not a finite number")
    unsure = details.get("uncertainty") or {}
    stderr = finite((unsure.get("standard_error") or {}).get("value"))
    scale = 100.0 if config.get("metric_unit") == "percent" else 1.0
    metric = str(config.get("metric_name") or config.get("metric_id") or config.get("metric_kind") or "score")
    lower = config.get("lower_is_better")
    n = unsure.get("num_samples") or data.get("samples_number")
    n = n if isinstance(n, int) and n > 0 else 0
    generation = entry.get("generation_config") or {}
    name = str(entry["evaluation_name"])
    return TaskResult(
        name=name,
        version="",
        n_shot=parse_int((generation.get("additional_details") or {}).get("num_fewshot")),
        n=n,
        dataset=Dataset(
            path=data.get("hf_repo") if data.get("source_type") == "hf_dataset" else None, split=data.get("hf_split")
        ),
        metrics={
            metric: Metric(
                value=value / scale,
                stderr=None if stderr is None else stderr / scale,
                n=n,
                higher_is_better=not lower if isinstance(lower, bool) else upward(metric),
            )
        },
    )
