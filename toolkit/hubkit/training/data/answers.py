"""The earlier answers of a conversation, found among its tokens: what ``train_on: all`` trains besides the last one.

TRL finds them with the marks ``{% generation %}``, which few templates have. Here each answer begins where the
conversation up to it, opened for an answer, and the whole conversation part; and it ends with its end-of-turn token.
So a template that writes earlier answers otherwise than the last one (Qwen3 leaves their reasoning out) is served as
it renders the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.models.chat.eos import EndOfTurn

Span = tuple[int, int]
"""The first token and the one after the last."""


def earlier_answers(
    prompt: Sequence[Mapping[str, Any]],
    whole: Sequence[int],
    begins: int,
    end_of_turn: EndOfTurn,
    opened: Callable[[Sequence[Sequence[Mapping[str, Any]]]], list[list[int]]],
) -> tuple[Span, ...]:
    """Where the answers in ``prompt`` are in the tokens ``whole`` of the conversation, whose last one begins at
    ``begins``.

    ``opened`` renders conversations as prompts for an answer. An answer of weight 0 is left out. RefusedError when an
    answer is not to be found, because the template renders the conversation otherwise when it goes on.
    """
    places = [place for place, message in enumerate(prompt) if message["role"] == "assistant"]
    if not places:
        return ()
    starts = [_common(ids, whole) for ids in opened([prompt[:place] for place in places])]
    found: list[Span] = []
    before = 0
    for place, start, limit in zip(places, starts, [*starts[1:], begins], strict=True):
        stop = _after_end(whole, start, limit, end_of_turn)
        if stop is None or start <= before:
            raise RefusedError(
                "The chat template does not end an earlier answer with the end-of-turn token, or renders it otherwise "
                "when the conversation goes on, so it cannot be trained on.",
                hint="Set `train_on: last` in the stage, or another chat.template.",
            )
        before = stop
        if prompt[place].get("weight") != 0:
            found.append((start, stop))
    return tuple(found)


def _after_end(whole: Sequence[int], start: int, limit: int, end_of_turn: EndOfTurn) -> int | None:
    """The place after the answer that begins at ``start``, with what the template writes after its end; None without
    an end before ``limit``."""
    end = next((place for place in range(start, limit) if whole[place] == end_of_turn.id), None)
    if end is None:
        return None
    closing = len(end_of_turn.suffix_ids)
    follows = list(whole[end + 1 : end + 1 + closing]) == list(end_of_turn.suffix_ids)
    return end + 1 + (closing if follows else 0)


def _common(ids: Sequence[int], whole: Sequence[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(ids, whole, strict=False)) if a != b), min(len(ids), len(whole)))


def trained(length: int, begins: int, earlier: Sequence[Span]) -> list[bool]:
    """For each of ``length`` tokens, whether it is trained: the answer from ``begins`` on, and the ``earlier`` ones."""
    found = [place >= begins for place in range(length)]
    for start, stop in earlier:
        found[start:stop] = [True] * (stop - start)
    return found
