"""What a reader sees first: what the model was made from, which variant to use, real answers of each variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hubkit.cards.escape import clean, python
from hubkit.cards.evidence import Evidence
from hubkit.core.numbers import counted
from hubkit.recipe.models import Recipe, Source
from hubkit.recipe.names import MAIN

METHODS: Mapping[str, str] = {"dpo": "DPO", "sft": "SFT", "adopt": "Adopted"}
"""What readers call the training methods of hubkit's own stages."""
_MOST_SETS = 3
_MOST_PROMPTS, _SHORT_ANSWER = 3, 50


def method_of(recipe: Recipe, stage: str) -> str:
    """The method of ``stage``, as readers call it; a stage of somebody's own by the name of its code."""
    uses = recipe.stages[stage].uses or stage
    return METHODS.get(uses, uses)


def origin(recipe: Recipe, variant: str) -> dict[str, Any]:
    """What ``variant`` was made from: ``what`` it is, its ``base``, and the ``stages`` of its training.

    ``adopted`` is how it was trained elsewhere, in words; empty where the release trained it from the base. A stage has
    its ``method`` and its ``sets``, each a name with the page of the dataset ('' for a file), or ``many``: their count
    in words.
    """
    chain = recipe.chain(recipe.variants[variant].stage)
    elsewhere = [recipe.stages[name] for name in chain if recipe.stages[name].adopted is not None]
    what = "A language model" if recipe.chat.template == "completion" else "A chat model"
    begun = ""
    if elsewhere:
        begun = "A LoRA adapter for" if elsewhere[0].adapter else "A fine-tune of"
    return {
        "what": begun or f"{what}, fine-tuned from",
        "adopted": clean(_trained_elsewhere(elsewhere[0].trained_with)) if elsewhere else "",
        "stages": [
            {"method": clean(method_of(recipe, name)), **_sets(recipe.sources(name))}
            for name in chain
            if recipe.stages[name].adopted is None
        ],
    }


def _trained_elsewhere(program: str | None) -> str:
    return f"trained with {program}" if program else "trained elsewhere"


def _sets(sources: Sequence[Source]) -> dict[str, Any]:
    names = {source.name: source.repo or "" for source in sources}
    few = len(names) <= _MOST_SETS
    return {
        "sets": [{"name": clean(name), "repo": repo} for name, repo in names.items()] if few else [],
        "many": "" if few else counted(len(names), "dataset"),
    }


def pipeline_call(repo: str, branch: str) -> str:
    """The shortest way to load the model: one line of Python."""
    revision = "" if branch == MAIN else f", revision={python(branch)}"
    return f'pipeline("text-generation", {python(repo)}{revision})'


def to_use(variants: Sequence[Mapping[str, Any]], evidence: Evidence) -> Mapping[str, Any] | None:
    """The variant that a reader should use: the first one that ends its answers, ``main`` before the others.

    None: no variant does. One whose stop rate was not gated counts as one that does.
    """
    gates = evidence.gates()
    verdicts = gates.variants if gates else {}
    failed = {name for name, verdict in verdicts.items() if not verdict.passed}
    return next((item for item in variants if item["variant"] not in failed), None)


def answers(base: Mapping[str, Any] | None, variants: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The answers of the base and each variant to the same prompts: ``prompts``, and ``rows``.

    A row has ``name``, ``label`` and ``cells``. ``base`` and the ``merged`` of each variant are stop rates; a row's
    ``name`` is empty for the base. None where no answers were kept.
    """
    labels = {item["variant"]: item["label"] for item in variants}
    rated = [("", base), *((item["variant"], item["merged"]) for item in variants)]
    given = {name: {item["prompt"]: item for item in form.get("answers") or ()} for name, form in rated if form}
    given = {name: found for name, found in given.items() if found}
    if not any(given):  # nobody's, or the base's alone
        return None
    prompts = list(_common(list(given.values())))
    brief = all(len(found[prompt]["answer"]) <= _SHORT_ANSWER for found in given.values() for prompt in prompts)
    prompts = prompts[: _MOST_PROMPTS if brief else _MOST_PROMPTS - 1]
    if not prompts:
        return None
    return {
        "prompts": prompts,
        "rows": [
            {"name": name, "label": labels.get(name, ""), "cells": [found[prompt] for prompt in prompts]}
            for name, found in given.items()
        ],
    }


def _common(given: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The prompts that all have answered, in their order."""
    return (prompt for prompt in given[0] if all(prompt in found for found in given))
