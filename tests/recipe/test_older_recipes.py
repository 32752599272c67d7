"""Recipes as they were written for the version before `license` (commit 2206568) are understood and mean the same.

``tests/data/recipes`` keeps both built-in recipes of that version and one with every key, each with its effective
recipe (``recipe.json`` of a run), which that version wrote.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from samples import RECIPE_TEXT

from hubkit.core.errors import UsageError
from hubkit.recipe.loading import load_recipe, parse_recipe
from hubkit.recipe.models import OLD_ACCEPT, OLD_KEYS, Recipe
from hubkit_stages.recipes import dpopenhermes_7b, tiny

SAMPLES = Path(__file__).parents[1] / "data" / "recipes"
NAMES = ("tiny", "dpopenhermes-7b", "every-key")


def sample(name: str, ending: str) -> Path:
    return SAMPLES / f"{name}-before-license.{ending}"


def in_current_words(effective: dict[str, Any]) -> dict[str, Any]:
    """An effective recipe of that version under the names of today."""
    renamed = {OLD_KEYS.get(key, key): value for key, value in effective.items()}
    for stage in renamed["stages"].values():
        stage["accept"] = [OLD_ACCEPT.get(word, word) for word in stage["accept"]]
    return renamed


def of_keys(known: Any, value: Any) -> Any:
    """``value`` without the keys that ``known`` does not have."""
    if isinstance(known, dict) and isinstance(value, dict):
        return {key: of_keys(known[key], item) for key, item in value.items() if key in known}
    if isinstance(known, list) and isinstance(value, list) and len(known) == len(value):
        return [of_keys(*pair) for pair in zip(known, value, strict=True)]
    return value


@pytest.mark.parametrize("name", NAMES)
def test_an_old_recipe_gives_the_same_release(name: str) -> None:
    """Keys that it did not have are at their defaults."""
    before, recipe = in_current_words(json.loads(sample(name, "json").read_text())), load_recipe(sample(name, "yaml"))
    assert of_keys(before, json.loads(recipe.model_dump_json())) == before
    chosen = json.loads(recipe.model_dump_json(exclude_defaults=True))
    assert of_keys(before, chosen) == chosen, "what it did not have is not chosen either"


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_of_an_old_run_is_read(name: str) -> None:
    recipe = Recipe.model_validate_json(sample(name, "json").read_text())
    assert recipe == load_recipe(sample(name, "yaml"))


def test_the_sample_has_every_key_of_that_version() -> None:
    def keys(value: Any) -> set[str]:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return {*(value if isinstance(value, dict) else ()), *(key for part in parts for key in keys(part))}

    effective = json.loads(sample("every-key", "json").read_text())
    text = sample("every-key", "yaml").read_text()
    assert {key for key in keys(effective) if f"{key}:" not in text} == {"provide", "keyless"}, "they exclude others"
    assert not [key for key in OLD_KEYS if f"{key}:" not in text]
    assert not [word for word in OLD_ACCEPT if word not in text]


@pytest.mark.parametrize(("name", "current"), [("tiny", tiny.RECIPE), ("dpopenhermes-7b", dpopenhermes_7b.RECIPE)])
def test_the_built_in_recipes_differ_from_before_in_words_and_in_how_a_device_is_filled(
    name: str, current: Path
) -> None:
    def figures(recipe: Recipe) -> Recipe:
        untitled = {key: item.model_copy(update={"title": None}) for key, item in recipe.variants.items()}
        # The probe of the stop rate shapes nothing.
        trained = {key: item.model_copy(update={"probe": "none"}) for key, item in recipe.stages.items()}
        words = {"summary": "", "intended_use": None, "limitations": None}
        own = {"variants": untitled, "stages": trained, "card": recipe.card.model_copy(update=words)}
        return recipe.model_copy(update=own | (on_any_device(recipe) if name == "dpopenhermes-7b" else {}))

    def on_any_device(recipe: Recipe) -> dict[str, Any]:
        filled = {"per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "gradient_checkpointing"}
        stages = {
            stage: training.model_copy(
                update={
                    "args": {key: value for key, value in training.args.items() if key not in filled},
                    "batch_size": training.batch_size
                    or training.args["per_device_train_batch_size"] * training.args["gradient_accumulation_steps"],
                    "checkpoint_minutes": None,
                    "probe": "none",
                }
            )
            for stage, training in recipe.stages.items()
        }
        rate = recipe.gates.on_stop_rate().model_copy(update={"batch_size": "auto"})
        return {
            "stages": stages,
            "preupload": False,
            "evaluate": recipe.evaluate.model_copy(update={"batch_size": "auto"}),
            "gates": recipe.gates.model_copy(update={"stop_rate": rate}),
        }

    assert figures(load_recipe(current)) == figures(load_recipe(sample(name, "yaml")))


def test_a_mistake_under_an_old_key_is_found_in_its_line() -> None:
    text = RECIPE_TEXT.replace("license: apache-2.0", "licence: other")
    with pytest.raises(UsageError, match=r"hubkit\.yaml:3: license: 'other' needs `license_name` and `license_link`"):
        parse_recipe(text)
    with pytest.raises(UsageError, match=r"hubkit\.yaml:3: licence: the license 'mine' is none of the Hub's"):
        parse_recipe(RECIPE_TEXT.replace("license: apache-2.0", "licence: mine"))


def test_both_spellings_of_a_key_are_one_mistake() -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe(RECIPE_TEXT.replace("license: apache-2.0", "license: mit\nlicence: mit"))
    assert "hubkit.yaml has one mistake:" in caught.value.message
    assert "hubkit.yaml:4: licence: is the old spelling of `license`" in caught.value.message


def test_unknown_words_are_still_unknown() -> None:
    with pytest.raises(UsageError, match="unknown key; did you mean 'license'"):
        parse_recipe(RECIPE_TEXT.replace("license: apache-2.0", "licens: apache-2.0"))
    with pytest.raises(UsageError, match="did you mean 'truncated-end-of-turn'"):
        parse_recipe(RECIPE_TEXT.replace("sft: {", "sft: {accept: [truncated-end-of-turns], "))
