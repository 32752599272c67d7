"""The token to pad with: in training, in batches, and in the published files.

TRL and transformers leave padding out by its place in the batch, whatever token stands there (see
``hubkit.training.batches``, which proves it on each training's own batches). Other trainers leave out every token that
equals the padding token. So it is the end-of-turn token only where the tokenizer has nothing else: GPT-2, Falcon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hubkit.models.chat.eos import EndOfTurn

_PADS = re.compile(r"(?<![a-z])pad(ding)?(?![a-z])", re.IGNORECASE)
_SPARE = re.compile(r"reserved|unused|placeholder", re.IGNORECASE)
_MEDIA = re.compile(r"image|vision|video|audio", re.IGNORECASE)


@dataclass(frozen=True)
class Padding:
    """The token to pad with, its id, and ``why`` it was chosen."""

    token: str
    id: int
    why: str


def choose(
    special: Mapping[str, str], added: Mapping[str, int], end: EndOfTurn, *, prompt: str = "", rows: int | None = None
) -> Padding:
    """The padding token of a tokenizer with the ``special`` tokens and the ids of its ``added`` tokens.

    In this order, the first that is not the end-of-turn token ``end`` and has one of the ``rows`` of the embeddings
    (None: unknown): its own, one named for padding, the unknown token, a reserved or unused one, BOS, EOS. None of the
    others may be in ``prompt``, a rendered conversation: ``generate`` without an attention mask takes every such token
    for padding. The end-of-turn token when there is none.
    """
    for token, why in _candidates(special, added):
        number = added.get(token)
        if number is None or number == end.id or (rows is not None and number >= rows):
            continue
        if token == special.get("pad_token") or token not in prompt:
            return Padding(token, number, why)
    return Padding(end.token, end.id, "the end-of-turn token, as the tokenizer has no other")


def _candidates(special: Mapping[str, str], added: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    ordered = [token for token, _ in sorted(added.items(), key=lambda item: item[1]) if not _MEDIA.search(token)]
    if pad := special.get("pad_token"):
        yield pad, "the tokenizer's own"
    yield from ((token, "named for padding") for token in ordered if _PADS.search(token))
    if unknown := special.get("unk_token"):
        yield unknown, "the unknown token"
    yield from ((token, "reserved, not in use") for token in ordered if _SPARE.search(token))
    for name, title in (("bos_token", "the BOS token"), ("eos_token", "the tokenizer's EOS token")):
        if token := special.get(name):
            yield token, title
