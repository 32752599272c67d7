"""Results of runs elsewhere on a card: with their file named, in columns of their own, in no average but their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_samples import RECIPE, evidence
from result_files import archive, inspect_log, lm_eval, record

from hubkit.cards.evidence import Evidence
from hubkit.cards.reported import doubts_of, keep
from hubkit.cards.template_context import cards_of
from hubkit.cards.trace import untraced
from hubkit.cards.validate import validate
from hubkit.core.errors import UsageError
from hubkit.core.target import Target
from hubkit.evals.reported import REPORTED_FILE, read_reported
from hubkit.pipeline.recipe_checks import name_mistakes
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Scope
from hubkit_stages import card

OURS = "me/tiny-dpo"


def write(folder: Path, **files: Any) -> Path:
    """Files in ``results/`` beside the recipe."""
    (folder / "results").mkdir(exist_ok=True)
    for name, value in files.items():
        path = folder / "results" / name.replace("_", ".")
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return folder


def recipe(results: str, text: str = RECIPE) -> Recipe:
    return parse_recipe(text.replace("suites: [tiny_facts],", f"suites: [tiny_facts], results: {results},"))


def rendered(folder: Path, made: Recipe, found: Evidence | None = None, variant: str = "main") -> tuple[Any, Evidence]:
    """The card of ``variant``, valid and with every number traced to its file."""
    found = found or evidence()
    keep(read_reported(folder, made.evaluate.results), variant, found)
    written = cards_of(made, variant, found)[1]["README.md"]
    assert validate(written.text) == []
    numbers = [number.to_json() for number in written.numbers]
    assert list(untraced(written.text, numbers, lambda step, name: found.get(step, name))) == []
    return written, found


def section(text: str) -> str:
    return text.partition("### Reported results")[2].partition("<!-- hubkit:end")[0]


def test_each_file_is_named_and_no_average_includes_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        lm_json=lm_eval(0.61, OURS),
        insp_eval=archive(inspect_log(0.75, f"hf/{OURS}")),
        base_json=lm_eval(0.52, "me/tiny"),
    )
    made = recipe("{main: [./results/lm.json, 'results/*.eval'], base: results/base.json}")
    plain, _ = rendered(tmp_path, parse_recipe(RECIPE))
    written, found = rendered(tmp_path, made)
    shown = section(written.text)
    assert "not measured in this release" in shown
    assert "| gsm8k | exact_match (strict-match) | 0.5200 ± 0.0200 | 0.6100 ± 0.0200 | not reported |" in shown
    assert "| `base` (1) | `main` (2) | `main` (3) |" in shown
    assert "| arc_easy | accuracy | not reported | not reported | 0.7500 ± 0.0300 |" in shown
    for name in ("results/base.json", "results/lm.json", "results/insp.eval"):
        assert f"reported by `{name}`, not measured in this release" in shown
    assert "a partial run of 600 examples per task" in shown and "To be read with care" not in shown
    before = plain.text.partition("## Benchmarks")[2].partition("<!-- hubkit:end")[0]
    assert written.text.partition("## Benchmarks")[2].startswith(before.rstrip()[:400]), (
        "what was measured is as before"
    )
    sources = found.get("card[main]", REPORTED_FILE)["sources"]
    assert [len(item["sha256"]) for item in sources] == [64] * 3 and str(tmp_path) not in json.dumps(sources)


def test_numbers_in_the_metadata_carry_their_source(tmp_path: Path) -> None:
    write(tmp_path, a_json=record(71.5, model=OURS), b_json=record(50.0, model=OURS))
    written, _ = rendered(tmp_path, recipe("{main: results/a.json, dpo-v0: results/b.json}"))
    entries = yaml.safe_load(written.text.split("---")[1])["model-index"][0]["results"]
    (mine,) = [item for item in entries if "source" in item]
    assert (mine["dataset"]["type"], mine["metrics"][0]["value"]) == ("cais/mmlu", 0.715)
    assert mine["source"]["name"] == "results/a.json (reported, not measured in this release)"
    assert mine["source"]["url"].endswith(f"/{OURS}/blob/main/{REPORTED_FILE}")
    assert any("source" not in item for item in entries), "what was measured has none"


def test_what_was_measured_here_is_not_entered_from_a_file_and_a_partial_run_is_not(tmp_path: Path) -> None:
    measured = evidence().files["evaluate[main]"]["results.json"]
    write(tmp_path, own_json=measured, part_json=lm_eval(model=OURS))
    written, _ = rendered(tmp_path, recipe("[results/own.json, results/part.json]"))
    entries = yaml.safe_load(written.text.split("---")[1])["model-index"][0]["results"]
    assert not [item for item in entries if "source" in item]


def test_an_average_is_of_one_file(tmp_path: Path) -> None:
    rows = "task,metric,value\nhellaswag,acc,{}\narc_easy,acc,0.5\narc_challenge,acc,0.5\npiqa,acc,0.5\n"
    rest = "boolq,acc,0.5\nopenbookqa,acc,0.5\nwinogrande,acc,0.5\n"
    write(tmp_path, a_csv=(rows.format("0.5") + rest).encode(), b_csv=(rows.format("1.0") + rest).encode())
    written, _ = rendered(tmp_path, recipe("{main: results/a.csv, base: results/b.csv}"))
    assert "| **Average** of its own file | | 0.5714 | 0.5000 |" in section(written.text)
    assert "the file names no model" in section(written.text)


def test_a_card_without_measurements_shows_what_was_reported(tmp_path: Path) -> None:
    write(tmp_path, a_json=lm_eval(model=OURS))
    found = evidence()
    files = {name: made for name, made in found.files.items() if not name.startswith(("evaluate", "base-scores"))}
    made = parse_recipe(RECIPE.replace("suites: [tiny_facts],", "results: results/a.json,"))
    written, _ = rendered(tmp_path, made, Evidence(files, found.template, found.tokens, found.question))
    assert (
        written.text.count("## Benchmarks\n\n\n### Reported results")
        + written.text.count("## Benchmarks\n\n### Reported")
        == 1
    )


@pytest.mark.parametrize(
    ("column", "model", "said"),
    [
        ("main", OURS, None),
        ("main", "tiny-dpo", None),
        ("main", "./merged", None),
        ("main", "them/other", "results/a.json reports the model them/other, which is not me/tiny-dpo."),
        ("main", "me/tiny", "results/a.json is given for main, and reports the base, me/tiny."),
        ("base", "me/tiny", None),
        ("base", OURS, "results/a.json is given for the base, and reports the model me/tiny-dpo: is it a variant's?"),
        ("base", "them/other", "results/a.json reports the model them/other, which is not me/tiny."),
    ],
)
def test_a_file_of_another_model_is_noticed(tmp_path: Path, column: str, model: str, said: str | None) -> None:
    write(tmp_path, a_json=lm_eval(model=model))
    made = recipe(f"{{{column}: results/a.json}}")
    assert doubts_of(made, read_reported(tmp_path, made.evaluate.results)) == ([said] if said else [])
    text = section(rendered(tmp_path, made)[0].text)
    assert ("To be read with care" in text) == bool(said) and str(tmp_path) not in text


def test_implausible_values_are_said_in_preflight_and_on_the_card(tmp_path: Path) -> None:
    write(tmp_path, a_json=lm_eval(61.0, OURS))
    made = recipe("results/a.json")
    settings = card.Settings.of(made, Scope(tmp_path, variant="main"))
    found = list(card.check(CheckContext(settings, Target("http://127.0.0.1:9", tmp_path))))
    assert [item.level for item in found] == ["warning"]
    assert (
        "results/a.json: exact_match (strict-match) of gsm8k is 61, outside 0–1; it may be a percentage"
        in found[0].message
    )
    assert "it may be a percentage" in section(rendered(tmp_path, made)[0].text)


def test_a_file_that_is_missing_or_is_none_is_a_mistake_of_the_recipe(tmp_path: Path) -> None:
    write(tmp_path, bad_json={"hello": 1})
    for asked, said in (
        ("results/none*.json", "There is no file 'results/none*.json'"),
        ("results/bad.json", "does not hold"),
    ):
        (found,) = [item for item in name_mistakes(recipe(asked), tmp_path) if item.path[0] == "evaluate"]
        assert found.path == ("evaluate", "results", "main") and said.lower() in found.problem.lower()
    with pytest.raises(UsageError, match="neither a variant nor 'base'"):
        recipe("{mian: results/bad.json}")


def test_another_file_is_another_card(tmp_path: Path) -> None:
    write(tmp_path, a_json=lm_eval(0.5, OURS))
    made = recipe("results/a.json")

    def digest() -> str:
        return card.Settings.of(made, Scope(tmp_path, variant="main")).results["main"].digest

    before = digest()
    assert before == digest()
    write(tmp_path, a_json=lm_eval(0.6, OURS))
    assert before != digest()
