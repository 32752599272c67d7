"""Recipes that cannot work: each is refused before anything is loaded, in one sentence with its line.

The checks are those that a release runs first, on one embedded Hub with small bases. An exception that is not one of
ours fails the test: in a release it would be a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bases
import pytest

from hubkit.core.errors import HubkitError
from hubkit.core.findings import Finding
from hubkit.core.target import Target
from hubkit.pipeline import preflight
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run
from hubkit.recipe.loading import read_recipe
from hubkit.server import process

RECIPE = """\
repo: me/my-model
visibility: public
license: apache-2.0
base:
  repo: them/llama-3-tied
data:
  preferences: [{repo: them/pairs}]
  repair: [{repo: them/chats}]
stages:
  dpo:
    data: preferences
    quantization: none
    lora: {r: 4, target_modules: all-linear}
    args: {max_steps: 4, max_length: 64}
  sft:
    data: repair
    continues: dpo
    quantization: none
    args: {max_steps: 4, max_length: 64}
variants:
  main: {stage: sft}
evaluate: {suites: [gpt4all]}
gates:
  stop_rate: {prompts_from: repair}
card: {title: My model, summary: It answers.}
"""
BASE, LORA, DPO, SFT = 4, 13, 14, 19
"""Lines of what the cases change."""
CHECKED = ("base", "train", "merge")
"""The steps whose checks are asked: those of the model. The rest has tests of its own."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("bases")
    running = process.start(folder / "hub", port=0)
    yield bases.publish(running, folder)
    process.stop(folder / "hub")


def findings(text: str, folder: Path, target: Target) -> list[Finding]:
    """What a release of the recipe ``text`` would find first."""
    (folder / "hubkit.yaml").write_text(text)
    file = read_recipe(folder / "hubkit.yaml")
    run = Run(folder / "run")
    run.path.mkdir()
    jobs = [job for job in expand(file.recipe) if job.id.partition("[")[0] in CHECKED]
    state = ReleaseState(file.recipe, folder, target, run, tuple(jobs))

    def check(job: Job) -> list[Finding]:
        return list(find_stage(job.stage).check(state.check_context(job)))

    return preflight.gather(state, jobs, check, file.places)


def refused(text: str, folder: Path, target: Target) -> HubkitError:
    with pytest.raises(HubkitError) as error:
        preflight.refuse(findings(text, folder, target))
    return error.value


def dpo(args: str) -> tuple[str, str]:
    return "args: {max_steps: 4, max_length: 64}\n  sft", f"args: {{{args}}}\n  sft"


def sft(args: str) -> tuple[str, str]:
    return "args: {max_steps: 4, max_length: 64}\nvariants", f"args: {{{args}}}\nvariants"


def lora(settings: str) -> tuple[str, str]:
    return "{r: 4, target_modules: all-linear}", f"{{{settings}}}"


def base(name: str, more: str = "") -> tuple[str, str]:
    return "repo: them/llama-3-tied", f"repo: them/{name}{more}"


CASES = {
    # what the adapter would train
    "a target that the base does not have": (
        lora("target_modules: [q_prj]"),
        (2, LORA, "lora.target_modules: nothing in LlamaForCausalLM matches 'q_prj'; did you mean 'q_proj'?"),
    ),
    "a layer that the base does not have": (
        lora("target_modules: [q_proj], layers_to_transform: [9]"),
        (2, LORA, "lora.target_modules: nothing in LlamaForCausalLM matches 'q_proj' in layers_to_transform [9]"),
    ),
    "an adapter on the output embeddings": (
        lora("target_modules: [q_proj, lm_head]"),
        (2, LORA, "lora.target_modules: TRL's trainers do not train an adapter on lm_head"),
    ),
    "an adapter on the output embeddings, by a pattern": (
        lora("target_modules: '.*(q_proj|_head)'"),
        (2, LORA, "lora.target_modules: TRL's trainers do not train an adapter on lm_head, the output embeddings"),
    ),
    "rank 0": (lora("r: 0, target_modules: all-linear"), (2, LORA, "lora.r: PEFT refuses it: `r` should be a posit")),
    "LoRA on tied embeddings": (
        lora("target_modules: [q_proj, embed_tokens]"),
        (2, LORA, "such an adapter cannot be merged: it has LoRA on model.embed_tokens.weight, which is one tensor wi"),
    ),
    "an adapter that moves the base": (
        lora("init_lora_weights: pissa, target_modules: all-linear"),
        (2, LORA, "such an adapter cannot be merged: init_lora_weights: pissa changes the base's own weights"),
    ),
    "half of the fused experts": (
        lora("target_modules: [w1, q_proj]"),
        (2, LORA, "lora: PEFT refuses it: Cannot convert PEFT target(s) w1 without also targeting w3 because"),
    ),
    "a start that PEFT does not know": (
        lora("init_lora_weights: pizza, target_modules: all-linear"),
        (2, LORA, "lora.init_lora_weights: input should be"),
    ),
    "a stage that continues with another adapter": (
        ("continues: dpo\n", "continues: dpo\n    lora: {r: 8}\n"),
        (2, 18, "stages.sft.lora: this stage continues the adapter of 'dpo'; its LoRA config is fixed"),
    ),
    # TRL's keys and values
    "a key that was removed": (
        dpo("group_by_length: true"),
        (2, DPO, "args.group_by_length: DPOConfig has no such key any more; write `train_sampling_strategy: group"),
    ),
    "a value of the wrong type": (
        dpo("learning_rate: fast"),
        (2, DPO, "args.learning_rate: input should be a valid number, not 'fast'"),
    ),
    "no steps": (dpo("max_steps: 0"), (2, DPO, "args.max_steps: must be greater than 0, or -1 for whole epochs")),
    "a loss that does not exist": (
        dpo("loss_type: [sigmoidd]"),
        (2, DPO, "args.loss_type: TRL refuses ['sigmoidd']: Unknown loss type: sigmoidd. Should be one of"),
    ),
    "fewer weights than losses": (
        dpo("loss_type: [sigmoid, sft], loss_weights: [1.0]"),
        (2, DPO, "args.loss_weights: TRL refuses [1.0]: `loss_weights` must have the same length as `loss_type`"),
    ),
    "a loss without what it needs": (
        dpo("loss_type: [exo_pair]"),
        (2, DPO, "args.loss_type: TRL refuses ['exo_pair']: Label smoothing must be greater than 0.0"),
    ),
    "a divergence that does not exist": (
        dpo("f_divergence_type: forward"),
        (2, DPO, "args.f_divergence_type: TRL refuses 'forward': Unknown f_divergence_type: forward"),
    ),
    "an unknown truncation": (
        dpo("truncation_mode: keep_middle"),
        (2, DPO, "args.truncation_mode: must be 'keep_end' or 'keep_start', not 'keep_middle'"),
    ),
    "an unknown packing": (
        sft("packing: true, packing_strategy: bffd"),
        (2, SFT, "args.packing_strategy: must be 'bfd' or 'bfd_split' or 'wrapped', not 'bffd'"),
    ),
    "options that exclude each other": (
        sft("padding_free: true, max_length: 64"),
        (2, SFT, "args.padding_free: TRL refuses True: When `padding_free=True` without packing, `max_length` is not"),
    ),
    "a reference that moves": (
        dpo("sync_ref_model: true"),
        (2, DPO, "args.sync_ref_model: TRL refuses True: You passed `sync_ref_model=True` while using a PEFT model"),
    ),
    "two precisions": (
        dpo("bf16: true, fp16: true"),
        (2, DPO, "TRL refuses True: At most one of fp16 and bf16 can be True, but not both"),
    ),
    "a schedule without its argument": (
        dpo("lr_scheduler_type: cosine_with_min_lr"),
        (2, DPO, "args.lr_scheduler_type: TRL refuses 'cosine_with_min_lr': One of min_lr or min_lr_rate should"),
    ),
    "several processes": (
        dpo("fsdp: full_shard"),
        (2, DPO, "args.fsdp: cannot be set in a recipe; write a config file of accelerate, and name it in"),
    ),
    "the loss of experts without experts": (
        dpo("router_aux_loss_coef: 0.1"),
        (2, DPO, "args.router_aux_loss_coef: LlamaForCausalLM is no mixture of experts"),
    ),
    # what is not installed here (constraints.txt has none of them)
    "a tracker that is not installed": (
        dpo("report_to: wandb"),
        (1, DPO, "args.report_to: TRL refuses 'wandb' on this machine: WandbCallback requires wandb to be installed"),
    ),
    "an optimizer that is not installed": (
        dpo("optim: galore_adamw"),
        (1, DPO, "args.optim: TRL refuses 'galore_adamw' on this machine: You need to install `galore_torch`"),
    ),
    "kernels that are not installed": (
        sft("use_liger_kernel: true"),
        (1, SFT, "args.use_liger_kernel: TRL refuses True on this machine: You have set `use_liger_kernel` to `True`"),
    ),
    "DeepSpeed that is not installed": (
        dpo("deepspeed: {zero_optimization: {stage: 2}}"),
        (1, DPO, "on this machine: The 'deepspeed>=0.9.3' distribution was not found"),
    ),
    # the base
    "a base that does not exist": (base("llama-4"), (2, BASE, "base: There is no them/llama-4 on")),
    "a revision that does not exist": (
        base("llama-3-tied", "\n  revision: v9"),
        (2, BASE, "base: them/llama-3-tied has no revision 'v9'"),
    ),
    "a gated base": (base("gated"), (3, BASE, "base: them/gated is gated, and this token has no access to it")),
    "a multimodal base": (
        base("multimodal"),
        (3, BASE, "base: The base is a multimodal model (gemma3 with vision); hubkit trains text models only"),
    ),
    "a quantized base": (base("quantized"), (3, BASE, "base: The base's own files are quantized")),
    "a base with code of its own": (
        base("remote-code"),
        (3, BASE, "base: The base needs code from its own repo (own), which hubkit never runs"),
    ),
    "a base that transformers does not know": (
        base("unknown-type"),
        (3, BASE, "base: The installed transformers does not know the base's model type 'llama-9'"),
    ),
    "a base without a type": (base("no-model-type"), (3, BASE, "base: The base's config.json has no model_type")),
    "a base that is no causal model": (base("encoder"), (3, BASE, "base: The base is not a causal language model")),
    "a base whose numbers do not fit": (
        base("wrong-number"),
        (3, BASE, "base: transformers cannot build the base from its config.json"),
    ),
    "a base with fewer embeddings than tokens": (base("small-embeddings"), (3, BASE, "but the model has 100 emb")),
    "a base without a chat template": (base("no-template"), (3, BASE, "base: them/no-template has no chat templ")),
    "a base without a tokenizer": (base("no-tokenizer"), (3, BASE, "base: them/no-tokenizer has no tokenizer")),
    "a base of pickles": (base("pickles"), (3, BASE, "base: them/pickles has no safetensors weights at")),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_with_its_line_before_any_training(case: str, tmp_path: Path, target: Target) -> None:
    (old, new), (exit_code, line, sentence) = CASES[case]
    assert RECIPE.count(old) == 1
    text = RECIPE.replace(*base("mixtral")) if case == "half of the fused experts" else RECIPE
    who = replace(target, token=None) if case == "a gated base" else target
    error = refused(text.replace(old, new), tmp_path, who)
    assert sentence in error.message and error.exit_code == exit_code, error.message
    assert error.hint
    assert f"hubkit.yaml:{line}: " in error.message
    assert error.message.count("\n  ") <= 1, "one mistake is one line"


def test_the_recipe_that_they_change_has_no_mistake(tmp_path: Path, target: Target) -> None:
    assert findings(RECIPE, tmp_path, target) == []


@pytest.mark.parametrize("name", [name for name in bases.SOUND if name != "llama-3-tied"])
def test_other_sound_bases_pass(name: str, tmp_path: Path, target: Target) -> None:
    found = findings(RECIPE.replace(*base(name)), tmp_path, target)
    assert [item.message for item in found if item.level == "error"] == []


def test_a_base_without_a_template_passes_when_the_recipe_names_one(tmp_path: Path, target: Target) -> None:
    text = RECIPE.replace(*base("no-template")).replace("data:\n  pref", "chat: {template: llama-3}\ndata:\n  pref")
    assert findings(text, tmp_path, target) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lora("r: 4, target_modules: [q_proj, k_prj]"), "lora.target_modules: 'k_prj' matches nothing in LlamaForC"),
        (lora("r: 4, target_modules: [q_proj], modules_to_save: [lm_haed]"), "modules_to_save: 'lm_haed' matches noth"),
        (lora("r: 64, target_modules: [q_proj]"), "lora.r: rank 64 is more than model.layers.0.self_attn.q_proj has"),
        (dpo("max_steps: 4, max_length: 4096"), "args.max_length: 4,096 tokens are more than the 256 positions of th"),
        (dpo("max_steps: 4, num_train_epochs: 2, max_length: 64"), "args.num_train_epochs: ignored, because `max_st"),
        (dpo("torch_compile: true, max_length: 64"), "args.torch_compile: not checked before training: compiling"),
    ],
)
def test_what_works_otherwise_than_meant_is_a_warning_with_its_line(
    change: tuple[str, str], sentence: str, tmp_path: Path, target: Target
) -> None:
    found = findings(RECIPE.replace(*change), tmp_path, target)
    assert [item.level for item in found] == ["warning"]
    assert found[0].message.startswith("hubkit.yaml:1") and sentence in found[0].message
