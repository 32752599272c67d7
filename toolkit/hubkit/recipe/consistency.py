"""Mistakes that show only when two parts of a recipe are compared: names that refer to nothing, cycles, clashes."""

from __future__ import annotations

from collections.abc import Iterator

from hubkit.recipe.mistakes import Mistake, did_you_mean
from hubkit.recipe.models import Recipe
from hubkit.recipe.names import MAIN


def inconsistencies(recipe: Recipe) -> Iterator[Mistake]:
    """Every such mistake of ``recipe``."""
    yield from _data_and_stages(recipe)
    yield from _variants(recipe)
    yield from _license(recipe)
    yield from _measurements(recipe)
    if recipe.provide and recipe.hub != "embedded":
        problem = "`provide` works on the embedded Hub only; remove this key, or set hub: embedded"
        yield Mistake(("provide",), problem)


def _data_and_stages(recipe: Recipe) -> Iterator[Mistake]:
    for name, sources in recipe.data.items():
        if not sources:
            yield Mistake(("data", name), "this entry has no dataset; name at least one repo")
    for name, stage in recipe.stages.items():
        if stage.data not in recipe.data:
            yield Mistake(
                ("stages", name, "data"), f"`data` has no entry {stage.data!r}{did_you_mean(stage.data, recipe.data)}"
            )
        if stage.trains_all_weights and stage.quantization == "nf4":
            problem = "all the weights cannot be trained in 4 bits; remove this key, or train an adapter (`lora`)"
            yield Mistake(("stages", name, "quantization"), problem)
        if stage.continues is None:
            continue
        where = ("stages", name, "continues")
        if stage.continues not in recipe.stages:
            meant = did_you_mean(stage.continues, recipe.stages)
            yield Mistake(where, f"there is no stage {stage.continues!r}{meant}")
        elif _in_a_circle(recipe, name):
            yield Mistake(where, "the stages form a cycle through `continues`")


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


def _license(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.license == "other" and not (recipe.license_name and recipe.license_link):
        yield Mistake(("license",), "'other' needs `license_name` and `license_link` beside it")


def _measurements(recipe: Recipe) -> Iterator[Mistake]:
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
