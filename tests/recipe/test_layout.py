"""`layout`, and the keys about the pages of the release: what they mean, and which mistakes are found."""

from typing import Any

import pytest
import yaml
from samples import RECIPE_TEXT

from hubkit.core.errors import UsageError
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Place, Recipe


def recipe(card: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    value = yaml.safe_load(RECIPE_TEXT) | changes
    return parse_recipe(yaml.safe_dump({**value, "card": {**value["card"], **(card or {})}}))


def test_where_a_variant_lives() -> None:
    branches = recipe()
    assert branches.place("dpo-v0") == Place("me/my-model", "dpo-v0") and branches.repos() == ("me/my-model",)
    assert branches.label("dpo-v0") == "dpo-v0"
    separate = recipe(layout="repos")
    assert separate.place("dpo-v0") == Place("me/my-model-dpo-v0", "main")
    assert separate.place("main") == Place("me/my-model", "main")
    assert separate.repos() == ("me/my-model-dpo-v0", "me/my-model"), "that of the recipe last"
    assert [separate.label(name) for name in ("main", "dpo-v0")] == ["my-model", "my-model-dpo-v0"]
    named = recipe(layout="repos", variants={"main": {"stage": "sft"}, "dpo/v0": {"stage": "dpo", "repo": "us/dpo"}})
    assert named.place("dpo/v0") == Place("us/dpo", "main")
    assert [named.label(name) for name in ("main", "dpo/v0")] == ["me/my-model", "us/dpo"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"variants": {"main": {"stage": "sft", "repo": "me/x"}}}, "a repo of its own with `layout: repos` only"),
        (
            {"layout": "repos", "variants": {"main": {"stage": "sft", "repo": "me/x"}}},
            "main is published to the recipe's `repo`, me/my-model",
        ),
        (
            {"layout": "repos", "variants": {"main": {"stage": "sft"}, "b": {"stage": "dpo", "repo": "ME/my-model"}}},
            "the variants 'b' and 'main' have the same repo, me/my-model",
        ),
        (
            {"layout": "repos", "variants": {"main": {"stage": "sft"}, "v" * 95: {"stage": "dpo"}}},
            "which is not a repo id",
        ),
        ({"layout": "repo"}, "'branches' or 'repos'"),
        ({"card": {"new_version": "Me/my-model"}}, "so it cannot replace it"),
        ({"card": {"replaces": ["them/x", "Me/my-model"]}}, "Me/my-model is published by this recipe"),
        ({"card": {"replaces": ["them/x"], "new_version": "Them/x"}}, "them/x replaces this release (`new_version`)"),
        ({"repo": "Them/base"}, "'main' would be published over its own base, main of Them/base"),
        ({"card": {"papers": ["my paper"]}}, "'my paper' is no arXiv id"),
        ({"card": {"papers": [2305.18290]}}, "put the arXiv id in quotes"),
        ({"card": {"doi": "1234"}}, "'1234' is no DOI"),
        ({"card": {"base_model_relation": "child"}}, "'adapter', 'finetune', 'merge' or 'quantized'"),
        ({"card": {"extra_gated_fields": {"Name": "string"}}}, "'string' is no field of the form"),
        ({"card": {"extra_gated_fields": {"Use": {"type": "select"}}}}, "is no field of the form"),
        ({"gated": False, "card": {"extra_gated_prompt": "x"}}, "this key needs `gated: auto` or `gated: manual`"),
        ({"gated": "yes"}, "gated"),
        ({"collection": {"title": "x" * 60}}, "at most 59"),
        ({"collection": {"title": "x", "notes": {"dpo": "y"}}}, "the collection has no item 'dpo'"),
    ],
)
def test_mistakes(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(**changes)
    assert problem in caught.value.message, caught.value.message


def test_papers_and_dois_are_understood_however_they_are_written() -> None:
    written = ["2305.18290", "arxiv:2305.18290v2", "https://arxiv.org/abs/2310.01377", "https://huggingface.co/papers/2310.01377",
               "https://arxiv.org/pdf/2310.01377.pdf", "hep-th/9901001"]  # fmt: skip
    found = recipe(card={"papers": written, "doi": "https://doi.org/10.57967/hf/1234"}).card
    assert found.papers == ("2305.18290", "2305.18290v2", "2310.01377", "hep-th/9901001"), "each once"
    assert found.doi == "10.57967/hf/1234"
