"""The token that ends an answer in anybody's chat template, where more than one follows the answer, or none.

Cohere's templates close the content (``<|END_RESPONSE|>``) and then the turn (``<|END_OF_TURN_TOKEN|>``); GLM's close
nothing, and the model stops at the token that opens the user's next turn. Which token ends an answer is then seen in a
second turn and in the ``eos_token_id`` that the model is published with.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from hubkit.core.errors import RefusedError
from hubkit.models.chat import eos
from hubkit.models.chat.eos import EndOfTurn

_NEAR = 2000
"""Characters after an answer in which the tokens that close it are looked for."""
_NEXT = "Say another thing."
TWO_TURNS: tuple[Mapping[str, str], ...] = (*eos.PROBE, {"role": "user", "content": _NEXT}, eos.PROBE[1])
"""The conversation whose rendering shows what a template writes between an answer and the user's next message."""


def find_closing(probe: str, two_turns: str | None, added: Mapping[str, int], stops: Collection[int]) -> EndOfTurn:
    """The end-of-turn token, from ``eos.PROBE`` and :data:`TWO_TURNS` as a template rendered them.

    ``added`` maps the tokenizer's added tokens to their ids, ``stops`` are the ids of ``eos_token_id``. It is the first
    token after the answer, as in :func:`eos.find_in_text`. Where generation does not stop at that one, it is the next
    that closes every turn and stops generation; where a template closes nothing, the token that opens the next turn,
    when generation stops there. Raises RefusedError when there is none of these.
    """
    between = _tokens(_between(two_turns or ""), added)
    try:
        first = eos.find_in_text(probe, added)
    except RefusedError:
        if between and added[between[0]] in stops:
            return EndOfTurn(between[0], added[between[0]])
        raise
    if first.id in stops:
        return first
    closers = _tokens(probe.rpartition(eos.SENTINEL)[2], added)
    closer = next((token for token in closers if added[token] in stops and token in between), None)
    return EndOfTurn(closer, added[closer]) if closer else first


def _between(two_turns: str) -> str:
    """What a template writes between the first answer and the user's next message; empty when it loses either."""
    _, answer, after = two_turns.partition(eos.SENTINEL)
    before, question, _ = after.partition(_NEXT)
    return before if answer and question else ""


def _tokens(text: str, added: Mapping[str, int]) -> list[str]:
    """The added tokens in the beginning of ``text``, in order."""
    near = text[:_NEAR]
    words = sorted((token for token in added if token.strip() and token in near), key=len, reverse=True)
    return re.findall("|".join(map(re.escape, words)), near) if words else []
