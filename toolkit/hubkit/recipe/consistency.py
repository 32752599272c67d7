"""Mistakes that show only when two parts of a recipe are compared: names that refer to nothing, cycles, clashes."""

from __future__ import annotations

from collections.abc import Iterator

from hubkit.core.names import repo_id_problem
from hubkit.recipe.gguf_checks import gguf_mistakes
from hubkit.recipe.mistakes import Mistake, did_you_mean
from hubkit.recipe.models import Recipe, Training
from hubkit.recipe.names import ADOPT, MAIN

_OF_ADOPT = ("adapter", "weights", "base", "trained_with", "training")
"""Keys of a stage that adopts what was trained elsewhere, and of no other."""
_OF_TRAINING = ("data", "continues", "lora", "args", "launch", "accept")
"""Keys of a stage that trains."""


def inconsistencies(recipe: Recipe) -> Iterator[Mistake]:
    """Every such mistake of ``recipe``."""
    yield from _data_and_stages(recipe)
    yield from _variants(recipe)
    yield from _license(recipe)
    yield from _layout(recipe)
    yield from _hub_pages(recipe)
    yield from gguf_mistakes(recipe)
    yield from _measurements(recipe)
    if recipe.provide and recipe.hub != "embedded":
        problem = "`provide` works on the embedded Hub only; remove this key, or set hub: embedded"
        yield Mistake(("provide",), problem)


def _data_and_stages(recipe: Recipe) -> Iterator[Mistake]:
    for name, sources in recipe.data.items():
        if not sources:
            yield Mistake(("data", name), "this entry has no dataset; name at least one repo")
        if len({source.weight is None for source in sources}) > 1:
            yield Mistake(("data", name), "give each source of the mixture a `weight`, or none")
    for name, stage in recipe.stages.items():
        if (stage.uses or name) == ADOPT:
            yield from _adopted(name, stage)
        else:
            yield from _trained(recipe, name, stage)
        if stage.continues is None:
            continue
        where = ("stages", name, "continues")
        if stage.continues not in recipe.stages:
            meant = did_you_mean(stage.continues, recipe.stages)
            yield Mistake(where, f"there is no stage {stage.continues!r}{meant}")
        elif _in_a_circle(recipe, name):
            yield Mistake(where, "the stages form a cycle through `continues`")


def _answers(recipe: Recipe, name: str) -> Iterator[Mistake]:
    """Mistakes of ``train_on``: rows are tokenized once for all stages that train on them."""
    stage, where = recipe.stages[name], ("stages", name, "train_on")
    if stage.train_on == "all" and (stage.uses or name) == "dpo":
        yield Mistake(where, "dpo compares the last answers; remove this key")
    for other, known in recipe.stages.items():
        if other < name and known.data == stage.data and known.train_on != stage.train_on:
            problem = (
                f"stage {other!r} trains on other answers of the same data; name the dataset in an entry of its own"
            )
            yield Mistake(where, problem)


def _trained(recipe: Recipe, name: str, stage: Training) -> Iterator[Mistake]:
    """Mistakes in the parts of a stage that trains."""
    if stage.data is None:
        yield Mistake(("stages", name, "data"), "this stage has no data; name an entry of `data`")
    elif stage.data not in recipe.data:
        meant = did_you_mean(stage.data, recipe.data)
        yield Mistake(("stages", name, "data"), f"`data` has no entry {stage.data!r}{meant}")
    if stage.trains_all_weights and stage.quantization == "nf4":
        problem = "all the weights cannot be trained in 4 bits; remove this key, or train an adapter (`lora`)"
        yield Mistake(("stages", name, "quantization"), problem)
    yield from _answers(recipe, name)
    for key in _OF_ADOPT:
        if getattr(stage, key) is not None:
            problem = f"only a stage with `uses: {ADOPT}` has this key; this one uses {stage.uses or name}"
            yield Mistake(("stages", name, key), problem)


def _adopted(name: str, stage: Training) -> Iterator[Mistake]:
    """Mistakes in the parts of a stage that adopts what was trained elsewhere."""
    if (stage.adapter is None) == (stage.weights is None):
        problem = f"`uses: {ADOPT}` needs one of `adapter` and `weights`"
        yield Mistake(("stages", name, *(("weights",) if stage.weights else ())), problem)
    if stage.base is not None and stage.weights is not None:
        yield Mistake(("stages", name, "base"), "only an adapter names its base; remove this key")
    for key in _OF_TRAINING:
        if getattr(stage, key):
            yield Mistake(("stages", name, key), "nothing is trained in this stage; remove this key")


def _in_a_circle(recipe: Recipe, stage: str) -> bool:
    seen: set[str] = set()
    name: str | None = stage
    while name is not None and name in recipe.stages:
        if name in seen:
            return True
        seen.add(name)
        name = recipe.stages[name].continues
    return False


def _variants(recipe: Recipe) -> Iterator[Mistake]:
    for name, variant in recipe.variants.items():
        if variant.stage not in recipe.stages:
            meant = did_you_mean(variant.stage, recipe.stages)
            yield Mistake(("variants", name, "stage"), f"there is no stage {variant.stage!r}{meant}")
    if MAIN not in recipe.variants:
        yield Mistake(("variants",), "no variant is published on 'main'; add one")
    folded: dict[str, str] = {}
    for name in recipe.variants:
        if folded.setdefault(name.lower(), name) != name:
            yield Mistake(("variants", name), "two branches differ only in upper and lower case")
        for other in recipe.variants:
            if other.startswith(f"{name}/"):
                yield Mistake(("variants", other), f"git cannot hold a branch {other!r} beside a branch {name!r}")


def _layout(recipe: Recipe) -> Iterator[Mistake]:
    """Each variant has a place of its own, and only `layout: repos` gives it a repo of its own."""
    owners: dict[str, str] = {}
    for name, variant in recipe.variants.items():
        if recipe.layout == "branches":
            if variant.repo is not None:
                yield Mistake(("variants", name, "repo"), "a variant has a repo of its own with `layout: repos` only")
            continue
        repo = recipe.place(name).repo
        where = ("variants", name, "repo") if variant.repo else ("variants", name)
        if problem := repo_id_problem(repo):
            yield Mistake(where, f"its repo would be {repo!r}, which is not a repo id: {problem}; set `repo`")
        if name == MAIN and repo != recipe.repo:
            yield Mistake(where, f"main is published to the recipe's `repo`, {recipe.repo}; remove this key")
        elif (other := owners.setdefault(repo.lower(), name)) != name:
            yield Mistake(where, f"the variants {other!r} and {name!r} have the same repo, {repo}")


def _hub_pages(recipe: Recipe) -> Iterator[Mistake]:
    """What is shown on the pages of the repos: newer versions, the form of gated repos, notes of the collection."""
    for name, variant in recipe.variants.items():
        where = ("variants", name, "new_version") if variant.new_version else ("card", "new_version")
        newer = recipe.newer(name)
        if newer is not None and newer.lower() == recipe.place(name).repo.lower():
            yield Mistake(where, f"{newer} is where {name!r} is published, so it cannot replace it")
        place = recipe.place(name)
        if (place.repo.lower(), place.branch) == (recipe.base.repo.lower(), recipe.base.revision):
            yield Mistake(("repo",), f"{name!r} would be published over its own base, {place.branch} of {place.repo}")
    published = {repo.lower() for repo in recipe.repos()}
    newer_ones = {newer.lower() for name in recipe.variants if (newer := recipe.newer(name))}
    for repo in recipe.card.replaces:
        if repo.lower() in published:
            yield Mistake(("card", "replaces"), f"{repo} is published by this recipe, so it cannot be replaced by it")
        elif repo.lower() in newer_ones:
            yield Mistake(("card", "replaces"), f"{repo} replaces this release (`new_version`); remove one of both")
    if not recipe.gated:
        given = [key for key in recipe.card.gated_keys() if recipe.gated is False]
        yield from (Mistake(("card", key), "this key needs `gated: auto` or `gated: manual`") for key in given)
    if recipe.collection is not None:
        known = {*recipe.variants, *recipe.card.papers, *(["space"] if recipe.space else [])}
        if recipe.gguf is not None and recipe.gguf.place == "repo":
            known.add("gguf")
        for name in recipe.collection.notes:
            if name not in known:
                meant = did_you_mean(name, known)
                yield Mistake(("collection", "notes", name), f"the collection has no item {name!r}{meant}")


def _license(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.license == "other" and not (recipe.license_name and recipe.license_link):
        yield Mistake(("license",), "'other' needs `license_name` and `license_link` beside it")


def _measurements(recipe: Recipe) -> Iterator[Mistake]:
    for name in recipe.evaluate.results:
        if name not in recipe.variants and name != "base":
            problem = f"{name!r} is neither a variant nor 'base'{did_you_mean(name, [*recipe.variants, 'base'])}"
            yield Mistake(("evaluate", "results", name), problem)
    if recipe.evaluate.fewshot_as_multiturn and not recipe.evaluate.apply_chat_template:
        problem = "fewshot_as_multiturn needs apply_chat_template: true"
        yield Mistake(("evaluate", "fewshot_as_multiturn"), problem)
    for name, variant in recipe.variants.items():
        if variant.gate == "enforce" and "gate" in variant.model_fields_set and not recipe.gates.are_set:
            problem = "there is no gate to enforce; add one under `gates`, or remove this key"
            yield Mistake(("variants", name, "gate"), problem)
    source = recipe.gates.stop_rate.prompts_from if recipe.gates.stop_rate else None
    if source is not None and source not in recipe.data:
        problem = f"`data` has no entry {source!r}{did_you_mean(source, recipe.data)}"
        yield Mistake(("gates", "stop_rate", "prompts_from"), problem)
