"""Training of all the weights (`lora: none`): what it starts from, what it leaves, and how it resumes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import training_case
from kept import perform
from training_case import Case

from hubkit.core.errors import UsageError
from hubkit.core.files import read_json, write_json
from hubkit.core.target import Target
from hubkit.models import load
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import CheckContext
from hubkit.training import starting
from hubkit.training.adapter import TrainedAdapter
from hubkit_stages import dpo, sft

DPO = "max_steps: 2, per_device_train_batch_size: 4, max_length: 64, learning_rate: 1e-3, logging_steps: 1"
FULL, LORA = "lora: none", "lora: {r: 4, lora_alpha: 8, target_modules: all-linear}"


def text(first: str = FULL, second: str = FULL, args: str = DPO) -> str:
    """The recipe of the case, with these keys in its two stages."""
    made = training_case.recipe_text(dpo=args, sft=args, quantization="none").replace(LORA, first)
    return made.replace("continues: dpo,", f"continues: dpo, {second}," if second else "continues: dpo,")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case")).prepare()


@pytest.fixture(scope="module")
def trained(prepared: Case, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """DPO on all the weights, and an adapter of SFT on them."""
    case = copy_of(prepared, tmp_path_factory.mktemp("trained"))
    case.train("dpo", text())
    case.train("sft", text(second=LORA))
    return case


def copy_of(case: Case, folder: Path) -> Case:
    shutil.copytree(case.run.artifacts, folder / "run" / "artifacts")
    return Case(folder)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def artifact(case: Case, stage: str) -> TrainedAdapter:
    return TrainedAdapter.load(case.run.artifacts / f"train[{stage}]")


def test_dpo_trains_every_weight_and_is_compared_with_the_start(prepared: Case, trained: Case) -> None:
    import torch

    made, before = artifact(trained, "dpo"), weights(prepared.folder / "base-model")
    after = weights(made.weights)
    assert (made.form, made.weights.name, made.lora) == ("weights", "weights", {})
    assert not (made.folder / "adapter").exists() and made.seen() is not None
    assert before.keys() == after.keys() and all(not torch.equal(before[name], after[name]) for name in before)
    assert {item.dtype for item in after.values()} == {torch.float32}
    # The policy is its own reference before the first step: the sigmoid loss is log 2.
    assert made.curve[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and made.curve[1]["loss"] != made.curve[0]["loss"]
    assert load.load_model(made.weights).config.vocab_size == len(before["model.embed_tokens.weight"])


def test_an_adapter_on_trained_weights_is_merged_into_them(trained: Case) -> None:
    import torch

    start, made = artifact(trained, "dpo"), artifact(trained, "sft")
    assert (made.form, made.continues, made.lora["r"]) == ("weights", "dpo", 4)
    before, after = weights(start.weights), weights(made.weights)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all("proj" in name for name in changed)
    difference = (after[changed[0]] - before[changed[0]]).double()
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 4


def test_an_adapter_is_merged_before_all_the_weights_are_trained(prepared: Case, tmp_path: Path) -> None:
    import torch

    case = copy_of(prepared, tmp_path)
    case.train("dpo", text(first=LORA))
    recipe = parse_recipe(text(first=LORA))
    ctx = case.context(recipe, "train[sft]")
    source = ctx.inputs.base.source(ctx.target.endpoint)
    with_adapter, _ = starting.model_to_train(source, ctx.inputs.previous, replace(ctx.settings, lora={}))
    merged, lora = starting.model_to_train(source, ctx.inputs.previous, ctx.settings)
    assert lora is None and all(item.requires_grad for item in merged.parameters())
    ids = torch.arange(10, 42).reshape(1, -1)
    with torch.inference_mode():
        logits = [model.eval()(input_ids=ids).logits for model in (with_adapter, merged)]
    assert torch.allclose(*logits, atol=1e-4)


@pytest.mark.parametrize("second", [FULL, LORA], ids=["all", "adapter"])
def test_a_tokenizer_of_the_weights_is_trained_with_and_stays_with_them(
    trained: Case, prepared: Case, tmp_path: Path, second: str
) -> None:
    case = copy_of(trained, tmp_path)
    shutil.rmtree(case.run.artifacts / "train[sft]")
    start = artifact(case, "dpo").weights
    for path in (prepared.folder / "base-model").glob("*tokeniz*"):
        shutil.copyfile(path, start / path.name)
    settings = read_json(start / "tokenizer_config.json")
    write_json(start / "tokenizer_config.json", {**settings, "model_max_length": 77})
    case.train("sft", text(second=second))
    assert read_json(artifact(case, "sft").weights / "tokenizer_config.json")["model_max_length"] == 77


def test_an_interrupted_training_goes_on_to_the_same_weights(prepared: Case, trained: Case, tmp_path: Path) -> None:
    import torch

    case, recipe = (
        copy_of(prepared, tmp_path),
        parse_recipe(text(args=f"{DPO}, save_steps: 1, gradient_checkpointing: true")),
    )

    def interrupt(figure: str, share: float | None) -> None:
        if figure.startswith("step 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dpo.run(replace(case.context(recipe, "train[dpo]"), report=interrupt))
    perform(dpo, case.context(recipe, "train[dpo]"), case.run, "train[dpo]")
    made = artifact(case, "dpo")
    assert made.resumed_from == "checkpoint-1"
    again, first = weights(made.weights), weights(artifact(trained, "dpo").weights)
    assert all(torch.equal(again[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("lora: none, quantization: nf4", "all the weights cannot be trained in 4 bits"),
        ("lora: all", "lora"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_recipe(keys: str, said: str) -> None:
    written = training_case.recipe_text().replace(f"quantization: nf4\n    {LORA}", keys.replace(", ", "\n    "))
    with pytest.raises(UsageError, match=said):
        parse_recipe(written)


def test_all_the_weights_are_not_quantized_without_being_told() -> None:
    recipe = parse_recipe(training_case.recipe_text().replace(f"quantization: nf4\n    {LORA}", FULL))
    assert recipe.stages["dpo"].quantization == "none" and recipe.stages["sft"].quantization == "nf4"
    assert [recipe.form(stage) for stage in ("dpo", "sft")] == ["weights", "weights"]


@pytest.mark.parametrize(("lora", "refused"), [(FULL, False), (LORA, True)])
def test_arguments_are_rehearsed_as_they_will_train(lora: str, refused: bool, tmp_path: Path) -> None:
    recipe = parse_recipe(text(first=lora, args=f"{DPO}, sync_ref_model: true"))
    ctx = Case(tmp_path).context(recipe, "train[dpo]")
    errors = [item for item in dpo.check(CheckContext(ctx.settings, Target("", tmp_path))) if item.level == "error"]
    assert ["sync_ref_model" in item.message for item in errors] == [True] * refused


def test_a_stage_may_begin_an_adapter_on_weights_with_a_shape_of_its_own(tmp_path: Path) -> None:
    for first, second, refused in ((FULL, LORA, False), (LORA, LORA, True), (LORA, FULL, False)):
        ctx = Case(tmp_path).context(parse_recipe(text(first, second)), "train[sft]")
        errors = [item for item in sft.check(CheckContext(ctx.settings, Target("", tmp_path))) if item.level == "error"]
        assert len(errors) == refused, (first, second, errors)
