"""`gguf`: what its keys mean, where the files live, and which mistakes are found."""

from typing import Any, get_args

import pytest
import yaml
from samples import RECIPE_TEXT

from hubkit.core.errors import UsageError
from hubkit.models.gguf.layout import FILE_TYPES
from hubkit.pipeline.costs import steps
from hubkit.recipe.gguf import GgufType
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Place, Recipe

STOP_RATE = {"stop_rate": {"prompts_from": "repair"}}


def recipe(gguf: Any = None, **changes: Any) -> Recipe:
    return parse_recipe(yaml.safe_dump({**yaml.safe_load(RECIPE_TEXT), "gguf": gguf, **changes}))


def test_the_types_are_those_that_are_written() -> None:
    assert get_args(GgufType) == tuple(FILE_TYPES)
    assert set(steps._GGUF_BITS) == set(FILE_TYPES), "each has its size in `hubkit plan`"


def test_without_the_key_there_are_no_files() -> None:
    plain = parse_recipe(RECIPE_TEXT)
    assert plain.gguf is None and plain.gguf_variants() == () and plain.gguf_place("main") is None


def test_an_empty_mapping_asks_for_mains_files_on_a_branch() -> None:
    asked = recipe({})
    assert asked.gguf is not None and asked.gguf.types == ("f16", "q8_0") and asked.gguf.ollama
    assert asked.gguf_variants() == ("main",)
    assert asked.gguf_place("main") == Place("me/my-model", "gguf") and asked.gguf_place("dpo-v0") is None


@pytest.mark.parametrize(
    ("layout", "place", "main", "other"),
    [
        ("branches", "branch", ("me/my-model", "gguf"), ("me/my-model", "dpo-v0-gguf")),
        ("branches", "folder", ("me/my-model", "main"), ("me/my-model", "dpo-v0")),
        ("branches", "repo", ("me/my-model-GGUF", "main"), ("me/my-model-dpo-v0-GGUF", "main")),
        ("repos", "branch", ("me/my-model", "gguf"), ("me/my-model-dpo-v0", "gguf")),
        ("repos", "folder", ("me/my-model", "main"), ("me/my-model-dpo-v0", "main")),
        ("repos", "repo", ("me/my-model-GGUF", "main"), ("me/my-model-dpo-v0-GGUF", "main")),
    ],
)
def test_where_the_files_of_a_variant_live(
    layout: str, place: str, main: tuple[str, str], other: tuple[str, str]
) -> None:
    asked = recipe({"variants": ["main", "dpo-v0"], "place": place}, layout=layout)
    assert asked.gguf_variants() == ("dpo-v0", "main"), "main last, as its branch moves"
    assert asked.gguf_place("main") == Place(*main) and asked.gguf_place("dpo-v0") == Place(*other)


def test_a_repo_of_their_own_is_among_those_that_are_published_to() -> None:
    """They are named where a person agrees to a release, and `protected` holds for them."""
    asked = recipe({"variants": ["main", "dpo-v0"], "place": "repo"})
    assert asked.repos() == ("me/my-model-dpo-v0-GGUF", "me/my-model-GGUF", "me/my-model"), "as their branches move"
    assert asked.variant_repos() == recipe({"place": "branch"}).repos() == ("me/my-model",)
    elsewhere = recipe({"place": "repo", "repo": "them/files"}, layout="repos")
    assert elsewhere.repos()[0] == "them/files" and elsewhere.label("dpo-v0") == "my-model-dpo-v0"


def test_a_repo_of_their_own_can_be_named() -> None:
    assert recipe({"place": "repo", "repo": "us/x"}).gguf_place("main") == Place("us/x", "main")


def test_the_gate_is_the_variants_own_where_none_is_given() -> None:
    both = {"variants": ["main", "dpo-v0"]}
    variants = {"main": {"stage": "sft"}, "dpo-v0": {"stage": "dpo", "gate": "report"}}
    asked = recipe(both, variants=variants)
    assert (asked.gguf_gate("main"), asked.gguf_gate("dpo-v0")) == ("enforce", "report")
    enforced = recipe({**both, "gate": "enforce"}, variants=variants, gates=STOP_RATE)
    assert enforced.gguf_gate("dpo-v0") == "enforce"


@pytest.mark.parametrize(
    ("gguf", "changes", "problem"),
    [
        ({"types": ["q8"]}, {}, "'q8' is not one of 'f16', 'bf16', 'q8_0'"),
        ({"types": []}, {}, "name at least one"),
        ({"types": ["f16", "f16"]}, {}, "'f16' is listed twice"),
        ({"variants": ["mian"]}, {}, "there is no variant 'mian'; did you mean 'main'?"),
        ({"repo": "me/x"}, {}, "`repo` needs `place: repo`"),
        ({"place": "repo", "repo": "x"}, {}, "is not a repo id"),
        ({"place": "repo", "repo": "me/x", "variants": ["main", "dpo-v0"]}, {}, "several variants cannot share"),
        ({"place": "repo", "repo": "Me/my-model"}, {}, "is where the variant 'main' is published"),
        ({}, {"variants": {"main": {"stage": "sft"}, "gguf": {"stage": "dpo"}}}, "is where the variant 'gguf'"),
        ({}, {"variants": {"main": {"stage": "sft"}, "gguf/x": {"stage": "dpo"}}}, "is where the variant 'gguf/x'"),
        ({"place": "repo"}, {"repo": f"me/{'x' * 93}"}, "which is not a repo id"),
        ({"benchmarks": ["tiny_fact"]}, {}, "'tiny_fact' is not run on the weights; did you mean 'tiny_facts'?"),
        ({"prompts": 4}, {"gates": {}}, "no stop rate is measured"),
        ({"prompts": 257}, {"gates": STOP_RATE}, "gates.stop_rate holds out 256 prompts; ask at most as many"),
        ({"gate": "enforce"}, {"gates": {}}, "there is no gate to enforce"),
        ({"place": "repo", "repo": "Them/base"}, {}, "Them/base is the base's repo, which this recipe only reads"),
        (True, {}, "gguf: write a mapping of keys, not True"),
        ({"types": "q8_0"}, {}, "gguf.types: write a list such as [q8_0], not 'q8_0'"),
        ({"tpyes": ["f16"]}, {}, "unknown key; did you mean 'types'?"),
    ],
)
def test_mistakes(gguf: Any, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        recipe(gguf, **changes)
    assert problem in raised.value.message
