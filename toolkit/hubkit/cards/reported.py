"""What a card says of results that were not measured in the release: each file is a column of its own, and named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubkit.cards.benchmarks import counted_scores
from hubkit.cards.escape import clean
from hubkit.cards.evidence import Evidence, card_step
from hubkit.cards.measured import wrap
from hubkit.cards.metadata import Score
from hubkit.evals.averages import counted_metric
from hubkit.evals.grouping import OTHER
from hubkit.evals.reported import BASE, REPORTED_FILE, Reported, ReportedResults, doubts
from hubkit.recipe.models import Recipe
from hubkit.recipe.names import MAIN


def keep(reported: ReportedResults, variant: str, evidence: Evidence) -> None:
    """Make ``reported`` a file of the card's own step, which its numbers can be traced to."""
    if reported.sources:
        plain = reported.model_dump(mode="json")
        evidence.derived.setdefault(card_step(variant), {})[REPORTED_FILE] = plain


def _kept(variant: str, evidence: Evidence) -> tuple[ReportedResults, list[Any]]:
    """What :func:`keep` kept, and its sources once more with numbers that know their place."""
    plain = evidence.get(card_step(variant), REPORTED_FILE)
    if plain is None:
        return ReportedResults(), []
    return ReportedResults.model_validate(plain), wrap(plain, card_step(variant), REPORTED_FILE)["sources"]


def reported_results(recipe: Recipe, variant: str, evidence: Evidence) -> dict[str, Any] | None:
    """``sources`` (the footnotes, in the order of their columns) and ``suites``, a table each; None without a file."""
    found, wrapped = _kept(variant, evidence)
    if not found.sources:
        return None
    rank = {name: place for place, name in enumerate([BASE, *sorted(recipe.variants, key=lambda name: name == MAIN)])}
    order = sorted(range(len(found.sources)), key=lambda place: rank.get(found.sources[place].column, 0))
    sources = [(found.sources[place], wrapped[place]) for place in order]
    names = list(dict.fromkeys(name for source, _ in sources for name in source.results.suites))
    return {
        "sources": [_footnote(number, *item) for number, item in enumerate(sources, 1)],
        "suites": [_suite(name, sources) for name in names],
        "doubts": [clean(message) for message in doubts_of(recipe, found)],
        "file": REPORTED_FILE,
    }


def doubts_of(recipe: Recipe, reported: ReportedResults) -> list[str]:
    """What deserves a second look in the files of ``recipe``, a sentence each."""
    known = _names(recipe)
    return [item.message for item in doubts(reported, repo=recipe.repo, base=recipe.base.repo, known=known)]


def _names(recipe: Recipe) -> list[str]:
    """Other names of the variants: repos of their own."""
    return [recipe.place(name).repo for name in recipe.variants]


def _footnote(number: int, source: Reported, wrapped: Mapping[str, Any]) -> dict[str, Any]:
    results = source.results
    program = next((f"{name} {version}" for name, version in results.libraries.items()), results.settings.backend)
    return {
        "number": str(number),
        "column": clean(source.column),
        "file": clean(source.file),
        "digest": f"sha256:{source.sha256}",
        "model": clean(source.model),
        "program": clean(program),
        "template": results.settings.apply_chat_template,
        "limit": wrapped["results"]["settings"]["limit"],
    }


def _suite(name: str, sources: list[tuple[Reported, Any]]) -> dict[str, Any]:
    """One suite: a column for each source that has it, each with the average of its own numbers."""
    having = [(number, *item) for number, item in enumerate(sources, 1) if name in item[0].results.suites]
    suite = having[0][1].results.suites[name]
    rows: dict[tuple[str, str], list[Any]] = {}
    for place, (_, source, wrapped) in enumerate(having):
        own = wrapped["results"]["suites"][clean(name)]["tasks"]
        for task_name, task in source.results.suites[name].tasks.items():
            metric = counted_metric(source.results.suites[name].rule, task) if task else None
            if metric is None:
                continue
            cells = rows.setdefault((clean(task_name), clean(metric)), [None] * len(having))
            cells[place] = own[clean(task_name)]["metrics"][clean(metric)]
    averages = [wrapped["results"]["suites"][clean(name)]["average"] for _, _, wrapped in having]
    shown = name != OTHER and len(suite.tasks) > 1 and any(item["value"] is not None for item in averages)
    return {
        "title": clean(suite.title),
        "columns": [(clean(source.column), str(number)) for number, source, _ in having],
        "rows": [(task, metric, cells) for (task, metric), cells in rows.items()],
        "averages": [item if item["value"] is not None else None for item in averages] if shown else [],
        "rule": clean(suite.average.text),
    }


def reported_scores(recipe: Recipe, variant: str, evidence: Evidence, measured: list[Score]) -> list[Score]:
    """What ``model-index`` says of ``variant`` from files, each with its source; nothing that was ``measured`` here.

    A partial run is left out.
    """
    known = {(score.task, score.metric) for score in measured}
    found, wrapped = _kept(variant, evidence)
    place = recipe.place(variant)
    address = f"https://huggingface.co/{place.repo}/blob/{place.branch}/{REPORTED_FILE}"
    scores: list[Score] = []
    for source, plain in zip(found.sources, wrapped, strict=True):
        if source.column == variant and not source.results.rehearsal:
            named = (f"{source.file} (reported, not measured in this release)", address)
            scores += counted_scores(source.results, plain["results"]["suites"], named)
    return [score for score in scores if (score.task, score.metric) not in known]
