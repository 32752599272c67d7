"""DPO that computes each prompt once and without padding: TRL's own losses, metrics and gradients, or TRL's own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pair_trainers import HEADS, SMALL, VOCABULARY, llama, trainer_of

from hubkit.training import probe
from hubkit.training.pairs import proof
from hubkit.training.pairs.attention import CURRENT
from hubkit.training.pairs.reference import Reference, digests_of


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    CURRENT.begin(None)


def batch(trainer: Any) -> dict[str, Any]:
    found = trainer.data_collator([trainer.train_dataset[place] for place in range(6)])
    return dict(trainer._prepare_inputs(found))


def step(trainer: Any, inputs: dict[str, Any], way: Any) -> dict[str, Any]:
    """The loss, the metrics and the gradients of one batch."""
    trainer.decision = proof.Decision(way)
    trainer.rearranged.take(way)
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    found = {"loss": float(loss.detach())} | {name: values[-1] for name, values in trainer._metrics["train"].items()}
    found.pop("num_tokens")
    gradients = {
        name: weight.grad.clone() for name, weight in trainer.model.named_parameters() if weight.grad is not None
    }
    return {**found, "gradients": gradients}


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    mine, theirs = one.pop("gradients"), other.pop("gradients")
    assert one == pytest.approx(other, abs=2e-5, rel=2e-5)
    assert mine.keys() == theirs.keys() and mine
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name in mine:
        assert float((mine[name] - theirs[name]).abs().max()) <= 2e-5 * max(scale, 1.0), name
    assert scale > 0


LOSSES = [
    *(["sigmoid"], ["hinge"], ["ipo"], ["exo_pair"], ["nca_pair"], ["robust"], ["bco_pair"], ["sppo_hard"], ["aot"]),
    *(["aot_unpaired"], ["apo_zero"], ["apo_down"], ["discopop"], ["sft"], ["sigmoid_norm"], ["sigmoid", "sft"]),
]


def test_each_loss_of_trl_keeps_its_value_its_metrics_and_its_gradients(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, label_smoothing=0.1)
    inputs = batch(trainer)
    for losses in LOSSES:
        trainer.loss_types, trainer.loss_weights = losses, [1.0] * len(losses)
        plain = step(trainer, inputs, "plain")
        for way in ("shared", "head"):
            same(step(trainer, inputs, way), {**plain})
    assert {kind for losses in LOSSES for kind in losses} == set(_losses_of_trl())


def _losses_of_trl() -> list[str]:
    """The names in the message of TRL's own trainer."""
    import inspect
    import re

    from trl import DPOTrainer

    return re.findall(r'loss_type == "(\w+)"', inspect.getsource(DPOTrainer._compute_loss))


@pytest.mark.parametrize(
    "args",
    [
        {"use_weighting": True, "ld_alpha": 0.5},
        {"f_divergence_type": "js_divergence", "truncation_mode": "keep_end", "max_length": 9},
        {"gradient_checkpointing": True, "pad_to_multiple_of": 8},
        {"precompute_ref_log_probs": True},
    ],
    ids=["weighted", "cut", "checkpointed", "precomputed"],
)
def test_what_else_a_recipe_may_set_keeps_its_value(args: dict[str, Any], tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, **args)
    inputs = batch(trainer)
    plain = step(trainer, inputs, "plain")
    same(step(trainer, inputs, "shared"), {**plain})
    same(step(trainer, inputs, "head"), {**plain})


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    none = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, **none))


def gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    given = {**SMALL, **HEADS, "head_dim": 8, "sliding_window": 64, "attn_logit_softcapping": 2.0}
    return Gemma2ForCausalLM(Gemma2Config(**given, attn_implementation="eager"))


def mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(MixtralConfig(**SMALL, **HEADS, num_local_experts=4, router_aux_loss_coef=0.0))


def bloom() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4))


def mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4))


def hybrid() -> Any:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    return Lfm2ForCausalLM(Lfm2Config(**SMALL, **HEADS, layer_types=["conv", "full_attention"], block_multiple_of=8))


MODELS: list[tuple[Callable[[], Any], str, str | None]] = [
    (llama, "shared", None),
    (
        lambda: llama(attn_implementation="eager", rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
        "shared",
        None,
    ),
    (gpt2, "shared", None),
    (gemma2, "shared", None),
    (mixtral, "shared", None),
    (lambda: llama(attention_dropout=0.1), "head", "the attention of the model has dropout"),
    (bloom, "head", "its tokens cannot be given positions"),
    (mamba, "head", "it has layers that are no attention over all tokens: linear_attention"),
    (hybrid, "head", "it has layers that are no attention over all tokens: conv"),
]
IDS = ["llama", "eager", "gpt-2", "gemma-2", "mixtral", "dropout", "bloom", "mamba", "lfm2"]


@pytest.mark.parametrize(("model", "way", "reason"), MODELS, ids=IDS)
def test_the_fastest_way_that_is_equal_is_chosen_for_each_model(
    model: Callable[[], Any], way: str, reason: str | None, tmp_path: Path
) -> None:
    lora = {"ref_model": model()} if model in {mamba, bloom, hybrid} else {}
    trainer = trainer_of(tmp_path, model(), **lora)
    inputs = batch(trainer)
    trainer._decide(inputs)
    assert (trainer.decision.way, trainer.decision.reason) == (way, reason)
    if reason != "the attention of the model has dropout":
        plain = step(trainer, inputs, "plain")
        same(step(trainer, inputs, way), plain)


def test_layers_that_mix_neighbors_are_found_by_their_numbers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "unfit", lambda trainer, longest: None)
    trainer = trainer_of(tmp_path, hybrid(), ref_model=hybrid())
    trainer._decide(batch(trainer))
    assert trainer.decision.way == "head" and "log-probabilities differ by" in trainer.said[0]


def test_a_window_shorter_than_a_row_is_not_shared(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    for window, way in ((8, "head"), (64, "shared")):
        model = MistralForCausalLM(MistralConfig(**SMALL, **HEADS, sliding_window=window))
        trainer = trainer_of(tmp_path, model)
        trainer._decide(batch(trainer))
        assert trainer.decision.way == way
    assert trainer.said == ["each prompt is computed once, without padding: equal to TRL on the first rows"]


def test_log_probabilities_that_differ_are_found_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hubkit.training.pairs import attention

    trainer = trainer_of(tmp_path)
    right = attention._mask

    def wrong(segment: Any, device: Any, dtype: Any) -> Any:
        return right(segment, device, dtype).new_ones(1, 1, segment.queries, segment.keys)

    monkeypatch.setattr(attention, "_mask", wrong)
    trainer._decide(batch(trainer))
    assert trainer.decision.way == "head"
    assert "log-probabilities differ by" in trainer.said[0]


def test_what_else_calls_the_model_finds_it_as_it_was(tmp_path: Path) -> None:
    """A generation and a padded evaluation between two steps; what is saved names the attention of before."""
    import torch

    trainer = trainer_of(tmp_path)
    inputs = batch(trainer)
    ids, mask = inputs["input_ids"][:2, :6], inputs["attention_mask"][:2, :6]
    asked = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    before = trainer.model.generate(**asked)
    logits = trainer.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    first = step(trainer, inputs, "shared")
    assert torch.equal(trainer.model.generate(**asked), before)
    again = trainer.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    assert torch.equal(logits, again)
    same(step(trainer, inputs, "shared"), first)
    trainer.model.get_base_model().save_pretrained(tmp_path / "saved")
    assert "hubkit" not in (tmp_path / "saved" / "config.json").read_text()


def test_padded_rows_find_the_name_of_their_own_attention_in_the_config(tmp_path: Path) -> None:
    """Flash attention reads there which package to load, in a generation between two steps too."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    read: list[str] = []

    def stand_in(module: Any, *args: Any, **given: Any) -> Any:
        read.append(module.config._attn_implementation)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, *args, **given)

    AttentionInterface.register("stand_in", stand_in)
    AttentionMaskInterface.register("stand_in", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model = llama(attn_implementation="stand_in")
    trainer = trainer_of(tmp_path, model)
    inputs = batch(trainer)
    step(trainer, inputs, "shared")
    assert read == []  # rows of the layout are attended by torch's own
    trainer.model.generate(input_ids=inputs["input_ids"][:2, :6], max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert len(read) == 4 and set(read) == {"stand_in"}
    assert model.config._attn_implementation == "hubkit_pairs_stand_in"


def test_noise_on_embeddings_keeps_the_rows_that_trl_scales_it_by(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, neftune_noise_alpha=5.0)
    trainer.decide_way()
    assert trainer.decision.way == "head" and "neftune_noise_alpha" in trainer.decision.reason


def test_without_the_memory_for_a_comparison_the_way_is_that_of_trl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in one process would leave the others waiting for its answer."""
    import torch

    log_probs, calls = proof._log_probs, iter([True, False])

    def limited(trainer: Any, inputs: dict[str, Any]) -> Any:
        if next(calls, False):
            return log_probs(trainer, inputs)
        raise torch.OutOfMemoryError("too many")

    monkeypatch.setattr(proof, "_log_probs", limited)
    for _ in ("the ways", "TRL's own"):
        trainer = trainer_of(tmp_path)
        trainer.decide_way()
        assert trainer.decision == proof.Decision("plain", proof._NO_MEMORY)
        assert trainer.rearranged.way == "plain"


def test_the_way_is_decided_with_the_first_rows_before_a_batch_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial has copies of one row, and its process asks no other."""
    compared: list[list[int]] = []
    decide, attempt, tried = proof.decide, probe.attempt, []

    def decided(trainer: Any, rearranged: Any, inputs: dict[str, Any], longest: int) -> Any:
        assert "gather" not in vars(trainer.accelerator), "the answers of the other processes are not asked for"
        compared.append(inputs["attention_mask"].sum(1).tolist())
        return decide(trainer, rearranged, inputs, longest)

    def attempted(trainer: Any, rows: Any, *, checkpointing: bool) -> None:
        tried.append(trainer.decision.way)
        attempt(trainer, rows, checkpointing=checkpointing)

    monkeypatch.setattr(proof, "decide", decided)
    monkeypatch.setattr(probe, "attempt", attempted)
    monkeypatch.setattr(probe, "device", lambda: "cuda")
    monkeypatch.setattr(probe, "device_name", lambda: "a device")
    auto = SimpleNamespace(args={"per_device_train_batch_size": "auto"}, batch_size=4, name="dpo")
    for _ in ("first", "resumed"):
        trainer = trainer_of(tmp_path)
        probe.settle(auto, trainer, tmp_path, lambda figure, share: None)
        assert trainer.decision.way == "shared"
    first = trainer.data_collator([trainer.train_dataset[place] for place in range(proof.ROWS)])
    assert compared == [first["attention_mask"].sum(1).tolist()] * 2 and len(set(compared[0])) > 1
    assert set(tried) == {"shared"}
    alone = trainer_of(tmp_path)
    attempt(alone, [alone.train_dataset[0]], checkpointing=False)
    assert alone.decision is None


def test_half_precision_is_equal_within_its_own_rounding(tmp_path: Path) -> None:
    import torch

    trainer = trainer_of(tmp_path, llama().to(torch.bfloat16))
    trainer._decide(batch(trainer))
    assert trainer.decision.way == "shared", trainer.said


@pytest.mark.parametrize("known", [False, True])
def test_a_process_of_a_sharded_training_asks_the_others_whether_it_computes_or_not(known: bool) -> None:
    """Two of them with FSDP: both must do the same exchanges, also where one has kept the numbers of its rows."""
    asked: list[int] = []

    def gather(mine: Any) -> Any:
        asked.append(int(mine))
        return torch.tensor([int(mine), 1])  # the other one computes

    def forward(model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        return torch.zeros(len(inputs["input_ids"]) // 2), torch.ones(len(inputs["input_ids"]) // 2)

    rows = torch.ones(2, 3, dtype=torch.int64)
    inputs = {"input_ids": rows, "attention_mask": rows, "completion_mask": rows}
    kept = {digests_of(inputs)[0]: (0.5, 1.0)} if known else {}
    store = SimpleNamespace(find=kept.get, add=kept.__setitem__, flush=lambda: None)
    trainer = SimpleNamespace(
        is_fsdp_enabled=True,
        is_deepspeed_enabled=False,
        model=SimpleNamespace(training=True),
        ref_model=None,
        accelerator=SimpleNamespace(gather=gather, device="cpu"),
        compute_ref_log_probs=forward,
    )
    before = dict(kept)
    found = Reference(store).of(trainer, inputs)  # type: ignore[arg-type]
    assert asked == [0 if known else 1]
    chosen = float(found["ref_chosen_logps"])
    assert (chosen, float(found["ref_rejected_logps"])) == ((0.5 if known else 0.0), 1.0)
    assert not known or kept == before, "what is known is not computed over: other padding gives other last bits"
