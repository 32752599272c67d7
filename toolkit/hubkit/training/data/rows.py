"""Rows: converted, checked, and counted by reason, one at a time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hubkit.training.data.mappings import BadRow, Columns, Message, Row
from hubkit.training.data.roles import Roles

MAX_CHARACTERS = 1_000_000
"""A longer row is dropped: it is a file in disguise and would take the tokenizer's memory."""
EXAMPLES = 5
_EXCERPT = 200


@dataclass
class Checked:
    """How many rows of one source passed; the others counted by reason, with the indices of the first few.

    ``moved``: rows whose system message was moved into the question. ``excerpts``: how the first dropped rows of each
    reason begin.
    """

    read: int = 0
    kept: int = 0
    moved: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[int]] = field(default_factory=dict)
    excerpts: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, index: int, raw: Any = None) -> None:
        """Count the row ``index`` (from 0, in the source's order), which is ``raw``, under ``reason``."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        if len(shown := self.examples.setdefault(reason, [])) < EXAMPLES:
            shown.append(index)
            self.excerpts.setdefault(reason, []).append(_excerpt(raw))

    def drop_known(self, reason: str, indices: Sequence[int]) -> None:
        """Count rows that had passed (``indices``, in order) under ``reason`` after all."""
        if not indices:
            return
        self.kept -= len(indices)
        self.dropped[reason] = self.dropped.get(reason, 0) + len(indices)
        self.examples[reason] = list(indices[:EXAMPLES])

    @property
    def dropped_share(self) -> float:
        """Share of the rows read that were dropped, from 0 to 1; 1 when nothing was read."""
        return 1 - self.kept / self.read if self.read else 1.0

    def why(self) -> str:
        """The reasons with counts and the first row indices, for people."""
        return "; ".join(
            f"{count} × {reason} (row {', '.join(map(str, self.examples[reason]))}"
            f"{', …' if count > len(self.examples[reason]) else ''})"
            for reason, count in sorted(self.dropped.items(), key=lambda item: -item[1])
        )


class Passed(NamedTuple):
    """A row that can be trained on: its number in the source, the row, and the row as a line of JSON."""

    number: int
    row: Row
    line: str


@dataclass(frozen=True)
class Checker:
    """What a row must not hold. See :func:`Checker.each`.

    ``forbidden`` are texts that no message may hold (the end-of-turn token: a row that holds it would have two),
    ``control`` those that the tokenizer reads as other tokens of the format, whoever wrote them
    (``hubkit.models.chat.control``). ``roles`` makes the conversations fit for the chat template.
    """

    forbidden: Collection[str] = ()
    control: Collection[str] = ()
    roles: Roles | None = None

    def each(self, source: Iterable[Mapping[str, Any] | None], columns: Columns, counted: Checked) -> Iterator[Passed]:
        """Convert and check each row of ``source`` (None: its bytes are no text); those that pass, counting the rest.

        No row is held after the next one is asked for.
        """
        tokens = re.compile("|".join(map(re.escape, sorted(self.control, key=len, reverse=True))) or "(?!)")
        for index, raw, converted, reason in columns.read(source):
            if converted is None and reason is None:
                continue  # it is a half of a pair
            counted.read += 1
            try:
                if converted is None:
                    raise BadRow(reason)
                row, moved = self._fit(converted, tokens)
            except BadRow as problem:
                counted.drop(str(problem), index, raw)
                continue
            counted.kept += 1
            counted.moved += moved
            yield Passed(index, row, json.dumps(row, ensure_ascii=False))

    def _fit(self, row: Row, tokens: re.Pattern[str]) -> tuple[Row, bool]:
        spoken = list(texts(row))
        if sum(map(len, spoken)) > MAX_CHARACTERS:
            raise BadRow("longer than a million characters")
        if any(word in text for text in spoken for word in self.forbidden):
            raise BadRow("holds the end-of-turn token as text")
        if any(tokens.search(text) for text in spoken):
            raise BadRow("holds a control token as text")
        return self.roles.fit(row) if self.roles else (row, False)


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


def _excerpt(raw: Any) -> str:
    if raw is None:
        return ""
    short = {
        key: f"{value[:_EXCERPT]}…" if isinstance(value, str) and len(value) > _EXCERPT else value
        for key, value in dict(raw).items()
    }
    text = json.dumps(short, ensure_ascii=False, default=str)[: 2 * _EXCERPT]
    return text.encode("utf-8", "replace").decode()


def digest(text: str) -> int:
    """64 bits of BLAKE2b. Of a million different texts two have the same with a chance of 3 in 100 million."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def question(prompt: Sequence[Message]) -> str:
    """The user's text in ``prompt``, without regard to case and spacing: equal ones count as the same prompt."""
    return "\n".join(" ".join(item["content"].casefold().split()) for item in prompt if item["role"] == "user")


def uses_tools(row: Row) -> bool:
    """Whether ``row`` offers tools, or somebody in its prompt calls or answers as one."""
    return "tools" in row or any(item["role"] == "tool" or "tool_calls" in item for item in row["prompt"])


def sides(row: Row) -> Iterator[tuple[str, list[Message]]]:
    """(side, conversation with its answer): ``chosen`` and ``rejected``, or ``rows`` for an SFT row."""
    for side in SIDES[1:]:
        if side in row:
            yield ("rows" if side == "completion" else side), [*row["prompt"], *row[side]]
