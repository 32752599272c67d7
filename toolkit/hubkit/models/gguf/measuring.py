"""How often a GGUF file ends its answers, measured as every other form of a model is: only llama.cpp does all of it.

The chat template, the token ids and the tokens that end an answer are those in the file, so that a file which lacks
one of them is measured as its readers will meet it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.chat.generation import Ids
from hubkit.models.chat.rendering import render
from hubkit.models.chat.stop_rate import Report, StopRate, measure
from hubkit.models.gguf.library import RUNTIME
from hubkit.models.gguf.runtime import GgufModel


def measure_gguf(
    file: Path,
    prompts: Sequence[Mapping[str, Any]],
    end_of_turn: EndOfTurn,
    *,
    max_new_tokens: int,
    kind: str,
    report: Report | None = None,
    threads: int | None = None,
) -> StopRate:
    """The stop rate of ``file``, with matrices of the type ``kind``, over ``prompts`` (rows ``{"messages": [...]}``).

    An answer ends where llama.cpp ends it. An ``end_of_turn`` token at which llama.cpp goes on ends nothing.
    """
    with GgufModel(file, vocabulary_only=True) as vocabulary:
        tokenizer = _Tokenizer(vocabulary)
        longest = max((len(tokenizer.prompt(row["messages"])) for row in prompts), default=0)
    with GgufModel(file, context=longest + max_new_tokens, threads=threads) as model:
        tokenizer = _Tokenizer(model)

        def answers(ids: Sequence[Ids]) -> list[Ids]:
            found: list[Ids] = []
            for place, prompt in enumerate(ids, start=1):
                new = model.answer(prompt, max_new_tokens=max_new_tokens)
                ends = bool(new) and model.stops_at(new[-1])
                found.append([number for number in new if number != end_of_turn.id or (ends and number == new[-1])])
                if report:
                    report(f"{place} of {len(ids)} answers", place / len(ids))
            return found

        return measure(
            SimpleNamespace(config=None, dtype=kind),
            tokenizer,
            prompts,
            end_of_turn,
            max_new_tokens=max_new_tokens,
            batch_size=1,
            engine=answers,
            engine_name=RUNTIME,
        )


@dataclass(frozen=True)
class _Tokenizer:
    """The tokenizer and the template of a GGUF file, as :func:`measure` uses those of transformers."""

    model: GgufModel

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids of a conversation, up to where the answer begins."""
        return self.model.tokenize(self.apply_chat_template(messages, add_generation_prompt=True))

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        return render(
            self.model.template,
            messages,
            variables=self.model.special_texts,
            add_generation_prompt=add_generation_prompt,
        )

    def __call__(self, text: str, *, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": self.model.tokenize(text)}

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self.model.text(ids, special=not skip_special_tokens)
