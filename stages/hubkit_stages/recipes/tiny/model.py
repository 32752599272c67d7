"""Trains the tiny base model from nothing: a byte-level BPE tokenizer, a Mistral of two layers, half a minute on a CPU.

Seeded, in float32. It must learn to answer questions about the facts of :mod:`world`, and to end its turns.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core import numbers
from hubkit.models.chat.library import CHATML
from hubkit_stages.recipes.tiny import world

if TYPE_CHECKING:
    import torch
    from transformers import MistralForCausalLM, PreTrainedTokenizerFast

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
VOCABULARY = 1024
HIDDEN, LAYERS, HEADS = 128, 2, 4  # hidden is a multiple of 64: bitsandbytes' packed path refuses others
STEPS, BATCH, RATE, WARM_UP = 320, 32, 2e-3, 40

Progress = Callable[[str, float], None]


def make_base(folder: Path, *, seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """Train the base and save it in ``folder`` as a loadable repo; returns ``{"parameters", "steps", "loss"}``."""
    import torch

    tokenizer = make_tokenizer()
    rows = [_row(tokenizer, messages) for messages in world.base_rows()]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order whatever the cores; and so small a model gains little from a second
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _new_model(tokenizer)
            loss = _train(model, rows, tokenizer.pad_token_id, random.Random(seed), progress)
    finally:
        torch.set_num_threads(threads)
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"parameters": model.num_parameters(), "steps": STEPS, "loss": round(loss, 4)}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the facts, with ChatML as chat template and its own padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"{turn['role']}\n{turn['content']}" for row in world.base_rows() for turn in row]
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=CHATML,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def _row(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> tuple[list[int], int]:
    """(token ids, where the answer begins)."""
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return tokenizer(whole, add_special_tokens=False)["input_ids"], start


def _new_model(tokenizer: PreTrainedTokenizerFast) -> MistralForCausalLM:
    from transformers import GenerationConfig, MistralConfig, MistralForCausalLM

    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=512,
        sliding_window=None,
        tie_word_embeddings=False,
        **special,
    )
    model = MistralForCausalLM(config).float()
    model.generation_config = GenerationConfig(**special)
    return model


def _batches(rows: Sequence[Any], chance: random.Random) -> list[list[Any]]:
    """The batches of one epoch in random order; rows of similar length share a batch, so that little is padded."""
    order = sorted(rows, key=lambda row: (len(row[0]), chance.random()))
    batches = [order[index : index + BATCH] for index in range(0, len(order), BATCH)]
    chance.shuffle(batches)
    return batches


def _train(
    model: MistralForCausalLM,
    rows: list[tuple[list[int], int]],
    pad: int,
    chance: random.Random,
    progress: Progress | None,
) -> float:
    """AdamW with warm-up and linear decay on the answers' tokens; returns the mean loss of the last 20 steps."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP, (STEPS - step) / (STEPS - WARM_UP))
    )
    model.train()
    losses: list[float] = []
    while len(losses) < STEPS:
        for batch in _batches(rows, chance)[: STEPS - len(losses)]:
            loss = model(**_tensors(batch, pad)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if progress and len(losses) % 20 == 0:
                figure = f"making the base: step {len(losses)}/{STEPS}  loss {numbers.loss(losses[-1])}"
                progress(figure, len(losses) / STEPS)
    return sum(losses[-20:]) / 20


def _tensors(batch: list[tuple[list[int], int]], pad: int) -> dict[str, torch.Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels``, each [batch, longest row], padded on the right."""
    import torch

    longest = max(len(ids) for ids, _ in batch)
    made: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for ids, start in batch:
        gap = longest - len(ids)
        made["input_ids"].append(ids + [pad] * gap)
        made["attention_mask"].append([1] * len(ids) + [0] * gap)
        made["labels"].append([-100] * start + ids[start:] + [-100] * gap)
    return {name: torch.tensor(value) for name, value in made.items()}


def write_rows(path: Path, rows: Sequence[world.Row]) -> None:
    """Write ``rows`` as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
