"""What a trainer saw, kept beside its adapter, and compared with what the published tokenizer and template make.

A release trains with one template and publishes one. Nothing in a loss curve or a stop rate shows that the two differ
a little: a blank before an answer, a missing opening. So the training step keeps the token ids of its first rows as its
trainer held them, and of the golden conversations; merge and load-back render the same again and compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from hubkit.core.files import read_json, write_json
from hubkit.models.chat.golden import golden_names, golden_requests
from hubkit.models.chat.rendering import Message

SEEN_FILE = "seen/texts.json"
"""Beside the adapter in a training step's artifact; apart from the files of which cards are written."""
ROWS = 16
Tools = Sequence[Mapping[str, Any]] | None
_ANSWERS = ("chosen", "rejected", "completion")


def seen(tokenizer: Any, rows: Any) -> dict[str, Any]:
    """What is kept of a training: ``{"day", "template", "golden", "rows"}``, token ids all.

    ``tokenizer`` is the trainer's own. ``rows`` is its data set after it tokenized it: ``prompt`` with ``chosen`` and
    ``rejected`` (and ``*_ids``) or ``completion`` (and ``input_ids``). A set that no longer has its conversations,
    such as a packed one, gives no rows.
    """
    return {
        "day": date.today().isoformat(),
        "template": tokenizer.chat_template,
        "golden": dict(zip(golden_names(), _golden(tokenizer), strict=True)),
        "rows": [_placed(tokenizer, *row) for example in islice(iter(rows), ROWS) for row in _of_example(example)],
    }


Seen = Mapping[str, Any]
"""What :func:`seen` keeps of a training."""


def save_seen(folder: Path, kept: Seen) -> None:
    """Write ``kept`` to the artifact in ``folder``."""
    write_json(folder / SEEN_FILE, kept)


def load_seen(folder: Path) -> Seen | None:
    """What the artifact in ``folder`` keeps of its training; None when it keeps nothing."""
    path = folder / SEEN_FILE
    return dict(read_json(path)) if path.is_file() else None


def text_count(kept: Seen) -> int:
    """How many texts :func:`differences` compares."""
    return len(kept["golden"]) + len(kept["rows"])


def _of_example(example: Mapping[str, Any]) -> Iterator[tuple[list[Message], list[int], Tools]]:
    for side in _ANSWERS:
        if "prompt" not in example or side not in example:
            continue
        messages = [*example["prompt"], *example[side]]
        if f"{side}_ids" in example and "prompt_ids" in example:
            yield messages, [*example["prompt_ids"], *example[f"{side}_ids"]], example.get("tools")
        elif "input_ids" in example:
            yield messages, list(example["input_ids"]), example.get("tools")


def _placed(tokenizer: Any, messages: list[Message], ids: list[int], tools: Tools) -> dict[str, Any]:
    """A row with its place in the whole rendering: a trainer cuts what is longer than its ``max_length``.

    What is no part of the rendering has the place 0, and is found out by :func:`differences`.
    """
    whole = ids_of(tokenizer, messages, tools=tools) or []
    end = len(whole) - len(ids)
    from_end = whole[: len(ids)] != ids and end > 0 and whole[end:] == ids
    offered = {"tools": tools} if tools else {}
    return {"messages": messages, **offered, "ids": ids, "from": end if from_end else 0, "of": len(whole)}


def _golden(tokenizer: Any) -> list[list[int] | None]:
    return [ids_of(tokenizer, messages, opened) for messages, opened in golden_requests()]


def ids_of(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], opened: bool = False, *, tools: Tools = None
) -> list[int] | None:
    """The token ids of ``messages`` as ``tokenizer`` renders them; None when its template refuses them.

    ``tools`` are the JSON schemas of the functions that the conversation offers.
    """
    from jinja2 import TemplateError

    try:
        encoded = tokenizer.apply_chat_template(
            [dict(item) for item in messages],
            tools=tools or None,
            add_generation_prompt=opened,
            tokenize=True,
            return_dict=True,
        )
    except (TemplateError, TypeError, ValueError):
        return None
    return list(encoded["input_ids"])


def differences(tokenizer: Any, kept: Mapping[str, Any]) -> list[str]:
    """Where ``tokenizer``, as published, makes other token ids than the trainer saw (see :func:`seen`); a phrase each.

    A row that the trainer cut at its ``max_length`` is compared as far as it goes. A template that writes the date of
    the day is compared on that day only: on another, two correct renderings differ.
    """
    if "strftime_now" in str(kept["template"]) and kept["day"] != date.today().isoformat():
        return []
    found = [
        f"the golden conversation {name!r}{_where(tokenizer, before, now)}"
        for (name, before), now in zip(kept["golden"].items(), _golden(tokenizer), strict=True)
        if before != now
    ]
    for number, row in enumerate(kept["rows"]):
        now, before = ids_of(tokenizer, row["messages"], tools=row.get("tools")), row["ids"]
        if now is None or len(now) != row["of"] or now[row["from"] : row["from"] + len(before)] != before:
            found.append(f"the training text {number + 1}{_where(tokenizer, before, now)}")
    return found


def _where(tokenizer: Any, before: Sequence[int] | None, now: Sequence[int] | None) -> str:
    if before is None or now is None:
        return " is refused by one of them"
    place = next((n for n, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    was, became = (tokenizer.decode(list(ids[place : place + 8])) for ids in (before, now))
    return f" differs from the token {place + 1} on: trained on {was!r}, published as {became!r}"
