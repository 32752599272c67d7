"""Read the results of lm-evaluation-harness: what it returned, or the JSON that it wrote (0.3 and 0.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hubkit.core.errors import UsageError
from hubkit.evals.grouping import RENAMED, group_by_suite, refuse_empty
from hubkit.evals.parsing import KNOWN_FILES, finite, parse_int, upward, why
from hubkit.evals.results import Dataset, Metric, Results, Settings, Subject, SuiteResult, TaskResult
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
    """Convert the output of ``lm_eval.simple_evaluate`` (lm_eval 0.4.x) to results of ``suites``.

    A task that ``raw`` lacks, or one without a finite number, becomes None: missing.
    """
    found = {suite.name: lm_eval_suite(raw, suite) for suite in suites}
    return Results.of(suites=found, subject=subject, settings=settings, libraries=libraries, seconds=seconds)


def lm_eval_suite(raw: Mapping[str, Any], suite: Suite) -> SuiteResult:
    """``suite`` out of what lm-eval returned; a task without a finite number is None: missing."""
    tasks = {name: _task(raw, name, suite.renamed.get(name, {})) for name in suite.tasks}
    return SuiteResult.of(suite.name, suite.title, suite.rule, tasks)


def read_lm_eval_file(raw: Mapping[str, Any], where: str, name: str) -> Results:
    """A file that lm-eval wrote. Groups, which are averages of their tasks, are made anew from the tasks.

    A task without a usable number is missing. Older files name their groups, and not the tasks of these.
    """
    try:
        below = {key: tuple(_leaves(raw, key)) for key in _map(raw, "group_subtasks")}
        groups = {key: tasks for key, tasks in below.items() if tasks and tasks != (key,)}
        left_out = {*groups, *(_map(raw, "groups").keys() - below.keys())}
        tasks = {
            key: task
            for key, values in raw["results"].items()
            if key not in left_out and ((task := _task(raw, key, RENAMED.get(key, {}))) or _asked(values))
        }
        config = _map(raw, "config")
        settings = Settings(
            backend=str(config.get("model") or raw.get("model_source") or ""),
            apply_chat_template=bool(raw["chat_template"]) if "chat_template" in raw else None,
            limit=_limit(config.get("limit"), tasks),
            fewshot_as_multiturn=raw.get("fewshot_as_multiturn"),
            dtype=str(config.get("model_dtype") or "").removeprefix("torch."),
            batch_size=parse_int(config.get("batch_size")),
            device=str(config.get("device") or ""),
        )
        tops = {key: members for key, members in groups.items() if not any(key in _deep(raw, up) for up in groups)}
        return Results.of(
            suites=refuse_empty(group_by_suite(tasks, tops), where),
            subject=Subject(
                repo=str(raw.get("model_name") or _pretrained(config.get("model_args")) or name),
                commit=str(config.get("model_sha") or ""),
                form="other",
            ),
            settings=settings,
            libraries={
                library: str(raw[key])
                for library, key in (("lm_eval", "lm_eval_version"), ("transformers", "transformers_version"))
                if raw.get(key)
            },
            seconds=_seconds(raw.get("total_evaluation_time_seconds")),
        )
    except (TypeError, AttributeError, ValueError, KeyError, OverflowError) as error:
        raise UsageError(f"{where} is not a valid lm-eval results file: {why(error)}.", hint=KNOWN_FILES) from error


def _map(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, Mapping) else {}


def _deep(raw: Mapping[str, Any], group: str) -> set[str]:
    """Every group and task below ``group``."""
    found: set[str] = set()
    waiting = list(_map(raw, "group_subtasks").get(group) or ())
    while waiting:
        name = str(waiting.pop())
        if name not in found and name != group:
            found.add(name)
            waiting += _map(raw, "group_subtasks").get(name) or ()
    return found


def _leaves(raw: Mapping[str, Any], group: str) -> Iterator[str]:
    below = _deep(raw, group)
    yield from (name for name in raw["results"] if name in below and not _map(raw, "group_subtasks").get(name))


def _limit(limit: Any, tasks: Mapping[str, TaskResult | None]) -> int | None:
    """Questions a task; lm-eval takes a share of them, too, which the longest task shows."""
    if not isinstance(limit, int | float) or isinstance(limit, bool):
        return None
    return int(limit) if limit >= 1 else max((task.n for task in tasks.values() if task), default=0) or None


def _seconds(value: Any) -> float | None:
    try:
        number = finite(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return None if number is None else max(0.0, number)


def _pretrained(arguments: Any) -> str | None:
    if isinstance(arguments, Mapping):
        return arguments.get("pretrained")
    found = re.search(r"(?:^|,)pretrained=([^,]+)", arguments) if isinstance(arguments, str) else None
    return found[1] if found else None


_WORDS = {"alias", "name", "sample_len", "sample_count"}


def _metric_keys(values: Mapping[str, Any]) -> list[str]:
    """The keys of a task's metrics: 'metric,filter' today, 'metric' in lm-eval 0.3; a blank one means none."""
    today = any("," in key for key in values)
    return [
        key
        for key in values
        if key.strip()
        and ("," in key or not today)
        and key not in _WORDS
        and not key.partition(",")[0].endswith("_stderr")
    ]


def _asked(values: Any) -> bool:
    """Whether the entry ``values`` is of a task, measured or not: it names a metric."""
    return bool(values) and bool(_metric_keys(values))


def shown_metric(key: str, renamed: Mapping[str, str]) -> str:
    """The name of a metric in results, from lm-eval's key 'metric,filter'; ``renamed`` has better known names."""
    metric, _, filtered = key.partition(",")
    shown = renamed.get(metric, metric)
    return shown if filtered in {"", "none"} else f"{shown} ({filtered})"


def _task(raw: Mapping[str, Any], name: str, renamed: Mapping[str, str]) -> TaskResult | None:
    """The task ``name``; None when it has no finite number."""
    values = raw.get("results", {}).get(name)
    if not values:
        return None
    samples = _of(raw, "n-samples", name) or {}
    n = int(samples.get("effective") or values.get("sample_len") or 0)
    better = _of(raw, "higher_is_better", name) or {}
    metrics = {}
    for key in _metric_keys(values):
        if (number := finite(values[key])) is None:
            continue
        metric, comma, filter_name = key.partition(",")
        metrics[shown_metric(key, renamed)] = Metric(
            value=number,
            stderr=finite(values.get(f"{metric}_stderr{comma}{filter_name}")),
            n=n,
            higher_is_better=better.get(metric, upward(metric)),
            filter=filter_name or "none",
        )
    if not metrics:
        return None
    config = _of(raw, "configs", name) or {}
    own = bool((config.get("dataset_kwargs") or {}).get("data_files"))
    shots, version = _of(raw, "n-shot", name), _of(raw, "versions", name)
    today = any("," in key for key in values)
    return TaskResult(
        name=name,
        version="" if version is None else str(version),
        n_shot=parse_int(shots) if shots is not None else (0 if today else None),
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


def _of(raw: Mapping[str, Any], part: str, name: str) -> Any:
    """What ``part`` of the file says of the task ``name``; None when it says nothing."""
    return (raw.get(part) or {}).get(name)
