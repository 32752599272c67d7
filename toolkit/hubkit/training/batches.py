"""Is the end-of-turn token in the loss? Proved on a training's own batches, before its first step.

A trainer that masks padding by its id leaves every end-of-turn token out of the loss where the two are the same token:
the model then never learns to stop, and no loss curve shows it. TRL masks by place. Here its own collator makes a batch
of the first rows, and the tokens in the loss must be those of the answers as the chat template renders them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.chat.trained import ids_of
from hubkit.training.data.answers import earlier_answers, trained
from hubkit.training.data.tokens import IGNORED
from hubkit.training.data.turns import common

ROWS = 32


def prove(
    trainer: Any,
    tokenizer: Any,
    end_of_turn: EndOfTurn,
    first: Sequence[Mapping[str, Any]] | None = None,
    *,
    all_answers: bool = False,
) -> int:
    """How many answers of ``trainer`` (of TRL) were compared; 0 where its rows no longer have their conversations.

    ``first`` are its first rows with their conversations, where its dataset has them as tokens alone. ``all_answers``:
    the earlier answers of SFT rows are trained, too.

    RefusedError when a batch has other tokens in the loss than those of the answers, cut at ``max_length``.
    """
    rows = list(islice(iter(trainer.train_dataset), ROWS)) if first is None else list(first)
    too = end_of_turn if all_answers else None
    answers = [_answer(trainer, tokenizer, row, side, too) for side in _sides(rows) for row in rows]
    if not answers:
        return 0
    dated = "strftime_now" in str(tokenizer.chat_template)  # midnight may lie between the trainer's rendering and this
    expected, in_batch = [token for answer in answers for token in answer], in_loss(trainer.data_collator(rows))
    if in_batch != expected and not dated:
        raise RefusedError(_difference(tokenizer, expected, in_batch, end_of_turn), hint=_HINT)
    return len(answers)


_HINT = "Remove the arguments of the stage that change padding, packing or masking; another version of TRL may differ."


def in_loss(batch: Mapping[str, Any]) -> list[int]:
    """The tokens of ``batch`` (of a collator of TRL) that are in the loss, in order, those of each row together.

    A token whose label is another token, or that is hidden by the attention mask, counts as -1.
    """
    ids = batch["input_ids"]
    labels = batch["labels"] if "labels" in batch else ids.masked_fill(batch["completion_mask"] == 0, IGNORED)
    wrong = labels != ids
    if "attention_mask" in batch:
        wrong = wrong | (batch["attention_mask"] == 0)
    return list(ids.masked_fill(wrong, -1)[labels != IGNORED].tolist())


def _sides(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The columns with the answers of ``rows``, in the order of a batch."""
    for side in ("completion", "chosen", "rejected"):
        if rows and "prompt" in rows[0] and side in rows[0]:
            yield side


def _answer(
    trainer: Any, tokenizer: Any, row: Mapping[str, Any], side: str, end_of_turn: EndOfTurn | None
) -> list[int]:
    """The answer in the column ``side`` of ``row`` as the trainer is to see it, after the earlier ones, which end with
    ``end_of_turn`` (None: they are not trained)."""
    tools = row.get("tools")
    prompt = ids_of(tokenizer, row["prompt"], opened=True, tools=tools) or []
    wholes = {name: ids_of(tokenizer, [*row["prompt"], *row[name]], tools=tools) or [] for name in _sides([row])}
    begins = min(common(prompt, whole) for whole in wholes.values())
    if getattr(trainer, "completion_only_loss", True) is False:
        begins = 0
    whole, length = wholes[side], trainer.args.max_length
    cut = 0 if length is None else max(0, len(whole) - length)
    first, last = (0, len(whole) - cut) if trainer.args.truncation_mode == "keep_start" else (cut, len(whole))
    if end_of_turn is None or side != "completion":
        return whole[max(begins, first) : last]

    def opened(prompts: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[int]]:
        return [ids_of(tokenizer, prompt, opened=True, tools=tools) or [] for prompt in prompts]

    flags = trained(len(whole), begins, earlier_answers(row["prompt"], whole, begins, end_of_turn, opened))
    return [whole[place] for place in range(first, last) if flags[place]]


def _difference(tokenizer: Any, expected: list[int], trained: list[int], end_of_turn: EndOfTurn) -> str:
    ends, lost = expected.count(end_of_turn.id), expected.count(end_of_turn.id) - trained.count(end_of_turn.id)
    if lost > 0:
        return f"The trainer leaves {lost} of {ends} end-of-turn tokens {end_of_turn.token} out of the loss."
    place = common(expected, trained)
    wanted, found = (
        tokenizer.decode([token for token in ids[place : place + 8] if token >= 0]) for ids in (expected, trained)
    )
    return f"The trainer trains on other tokens than those of the answers: on {found!r} instead of {wanted!r}."
