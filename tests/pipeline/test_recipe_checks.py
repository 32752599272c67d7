"""What `hubkit plan` finds in a recipe: with lines, each mistake once, and what it could not check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from architectures import make_config
from samples import RECIPE_TEXT

from hubkit.core.errors import UsageError
from hubkit.core.findings import Finding
from hubkit.pipeline import preflight, recipe_checks
from hubkit.pipeline.recipe_checks import check_recipe, name_mistakes
from hubkit.recipe.loading import RecipeFile, read_recipe
from hubkit.recipe.mistakes import Mistake, Places, error_of
from hubkit_stages.recipes import dpo_repair, dpo_sft_mixed, dpopenhermes_7b, tiny


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries are asked in this process: a child spends seconds on importing them."""

    def ask(module: str, question: Any, **given: Any) -> Any:
        assert module == recipe_checks.__name__
        return json.loads(json.dumps(recipe_checks._answer(json.loads(json.dumps(question)))))

    monkeypatch.setattr(recipe_checks, "ask_module", ask)


NO_LIBRARY: Callable[[str], str | None] = lambda name: None  # noqa: E731


def written(folder: Path, text: str) -> RecipeFile:
    (folder / "hubkit.yaml").write_text(text)
    return read_recipe(folder / "hubkit.yaml")


def changed(folder: Path, *changes: tuple[str, str]) -> RecipeFile:
    text = RECIPE_TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return written(folder, text)


def listed(file: RecipeFile, mistakes: tuple[Mistake, ...] | list[Mistake]) -> str:
    return error_of(mistakes, file.places).message


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("base: {repo", "chat: {template: chatmll}\nbase: {repo", ":4: chat.template: there is no format 'chatmll'"),
        ("them/chats,", "them/chats, mapping: orcas,", ":7: data.repair.0.mapping: there is no mapping 'orcas'"),
        (
            "them/chats,",
            "them/chats, mapping: pairs,",
            ":7: data.repair.0.mapping: stage 'sft' uses sft and needs sft rows",
        ),
        ("sft: {data", "sft: {uses: stf, data", ":10: stages.sft.uses: there is no stage 'stf'"),
        ("  sft: {", "  tfs: {uses: sft, data: repair}\n  sft: {", ""),
        ("base: {repo", "provide: tinny\nbase: {repo", ":4: provide: no installed recipe is called 'tinny'; did you"),
        ("summary: It", "language: [english], summary: It", ":17: card.language: the language 'english' is no ISO 639"),
        ("summary: It", "template: card.jinja, summary: It", ":17: card.template: there is no file or folder 'card.ji"),
        ("[tiny_facts]}", "[gpt4all], include: tsks}", ":14: evaluate.include: there is no folder 'tsks' beside"),
        ("base: {repo", "sign: {key: no.pem}\nbase: {repo", ":4: sign.key: there is no file 'no.pem' beside the reci"),
    ],
)
def test_a_name_that_refers_to_nothing_is_found_with_its_line(
    old: str, new: str, sentence: str, tmp_path: Path
) -> None:
    file = changed(tmp_path, (old, new))
    mistakes = list(name_mistakes(file.recipe, file.folder))
    assert len(mistakes) == (1 if sentence else 0)
    if sentence:
        assert f"hubkit.yaml{sentence}" in listed(file, mistakes)


@pytest.mark.usefixtures("here")
def test_the_small_recipes_have_no_mistake(tmp_path: Path) -> None:
    for module in (dpo_repair, dpo_sft_mixed):
        file = read_recipe(module.RECIPE)
        assert check_recipe(file.recipe, file.folder, tmp_path, print) == recipe_checks.Checked((), ())


@pytest.mark.parametrize(
    ("gguf", "sentence"),
    [
        ("{}", "the gate is enforced for the GGUF files, but llama-cpp-python is not installed"),
        ("{gate: report}", "the GGUF files are published unmeasured"),
        ("{gate: report, types: [q4_k_m]}", "q4_k_m: written by llama.cpp's quantizer"),
    ],
)
def test_a_plan_says_that_llama_cpp_python_is_missing(
    gguf: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = changed(tmp_path, ("card: {", f"gguf: {gguf}\ncard: {{"))
    there = recipe_checks.installed
    monkeypatch.setattr(recipe_checks, "installed", lambda name: None if "llama" in name else there(name))
    (found,) = recipe_checks._without_llama_cpp(file.recipe)
    assert sentence in found
    monkeypatch.setattr(recipe_checks, "installed", lambda name: "1.0")
    assert list(recipe_checks._without_llama_cpp(file.recipe)) == []


@pytest.mark.parametrize("recipe", [tiny.RECIPE, dpopenhermes_7b.RECIPE], ids=["tiny", "dpopenhermes-7b"])
def test_the_built_in_recipes_have_no_mistake(recipe: Path, tmp_path: Path) -> None:
    """Asked in a child, as a plan does."""
    file = read_recipe(recipe)
    announced: list[str] = []
    assert check_recipe(file.recipe, file.folder, tmp_path, announced.append) == recipe_checks.Checked((), ())
    assert len(announced) == 1
    check_recipe(file.recipe, file.folder, tmp_path, announced.append)
    assert len(announced) == 1, "what was clean is not checked again"


@pytest.mark.usefixtures("here")
def test_mistakes_in_training_arguments_are_found_with_their_lines_and_are_not_remembered(tmp_path: Path) -> None:
    file = changed(
        tmp_path,
        ("{learning_rate: 5e-5, max_length: 40, bf16: true}", "\n    lerning_rate: 5e-5,\n    max_length: long}"),
        ("dpo: {data: preferences, args: ", "dpo: {data: preferences, quantization: none, lora: {rank: 2}, args: {"),
        ("sft: {data: repair,", "sft: {data: repair, lora: {r: 2},"),
        ("{suites: [tiny_facts]}", "{suites: [gpt4all, gpt4al]}"),
    )
    announced: list[str] = []
    for _ in range(2):
        checked = check_recipe(file.recipe, file.folder, tmp_path / "home", announced.append)
        text = listed(file, checked.mistakes)
        assert text.startswith("hubkit.yaml has 5 mistakes:")
        assert ":9: stages.dpo.lora.rank: LoraConfig has no such key" in text
        assert ":10: stages.dpo.args.lerning_rate: DPOConfig has no such key; did you mean 'learning_rate'?" in text
        assert ":11: stages.dpo.args.max_length: input should be a valid integer, not 'long'" in text
        assert ":12: stages.sft.lora: " in text
        assert ":16: evaluate.suites: unknown suite 'gpt4al'; did you mean 'gpt4all'?" in text
        assert checked.unchecked == ()
    assert len(announced) == 2


@pytest.mark.usefixtures("here")
def test_with_the_config_of_the_base_its_adapters_are_compared_too(tmp_path: Path) -> None:
    lora = "lora: {target_modules: [q_prj]}, args: {learning_rate"
    file = changed(tmp_path, ("suites: [tiny_facts]", "suites: [gpt4all]"), ("args: {learning_rate", lora))
    settings = make_config("llama-3", 400, bos=1, eos=2, pad=0).to_dict()
    config = json.dumps({**settings, "quantization_config": {"quant_method": "gptq"}}).encode()
    checked = check_recipe(file.recipe, file.folder, tmp_path / "home", print, lambda: config)
    text = listed(file, checked.mistakes)
    assert ":4: base: the base's own files are quantized (gptq)" in text
    assert ":9: stages.dpo.lora.target_modules: nothing in LlamaForCausalLM matches 'q_prj'" in text


@pytest.mark.usefixtures("here")
def test_another_stage_of_the_same_code_is_checked_by_the_same_class(tmp_path: Path) -> None:
    sft = "  sft: {data: repair, continues: dpo}"
    file = changed(
        tmp_path,
        (sft, f"{sft}\n  more: {{uses: sft, data: repair, args: {{x: 1}}}}"),
        ("suites: [tiny_facts]", "suites: [gpt4all]"),
    )
    checked = check_recipe(file.recipe, file.folder, tmp_path / "home", print)
    assert [item.message for item in checked.mistakes] == ["stages.more.args.x: SFTConfig has no such key"]


def test_without_the_libraries_it_says_what_it_could_not_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_checks, "installed", NO_LIBRARY)
    monkeypatch.setattr("hubkit.evals.suites.find_spec", NO_LIBRARY)
    file = changed(tmp_path, ("max_length: 40", "max_lenth: 40"))
    checked = check_recipe(file.recipe, file.folder, tmp_path / "home", print)
    assert checked.mistakes == ()
    assert checked.unchecked == (
        "whether lm-evaluation-harness has tiny_facts: it is not installed (pip install 'hubkit[eval]')",
        "the training arguments: torch, transformers, trl, peft not installed (pip install 'hubkit[train]')",
    )
    assert not (tmp_path / "home").exists()


def test_a_hardware_that_huggingface_hub_does_not_list_is_named(tmp_path: Path) -> None:
    suites = ("suites: [tiny_facts]", "suites: [gpt4all]")
    stages = ("dpo: {data", "dpo: {uses: merge, data"), ("sft: {data", "sft: {uses: merge, data")
    for hardware, unchecked in (("t4-small", 2), ("t4-smal", 3)):
        space = f"space: {{repo: me/s, hardware: {hardware}}}\nbase: {{repo"
        file = changed(tmp_path, ("base: {repo", space), suites, *stages)
        checked = check_recipe(file.recipe, file.folder, tmp_path / "home", print)
        assert checked.mistakes == () and len(checked.unchecked) == unchecked
    assert (
        "the hardware 't4-smal', which huggingface_hub does not list; did you mean 't4-small'?" in checked.unchecked[0]
    )
    assert "the arguments of the stage dpo: its code merge checks them when a release begins" in checked.unchecked


@pytest.mark.usefixtures("here")
def test_a_memory_that_cannot_be_read_or_written_costs_time_only(tmp_path: Path) -> None:
    file = read_recipe(dpopenhermes_7b.RECIPE)
    announced: list[str] = []
    for content in ("{", "{}", "[1]"):
        (tmp_path / "checked-arguments.json").write_text(content)
    (tmp_path / "home").write_text("a file where the folder should be")
    check_recipe(file.recipe, file.folder, tmp_path / "home", announced.append)
    check_recipe(file.recipe, file.folder, tmp_path, announced.append)
    check_recipe(file.recipe, file.folder, tmp_path, announced.append)
    assert len(announced) == 2


# --- the same mistakes, found by the checks of stages before a release


def test_messages_that_name_a_key_get_its_line(tmp_path: Path) -> None:
    places = read_recipe(tiny.RECIPE).places
    assert places.of_message("stages.dpo.args.learning_rate: no").startswith("hubkit.yaml:")
    line = int(places.of_message("stages.dpo.args.learning_rate: no").split(":")[1])
    assert "learning_rate: 8e-4" in tiny.RECIPE.read_text().splitlines()[line - 1]
    unknown = places.of_message("stages.dpo.args.unknown: no")
    assert "args:" in tiny.RECIPE.read_text().splitlines()[int(unknown.split(":")[1]) - 1]
    assert places.of_message("The disk is full: 3 MB.") == places.of_message("base is bad") == ""
    assert Places().of_message("base: bad") == ""


def test_one_mistake_that_several_stages_report_is_listed_once_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, RECIPE_TEXT)
    found = [
        Finding("error", "card.language: the language 'x' is no code.", "Fix the recipe.", 2),
        Finding("error", "card.language: the language 'x' is no code.", None, 2),
        Finding("warning", "It is slow."),
    ]
    once = preflight.located(found, file.places)
    assert [item.message for item in once] == [
        "hubkit.yaml:17: card.language: the language 'x' is no code.",
        "It is slow.",
    ]
    with pytest.raises(UsageError, match=r"hubkit\.yaml:17: card\.language"):
        preflight.refuse(once)


@pytest.mark.parametrize(
    ("benchmarks", "limit", "said"),
    [
        (
            "{hellaswg: base}",
            False,
            "gates.benchmarks.hellaswg: 'hellaswg' is not among the recipe's benchmarks (hellaswag)",
        ),
        ("{hellaswag: current}", True, "gates.benchmarks.hellaswag: with `limit: 10` (10 questions) only a drop"),
    ],
)
def test_a_gate_that_cannot_be_tested_is_a_mistake_of_the_recipe(
    tmp_path: Path, benchmarks: str, limit: bool, said: str
) -> None:
    gates = ("gates:\n", f"gates:\n  benchmarks: {benchmarks}\n")
    file = changed(tmp_path, gates)
    evaluate = file.recipe.evaluate.model_copy(update={"suites": ("hellaswag",), "limit": 10 if limit else None})
    recipe = file.recipe.model_copy(update={"evaluate": evaluate})
    with pytest.raises(UsageError) as refused:
        recipe_checks.refuse(recipe, tmp_path, file.places, (), lambda job: [])
    assert f"hubkit.yaml:16: {said}" in refused.value.message
