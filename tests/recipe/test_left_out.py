"""Recipes that leave out what others measure: gates, benchmarks, a Space, an adapter."""

from __future__ import annotations

import pytest

from hubkit.cards.evidence import Evidence
from hubkit.cards.placeholder import placeholder
from hubkit.cards.space_and_dataset_cards import dataset_card
from hubkit.cli.plan import _does
from hubkit.core.errors import RefusedError, UsageError
from hubkit.pipeline.jobs import expand
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.training.data.preparing import DataSettings

BARE = """
repo: me/my-model
visibility: public
license: apache-2.0
base: {repo: them/base}
data: {chats: [{repo: them/chats}], pairs: [{repo: them/pairs}]}
stages:
  sft: {data: chats, lora: none}
  dpo: {data: pairs}
variants: {main: {stage: sft}, by-adapter: {stage: dpo}}
card: {title: My Model}
"""
GATE = "gates: {stop_rate: {prompts_from: chats}}\n"
SUITES = "evaluate: {suites: [truthfulqa]}\n"
ALWAYS = {"base", "data", "train[sft]", "train[dpo]", "promote"} | {
    f"{step}[{variant}]"
    for step in ("merge", "card", "publish", "loadback", "snippets")
    for variant in ("main", "by-adapter")
}


def steps(recipe: Recipe) -> set[str]:
    return {job.id for job in expand(recipe)}


def test_what_a_recipe_does_not_ask_for_is_no_step() -> None:
    bare = parse_recipe(BARE)
    assert steps(bare) == ALWAYS
    assert steps(parse_recipe(BARE + "evaluate: {suites: []}\ngates: {}\n")) == ALWAYS
    gated, measured = steps(parse_recipe(BARE + GATE)), steps(parse_recipe(BARE + SUITES))
    assert gated - ALWAYS == {"base-stopping", "stopping[main]", "stopping[by-adapter]", "gate"}
    assert measured - ALWAYS == {"base-scores", "evaluate[main]", "evaluate[by-adapter]"}
    loadback = next(job for job in expand(bare) if job.id == "loadback[main]")
    assert loadback.input_sources["stop_rates"].jobs == {} and loadback.input_sources["gates"].jobs == {}


def test_no_prompts_are_held_out_where_no_stop_rate_is_measured() -> None:
    settings = DataSettings.of(parse_recipe(BARE))
    assert (settings.prompts, settings.prompts_from) == (0, "")
    with pytest.raises(RefusedError, match="holds out no prompts"):
        dataset_card(parse_recipe(BARE), placeholder(parse_recipe(BARE)))
    with pytest.raises(RefusedError, match="not held out prompts yet"):
        dataset_card(parse_recipe(BARE), Evidence({}, ""))


@pytest.mark.parametrize("gate", ["gates: {}\n", ""])
def test_a_gate_that_is_not_there_cannot_be_enforced(gate: str) -> None:
    enforced = BARE.replace("main: {stage: sft}", "main: {stage: sft, gate: enforce}") + gate
    with pytest.raises(UsageError, match=r"variants\.main\.gate: there is no gate to enforce"):
        parse_recipe(enforced)
    assert parse_recipe(enforced + GATE if not gate else enforced.replace(gate, GATE)).gates.are_set
    assert not parse_recipe(BARE.replace("stage: sft}", "stage: sft, gate: report}") + gate).gates.are_set


def test_each_variant_is_published_in_the_form_that_its_chain_leaves() -> None:
    recipe = parse_recipe(BARE)
    assert {name: recipe.published_form(name) for name in recipe.variants} == {
        "main": "weights", "by-adapter": "adapter",
    }  # fmt: skip
    jobs = {job.id: job for job in expand(recipe)}
    assert _does(jobs["merge[main]"], recipe) == "write the trained weights in the published dtype"
    assert _does(jobs["merge[by-adapter]"], recipe) == "merge the adapter into the base"
    assert "all weights" in _does(jobs["train[sft]"], recipe) and "NF4" in _does(jobs["train[dpo]"], recipe)
