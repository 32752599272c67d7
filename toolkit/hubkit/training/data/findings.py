"""What was found in the data, as findings with their rule: rows dropped, end-of-turn tokens cut off, overlaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.core.findings import Finding, Level, Rule
from hubkit.core.numbers import count, share
from hubkit.evals.contamination import RUN, Overlap
from hubkit.models.chat.eos import EndOfTurn
from hubkit.training.data import turns
from hubkit.training.data.rows import Checked
from hubkit.training.data.rules import (
    BENCHMARK_OVERLAP,
    DROPPED_ROWS,
    LONG_PROMPTS,
    MOVED_SYSTEM,
    NO_ROWS,
    OPEN_TURNS,
    TRUNCATED_EOS,
)

TOLERATED = 0.02
"""Share of rows that may be dropped, or lose their end-of-turn token, and of a benchmark's questions that may be in the
training data, before the release is refused."""
CLOSED = 0.999
"""Least share of answers that must close with exactly one end-of-turn token."""


@dataclass(frozen=True)
class DataFinding(Finding):
    """A finding about data. A stage's ``accept`` names its ``rule``: an accepted error is reported and stops nothing.

    ``stages`` are those that train on the rows; none where it is about the held-out prompts alone.
    """

    accepted: bool = False
    stages: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        rule: Rule,
        message: str,
        level: Level | None = None,
        *,
        accepted: bool = False,
        stages: tuple[str, ...] = (),
    ) -> DataFinding:
        """A finding of ``rule``; ``level`` where it is another than the rule's own."""
        return cls(level or rule.level, message, rule=rule.id, accepted=accepted, stages=stages)

    def to_json(self) -> dict[str, Any]:
        """As in ``data.json``."""
        return {
            "level": self.level,
            "code": self.rule,
            "message": self.message,
            "accepted": self.accepted,
            "stages": list(self.stages),
        }


def of_rows(name: str, checked: Checked, users: tuple[str, ...], *, accepted: bool) -> Iterator[DataFinding]:
    """What was found in the source ``name``; ``accepted``: all stages that train on it accept dropped rows."""
    if checked.moved:
        message = (
            f"The chat template refuses system messages; in {count(checked.moved)} of {count(checked.read)} rows of"
            f" {name} their text is now the beginning of the question."
        )
        yield DataFinding.of(MOVED_SYSTEM, message, stages=users)
    if not checked.kept:
        yield DataFinding.of(
            NO_ROWS,
            f"No row of {name} can be trained on ({count(checked.read)} read). {checked.why()}".strip(),
            stages=users,
        )
    elif checked.dropped:
        message = (
            f"{count(checked.read - checked.kept)} of {count(checked.read)} rows of {name}"
            f" ({share(checked.dropped_share)}) were dropped: {checked.why()}."
        )
        over = checked.dropped_share > TOLERATED
        yield DataFinding.of(
            DROPPED_ROWS, message, "error" if over else "warning", accepted=accepted and over, stages=users
        )


def of_benchmark(overlap: Overlap, users: tuple[str, ...], *, accepted: bool) -> Iterator[DataFinding]:
    """What of a benchmark is in the rows that the stages ``users`` train on."""
    if not overlap.found:
        return
    there = overlap.to_json()["overlapping"]
    where = " and ".join(repr(name) for name in sorted(overlap.found))
    message = (
        f"{count(there)} of {count(overlap.questions)} questions of the benchmark {overlap.task}"
        f" ({share(overlap.share)}) are in the training data {where}: a run of {RUN} words of them, or the whole"
        f" question. Its result says little about new questions. One of them: {_short(overlap.examples[0])}"
    )
    over = overlap.share > TOLERATED
    level: Level = "error" if over else "warning"
    yield DataFinding.of(BENCHMARK_OVERLAP, message, level, accepted=accepted and over, stages=users)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return f"{line[:100]}…" if len(line) > 100 else line


def of_turns(
    name: str, found: Mapping[str, turns.Side], max_length: int | None, end_of_turn: EndOfTurn, accepted: bool
) -> Iterator[DataFinding]:
    """What ``max_length`` does to the answers of the stage ``name``, and whether they close."""
    cut = {side: seen.share(seen.truncated) for side, seen in found.items()}
    if any(cut.values()):
        shares = ", ".join(f"{share(lost)} of {side}" for side, lost in cut.items())
        longest = max(seen.longest for seen in found.values())
        message = (
            f"In the stage {name!r} max_length {max_length} cuts the end-of-turn token {end_of_turn.token} off {shares}"
            f" (the longest has {count(longest)} tokens): a model trained this way will not learn to stop."
        )
        over = max(cut.values()) > TOLERATED
        yield DataFinding.of(
            TRUNCATED_EOS, message, "error" if over else "warning", accepted=accepted and over, stages=(name,)
        )
    for side, seen in found.items():
        closed = seen.share(seen.closed_once)
        if closed < CLOSED:
            yield DataFinding.of(
                OPEN_TURNS,
                f"In the stage {name!r} {share(1 - closed)} of {side} do not end with exactly one"
                f" {end_of_turn.token} (row {', '.join(map(str, seen.not_closed[:5]))}).",
                stages=(name,),
            )
        if seen.prompt_fills:
            filled = f"{count(seen.prompt_fills)} of {side}"
            message = f"In the stage {name!r} the prompt fills max_length in {filled}; these rows are skipped."
            yield DataFinding.of(LONG_PROMPTS, message, stages=(name,))
