"""One row of each form of dataset, made into a conversation. Which columns a form reads: :mod:`.mappings`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.training.data.messages import (
    BadRow,
    Message,
    dialogue,
    ends_with_answer,
    is_dialogue,
    is_messages,
    messages,
    plain,
    tools_of,
)

Row = dict[str, Any]
"""``prompt`` with ``completion``, or with ``chosen`` and ``rejected``: lists of messages; and perhaps ``tools``."""
_MEDIA = {"image": "an image", "images": "an image", "audio": "an audio", "video": "a video", "videos": "a video"}


@dataclass(frozen=True)
class Fields:
    """A row of a dataset, read by what its columns are (``prompt``) and not by their names (``question``).

    ``columns`` are the names that each role may have; the first that the row has is read.
    """

    row: Mapping[str, Any]
    columns: Mapping[str, tuple[str, ...]]

    def name(self, role: str) -> str:
        """The column of ``role``; the first of its names where the row has none."""
        names = self.columns.get(role) or (role,)
        return next((name for name in names if self.row.get(name) is not None), names[0])

    def get(self, role: str) -> Any:
        """The value of ``role``; None when the row has none."""
        return self.row.get(self.name(role)) if role in self.columns else None

    def value(self, role: str) -> Any:
        """The value of ``role``. BadRow when it is missing or null."""
        key = self.name(role)
        if key not in self.row:
            raise BadRow(f"missing key: {key}")
        if self.row[key] is None:
            raise BadRow(f"null: {key}")
        return self.row[key]

    def text(self, role: str, *, optional: bool = False) -> str:
        """The text of ``role``. BadRow when it is missing, null, of another type, empty or not text."""
        if optional and self.get(role) is None:
            return ""
        return plain(self.value(role), self.name(role), optional=optional)


def pair(fields: Fields) -> Row:
    """A preference: text or messages, the prompt in a column of its own or at the beginning of both answers."""
    chosen, rejected = (_side(fields, role) for role in ("chosen", "rejected"))
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise BadRow("does not end with an answer")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("chosen and rejected answer different prompts")
    prompt = chosen[:-1] if chosen[0]["role"] != "assistant" else [*_prompt(fields), *chosen[:-1]]
    return _pair(fields, prompt, chosen[-1], rejected[-1])


def plain_pair(fields: Fields) -> Row:
    """A preference whose prompt and answers are text that is taken as it is; messages are read as :func:`pair` does."""
    if any(isinstance(fields.get(role), list) for role in ("chosen", "rejected")):
        return pair(fields)
    prompt = _asked("", fields.text("prompt"))
    chosen, rejected = (_answer(fields.text(role)) for role in ("chosen", "rejected"))
    return _pair(fields, prompt, chosen, rejected)


def rated(fields: Fields) -> Row:
    """A preference from several answers with a rating each: the best and the worst of them."""
    answers, ratings = fields.value("completions"), fields.value("ratings")
    if not isinstance(answers, list) or not isinstance(ratings, list) or len(answers) != len(ratings):
        raise BadRow("answers and ratings differ in number")
    known = [
        (float(rating), answer)
        for rating, answer in zip(ratings, answers, strict=True)
        if isinstance(rating, int | float) and rating == rating and answer is not None
    ]
    if len({rating for rating, _ in known}) < 2:
        raise BadRow("no answer is rated higher than another")
    key = fields.name("completions")
    best, worst = (
        plain(choose(known, key=lambda item: item[0])[1], key).strip()
        for choose in (max, min)  # of equal ratings the first
    )
    return _pair(fields, _prompt(fields), _answer(best), _answer(worst))


def instruction(fields: Fields) -> Row:
    """An instruction, what it is about in a column of its own, and the answer: text that is taken as it is."""
    given = fields.text("input", optional=True)
    asked = fields.text("prompt")
    user = f"{asked}\n{given}" if given.strip() else asked
    return _sft(fields, _asked("", user), _answer(fields.text("completion")))


def prompt_and_completion(fields: Fields) -> Row:
    """A prompt and its completion: text or messages. Of several messages in a completion the last is the answer."""
    prompt = _prompt(fields)
    if (given := fields.text("input", optional=True)).strip():
        prompt = [*prompt[:-1], {**prompt[-1], "content": f"{prompt[-1]['content']}\n{given.strip()}"}]
    completion = _side(fields, "completion")
    if completion[0]["role"] != "assistant":
        raise BadRow(f"roles out of order: {fields.name('completion')}")
    conversation = [*prompt, *completion]
    ends_with_answer(conversation)
    return _sft(fields, conversation[:-1], conversation[-1])


def talk(fields: Fields) -> Row:
    """A conversation in one column, whose last answer is the completion."""
    key = fields.name("messages")
    value = fields.value("messages")
    conversation = dialogue(value, key) if is_dialogue(value) else messages(value, key)
    ends_with_answer(conversation)
    return _sft(fields, conversation[:-1], conversation[-1])


def text_of_dialogue(fields: Fields) -> Row:
    """A conversation in one text, its turns marked by ``Human:`` or ``<|im_start|>``."""
    text = fields.text("text")
    if not is_dialogue(text):
        raise BadRow(f"text without turns: {fields.name('text')}")
    conversation = dialogue(text, fields.name("text"))
    ends_with_answer(conversation)
    return _sft(fields, conversation[:-1], conversation[-1])


def label(fields: Fields) -> bool:
    """Whether the completion of an unpaired preference is a good one. BadRow when the label does not say so."""
    value = fields.value("label")
    known = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, str) and value.strip().lower() in known:
        return known[value.strip().lower()]
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise BadRow(f"wrong type: {fields.name('label')}")


def good_completion(fields: Fields) -> Row:
    """The completion of an unpaired preference whose label is true."""
    if not label(fields):
        raise BadRow("the label is false")
    return prompt_and_completion(fields)


def paired(good: Row, bad: Row) -> Row:
    """The preference in two completions of the same prompt."""
    chosen, rejected = good["completion"][0], bad["completion"][0]
    _differ(chosen, rejected)
    both = {"prompt": good["prompt"], "chosen": [chosen], "rejected": [rejected]}
    return {**both, **({"tools": good["tools"]} if "tools" in good else {})}


def _side(fields: Fields, role: str) -> list[Message]:
    """An answer, perhaps with the conversation before it."""
    key, value = fields.name(role), fields.value(role)
    if is_dialogue(value):
        return dialogue(value, key)
    if not is_messages(value):
        return [_answer(fields.text(role).strip())]
    found = messages(value, key, completion=True)
    if not found:
        raise BadRow(f"empty: {key}")
    return found


def _prompt(fields: Fields) -> list[Message]:
    """The prompt in its column, ending with what is to be answered."""
    key, value = fields.name("prompt"), fields.value("prompt")
    if is_dialogue(value):
        prompt = dialogue(value, key, opened=True)
    elif is_messages(value):
        prompt = messages(value, key)
    else:
        prompt = _asked("", fields.text("prompt").strip())
    if not prompt or prompt[-1]["role"] not in ("user", "tool"):
        raise BadRow(f"does not end with a question: {key}")
    return prompt


def _asked(system: str, user: str) -> list[Message]:
    before = [{"role": "system", "content": system}] if system.strip() else []
    return [*before, {"role": "user", "content": user}]


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _pair(fields: Fields, prompt: Sequence[Message], chosen: Message, rejected: Message) -> Row:
    _differ(chosen, rejected)
    return _completed(fields, {"prompt": list(prompt), "chosen": [chosen], "rejected": [rejected]})


def _differ(chosen: Message, rejected: Message) -> None:
    if chosen["content"].strip() == rejected["content"].strip() and chosen.get("tool_calls") == rejected.get(
        "tool_calls"
    ):
        raise BadRow("chosen equals rejected")


def _sft(fields: Fields, prompt: Sequence[Message], answer: Message) -> Row:
    if answer.get("weight") == 0:
        raise BadRow("the last answer has the weight 0")
    return _completed(fields, {"prompt": list(prompt), "completion": [answer]})


def _completed(fields: Fields, row: Row) -> Row:
    """``row`` with the system message and the tools that have columns of their own. BadRow for pictures and sounds."""
    for column, what in _MEDIA.items():
        if fields.row.get(column):
            raise BadRow(f"holds {what}: {column}")
    system = fields.text("system", optional=True) if row["prompt"][0]["role"] != "system" else ""
    if system.strip():
        row = {**row, "prompt": [{"role": "system", "content": system}, *row["prompt"]]}
    tools = tools_of(fields.get("tools"), fields.name("tools"))
    return {**row, "tools": tools} if tools else row
