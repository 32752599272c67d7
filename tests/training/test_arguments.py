"""A recipe's `args` and `lora` are checked against the installed TRL and PEFT before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_case import Case, recipe_text

from hubkit.core.findings import Finding
from hubkit.recipe.loading import load_recipe, parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext
from hubkit.training import arguments
from hubkit_stages import dpo, sft
from hubkit_stages.recipes import dpopenhermes_7b, tiny


def findings(text: str, stage: str, tmp_path: Path) -> list[Finding]:
    return list({"dpo": dpo, "sft": sft}[stage].check(checked(parse_recipe(text), stage, tmp_path)))


def checked(recipe: Recipe, stage: str, tmp_path: Path) -> CheckContext[Any]:
    """What the check of ``stage`` is given where no Hub may be asked."""
    ctx = Case(tmp_path).context(recipe, f"train[{stage}]")
    return CheckContext(ctx.settings, ctx.target)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("learning_rat: 1e-5", "args.learning_rat: DPOConfig has no such key; did you mean 'learning_rate'?"),
        ("max_prompt_length: 128", "args.max_prompt_length: DPOConfig has no such key"),
        ("learning_rate: fast", "args.learning_rate: input should be a valid number, not 'fast'"),
        ("max_length: 1.5", "args.max_length: "),
        ("output_dir: here", "args.output_dir: cannot be set in a recipe; hubkit keeps the checkpoints in the run"),
        ("seed: 4", "args.seed: cannot be set in a recipe; write `seed` at the top of the recipe"),
        (
            "lr_scheduler_type: no-such-thing",
            "args.lr_scheduler_type: TRL refuses 'no-such-thing': ",
        ),
    ],
)
def test_an_argument_that_trl_does_not_know_is_found_before_training(args: str, said: str, tmp_path: Path) -> None:
    found = findings(recipe_text(dpo=args), "dpo", tmp_path)
    assert [item.exit_code for item in found] == [2], found
    assert said in found[0].message
    assert found[0].level == "error"
    assert found[0].message.startswith("stages.dpo.")


def test_an_adapter_key_that_peft_does_not_know_is_found(tmp_path: Path) -> None:
    text = recipe_text().replace("lora_alpha: 8, target_modules: all-linear", "lora_alfa: 8, target_modules: [lm_head]")
    said = " ".join(item.message for item in findings(text, "dpo", tmp_path))
    assert "lora.lora_alfa: LoraConfig has no such key; did you mean 'lora_alpha'?" in said
    assert "do not train an adapter on lm_head" in said


def test_a_stage_that_continues_cannot_give_the_adapter_another_shape(tmp_path: Path) -> None:
    text = recipe_text().replace("continues: dpo,", "continues: dpo, lora: {r: 2},")
    assert "adapter of 'dpo'; its LoRA config is fixed" in findings(text, "sft", tmp_path)[0].message


@pytest.mark.parametrize("recipe", [tiny.RECIPE, dpopenhermes_7b.RECIPE], ids=["tiny", "7b"])
def test_the_built_in_recipes_give_arguments_that_the_trainers_know(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe)
    for stage, code in (("dpo", dpo), ("sft", sft)):
        assert list(code.check(checked(loaded, stage, tmp_path))) == []


def test_several_visible_gpus_are_refused_before_the_base_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda place=0: "NVIDIA X")
    (found,) = findings(recipe_text(), "dpo", tmp_path)
    assert found.message == "2 GPUs are visible, and TRL's trainers use one in each process." and found.exit_code == 1
    assert "launch: {processes: 2}" in str(found.hint) and "CUDA_VISIBLE_DEVICES=0" in str(found.hint)


def test_a_default_is_read_from_the_installed_trl() -> None:
    assert arguments.effective("dpo", {"max_length": 7}, "max_length") == 7
    assert arguments.effective("dpo", {}, "max_length") == arguments.config_class("dpo")("x", use_cpu=True).max_length
