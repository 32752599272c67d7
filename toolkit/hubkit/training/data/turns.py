"""What the trainer will see of each answer's end-of-turn token, found before training: is it there, once, and not cut
off?

A model trained on answers without an end-of-turn token does not learn to stop; nothing in the loss curve shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from hubkit.core.errors import RefusedError
from hubkit.models.chat.eos import EndOfTurn
from hubkit.training.data.answers import Span, earlier_answers, trained
from hubkit.training.data.mappings import Row
from hubkit.training.data.rows import sides

SHOWN = 5
"""Rows whose answers do not close that a message names."""


@dataclass
class Side:
    """Counts over the answers of one side (``chosen``, ``rejected``, or ``rows`` of an SFT set)."""

    answers: int = 0
    closed_once: int = 0
    truncated: int = 0
    ends_trained: int = 0
    prompt_fills: int = 0
    longest: int = 0
    """Tokens of the longest conversation."""
    not_closed: list[int] = field(default_factory=list)

    def add(self, other: Side) -> None:
        """Add the counts of later rows."""
        for name in ("answers", "closed_once", "truncated", "ends_trained", "prompt_fills"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        self.not_closed += other.not_closed[: SHOWN - len(self.not_closed)]

    def share(self, count: int) -> float:
        """``count`` as a share of the answers, from 0 to 1."""
        return count / self.answers if self.answers else 0.0


class Answer(NamedTuple):
    """A conversation with its answer as token ids, and the place of the first token of the answer.

    ``earlier``: where the answers before it are, if they are trained, too.
    """

    ids: list[int]
    begins: int
    earlier: tuple[Span, ...] = ()

    @property
    def trained(self) -> list[bool]:
        """For each token, whether the loss falls on it."""
        return trained(len(self.ids), self.begins, self.earlier)


def encode(rows: Sequence[Row], tokenizer: Any, all_answers: EndOfTurn | None = None) -> list[dict[str, Answer]]:
    """Render and tokenize ``rows`` as the trainers of TRL do, by side.

    ``all_answers``: the end-of-turn token, where the earlier answers of SFT rows are trained, too (``train_on: all``).

    An answer begins where the rendered prompt and the whole conversation part, as in TRL: a template may end an
    opened prompt otherwise than it begins an answer. Of a pair both answers begin at the same place.
    """
    tools = [row.get("tools") for row in rows]
    prompts = _ids(tokenizer, [row["prompt"] for row in rows], tools, opened=True)
    jobs = [(number, side, conversation) for number, row in enumerate(rows) for side, conversation in sides(row)]
    offered = [tools[number] for number, _, _ in jobs]
    wholes = _ids(tokenizer, [conversation for _, _, conversation in jobs], offered, opened=False)
    begins = [len(prompt) for prompt in prompts]
    for (number, _, _), whole in zip(jobs, wholes, strict=True):
        begins[number] = min(begins[number], common(prompts[number], whole))
    found: list[dict[str, Answer]] = [{} for _ in rows]
    for (number, side, _), whole in zip(jobs, wholes, strict=True):
        found[number][side] = Answer(whole, begins[number])
    if all_answers is not None:
        for row, answers in zip(rows, found, strict=True):
            if (last := answers.get("rows")) is not None:
                earlier = _earlier(row, tokenizer, last, all_answers)
                answers["rows"] = last._replace(earlier=earlier)
    return found


def _earlier(row: Row, tokenizer: Any, last: Answer, end_of_turn: EndOfTurn) -> tuple[Span, ...]:
    def opened(prompts: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[int]]:
        return _ids(tokenizer, list(prompts), [row.get("tools")] * len(prompts), opened=True)

    return earlier_answers(row["prompt"], last.ids, last.begins, end_of_turn, opened)


def count(
    encoded: Iterable[Mapping[str, Answer]],
    end_of_turn: EndOfTurn,
    *,
    max_length: int | None,
    keep: str = "keep_start",
    start: int = 0,
) -> dict[str, Side]:
    """Cut the answers of :func:`encode` at ``max_length`` as the trainers do, and count by side.

    ``closed_once``: exactly one end-of-turn token in the answer, at its close. ``ends_trained``: the last trained label
    is the end-of-turn token (without what the template writes after it). ``prompt_fills``: the prompt alone fills
    ``max_length``, so that the trainer drops the row. ``start`` is the number of the first row.
    """
    found: dict[str, Side] = {}
    for number, answers in enumerate(encoded, start):
        for side, answer in answers.items():
            counts = found.setdefault(side, Side())
            _count(counts, number, answer.begins, answer.ids, end_of_turn, max_length, keep)
    return found


def look(
    rows: Sequence[Row], tokenizer: Any, end_of_turn: EndOfTurn, *, max_length: int | None, keep: str = "keep_start"
) -> dict[str, Side]:
    """:func:`encode` and :func:`count` for ``rows`` that are in memory."""
    return count(encode(rows, tokenizer), end_of_turn, max_length=max_length, keep=keep)


Spans = dict[str, list[tuple[str, bool]]]
"""By side, the text of a row in pieces, and whether the loss falls on the piece."""


def spans(
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    max_length: int | None = None,
    keep: str = "keep_start",
    all_answers: EndOfTurn | None = None,
) -> list[Spans]:
    """What the trainer sees of each of ``rows``. Tokens that ``max_length`` cuts off are left out.

    ``all_answers``: see :func:`encode`.
    """
    found: list[Spans] = []
    for answers in encode(rows, tokenizer, all_answers) if rows else ():
        shown: Spans = {}
        for side, answer in answers.items():
            flagged = list(zip(answer.ids, answer.trained, strict=True))
            if max_length is not None:
                flagged = flagged[:max_length] if keep == "keep_start" else flagged[-max_length:]
            # Tokens are decoded together: one alone may be a part of a character.
            shown[side] = [
                (tokenizer.decode([token for token, _ in piece]), trained)
                for trained, piece in groupby(flagged, key=lambda item: item[1])
            ]
        found.append(shown)
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
    elif len(side.not_closed) < SHOWN:
        side.not_closed.append(index)
    cut = max_length is not None and len(whole) > max_length
    kept = whole[:max_length] if cut and keep == "keep_start" else whole
    if cut and keep == "keep_start" and begins >= (max_length or 0):
        side.prompt_fills += 1
    ended = len(kept) > begins and any(kept[-end:] == closing[:end] for end in range(1, len(closing) + 1))
    side.truncated += cut and not ended
    side.ends_trained += ended
