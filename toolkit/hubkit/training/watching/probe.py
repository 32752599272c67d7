"""The stop-rate probe: a few greedy answers while a model is trained, and at the end; the training goes on as if
nothing had happened.

A model that forgets its end-of-turn token is seen after some steps, and not when all of them are done. What generating
could change of the training is put back: random states, the mode of each module, buffers that were replaced. The
adapter is the same, bit by bit, with the probe and without (tests/training/test_training.py).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.chat.generation import generate
from hubkit.training.data import own_prompts
from hubkit.training.data.prepared import TrainingRows

_log = logging.getLogger("hubkit.training.watching")

_LONGEST_PROMPT = 1024
"""Tokens. Longer prompts are left out as long as there are others: reading them would cost more than answering."""


@dataclass(frozen=True)
class StopProbe:
    """Asks ``prompts``, token ids each, and counts the answers that end within ``max_new_tokens``."""

    prompts: Sequence[Sequence[int]]
    end_of_turn: EndOfTurn
    max_new_tokens: int

    @classmethod
    def of(
        cls, rows: TrainingRows, tokenizer: Any, end_of_turn: EndOfTurn, *, prompts: int, max_new_tokens: int
    ) -> StopProbe:
        """A probe of ``prompts`` held-out prompts, or of hubkit's own where the release holds none out."""
        asked = rows.held_out(4 * prompts) or [{"messages": item} for item in own_prompts.conversations(prompts)]
        texts = [
            tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True) for row in asked
        ]
        ids = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        longer = [row for row in ids if len(row) > _LONGEST_PROMPT]
        chosen = [row for row in ids if len(row) <= _LONGEST_PROMPT] + sorted(longer, key=len)
        return cls(chosen[:prompts], end_of_turn, max_new_tokens)

    def ask(self, model: Any, seconds: float) -> Mapping[str, Any] | None:
        """What ``model`` answers now: ``stopped`` of ``prompts``, ``rate``, ``mean_tokens``, ``seconds``.

        None when it took longer than ``seconds``: then nothing is known.
        """
        began = time.monotonic()
        with undisturbed(model):
            answers = generate(
                model,
                self.prompts,
                self.end_of_turn,
                max_new_tokens=self.max_new_tokens,
                batch_size=max(1, len(self.prompts)),
                seconds=seconds,
            )
        took = time.monotonic() - began
        ended = [self.end_of_turn.id in answer for answer in answers]
        if any(not end and len(answer) < self.max_new_tokens for end, answer in zip(ended, answers, strict=True)):
            return None
        return {
            "stopped": sum(ended),
            "prompts": len(answers),
            "rate": sum(ended) / len(answers),
            "mean_tokens": round(sum(len(answer) for answer in answers) / len(answers), 1),
            "seconds": round(took, 3),
        }


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Put back what generating with ``model`` may change of its training."""
    import numpy as np
    import torch

    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        for module, mode, kept in zip(modules, modes, buffers, strict=True):
            module.training = mode
            module._buffers.clear()
            module._buffers.update(kept)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
