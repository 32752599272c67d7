"""The benchmark results that a branch on the Hub publishes now: what the next release is compared with.

A release of hubkit publishes them with the score of every question (:mod:`hubkit.evals.scores`). Of an older one, or of
anybody's, the numbers under ``model-index`` of the card are read: they have no standard errors and no questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.core.bounded_yaml import YamlError, load_bounded
from hubkit.core.errors import UsageError
from hubkit.core.front_matter import find_front_matter
from hubkit.core.trees import Entry
from hubkit.evals.averages import counted_metric
from hubkit.evals.measurements import Metric, TaskResult
from hubkit.evals.parsing import finite, parse_int
from hubkit.evals.results import Results, Settings, Subject, SuiteResult
from hubkit.evals.scores import SCORES_FILE, Measured, parse_measured
from hubkit.hub.client import Hub

PUBLISHED_SCORES = f".hubkit/{SCORES_FILE}"
"""Where a branch keeps its results with the score of every question."""
_CARD = "README.md"
_LARGEST = 32 * 1024 * 1024


@dataclass(frozen=True)
class Published:
    """What a branch publishes at ``commit`` (None: there is no branch); ``measured`` is None without results.

    ``why`` says, where the scores of the questions are not known, what is known instead.
    """

    commit: str | None
    measured: Measured | None
    why: str = ""


def published(hub: Hub, repo: str, branch: str, like: Results) -> Published:
    """What ``branch`` of ``repo`` publishes. ``like`` are the new model's results: a card's numbers have no suites.

    RemoteError when the Hub does not answer.
    """
    head = hub.head(repo, branch) if hub.repo_exists(repo) else None
    if head is None:
        return Published(None, None, "nothing is published there yet")
    tree = hub.tree(repo, head)
    if PUBLISHED_SCORES in tree:
        content = _read(hub, repo, head, PUBLISHED_SCORES, tree)
        try:
            return Published(head, parse_measured(content, f"{PUBLISHED_SCORES} of {repo}@{head[:12]}"))
        except UsageError as error:
            why = error.message
    else:
        why = "the branch has no scores of its questions"
    numbers = dict(_numbers(_read(hub, repo, head, _CARD, tree).decode(errors="replace")))
    suites = {name: _suite(suite, numbers) for name, suite in like.suites.items()}
    if not any(task for suite in suites.values() for task in suite.tasks.values()):
        return Published(head, None, "the branch publishes no result of these benchmarks")
    settings = Settings(backend="", apply_chat_template=None, dtype="", batch_size=None, device="")
    subject = Subject(repo=repo, commit=head, form="other")
    results = Results.of(suites=suites, subject=subject, settings=settings, libraries={}, seconds=None)
    return Published(head, Measured(results), why)


def _read(hub: Hub, repo: str, commit: str, path: str, tree: Mapping[str, Entry]) -> bytes:
    listed = tree.get(path)
    if listed is None or listed.size > _LARGEST:
        return b""
    return hub.read_file(repo, path, commit, listed=listed) or b""


def _numbers(card: str) -> Iterator[tuple[tuple[str, str], tuple[float, int | None]]]:
    """The numbers under ``model-index``: (task, metric), (value, examples in the prompt).

    Those with a source were not measured by the release.
    """
    found = find_front_matter(card, exact=True)
    try:
        metadata = load_bounded(found.text) if found else None
    except YamlError:
        return
    index = metadata.get("model-index") if isinstance(metadata, Mapping) else None
    for entry in (item for model in _maps(index) for item in _maps(model.get("results")) if "source" not in item):
        dataset = entry.get("dataset")
        if not isinstance(dataset, Mapping):
            continue
        args = dataset.get("args")
        shots = parse_int(args.get("num_few_shot")) if isinstance(args, Mapping) else None
        for metric in _maps(entry.get("metrics")):
            value = finite(metric.get("value"))
            if value is not None:
                yield (str(dataset.get("name")), str(metric.get("type"))), (value, shots)


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _suite(like: SuiteResult, numbers: Mapping[tuple[str, str], tuple[float, int | None]]) -> SuiteResult:
    """``like`` with the ``numbers`` of a card in place of its own."""
    tasks: dict[str, TaskResult | None] = {}
    for name, task in like.tasks.items():
        metric = counted_metric(like.rule, task) if task else None
        if task is None or metric is None or (name, metric) not in numbers:
            tasks[name] = None
            continue
        value, shots = numbers[name, metric]
        known = Metric(value=value, n=0, higher_is_better=task.metrics[metric].higher_is_better)
        tasks[name] = TaskResult(name=name, version="", n_shot=shots, n=0, metrics={metric: known})
    return SuiteResult.of(like.name, like.title, like.rule, tasks)
