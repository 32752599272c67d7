"""The formulas of `plan`: time and memory by hand, and what never gets cheaper."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from architectures import make_config
from cost_samples import H100, LAPTOP, MISTRAL, work
from hypothesis import given
from hypothesis import strategies as some
from samples import RECIPE_TEXT

from hubkit.models import meta
from hubkit.pipeline.costs import steps, training
from hubkit.pipeline.costs.benchmarks import Work
from hubkit.pipeline.costs.devices import Device
from hubkit.pipeline.costs.formulas import (
    LIBRARIES,
    Memory,
    ModelSize,
    activation_bytes,
    generation_memory,
    optimizer_bytes,
    padding,
    scoring_memory,
    training_memory,
)
from hubkit.pipeline.costs.sources import Rows, Sizes
from hubkit.pipeline.costs.steps import REACHED, Situation, cost
from hubkit.pipeline.costs.training import TrainingWork
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.steps import STEPS
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Training
from hubkit_stages.recipes import dpopenhermes_7b


def test_a_forward_pass_by_hand() -> None:
    size = ModelSize(100, 80, 60, layers=2, hidden=4, intermediate=8, vocabulary=5, attention=4, cached=4)
    # 10 tokens x (2 x 80 parameters + 4 x 2 layers x 4 wide x 3 long)
    assert size.forward(10, 3) == 10 * (160 + 96)
    assert (size.bytes("float32"), size.bytes("bfloat16")) == (400, 200)
    assert size.bytes("nf4") == 111, "60 x 0.515875 + 40 x 2, rounded up"


@pytest.mark.parametrize("name", ["llama-3", "llama-3-tied", "gpt-2", "qwen3", "phi-3"])
def test_the_flops_are_those_that_torch_counts(name: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    config = make_config(name, 400, bos=1, eos=2, pad=0)
    size = ModelSize.of(meta.facts_of(json.dumps(config.to_dict()).encode()))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.ones(3, 40, dtype=torch.long)
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        model(ids)
    assert counted.get_total_flops() == pytest.approx(size.forward(3 * 40, 40), rel=0.05)


def test_experts_that_a_token_does_not_visit_are_not_multiplied() -> None:
    facts = meta.facts_of(json.dumps(make_config("mixtral", 400, bos=1, eos=2, pad=0).to_dict()).encode())
    size = ModelSize.of(facts)
    assert size.multiplied < size.parameters - facts.count_in_experts // 3


def test_the_size_of_the_large_recipes_base_is_that_of_its_card() -> None:
    config = json.loads(dpopenhermes_7b.SIZES.read_text())["models"]["teknium/OpenHermes-2.5-Mistral-7B"]["config"]
    assert ModelSize.of(meta.facts_of(json.dumps(config).encode())) == MISTRAL


def test_the_memory_of_a_training_step_by_hand() -> None:
    found = training_memory(
        MISTRAL, dtype="bfloat16", quantized=True, trained=10**6, optimizer="paged_adamw_8bit", tokens=100,
        checkpointing=True,
    )  # fmt: skip
    assert (found.adapter, found.gradients, found.optimizer) == (4 * 10**6, 4 * 10**6, 2 * 10**6)
    assert found.weights == MISTRAL.bytes("nf4") < 4.2e9
    assert found.logits == 100 * 32_002 * (2 + 4), "a tile of 100 tokens, in 16 bits and in float32"
    layer = 2 * (10 * 4096 + 3 * 4096 + 2 * 2048 + 6 * 14_336) + 8 * 4096
    assert found.activations == 100 * (32 * 4096 * 2 + layer)
    parts = ("weights", "adapter", "gradients", "optimizer", "activations", "logits")
    assert found.total == LIBRARIES + sum(getattr(found, part) for part in parts)


def test_the_memory_of_keys_and_values_by_hand() -> None:
    found = generation_memory(MISTRAL, 0, batch=2, prompt=10, new=90, dtype="bfloat16")
    assert found.cache == 2 * 100 * 32 * 2048 * 2


def test_padding_is_that_which_was_measured() -> None:
    """Lognormal lengths, 932 tokens a pair, batches of 4 pairs: 1.98 times the tokens."""
    assert padding(8) == pytest.approx(1.98, abs=0.04)
    assert padding(1) == 1


@pytest.mark.parametrize(
    ("name", "size"), [("paged_adamw_8bit", 2), ("adamw_torch", 8), ("adamw_torch_fused", 8), ("sgd", 4)]
)
def test_the_state_of_optimizers(name: str, size: float) -> None:
    assert optimizer_bytes(name) == size


amounts = some.integers(1, 4096)


def spent(found: TrainingWork, device: Device = H100) -> float:
    return training.seconds(found, MISTRAL, 80_000_000, device)


@given(amounts, amounts)
def test_more_rows_or_longer_ones_never_cost_less(rows: int, more: int) -> None:
    assert spent(work(rows)) <= spent(work(rows + more))
    assert spent(work(tokens=rows)) <= spent(work(tokens=rows + more))


@given(amounts, amounts, some.booleans())
def test_a_larger_batch_or_longer_rows_never_need_less_memory(tokens: int, more: int, checkpointing: bool) -> None:
    def memory(number: int) -> list[int]:
        return [
            activation_bytes(MISTRAL, number, "bfloat16", checkpointing=checkpointing),
            training_memory(
                MISTRAL, dtype="bfloat16", quantized=False, trained=10**7, optimizer="adamw_torch", tokens=number,
                checkpointing=checkpointing,
            ).total,
            generation_memory(MISTRAL, 10**9, 4, number, 64, "bfloat16").total,
            generation_memory(MISTRAL, 10**9, number, 64, 64, "bfloat16").total,
            scoring_memory(MISTRAL, 10**9, 4, number, "bfloat16").total,
        ]  # fmt: skip

    assert all(few <= many for few, many in zip(memory(tokens), memory(tokens + more), strict=True))
    assert activation_bytes(MISTRAL, tokens, "bfloat16", checkpointing=True) <= activation_bytes(
        MISTRAL, tokens, "bfloat16", checkpointing=False
    )


@given(some.integers(1, 512))
def test_more_rows_in_a_batch_are_never_padded_less(rows: int) -> None:
    assert 1 <= padding(rows) <= padding(rows + 1)


def test_a_faster_device_takes_less_and_dpo_more_than_sft() -> None:
    assert spent(work(), replace(H100, flops=2 * H100.flops)) < spent(work())
    assert spent(work(), replace(H100, bandwidth=2 * H100.bandwidth)) < spent(work())
    single = replace(work(), method="sft")
    assert spent(single) < spent(work())
    assert spent(replace(work(), checkpointing=False)) < spent(work()), "activations are not computed again"


def test_processes_share_an_epoch_on_gpus_and_the_cores_and_memory_of_a_cpu() -> None:
    given = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "max_length": 8192}
    stage = Training(uses="dpo", data="pairs", args=given)
    one, two = (training.work_of(stage, "mine", Rows(100_000, 400), processes) for processes in (1, 2))
    assert one is not None and two is not None and two.steps == one.steps / 2
    assert spent(two) - spent(one) == pytest.approx(-(spent(one) - training.START) / 2, rel=0.1)
    assert spent(two, LAPTOP) == pytest.approx(spent(one, LAPTOP))
    memory = [training.memory(each, MISTRAL, 10**7, LAPTOP).total for each in (one, two)]
    assert memory[1] == 2 * memory[0]
    assert training.memory(two, MISTRAL, 10**7, H100) == training.memory(one, MISTRAL, 10**7, H100)


def test_packing_pads_nothing() -> None:
    packed = training.work_of(
        Training(uses="sft", data="rows", args={"packing": True, "max_length": 1000, "num_train_epochs": 1}), "mine",
        Rows(1000, 250.0),
    )  # fmt: skip
    assert packed is not None and packed.tokens == pytest.approx(250_000)


def test_the_memory_of_training_all_the_weights_by_hand() -> None:
    """In float32 and once more as autocast holds them; with their gradients, Adam's state, and the reference of DPO."""
    count = MISTRAL.parameters

    def memory(uses: str, device: Device = H100, **args: object) -> Memory:
        stage = Training(uses=uses, data="rows", lora="none", args={"max_length": 1024, **args})
        assert stage.quantization == "none"
        found = training.work_of(stage, "mine", Rows(100, 466))
        assert found is not None
        return training.memory(found, MISTRAL, count, device)

    sft, dpo = memory("sft"), memory("dpo")
    assert (sft.adapter, sft.gradients, sft.optimizer) == (0, 4 * count, 8 * count)
    assert sft.weights == pytest.approx((4 + 2) * count, rel=0.01)
    assert dpo.weights == pytest.approx((4 + 2 + 2) * count, rel=0.01)
    assert memory("dpo", precompute_ref_log_probs=True).weights == sft.weights
    assert memory("sft", LAPTOP).weights == pytest.approx(4 * count, rel=0.01), "a CPU trains in float32 itself"


def test_every_step_of_ours_has_a_formula() -> None:
    """Without one `plan` would call a stage of hubkit somebody else's, and have no sum."""
    ours = {step.stage for step in STEPS if step.stage is not None} | {"dpo", "sft"}
    assert not ours - steps._COSTS.keys()


def test_gguf_files_of_a_7b_model_are_as_large_as_published_ones_and_asked_on_the_cpu() -> None:
    """GGUF files of Mistral 7B have 14.48 GB in F16, 7.70 GB in Q8_0 and 4.37 GB in Q4_K_M."""
    text = RECIPE_TEXT + "gguf: {types: [f16, q8_0, q4_k_m], prompts: 10}\n"
    recipe = parse_recipe(text.replace("prompts_from: repair", "prompts_from: repair, max_new_tokens: 100"))
    sizes = Sizes(model=MISTRAL, base_bytes=0, data={"repair": Rows(100, 200)}, trained={})
    situation = Situation.of(recipe, sizes, Work(), embedded=True)
    expected = {"f16": 14.48e9, "q8_0": 7.70e9, "q4_k_m": 4.37e9}
    assert situation.gguf_bytes() == {kind: pytest.approx(size, rel=0.03) for kind, size in expected.items()}
    job = next(job for job in expand(recipe) if job.id == "gguf[main]")
    here, there = (cost(job, situation, device) for device in (LAPTOP, H100))
    files = sum(expected.values())
    assert here.disk == there.disk == pytest.approx(files, rel=0.03)
    assert here.scratch == 2 * MISTRAL.parameters, "llama.cpp quantizes a file in 16 bits"
    generated = 10 * 50 * files / (LAPTOP.bandwidth * REACHED)  # 10 prompts, half of 100 tokens, each file read for one
    assert here.seconds is not None and generated < here.seconds < 2 * generated
    assert there.seconds is not None and there.seconds < here.seconds, "a server's CPU is assumed beside a GPU"
    asked = replace(situation, gguf_work=Work(requests=100, tokens=50, longest=60))
    assert (cost(job, asked, LAPTOP).seconds or 0) > here.seconds + 100 * files / LAPTOP.bandwidth
    assert cost(job, replace(situation, gguf_work=Work(unknown=("own",))), LAPTOP).seconds is None
    upload = next(job for job in expand(recipe) if job.id == "publish-gguf[main]")
    size, files = sum(situation.gguf_bytes().values()), next(job for job in expand(recipe) if job.id == "publish[main]")
    assert (cost(upload, situation, LAPTOP).upload, cost(upload, situation, LAPTOP).scratch) == (size, size)
    beside = parse_recipe(text.replace("prompts: 10", "prompts: 10, place: folder"))
    more = cost(files, replace(situation, recipe=beside), LAPTOP).upload - cost(files, situation, LAPTOP).upload
    assert more == size and "publish-gguf[main]" not in {job.id for job in expand(beside)}
