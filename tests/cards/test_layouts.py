"""Cards of a release with a repo for each variant, and what a card says on the Hub's own pages."""

import re
from typing import Any

import pytest
import yaml
from samples import RECIPE_TEXT

from hubkit.cards.placeholder import placeholder
from hubkit.cards.template_context import cards_of
from hubkit.cards.validate import validate
from hubkit.recipe.loading import parse_recipe

REPOS = {"main": "me/my-model", "dpo-v0": "me/my-model-dpo-v0"}


def cards(variant: str, card: dict[str, Any] | None = None, **changes: Any) -> dict[str, str]:
    value = yaml.safe_load(RECIPE_TEXT) | changes
    recipe = parse_recipe(yaml.safe_dump({**value, "card": {**value["card"], **(card or {})}}))
    return {name: item.text for name, item in cards_of(recipe, variant, placeholder(recipe))[1].items()}


def front(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---")[1]))


@pytest.mark.parametrize("variant", REPOS)
def test_with_a_repo_for_each_the_cards_name_repos_and_no_branch(variant: str) -> None:
    found = cards(variant, layout="repos")
    for name, text in found.items():
        assert not re.search(r"\bbranch(es)?\b", text), name
        assert not validate(text)
        assert f'repo, revision = "{REPOS[variant]}", "main"' in text
    own, other = REPOS[variant], next(repo for name, repo in REPOS.items() if name != variant)
    text = found["README.md"]
    assert f"| **[`{own}`](/{own})** (this one) | " in text and f"| [`{other}`](/{other}) | " in text
    about = text.partition("hubkit:begin erratum")[2]
    assert f"[`{other}`](/{other}) " in about, "the section about the repair links it too"
    assert f"hf download {own} --revision main" in text and f"Hugging Face Hub, {own}" in text
    assert f"The LoRA adapter of `{own}`:" in found["adapter-README.md"]


def test_with_branches_a_card_is_as_before() -> None:
    text = cards("dpo-v0")["README.md"]
    assert "**Use [`main`](/me/my-model/tree/main)**, not this branch (`dpo-v0`)." in text
    assert "[`main`](/me/my-model/tree/main) fixes this" in text
    assert 'repo, revision = "me/my-model", "dpo-v0"' in text and "[`main`](/me/my-model/tree/main)" in text
    assert not front(text).keys() & {"new_version"} and "## Papers" not in text and "DOI" not in text


def test_the_keys_of_the_hubs_pages_are_written_as_the_hub_documents_them() -> None:
    fields = {
        "Company": "text",
        "Use": {"type": "select", "options": ["Research", {"label": "Other", "value": "other"}]},
    }
    card = {
        "papers": ["arxiv:2305.18290"], "doi": "10.57967/hf/1234", "new_version": "me/next",
        "base_model_relation": "merge", "extra_gated_heading": "Ask", "extra_gated_prompt": "You agree: no harm.",
        "extra_gated_button_content": "I agree", "extra_gated_fields": fields, "extra_gated_eu_disallowed": True,
    }  # fmt: skip
    found = cards("main", card, gated="auto")
    text = found["README.md"]
    wanted = {key: value for key, value in card.items() if key not in {"papers", "doi"}}
    assert wanted.items() <= front(text).items() and not validate(text)
    assert "- arXiv 2305.18290: <https://arxiv.org/abs/2305.18290>" in text
    assert "DOI: <https://doi.org/10.57967/hf/1234>" in text and "doi = {10.57967/hf/1234}" in text
    assert "A newer version is in the repository [`me/next`](/me/next)." in text
    assert "fill in the form on the page of the repository" in text
    adapter = front(found["adapter-README.md"])
    assert adapter["base_model_relation"] == "adapter" and not any(key.startswith("extra_gated") for key in adapter)


def test_one_variant_may_have_a_newer_version_of_its_own() -> None:
    variants = {"main": {"stage": "sft"}, "dpo-v0": {"stage": "dpo", "new_version": "me/my-model"}}
    changes = {"layout": "repos", "variants": variants}
    assert front(cards("dpo-v0", **changes)["README.md"])["new_version"] == "me/my-model"
    assert "new_version" not in front(cards("main", **changes)["README.md"])
