"""Cards of a release that was trained on files alone: they name the files, no dataset repo and no folder."""

from __future__ import annotations

from samples import RECIPE_TEXT

from hubkit.cards.placeholder import placeholder
from hubkit.cards.template_context import cards_of
from hubkit.cards.validate import validate
from hubkit.core.front_matter import find_front_matter
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Source

FILES = (Source(file="data/*.jsonl"), Source(file="/home/somebody/secret/more.csv"))


def test_a_card_names_files_and_no_folder_of_the_machine() -> None:
    recipe = parse_recipe(RECIPE_TEXT)
    stages = {name: stage.model_copy(update={"train_on": "all"}) for name, stage in recipe.stages.items()}
    recipe = recipe.model_copy(update={"data": dict.fromkeys(recipe.data, FILES), "stages": stages})
    recipe = recipe.model_copy(update={"card": recipe.card.model_copy(update={"summary": None})})
    context, rendered = cards_of(recipe, "main", placeholder(recipe))
    for card in rendered.values():
        assert validate(card.text) == []
        block = find_front_matter(card.text)
        assert block is not None and "datasets" not in block.text
        assert "somebody" not in card.text and "None" not in card.text
    (text,) = [card.text for name, card in rendered.items() if name == "README.md"]
    assert (
        "| `more.csv` | file |" in text
        and "| `more.csv` | 1 |" in text
        and "| data | `data/*.jsonl` with digest `" in text
    )
    assert "| answers trained | all of each conversation |" in text
    assert "on `data/*.jsonl` and `more.csv` · " in text
    assert context["training"][0]["train_on"] == "all"
