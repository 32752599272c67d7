"""What the trainer will see of each answer's end-of-turn token, found before training: is it there, once, and not cut
off?

A model trained on answers without an end-of-turn token does not learn to stop; nothing in the loss curve shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.models.chat.eos import EndOfTurn
from hubkit.training.data.mappings import Row
from hubkit.training.data.rows import sides

CHUNK = 512


@dataclass
class Side:
    """Counts over the answers of one side (``chosen``, ``rejected``, or ``rows`` of an SFT set)."""

    answers: int = 0
    closed_once: int = 0
    truncated: int = 0
    ends_trained: int = 0
    prompt_fills: int = 0
    longest: int = 0
    not_closed: list[int] = field(default_factory=list)

    def share(self, count: int) -> float:
        """``count`` as a share of the answers, from 0 to 1."""
        return count / self.answers if self.answers else 0.0


def look(
    rows: Sequence[Row],
    tokenizer: Any,
    end_of_turn: EndOfTurn,
    *,
    max_length: int | None,
    keep: str = "keep_start",
    report: Callable[[float], None] | None = None,
) -> dict[str, Side]:
    """Render and tokenize ``rows`` as the trainers do, cut them at ``max_length``, and count by side.

    An answer begins where the rendered prompt and the whole conversation part, as in TRL: a template may end an
    opened prompt otherwise than it begins an answer.
    ``closed_once``: exactly one end-of-turn token in the answer, at its close. ``ends_trained``: the last trained label
    is the end-of-turn token (without what the template writes after it). ``prompt_fills``: the prompt alone fills
    ``max_length``, so that the trainer drops the row. ``report`` gets the share done.
    """
    found: dict[str, Side] = {}
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        tools = [row.get("tools") for row in chunk]
        prompts = _ids(tokenizer, [row["prompt"] for row in chunk], tools, opened=True)
        jobs = [(number, side, conversation) for number, row in enumerate(chunk) for side, conversation in sides(row)]
        offered = [tools[number] for number, _, _ in jobs]
        wholes = _ids(tokenizer, [conversation for _, _, conversation in jobs], offered, opened=False)
        begins = [len(prompt) for prompt in prompts]
        for (number, _, _), whole in zip(jobs, wholes, strict=True):
            begins[number] = min(begins[number], common(prompts[number], whole))
        for (number, side, _), whole in zip(jobs, wholes, strict=True):
            counts = found.setdefault(side, Side())
            _count(counts, start + number, begins[number], whole, end_of_turn, max_length, keep)
        if report:
            report(min(1.0, (start + CHUNK) / len(rows)))
    return found


def labelled(
    row: Row, tokenizer: Any, *, max_length: int | None = None, keep: str = "keep_start"
) -> dict[str, list[tuple[str, bool]]]:
    """What the trainer sees of ``row``, by side: each token's text, and whether the loss falls on it.

    Tokens that ``max_length`` cuts off are left out.
    """
    tools = [row.get("tools")]
    prompt = _ids(tokenizer, [row["prompt"]], tools, opened=True)[0]
    found = {}
    for side, conversation in sides(row):
        whole = _ids(tokenizer, [conversation], tools, opened=False)[0]
        shared = common(prompt, whole)
        tokens = [(tokenizer.decode([token]), place >= shared) for place, token in enumerate(whole)]
        if max_length is not None:
            tokens = tokens[:max_length] if keep == "keep_start" else tokens[-max_length:]
        found[side] = tokens
    return found


def _ids(tokenizer: Any, conversations: list[Any], tools: list[Any], *, opened: bool) -> list[list[int]]:
    from jinja2 import TemplateError

    try:
        texts = [
            tokenizer.apply_chat_template(conversation, tools=offered, tokenize=False, add_generation_prompt=opened)
            for conversation, offered in zip(conversations, tools, strict=True)
        ]
    except (TemplateError, TypeError, ValueError) as error:
        raise RefusedError(
            f"The chat template cannot render a conversation of the training data: {error}.",
            hint="Remove such rows from the dataset, or set chat.template in the recipe to another one.",
        ) from error
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def common(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """The number of tokens with which both begin."""
    return next(
        (n for n, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )


def _count(
    side: Side,
    index: int,
    begins: int,
    whole: list[int],
    end_of_turn: EndOfTurn,
    max_length: int | None,
    keep: str,
) -> None:
    side.answers += 1
    side.longest = max(side.longest, len(whole))
    answer, closing = whole[begins:], [end_of_turn.id, *end_of_turn.suffix_ids]
    if answer.count(end_of_turn.id) == 1 and answer[-len(closing) :] == closing:
        side.closed_once += 1
    else:
        side.not_closed.append(index)
    cut = max_length is not None and len(whole) > max_length
    kept = whole[:max_length] if cut and keep == "keep_start" else whole
    if cut and keep == "keep_start" and begins >= (max_length or 0):
        side.prompt_fills += 1
    ended = len(kept) > begins and any(kept[-end:] == closing[:end] for end in range(1, len(closing) + 1))
    side.truncated += cut and not ended
    side.ends_trained += ended
