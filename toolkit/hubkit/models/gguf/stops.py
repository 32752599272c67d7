"""Where an answer ends, as a GGUF file tells it: the end-of-turn token and every other token that ends an answer.

llama.cpp stops at three ids (eos, eot, eom) and at tokens that it knows by their text; Ollama reads all ids of
``tokenizer.ggml.eos_token_ids``, a key that llama.cpp passes over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.models.chat.agreement import Tokens, agree, eos_ids, refuse
from hubkit.models.chat.eos import EndOfTurn

EVERY = "tokenizer.ggml.eos_token_ids"
KNOWN_TEXTS = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>",
        "<|end_of_text|>",
    }
)  # fmt: skip
"""Tokens at which llama.cpp stops because of their text, in every version that is in use."""


@dataclass(frozen=True)
class Stops:
    """``every`` id that ends an answer, the end-of-turn token's first; ``eos``, ``eot``, ``eom`` are llama.cpp's keys.

    ``missed``: ids that fit into none of the three and whose text llama.cpp does not know. ``end_of_turn`` is None for
    a model without a chat template.
    """

    end_of_turn: EndOfTurn | None
    every: tuple[int, ...]
    eos: int
    eot: int | None
    eom: int | None
    missed: tuple[int, ...]

    def write(self, writer: Any) -> None:
        """Add them to ``writer``, a GGUFWriter."""
        writer.add_eos_token_id(self.eos)
        if self.eot is not None:
            writer.add_eot_token_id(self.eot)
        if self.eom is not None:
            writer.add_eom_token_id(self.eom)
        writer.add_array(EVERY, list(self.every))


def stops_of(
    tokenizer: Any, template: str | None, config: Mapping[str, Any], generation: Mapping[str, Any], rows: int
) -> Stops:
    """The ids at which a model ends its answers: by its template, and by its generation config, or else its config.

    ``eos`` stays the tokenizer's own, since templates write it by that name. ``rows`` are those of the embeddings.
    RefusedError when the template has no end-of-turn token, nothing ends an answer, or an id has no row.
    """
    end: EndOfTurn | None = None
    if template:
        agreement = agree(template, Tokens.of(tokenizer), config, generation, published=True)
        refuse(agreement.template, "The chat template: ")
        end = agreement.end_of_turn
    listed = eos_ids(generation) or eos_ids(config)
    own = tokenizer.eos_token_id
    every = tuple(dict.fromkeys([*([end.id] if end else []), *(listed or ([own] if own is not None else []))]))
    if not every:
        raise RefusedError(
            "Nothing says where an answer ends: there is no chat template and no eos_token_id.",
            hint="Set eos_token_id in generation_config.json.",
        )
    eos = own if own is not None else every[0]
    for number in (*every, eos):
        if not 0 <= number < rows:
            raise RefusedError(
                f"An answer is to end at the token {number}, but the model has the tokens 0 to {rows - 1}.",
                hint="Correct eos_token_id in generation_config.json and config.json, or resize the embeddings.",
            )
    eot = end.id if end else None
    texts = tokenizer.convert_ids_to_tokens(list(every))
    left = [
        number
        for number, text in zip(every, texts, strict=True)
        if number not in (eos, eot) and text not in KNOWN_TEXTS
    ]
    return Stops(end, every, eos, eot, left[0] if left else None, tuple(left[1:]))


def missed_note(stops: Stops, tokenizer: Any) -> str | None:
    """What to tell of tokens at which llama.cpp will not stop; None when there are none."""
    if not stops.missed:
        return None
    names = ", ".join(str(token) for token in tokenizer.convert_ids_to_tokens(list(stops.missed)))
    return f"llama.cpp does not stop at {names}: its files have room for three tokens that end an answer."


def stop_texts(stops: Stops, tokens: Sequence[str]) -> list[str]:
    """The texts of all of them, for programs that stop at texts."""
    return [tokens[number] for number in stops.every]
