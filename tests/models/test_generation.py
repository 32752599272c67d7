"""Answers do not depend on how prompts are batched, on the memory, or on what generates them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from architectures import ARCHITECTURES, make_config

from hubkit.core.errors import HubkitError
from hubkit.models.chat import generation
from hubkit.models.chat.eos import EndOfTurn, find
from hubkit.models.chat.generation import generate, vllm_engine, vllm_if_it_loads
from hubkit.models.chat.stop_rate import measure

END = EndOfTurn("<end>", 2, ())
PROMPTS = [[3 + (7 * place + step) % 300 for step in range(2 + place * 3 % 17)] for place in range(9)]


def answers(model: Any, batch_size: Any, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[tuple[int, ...]]:
    return generate(model, prompts, END, max_new_tokens=6, batch_size=batch_size)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_batch_of_any_size_and_order_answers_as_single_prompts_do(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    config = make_config(name, 320, bos=1, eos=2, pad=None)
    config.initializer_range = 0.2
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    alone = answers(model, 1)
    assert len({ids[0] for ids in alone}) > 2, "the answers differ"
    assert answers(model, 4) == alone and answers(model, "auto") == alone
    assert answers(model, 4, PROMPTS[::-1])[::-1] == alone


def test_a_batch_that_does_not_fit_is_halved(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model, most, sizes = make_model(initializer_range=0.3), [3], list[int]()
    prompts = [[place % 250 for place in ids] for ids in PROMPTS]
    whole, real = answers(model, 9, prompts), model.generate

    def limited(input_ids: Any, **given: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(input_ids=input_ids, **given)

    monkeypatch.setattr(model, "generate", limited)
    assert answers(model, 9, prompts) == whole
    assert sizes == [9, 4, 2, 2, 2, 2, 1], "what was answered is not asked again"
    assert answers(model, "auto", prompts) == whole
    most[0] = 0
    with pytest.raises(HubkitError, match="a single prompt"):
        answers(model, 4, prompts)


def test_another_error_is_not_taken_for_a_lack_of_memory(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()

    def broken(**given: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        answers(model, "auto", [[1, 2]])


@pytest.mark.parametrize(("free", "rows"), [(10**12, 8), (400_000, 6), (1, 1)])
def test_the_first_batch_is_what_the_free_memory_holds(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, free: int, rows: int
) -> None:
    """By token: 2 layers x 2 (keys and values) x 2 heads x 12 x 4 bytes, and 4 states of 48; and once the logits."""
    monkeypatch.setattr(generation, "_free_memory", lambda: free)
    assert generation._fitting(make_model(), 30) == rows
    assert int(400_000 * 0.6 / (30 * (2 * 2 * 2 * 12 * 4 + 4 * 48 * 4) + 261 * 12)) == 6


@pytest.mark.parametrize(
    ("lengths", "new", "rows"),
    [
        ((500, 490, 480), 10, 3),
        ((500, 90, 80), 10, 1),
        ((500, 90, 80), 1000, 3),
        ((500, 400, 300, 50), 10, 3),
        ((9,), 1, 1),
    ],
)
def test_a_much_shorter_prompt_waits_for_the_next_batch(lengths: tuple[int, ...], new: int, rows: int) -> None:
    """Padding costs as much as text; where answers are long it is little."""
    assert generation._of_a_length(lengths, new) == rows


@dataclass
class Sampling:
    """What is asked of the stand-in for vLLM."""

    temperature: float
    max_tokens: int
    stop_token_ids: list[int]
    ignore_eos: bool


class StandIn:
    """Answers through the interface of ``vllm.LLM``, with transformers behind it."""

    loaded: ClassVar[list[dict[str, Any]]] = []
    model: Any = None

    def __init__(self, **place: Any) -> None:
        self.loaded.append(place)

    def generate(self, prompts: Any, sampling: Sampling, *, lora_request: Any, use_tqdm: bool) -> list[Any]:
        end = EndOfTurn("", sampling.stop_token_ids[0], ())
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        found = generate(self.model, ids, end, max_new_tokens=sampling.max_tokens, batch_size=1)
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=list(new))]) for new in found]


def test_an_engine_answers_in_the_model_s_place(
    make_model: Any, make_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only hubkit's side of the interface: vLLM itself is not installed where tests run."""
    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, Sampling
    monkeypatch.setitem(sys.modules, "vllm", module)
    model, tokenizer = make_model(seed=3, initializer_range=0.3), make_tokenizer()
    monkeypatch.setattr(StandIn, "model", model)
    end, prompts = find(tokenizer), [{"messages": [{"role": "user", "content": f"word {n}"}]} for n in range(6)]
    plain = measure(model, tokenizer, prompts, end, max_new_tokens=12, batch_size=3)
    with vllm_engine(tmp_path, "float32", end, max_new_tokens=12) as engine:
        rate = measure(model, tokenizer, prompts, end, max_new_tokens=12, batch_size=3, engine=engine)
    assert rate.answers == plain.answers and (rate.stopped, rate.mean_tokens) == (plain.stopped, plain.mean_tokens)
    assert (rate.generated_by, plain.generated_by) == ("vllm", "transformers")
    (place,) = StandIn.loaded
    assert (place["model"], place["dtype"], place["generation_config"]) == (str(tmp_path), "float32", "vllm")
    monkeypatch.setattr(StandIn, "__init__", lambda vllm, **place: 1 / 0)
    with vllm_if_it_loads(tmp_path, "float32", end, max_new_tokens=12) as nothing:
        assert nothing is None, "transformers answers"
