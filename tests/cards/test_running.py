"""What a reader needs to run and to cite a model: memory, sampling settings, authors, contact, source, BibTeX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import card_samples as samples
import pytest
from architectures import make
from kept import sample

from hubkit.cards.escape import link
from hubkit.cards.measured import value_of
from hubkit.cards.memory import keep_running, placeholders, running, sampling_settings
from hubkit.cards.template_context import build_context
from hubkit.core.errors import UsageError
from hubkit.core.files import write_json
from hubkit.models.merging.merged import MergedWeights
from hubkit.recipe.loading import parse_recipe


def _merged(folder: Path) -> MergedWeights:
    write_json(folder / "merge.json", sample("merge.json"))
    return MergedWeights.load(folder)


def test_the_memory_is_a_file_of_the_cards_step_and_reaches_templates_as_numbers(tmp_path: Path) -> None:
    folder = make("llama-3", tmp_path / "model", dtype="bfloat16")
    write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 0.7, "top_p": 1.0, "top_k": "x"})
    evidence = samples.evidence()
    keep_running(_merged(tmp_path), "main", evidence)
    memory, sampling = (running("main", evidence)[name] for name in ("memory", "sampling"))
    kept = evidence.get("card[main]", "memory.json")
    assert kept.keys() == placeholders("main")["card[main]"]["memory.json"].keys()
    assert {name: value_of(memory[name]) for name in ("weights", "nf4", "context", "cache")} == {
        name: kept[name] for name in ("weights", "nf4", "context", "cache")
    }
    assert memory["dtype"] == "bfloat16" and (memory["nf4"].step, memory["nf4"].pointer) == ("card[main]", "/nf4")
    assert sampling["samples"] and [(name, value_of(item)) for name, item in sampling["settings"]] == [
        ("temperature", 0.7)
    ]
    write_json(tmp_path / "card" / "memory.json", {**kept, "nf4": 7})
    write_json(tmp_path / "card" / "sampling.json", {"samples": False, "settings": {}})
    again = samples.evidence()
    keep_running(_merged(tmp_path), "main", again, tmp_path / "card")
    assert value_of(running("main", again)["memory"]["nf4"]) == 7, "those of an earlier card of the same weights"


def test_of_weights_that_were_removed_nothing_is_said(tmp_path: Path) -> None:
    evidence = samples.evidence()
    evidence.files.pop("card[main]")  # type: ignore[attr-defined]
    keep_running(_merged(tmp_path), "main", evidence)
    assert running("main", evidence) == {"memory": None, "sampling": None}


@pytest.mark.parametrize(
    ("generation", "samples_", "settings"),
    [
        ({}, False, {}),
        ({"temperature": 0.6, "top_p": 0.9}, False, {}),
        ({"do_sample": False, "repetition_penalty": 1.1}, False, {"repetition_penalty": 1.1}),
        ({"do_sample": True}, True, {}),
        ({"do_sample": True, "temperature": 1.0, "top_k": 0, "min_p": 0.05}, True, {"min_p": 0.05}),
        ({"do_sample": True, "temperature": True, "top_p": None, "top_k": 20}, True, {"top_k": 20}),
        ({"do_sample": "yes", "temperature": 0.6}, False, {}),
    ],
)
def test_sampling_settings_are_those_that_have_an_effect(
    generation: dict[str, Any], samples_: bool, settings: dict[str, Any]
) -> None:
    assert sampling_settings(generation) == {"samples": samples_, "settings": settings}


def test_the_citation_names_authors_year_and_address() -> None:
    recipe = samples.recipe(authors=("A. Person", "Acme & Sons"), year=2026, doi="10.57967/hf/1")
    assert build_context(recipe, "dpo-v0", samples.evidence())["citation"].splitlines() == [
        "@misc{tiny-dpo,",
        "  title = {Tiny Hermes DPO},",
        r"  author = {{A. Person} and {Acme \& Sons}},",
        "  year = {2026},",
        "  url = {https://huggingface.co/me/tiny-dpo/tree/dpo-v0},",
        "  howpublished = {Hugging Face Hub, me/tiny-dpo},",
        "  note = {Branch dpo-v0},",
        "  doi = {10.57967/hf/1},",
        "}",
    ]
    main = build_context(samples.recipe(year=None), "main", samples.evidence())["citation"]
    assert "year" not in main and "url = {https://huggingface.co/me/tiny-dpo}," in main


@pytest.mark.parametrize(
    ("key", "wrong", "problem"),
    [
        ("contact", "ask me", "'ask me' is neither an e-mail address nor one such as https://example.org/me"),
        ("contact", "<script>@x.org", "is neither an e-mail address"),
        ("source", "git@github.com:me/x", "is no address: write one such as https://example.org/me"),
        ("source", "javascript:alert(1)", "is no address"),
        ("year", "26", "greater than or equal to 1950"),
    ],
)
def test_contact_source_and_year_are_checked(key: str, wrong: str, problem: str) -> None:
    text = samples.RECIPE + f"  {key}: {wrong}\n"
    with pytest.raises(UsageError) as caught:
        parse_recipe(text)
    assert problem in str(caught.value) + str(caught.value.hint)


def test_contact_and_source_are_links() -> None:
    recipe = parse_recipe(samples.RECIPE + "  contact: me_2@mail.example.org\n  source: https://example.org/a_b\n")
    context = build_context(recipe, "main", samples.evidence())
    assert (
        link(context["contact"]) == "<me_2@mail.example.org>" and link(context["source"]) == "<https://example.org/a_b>"
    )
