"""The score of every question, without its text: what a later release of the same model is compared with, in pairs.

``benchmarks.json.gz`` has the results and, by task, a digest of each question and its score in each metric. The branch
publishes it as ``.hubkit/benchmarks.json.gz``. No question and no answer is in it.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubkit.core.bounded_json import LARGE, JsonError, load_json
from hubkit.core.errors import ConflictError, UsageError
from hubkit.core.files import write_atomic
from hubkit.evals.lm_eval_json import shown_metric
from hubkit.evals.results import Results, parse_results
from hubkit.evals.suites import Suite

SCORES_FILE = "benchmarks.json.gz"
SCHEMA = 1
_DIGITS = 16
"""Hexadecimal digits of a question's digest: enough to tell the questions of a task apart."""


@dataclass(frozen=True)
class TaskScores:
    """One task: a digest of each question, in order, and by metric the score of each."""

    questions: Sequence[str]
    scores: Mapping[str, Sequence[float]]

    def by_question(self, metric: str) -> dict[tuple[str, int], float]:
        """The scores by question; one that is asked twice is numbered."""
        found: dict[tuple[str, int], float] = {}
        seen: dict[str, int] = {}
        for question, score in zip(self.questions, self.scores.get(metric, ()), strict=False):
            seen[question] = number = seen.get(question, 0) + 1
            found[question, number] = score
        return found


@dataclass(frozen=True)
class Measured:
    """Benchmark results with the score of every question, by task; a task whose scores are not known has none.

    ``file`` is the one with both, in an artifact; None where there is none.
    """

    results: Results
    scores: Mapping[str, TaskScores] = field(default_factory=dict)
    file: Path | None = field(default=None, compare=False)

    @classmethod
    def load(cls, folder: Path) -> Measured:
        """What the artifact in ``folder`` holds; without scores, where an older hubkit kept none."""
        path, results = folder / SCORES_FILE, Results.load(folder)
        if not path.is_file():
            return cls(results)
        return cls(results, parse_measured(path.read_bytes(), str(path)).scores, path)

    def save(self, folder: Path) -> None:
        """Write both files to ``folder``."""
        self.results.save(folder)
        write_measured(folder / SCORES_FILE, self)


def compact(samples: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What is kept of lm-eval's samples, as plain values: by task the questions, and the scores by 'metric,filter'.

    A metric that is not one number for each question (a perplexity, a list) is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for task, examples in samples.items():
        questions: dict[str, list[str]] = {}
        scores: dict[str, list[float | None]] = {}
        for example in examples:
            filtered = str(example.get("filter") or "none")
            questions.setdefault(filtered, []).append(str(example["doc_hash"])[:_DIGITS])
            for metric in example.get("metrics") or ():
                scores.setdefault(f"{metric},{filtered}", []).append(_number(example.get(metric)))
        asked = next(iter(questions.values()), [])
        whole = {key: values for key, values in scores.items() if len(values) == len(asked) and None not in values}
        if asked and whole and all(listed == asked for listed in questions.values()):
            found[task] = {"questions": asked, "scores": whole}
    return found


def _number(value: Any) -> float | None:
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:  # NumPy scalars
        value = value.item()
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else round(float(value), 7)


def scores_of(kept: Mapping[str, Mapping[str, Any]], suite: Suite) -> dict[str, TaskScores]:
    """The scores of the tasks of ``suite`` in what :func:`compact` kept, under the names of their metrics."""
    return {
        task: TaskScores(
            kept[task]["questions"],
            {shown_metric(key, suite.renamed.get(task, {})): values for key, values in kept[task]["scores"].items()},
        )
        for task in suite.tasks
        if task in kept
    }


def write_measured(path: Path, measured: Measured) -> None:
    """Write ``measured``, compressed: the same bytes each time. How long it took is left out."""
    value = {
        "schema": SCHEMA,
        "results": {**measured.results.model_dump(mode="json"), "seconds": None},
        "scores": {
            task: {"questions": list(item.questions), "scores": {key: list(v) for key, v in item.scores.items()}}
            for task, item in measured.scores.items()
        },
    }
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    write_atomic(path, gzip.compress(text.encode(), compresslevel=9, mtime=0))


def parse_measured(content: bytes, name: str) -> Measured:
    """What :func:`write_measured` wrote; it may come from anybody. UsageError when it is something else."""
    try:
        unpacked = zlib.decompressobj(wbits=31)
        text = unpacked.decompress(content, LARGE.bytes)
        if not unpacked.eof:
            raise UsageError(f"{name} is not whole, or too large.")
        value = load_json(text)
        if value["schema"] != SCHEMA:
            raise UsageError(f"{name} has the schema {value['schema']!r}, which this hubkit does not read.")
        scores = {
            str(task): TaskScores([str(item) for item in entry["questions"]], _finite(entry["scores"]))
            for task, entry in value["scores"].items()
        }
        return Measured(parse_results(value["results"], name), scores)
    except (zlib.error, JsonError, KeyError, TypeError, ValueError, AttributeError, ConflictError) as error:
        raise UsageError(f"{name} does not hold benchmark scores.") from error


def _finite(scores: Mapping[str, Any]) -> dict[str, list[float]]:
    found = {str(key): [float(value) for value in values] for key, values in scores.items()}
    if not all(math.isfinite(value) for values in found.values() for value in values):
        raise ValueError("a score is not finite")
    return found
