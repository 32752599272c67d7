"""``.eval_results/*.yaml``: results for the leaderboards of benchmarks that the Hub registers, beside ``model-index``.

Format and names of the fields: huggingface_hub's ``EvalResultEntry`` and https://huggingface.co/docs/hub/eval-results.
A result is entered only when the whole task was measured and its number is what the leaderboard shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hubkit.cards.escape import clean
from hubkit.cards.evidence import Evidence
from hubkit.cards.measured import FORMATS, Number, value_of
from hubkit.cards.metadata import dump_plain
from hubkit.core.bounded_yaml import YamlError, load_bounded
from hubkit.core.names import repo_id_problem
from hubkit.evals.results import RESULTS_FILE

FOLDER = ".eval_results"


@dataclass(frozen=True)
class Leaderboard:
    """A benchmark that the Hub registers: its data set, the task in that repo's ``eval.yaml``, and the metric shown."""

    dataset: str
    task: str
    metric: str


REGISTERED: Mapping[str, Leaderboard] = {
    "gsm8k": Leaderboard("openai/gsm8k", "gsm8k", "exact_match"),
    "gsm8k_cot": Leaderboard("openai/gsm8k", "gsm8k", "exact_match"),
    "gpqa_diamond_zeroshot": Leaderboard("Idavidrein/gpqa", "gpqa_diamond", "acc_norm"),
    "gpqa_diamond_cot_zeroshot": Leaderboard("Idavidrein/gpqa", "gpqa_diamond", "exact_match"),
}
"""The tasks of lm-eval that are registered benchmarks, asked as their leaderboards ask them, by name.

MMLU-Pro is one, too; lm-eval measures it in parts, and no part is the benchmark.
"""


def eval_results(variant: str, evidence: Evidence) -> dict[str, tuple[str, list[Number]]]:
    """The files, by path, with the numbers in each. None for a rehearsal, or where nothing is registered."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    step = f"evaluate[{variant}]"
    results = evidence.results(step)
    if results is None or results.rehearsal:
        return {}
    wrapped = evidence.wrapped()[step][RESULTS_FILE]["suites"]
    found: dict[str, tuple[str, list[Number]]] = {}
    for name, suite in results.suites.items():
        for task_name, task in suite.tasks.items():
            board = REGISTERED.get(task.name) if task else None
            if task is None or board is None or board.metric not in task.metrics:
                continue
            if task.available is not None and task.n < task.available:
                continue
            facts = wrapped[clean(name)]["tasks"][clean(task_name)]
            number = facts["metrics"][board.metric]["value"]
            value = value_of(number)
            said = FORMATS["hundred"](value)
            shots = "" if task.n_shot is None else f", {task.n_shot}-shot"
            version = results.libraries.get("lm_eval", "")
            entry = EvalResultEntry(
                dataset_id=board.dataset,
                task_id=board.task,
                value=float(said),
                notes=f"lm-evaluation-harness {version}{shots}, task {task.name}".replace("  ", " "),
            )
            text = dump_plain(eval_result_entries_to_yaml([entry]))
            found[f"{FOLDER}/{task.name}.yaml"] = (
                text, [Number(said, None, number.step, number.file, number.pointer, value, "hundred")],
            )  # fmt: skip
    return found


_KEYS = {"dataset", "value", "verifyToken", "date", "source", "evaluation_framework", "notes"}
_PARTS = {"dataset": {"id", "task_id", "revision"}, "source": {"url", "name", "user", "org"}}
_NEEDED = {"dataset": ("id", "task_id"), "source": ("url",)}


def eval_results_problems(text: str) -> Iterator[str]:
    """What is wrong with a file of ``.eval_results/``, a sentence each, by the Hub's documented form of it."""
    try:
        entries = load_bounded(text)
    except YamlError as error:
        yield f"It is not valid YAML: {error}."
        return
    if not isinstance(entries, list) or not entries:
        yield "It is not a list of results."
        return
    for place, entry in enumerate(entries, 1):
        yield from (f"Result {place} {said}" for said in _entry(entry))


def _entry(entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield "is not a mapping."
        return
    for key in sorted(map(str, entry.keys() - _KEYS)):
        yield f"has the unknown key {key!r}."
    for part, known in _PARTS.items():
        value = entry.get(part)
        if value is None and part == "source":
            continue
        if not isinstance(value, dict):
            yield f"has no {part!r} with {' and '.join(_NEEDED[part])}."
            continue
        for key in sorted(map(str, value.keys() - known)):
            yield f"has the unknown key {part}.{key}."
        for key in _NEEDED[part]:
            if not isinstance(value.get(key), str) or not value[key]:
                yield f"lacks {part}.{key}."
    dataset = entry.get("dataset")
    if isinstance(dataset, dict) and isinstance(dataset.get("id"), str) and repo_id_problem(dataset["id"]):
        yield f"names {dataset['id']!r}, which is not a repo id of the form namespace/name."
    if isinstance(entry.get("value"), bool) or not isinstance(entry.get("value"), int | float):
        yield f"gives {entry.get('value')!r} as its value, which is not a number."
    if "date" in entry and not _is_date(entry["date"]):
        yield f"gives {entry['date']!r} as its date, which is not of the form '2026-01-31'."


def _is_date(value: Any) -> bool:
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d", value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
