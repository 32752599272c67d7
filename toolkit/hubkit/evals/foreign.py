"""Results of other harnesses: lighteval's JSON, and a plain CSV that anybody can write.

The columns of the CSV, in any order; the first three are required, and there are no others:

=====================  =================================================================================
``task``               its name
``metric``             its name, such as acc
``value``              a number, in the metric's own unit: a share from 0 to 1 for accuracies
``stderr``             its standard error, in the same unit
``suite``              which suite the task belongs to; left out, suites are found by the tasks' names
``version``            the task's version
``n_shot``             examples in the prompt
``n``                  questions asked
``higher_is_better``   true (when left out) or false
``filter``             what picked the answer out of the text
=====================  =================================================================================
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hubkit.core.errors import UsageError
from hubkit.evals.results import (
    Dataset,
    Metric,
    Results,
    Settings,
    Subject,
    SuiteResult,
    TaskResult,
    finite,
    finite_text,
    upward,
    whole,
    why,
)
from hubkit.evals.sorting import KNOWN, of_known, sort_tasks, unique

REQUIRED = ("task", "metric", "value")
OPTIONAL = ("stderr", "suite", "version", "n_shot", "n", "higher_is_better", "filter")
_COLUMNS = f"The columns are {', '.join(REQUIRED)} and, when known, {', '.join(OPTIONAL)}."


def read_csv(text: str, where: str, name: str) -> Results:
    """Results in the columns above; ``where`` is what messages call the file, ``name`` the model."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    suites: dict[str, dict[str, TaskResult]] = {}
    try:
        heads = [head.strip() for head in reader.fieldnames or ()]
        reader.fieldnames = heads
        if problem := _head_problem(heads):
            raise UsageError(f"{where}: {problem}.", hint=_COLUMNS)
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"{where}, line {reader.line_num}: this row does not fit the header.", hint=_COLUMNS)
            said = {key: str(value).strip() for key, value in row.items()}
            tasks = suites.setdefault(said.get("suite", ""), {})
            _add(tasks, said, f"{where}, line {reader.line_num}")
    except csv.Error as error:
        raise UsageError(f"{where}, line {reader.line_num}: {error}.", hint="Write it as CSV, in UTF-8.") from error
    if not suites:
        raise UsageError(f"{where} holds no row.", hint=_COLUMNS)
    found: list[SuiteResult] = []
    for suite, tasks in suites.items():
        if not suite:
            found += sort_tasks(tasks).values()
            continue
        fitting = [item for item in KNOWN if item.name == suite and tasks.keys() <= set(item.tasks)]
        found.append(of_known(fitting[0], tasks) if fitting else _loose(suite, tasks))
    return Results.of(
        suites=unique(found),
        subject=Subject(repo=name, form="other"),
        settings=Settings(backend="", apply_chat_template=None, dtype="", batch_size=None, device=""),
        libraries={},
        seconds=None,
    )


def _loose(name: str, tasks: Mapping[str, TaskResult | None]) -> SuiteResult:
    return SuiteResult.of(name, name, "own", dict(tasks))


def _head_problem(heads: list[str]) -> str | None:
    if len(heads) == 1 and ";" in heads[0]:
        return "its columns stand between semicolons, not commas"
    if lacking := [name for name in REQUIRED if name not in heads]:
        return f"the first line names no column {', '.join(lacking)}"
    if unknown := [name for name in heads if name not in (*REQUIRED, *OPTIONAL)]:
        return f"unknown column {', '.join(unknown)}"
    return "a column is named twice" if len(set(heads)) < len(heads) else None


def _add(tasks: dict[str, TaskResult], said: Mapping[str, str], where: str) -> None:
    """Enter one row into ``tasks``."""
    name, metric = said["task"], said["metric"]
    if not name or not metric:
        raise UsageError(f"{where}: a row needs a task and a metric.", hint=_COLUMNS)
    better = said.get("higher_is_better", "").lower() or "true"
    if better not in {"true", "false"}:
        raise UsageError(f"{where}: higher_is_better is {better!r}.", hint="Write true or false.")
    filtered = said.get("filter") or "none"
    n = _count(said.get("n", ""), "n", where)
    key = metric if filtered == "none" else f"{metric} ({filtered})"
    value = _number(said["value"], "value", where)
    stderr = _number(said["stderr"], "stderr", where) if said.get("stderr") else None
    before = tasks.get(name)
    if before is not None and key in before.metrics:
        raise UsageError(f"{where}: {key} of {name} is there twice.", hint="Keep the right one.")
    made = Metric(value=value, stderr=stderr, n=n or 0, higher_is_better=better == "true", filter=filtered)
    tasks[name] = TaskResult(
        name=name,
        version=said.get("version", "") if before is None else before.version,
        n_shot=_count(said.get("n_shot", ""), "n_shot", where) if before is None else before.n_shot,
        n=(n or 0) if before is None else before.n,
        metrics={**(before.metrics if before else {}), key: made},
    )


def _number(text: str, column: str, where: str) -> float:
    value = finite_text(text)
    if value is None:
        raise UsageError(
            f"{where}: {text!r} in the column {column} is not a number.", hint="Leave out unmeasured rows."
        )
    return value


def _count(text: str, column: str, where: str) -> int | None:
    if not text:
        return None
    if (number := whole(text)) is None:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise UsageError(f"{where}: {shown!r} in the column {column} is not a whole number.", hint=_COLUMNS)
    return number


def read_lighteval(raw: Mapping[str, Any], where: str, name: str) -> Results:
    """What lighteval saves as results_*.json.

    Its averages ('all', 'mmlu:_average') are left out and made anew from their tasks. A task is called 'name|shots',
    'suite|name|shots' or, in older files, 'suite|name|shots|truncation'.
    """
    try:
        return _lighteval(raw, where, name)
    except (TypeError, AttributeError, ValueError, KeyError, OverflowError) as error:
        raise UsageError(f"{where} is not laid out as lighteval writes it: {why(error)}.") from error


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
        raise UsageError(f"{where} holds no measured number.", hint="Is the run finished?")
    limit = general.get("max_samples")
    return Results.of(
        suites={key: _loose(key, tasks) for key, tasks in suites.items()},
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
