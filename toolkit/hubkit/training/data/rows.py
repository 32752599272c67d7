"""Rows: converted, checked and counted by reason; held-out prompts drawn that are never trained on."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hubkit.training.data.mappings import BadRow, Columns, Message, Row
from hubkit.training.data.roles import Roles

MAX_CHARACTERS = 1_000_000
"""A longer row is dropped: it is a file in disguise and would take the tokenizer's memory."""
EXAMPLES = 5


@dataclass
class Checked:
    """The rows of one source that passed, and the others counted by reason, with the indices of the first few.

    ``moved``: rows whose system message was moved into the question.
    """

    read: int = 0
    moved: int = 0
    rows: list[Row] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[int]] = field(default_factory=dict)

    def drop(self, reason: str, index: int) -> None:
        """Count the row ``index`` (from 0, in the source's order) under ``reason``."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        if len(shown := self.examples.setdefault(reason, [])) < EXAMPLES:
            shown.append(index)

    @property
    def dropped_share(self) -> float:
        """Share of the rows read that were dropped, from 0 to 1; 1 when nothing was read."""
        return 1 - len(self.rows) / self.read if self.read else 1.0

    def why(self) -> str:
        """The reasons with counts and the first row indices, for people."""
        return "; ".join(
            f"{count} × {reason} (row {', '.join(map(str, self.examples[reason]))}"
            f"{', …' if count > len(self.examples[reason]) else ''})"
            for reason, count in sorted(self.dropped.items(), key=lambda item: -item[1])
        )


def check(
    source: Iterable[Mapping[str, Any] | None],
    columns: Columns,
    *,
    forbidden: Collection[str] = (),
    control: Collection[str] = (),
    seen: set[bytes] | None = None,
    roles: Roles | None = None,
) -> Checked:
    """Convert and check each row of ``source``; None means a row whose bytes are no text.

    ``forbidden`` are texts that no message may hold (the end-of-turn token: a row that holds it would have two),
    ``control`` those that the tokenizer reads as other tokens of the format, whoever wrote them
    (``hubkit.models.chat.control``). ``seen`` is shared by the sources of one set, so that a row of another source
    counts as a duplicate too. ``roles`` makes the conversations fit for the chat template.
    """
    found, known = Checked(), set() if seen is None else seen
    tokens = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or "(?!)")
    for index, _, converted, reason in columns.read(source):
        found.read += converted is not None or reason is not None
        try:
            if converted is None:
                if reason is not None:
                    raise BadRow(reason)
                continue
            row = converted
            spoken = list(texts(row))
            if sum(map(len, spoken)) > MAX_CHARACTERS:
                raise BadRow("longer than a million characters")
            if any(word in text for text in spoken for word in forbidden):
                raise BadRow("holds the end-of-turn token as text")
            if any(tokens.search(text) for text in spoken):
                raise BadRow("holds a control token as text")
            row, moved = roles.fit(row) if roles else (row, False)
            if (mark := _digest(row)) in known:
                raise BadRow("duplicate")
        except BadRow as problem:
            found.drop(str(problem), index)
            continue
        known.add(mark)
        found.rows.append(row)
        found.moved += moved
    return found


SIDES = ("prompt", "completion", "chosen", "rejected")
"""The parts of a row that are lists of messages."""


def texts(row: Row) -> Iterator[str]:
    """All that is written in ``row``: by its messages, in its tool calls and in the tools that it offers."""
    for side in SIDES:
        for message in row.get(side, ()):
            yield message["content"]
            for key, value in message.items():
                if key not in ("role", "content", "weight"):
                    yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if "tools" in row:
        yield json.dumps(row["tools"], ensure_ascii=False)


def _digest(row: Row) -> bytes:
    made = hashlib.sha256()
    for part, value in row.items():
        if part not in SIDES:
            made.update(json.dumps([part, value], sort_keys=True).encode())
            continue
        for message in value:
            more = {key: item for key, item in message.items() if key not in ("role", "content")}
            words = (part, message["role"], message["content"], *([json.dumps(more, sort_keys=True)] if more else []))
            for word in words:
                made.update(f"{len(word)}:{word}".encode())
    return made.digest()


def question(prompt: Sequence[Message]) -> str:
    """The user's text in ``prompt``, without regard to case and spacing: equal ones count as the same prompt."""
    return "\n".join(" ".join(item["content"].casefold().split()) for item in prompt if item["role"] == "user")


@dataclass(frozen=True)
class HeldOut:
    """Prompts that are never trained on, and how many were skipped because another entry of `data` has them, too."""

    prompts: list[list[Message]]
    overlapping: int


def hold_out(sets: Mapping[str, Sequence[Row]], name: str, wanted: int, seed: int) -> HeldOut:
    """Draw ``wanted`` different prompts from the set ``name``; the caller trains on :func:`without` them.

    A prompt that another set has too is never drawn. Fewer come back when the set has no more to give.
    """
    elsewhere = {question(row["prompt"]) for other, rows in sets.items() if other != name for row in rows}
    by_question: dict[str, list[Message]] = {}
    for row in sets[name]:
        by_question.setdefault(question(row["prompt"]), row["prompt"])
    free = [asked for asked in by_question if asked not in elsewhere]
    drawn = set(random.Random(f"prompts {seed}").sample(free, min(wanted, len(free))))
    prompts = [prompt for asked, prompt in by_question.items() if asked in drawn]
    return HeldOut(prompts, len(by_question) - len(free))


def without(rows: Iterable[Row], prompts: Iterable[Sequence[Message]]) -> list[Row]:
    """The rows that ask none of ``prompts``."""
    asked = {question(prompt) for prompt in prompts}
    return [row for row in rows if question(row["prompt"]) not in asked]


def sample(rows: Sequence[Row], wanted: int | None, seed: int) -> list[Row]:
    """``wanted`` of the rows, drawn by ``seed``, in their order; all of them when ``wanted`` is None or not less."""
    if wanted is None or wanted >= len(rows):
        return list(rows)
    chosen = sorted(random.Random(f"rows {seed}").sample(range(len(rows)), wanted))
    return [rows[index] for index in chosen]


def overlap(prompts: Iterable[Sequence[Message]], rows: Iterable[Row]) -> int:
    """How many of ``prompts`` are asked in ``rows`` too."""
    asked = {question(row["prompt"]) for row in rows}
    return sum(question(prompt) in asked for prompt in prompts)


def sides(row: Row) -> Iterator[tuple[str, list[Message]]]:
    """(side, conversation with its answer): ``chosen`` and ``rejected``, or ``rows`` for an SFT row."""
    for side in SIDES[1:]:
        if side in row:
            yield ("rows" if side == "completion" else side), [*row["prompt"], *row[side]]
