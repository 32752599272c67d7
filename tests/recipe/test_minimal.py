"""The shortest recipe of one's own (``docs/examples/minimal.yaml``, quoted in the README) loads and plans."""

from __future__ import annotations

import json
from pathlib import Path

from commands import hubkit

from hubkit.pipeline.recipe_checks import argument_mistakes, name_mistakes
from hubkit.recipe.loading import read_recipe

MINIMAL = Path(__file__).parents[2] / "docs" / "examples" / "minimal.yaml"


def test_it_has_about_twenty_lines_and_no_key_that_only_repeats_a_default() -> None:
    text = MINIMAL.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 20
    recipe = read_recipe(MINIMAL).recipe
    given = recipe.model_dump(exclude_unset=True)
    assert given == recipe.model_dump(exclude_defaults=True, exclude_unset=True)
    assert recipe.wanted_stages() == ("dpo", "sft") and recipe.publishing_order() == ("dpo-v0", "main")


def test_it_has_no_mistake() -> None:
    file = read_recipe(MINIMAL)
    assert list(name_mistakes(file.recipe, file.folder)) == []
    assert list(argument_mistakes(file.recipe)) == []


def test_it_plans_offline(tmp_path: Path) -> None:
    done = hubkit("plan", str(MINIMAL), "--json", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["repo"] == "me/my-model-dpo" and [item["branch"] for item in plan["branches"]] == ["dpo-v0", "main"]
    assert {"train[dpo]", "train[sft]", "publish[main]", "promote"} <= {step["step"] for step in plan["steps"]}
