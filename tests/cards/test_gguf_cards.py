"""GGUF files on the cards: their table, the card of their own place, and how each program loads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import card_samples as samples
import pytest
import yaml

from hubkit.cards.evidence import Evidence
from hubkit.cards.gguf import NOT_RUN
from hubkit.cards.lint import lint_text
from hubkit.cards.placeholder import placeholder
from hubkit.cards.render import GGUF_CARD, MODEL_CARD, Rendered
from hubkit.cards.snippets import extract
from hubkit.cards.template_context import card_names, cards_of
from hubkit.cards.trace import untraced
from hubkit.cards.validate import validate
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe

PLACES = ("branch", "folder", "repo")


def recipe_with(place: str = "branch", **keys: Any) -> Recipe:
    return parse_recipe(samples.RECIPE + f"gguf: {yaml.safe_dump({'place': place, **keys}, default_flow_style=True)}")


def evidence_with(
    variant: str = "main",
    *,
    measured: bool = True,
    stopped: int = 126,
    benchmarks: Sequence[dict[str, Any]] = (),
    **facts: Any,
) -> Evidence:
    """The tiny release with GGUF files of ``variant``, of which the gate judged each."""
    evidence = samples.evidence()
    rest = {"sha256": "0" * 64, "worst_tensor": "output.weight", "stops": ["<|im_end|>", "<|end|>"]}
    rate = samples.form(stopped) if measured else None
    files = [
        {
            "name": f"tiny-dpo-{kind.upper()}.gguf", "kind": kind, "bytes": size, "largest_error": error,
            "relative_error": error / 2, "compared_texts": 41 if measured else None, "stop_rate": rate,
            "benchmarks": list(benchmarks), **rest,
        }
        for kind, size, error in (("f16", 722_944, 0.0), ("q8_0", 401_232, 0.00213))
    ]  # fmt: skip
    made = {
        "architecture": "llama", "files": files, "ollama": ["Modelfile", "params"],
        "notes": ["There is no `template`."], "source": {}, "max_new_tokens": 64 if measured else None,
        "llama_cpp": "0.3.36" if measured else None,
        "unmeasured": None if measured else "llama-cpp-python is not installed", **facts,
    }  # fmt: skip
    passed = measured and stopped / 128 >= 0.95
    verdicts = [
        {"file": item["name"], "kind": item["kind"], "rate": stopped / 128 if measured else None, "passed": passed}
        for item in files
    ]
    gates = evidence.files["gate"]["gates.json"]
    gates["variants"][variant] |= {"gguf": verdicts, "gguf_enforced": False}
    return Evidence({**evidence.files, f"gguf[{variant}]": {"gguf.json": made}}, evidence.template)


def cards(recipe: Recipe, evidence: Evidence, variant: str = "main") -> dict[str, Rendered]:
    return cards_of(recipe, variant, evidence)[1]


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_each_card_is_valid_and_traced(place: str, measured: bool) -> None:
    recipe, evidence = recipe_with(place), evidence_with(measured=measured)
    found = cards(recipe, evidence)
    assert (GGUF_CARD in found) == (place != "folder")
    for name, card in found.items():
        assert validate(card.text) == [] and lint_text(card.text) == [], name
        assert list(untraced(card.text, [item.to_json() for item in card.numbers], evidence.get)) == [], name


def test_the_table_has_a_row_for_each_file_with_its_measurements() -> None:
    found = cards(recipe_with(), evidence_with())
    rate = "98.4 % (126 of 128; 94.5 % to 99.6 %)"
    name, exact = "tiny-dpo-Q8_0.gguf", "tiny-dpo-F16.gguf"
    row = f"| [`{name}`](/me/tiny-dpo/blob/gguf/{name}) | 401.2 kB | {rate} | 0.00213 | 0.00106 |"
    exact = f"| [`{exact}`](/me/tiny-dpo/blob/gguf/{exact}) | 722.9 kB | {rate} | 0 | 0 |"
    for card in (found[MODEL_CARD], found[GGUF_CARD]):
        assert row in card.text and exact in card.text
        assert "llama-cpp-python 0.3.36) to held-out prompts that end with `<|im_end|>` within 64 tokens" in card.text
        texts = "41 texts with `tiny-dpo-F16.gguf`, 41 texts with `tiny-dpo-Q8_0.gguf`."
        assert f"write the same token ids for {texts}" in card.text, "each file was compared"
        assert "The release gate on the stop rate: passed." in card.text
    assert "are on the branch [`gguf`](/me/tiny-dpo/tree/gguf); its card says how" in found[MODEL_CARD].text
    assert "these tokens end an answer: `<|im_end|>`, `<|end|>`." in found[GGUF_CARD].text
    assert "For llama.cpp, Ollama and LM Studio: [GGUF files](#gguf)." in found[MODEL_CARD].text.partition("\n## ")[0]
    assert "convert_hf_to_gguf" not in found[MODEL_CARD].text, "there is no need to convert them"


def test_what_was_not_measured_says_so_and_claims_no_run() -> None:
    text = cards(recipe_with(), evidence_with(measured=False))[GGUF_CARD].text
    assert "| 401.2 kB | not measured |" in text and "98.4" not in text
    assert "The stop rate was not measured: llama-cpp-python is not installed." in text
    assert NOT_RUN in text and "same token ids" not in text
    assert (
        "The release gate on the stop rate: not measured (reported)."
        in cards(recipe_with(gate="report"), evidence_with(measured=False))[GGUF_CARD].text
    ), "what nobody measured has not failed"
    assert "[!WARNING]" not in text, "nobody knows whether they stop"
    assert NOT_RUN not in cards(recipe_with(), evidence_with())[GGUF_CARD].text


def test_benchmarks_of_the_files_stand_above_those_of_the_weights() -> None:
    score = {"name": "tiny_facts", "title": "tiny_facts", "value": 0.8209, "stderr": 0.0155}
    found = cards(recipe_with(benchmarks=["tiny_facts"]), evidence_with(benchmarks=[score]))
    for card in (found[MODEL_CARD], found[GGUF_CARD]):
        assert "| Relative error | tiny_facts |" in card.text and "| 0.00106 | 0.8209 ± 0.0155 |" in card.text
        assert (
            "| the merged weights | 722.9 kB | 99.2 % (127 of 128; 95.7 % to 99.9 %) | | | 0.8320 ± 0.0151 |"
            in card.text
        )
        assert "averages by lm-evaluation-harness, of the files with llama.cpp" in card.text
    assert "not benchmarked" not in found[GGUF_CARD].text
    plain = cards(recipe_with(), evidence_with())[GGUF_CARD].text
    assert "These files were not benchmarked." in plain and "lm-evaluation-harness" not in plain


def test_files_that_do_not_stop_are_named_first() -> None:
    recipe = recipe_with(gate="report")
    text = cards(recipe, evidence_with(stopped=3))[GGUF_CARD].text
    assert "> **These files do not reliably end their answers:** `tiny-dpo-F16.gguf`: 3 of 128 answers stop;" in text
    assert "The release gate on the stop rate: failed (reported)." in text
    assert "- Answers can run on until the token limit." in text


def test_the_metadata_is_that_of_a_quantized_model_of_the_variant() -> None:
    form = {"gated": "auto"}
    recipe = parse_recipe(
        samples.RECIPE.replace("card:\n", "card:\n  extra_gated_prompt: You agree.\n  new_version: me/next\n")
        + "gguf: {place: repo, repo: me/tiny-gguf}\n"
        + yaml.safe_dump(form)
    )
    head = cards(recipe, evidence_with())[GGUF_CARD].metadata
    assert (head["base_model"], head["base_model_relation"]) == ("me/tiny-dpo", "quantized")
    assert (head["library_name"], head["pipeline_tag"]) == ("gguf", "text-generation")
    assert head["license"] == "apache-2.0" and {"gguf", "dpo", "conversational", "hubkit"} <= set(head["tags"])
    assert head["extra_gated_prompt"] == "You agree." and "new_version" not in head
    assert "extra_gated_prompt" not in cards(recipe_with(), evidence_with())[GGUF_CARD].metadata


def test_each_place_is_loaded_as_the_programs_can() -> None:
    """`-hf` of llama.cpp and `ollama run hf.co/...` read the main branch of a repo: not a branch called gguf."""
    own = cards(recipe_with("repo"), evidence_with())[GGUF_CARD].text
    assert "llama-server -hf me/tiny-dpo-GGUF:Q8_0 --jinja" in own
    assert "ollama run hf.co/me/tiny-dpo-GGUF:Q8_0\n" in own and "search for `me/tiny-dpo-GGUF`" in own
    branch = cards(recipe_with("branch"), evidence_with())[GGUF_CARD].text
    assert "hf download me/tiny-dpo tiny-dpo-Q8_0.gguf --revision gguf --local-dir ." in branch
    assert "llama-cli -m tiny-dpo-Q8_0.gguf --jinja" in branch and "hf.co" not in branch and "cli -hf" not in branch
    assert "ollama create tiny-dpo -f Modelfile" in branch and "lms import" in branch
    folder = cards(recipe_with("folder"), evidence_with())[MODEL_CARD].text
    assert "hf download me/tiny-dpo gguf/tiny-dpo-Q8_0.gguf gguf/Modelfile --revision main --local-dir ." in folder
    assert (
        "ollama create tiny-dpo -f gguf/Modelfile" in folder
        and "are in [`gguf/`](/me/tiny-dpo/tree/main/gguf)" in folder
    )
    assert (
        "Ollama"
        not in cards(recipe_with(), evidence_with(ollama=[]))[GGUF_CARD]
        .text.partition("## How")[2]
        .split("hubkit did not")[0]
    ), "without a Modelfile there is nothing to create"


@pytest.mark.parametrize("closed", [{"visibility": "private"}, {"gated": "auto"}])
def test_files_of_a_repo_that_is_not_open_to_all_are_downloaded_first(closed: dict[str, str]) -> None:
    """Of the programs only `hf` has what `hf auth login` left: Ollama has a key of its own, LM Studio nothing."""
    written = yaml.safe_load(samples.RECIPE) | closed | {"gguf": {"place": "repo"}}
    text = cards(parse_recipe(yaml.safe_dump(written)), evidence_with())[GGUF_CARD].text
    assert "-hf " not in text and "hf.co/" not in text and "model downloader" not in text
    assert "hf download me/tiny-dpo-GGUF tiny-dpo-Q8_0.gguf Modelfile --revision main --local-dir ." in text
    assert "llama-cli -m tiny-dpo-Q8_0.gguf" in text and "after `hf auth login`" in text and "lms import" in text


def test_a_card_promises_no_benchmarks_that_were_not_run() -> None:
    assert "has the training, the benchmarks and" in cards(recipe_with(), evidence_with())[GGUF_CARD].text
    bare = yaml.safe_load(samples.RECIPE) | {"gguf": {}, "evaluate": {"suites": []}}
    evidence = evidence_with()
    files = {step: made for step, made in evidence.files.items() if not step.startswith(("evaluate", "base-scores"))}
    text = cards(parse_recipe(yaml.safe_dump(bare)), Evidence(files, evidence.template))[GGUF_CARD].text
    assert "has the training and the limitations of" in text


@pytest.mark.parametrize(
    ("place", "card", "repo", "branch", "path"),
    [
        ("branch", GGUF_CARD, "me/tiny-dpo", "gguf", "tiny-dpo-Q8_0.gguf"),
        ("repo", GGUF_CARD, "me/tiny-dpo-GGUF", "main", "tiny-dpo-Q8_0.gguf"),
        ("folder", MODEL_CARD, "me/tiny-dpo", "main", "gguf/tiny-dpo-Q8_0.gguf"),
    ],
)
def test_the_python_block_loads_the_file_where_it_is(place: str, card: str, repo: str, branch: str, path: str) -> None:
    blocks = [item.source for item in extract(cards(recipe_with(place), evidence_with())[card].text)]
    (source,) = [text for text in blocks if "llama_cpp" in text]
    compile(source, "card", "exec")
    assert f'repo, revision = "{repo}", "{branch}"' in source
    assert f'hf_hub_download(repo, "{path}", revision=revision)' in source
    assert "n_ctx=2048" in source and "max_tokens=64" in source


def test_without_the_key_nothing_changes() -> None:
    plain = cards(samples.recipe(), samples.evidence())
    assert GGUF_CARD not in plain and "GGUF files for" not in plain[MODEL_CARD].text
    assert "convert_hf_to_gguf" in plain[MODEL_CARD].text
    other = cards(recipe_with(), evidence_with(), "dpo-v0")
    assert GGUF_CARD not in other and "## GGUF" not in other[MODEL_CARD].text, "only main has them"


@pytest.mark.parametrize("place", PLACES)
def test_preflight_renders_them_before_anything_is_made(place: str) -> None:
    recipe = recipe_with(place, variants=["main", "dpo-v0"])
    for variant in recipe.variants:
        found = cards(recipe, placeholder(recipe), variant)
        assert tuple(found) == card_names(recipe, variant)
        assert all(validate(card.text) == [] for card in found.values())
        assert "GGUF files for" in found[MODEL_CARD].text
