"""Results of any program, read into the one model of :mod:`hubkit.evals.results`.

``read_path`` takes whatever lies on disk: our own results.json; lm-eval's JSON (0.3 and 0.4), or the folder that its
``--output_path`` leaves; tables as text (:mod:`hubkit.evals.texttables`); lighteval's JSON and CSV
(:mod:`hubkit.evals.foreign`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core import numbers
from hubkit.core.errors import UsageError
from hubkit.evals.foreign import read_csv, read_lighteval
from hubkit.evals.results import (
    RESULTS_FILE,
    Dataset,
    Metric,
    Results,
    Settings,
    Subject,
    SuiteResult,
    TaskResult,
    finite,
    parse_results,
    upward,
    whole,
    why,
)
from hubkit.evals.sorting import KNOWN, sort_tasks
from hubkit.evals.suites import Suite
from hubkit.evals.texttables import Row, call_line, read_tables

MAX_BYTES = 64_000_000
"""lm-eval's results are kilobytes; what is larger holds samples or is something else."""
_KINDS = (
    "Known are hubkit's and lm-eval's results (JSON, or the folder of --output_path), lighteval's JSON, CSV, and "
    "tables as text."
)


@dataclass(frozen=True)
class Read:
    """Results with the file that they were in; ``passed_over`` are older files of the same model beside it."""

    path: Path
    results: Results
    passed_over: tuple[Path, ...] = ()


def read_path(path: Path) -> list[Read]:
    """The results in ``path``: one of a file, one for each model of a folder. UsageError when there are none."""
    if path.is_dir():
        return list(_folder(path))
    return [Read(path, read_file(path))]


def _folder(folder: Path) -> Iterator[Read]:
    if (folder / RESULTS_FILE).is_file():
        yield Read(folder / RESULTS_FILE, read_file(folder / RESULTS_FILE))
        return
    newest: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("results_*.json"), key=lambda item: item.name):
        newest.setdefault(path.parent, []).append(path)
    if not newest:
        raise UsageError(f"{folder} holds no results: no {RESULTS_FILE} and no results_*.json.", hint=_KINDS)
    for paths in newest.values():
        yield Read(paths[-1], read_file(paths[-1]), tuple(paths[:-1]))


def read_file(path: Path) -> Results:
    """The results in the file ``path``, whatever wrote it. UsageError when it is none of the known kinds."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is too large to be results ({numbers.size(path.stat().st_size)}).", hint=_KINDS)
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read {path}: {error}.", hint=_KINDS) from error
    name = path.stem
    if path.suffix.lower() == ".csv":
        return read_csv(text, str(path), name)
    if path.suffix.lower() != ".json" and not text.lstrip().startswith("{"):
        return read_text(text, str(path), name)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}.", hint=_KINDS) from error
    return read_value(value, str(path), name)


def read_value(value: Any, where: str, name: str) -> Results:
    """The results in the JSON ``value``; ``where`` is what messages call it, ``name`` the model when it has none."""
    if isinstance(value, dict):
        if "suites" in value and "subject" in value:
            return parse_results(value, where)
        if isinstance(value.get("results"), dict):
            if "config_general" in value:
                return read_lighteval(value, where, name)
            return _foreign_lm_eval(value, where, name)
    raise UsageError(f"{where} does not hold benchmark results.", hint=_KINDS)


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
    found = {suite.name: lm_eval_suite(raw, suite) for suite in suites}
    return Results.of(suites=found, subject=subject, settings=settings, libraries=libraries, seconds=seconds)


def lm_eval_suite(raw: Mapping[str, Any], suite: Suite) -> SuiteResult:
    """``suite`` out of what lm-eval returned; a task without a finite number is None: missing."""
    tasks = {name: _task(raw, name, suite.renamed.get(name, {})) for name in suite.tasks}
    return SuiteResult.of(suite.name, suite.title, suite.rule, tasks)


_RENAMED = {task: names for suite in KNOWN for task, names in suite.renamed.items()}


def _foreign_lm_eval(raw: Mapping[str, Any], where: str, name: str) -> Results:
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
            if key not in left_out and ((task := _task(raw, key, _RENAMED.get(key, {}))) or _asked(values))
        }
        config = _map(raw, "config")
        settings = Settings(
            backend=str(config.get("model") or raw.get("model_source") or ""),
            apply_chat_template=bool(raw["chat_template"]) if "chat_template" in raw else None,
            limit=_limit(config.get("limit"), tasks),
            fewshot_as_multiturn=raw.get("fewshot_as_multiturn"),
            dtype=str(config.get("model_dtype") or "").removeprefix("torch."),
            batch_size=whole(config.get("batch_size")),
            device=str(config.get("device") or ""),
        )
        tops = {key: members for key, members in groups.items() if not any(key in _deep(raw, up) for up in groups)}
        return _made(
            sort_tasks(tasks, tops),
            where,
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
        raise UsageError(f"{where} is not laid out as lm-eval writes it: {why(error)}.", hint=_KINDS) from error


def _made(suites: Mapping[str, SuiteResult], where: str, **facts: Any) -> Results:
    if not any(task for suite in suites.values() for task in suite.tasks.values()):
        raise UsageError(f"{where} holds no measured number.", hint="A row needs a task, a metric and a value.")
    return Results.of(suites=suites, **facts)


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
    """Questions a task; lm-eval takes a share of them, too, which is told here by the longest task."""
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
    """The keys of a task's metrics: 'metric,filter' today, 'metric' in lm-eval 0.3; a blank one stands for none."""
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
        filtered = filter_name or "none"
        shown = renamed.get(metric, metric)
        metrics[shown if filtered == "none" else f"{shown} ({filtered})"] = Metric(
            value=number,
            stderr=finite(values.get(f"{metric}_stderr{comma}{filter_name}")),
            n=n,
            higher_is_better=better.get(metric, upward(metric)),
            filter=filtered,
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
        n_shot=whole(shots) if shots is not None else (0 if today else None),
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


def read_text(text: str, where: str, name: str) -> Results:
    """The benchmark tables in ``text``, all of them together; lm-eval's line above them tells the settings."""
    tables = read_tables(text, where)
    if not tables:
        raise UsageError(f"{where} holds no benchmark table: none has the columns Task, Metric and Value.", hint=_KINDS)
    rows: dict[str, list[Row]] = {}
    groups = frozenset().union(*(table.groups for table in tables))
    for table in tables:
        for row in table.rows:
            if row.asked and row.task not in groups:
                rows.setdefault(row.task, []).append(row)
    said = call_line(text)
    tasks = {task: _of_rows(task, found, where) for task, found in rows.items()}
    shots, limit = said.get("num_fewshot", ""), said.get("limit", "")
    return _made(
        sort_tasks(tasks),
        where,
        subject=Subject(repo=said.get("pretrained") or name, form="other"),
        settings=Settings(
            backend=said.get("model", ""),
            apply_chat_template=None,
            limit=int(float(limit)) if re.fullmatch(r"[1-9]\d{0,14}(\.\d+)?", limit.strip()) else None,
            num_fewshot=whole(shots.strip()),
            dtype=said.get("dtype", ""),
            batch_size=whole(said.get("batch_size", "").split(" ")[0]),
            device=said.get("device", ""),
        ),
        libraries={},
        seconds=None,
    )


def _of_rows(task: str, rows: list[Row], where: str) -> TaskResult | None:
    """One task; None when none of its rows has a number."""
    metrics: dict[str, Metric] = {}
    lines: dict[str, int] = {}
    for row in rows:
        if row.value is None:
            continue
        key = row.metric if row.filter == "none" else f"{row.metric} ({row.filter})"
        key = _RENAMED.get(task, {}).get(key, key)
        made = Metric(value=row.value, stderr=row.stderr, n=0, higher_is_better=row.higher_is_better, filter=row.filter)
        if key in metrics and metrics[key] != made:
            raise UsageError(
                f"{where} gives {key} of {task} twice, and not the same: lines {lines[key]} and {row.line}.",
                hint="Keep the right one, or put the tables of different models into files of their own.",
            )
        metrics[key], lines[key] = made, row.line
    if not metrics:
        return None
    return TaskResult(name=task, version=rows[0].version, n_shot=rows[0].shots, n=0, metrics=metrics)
