"""From the recipe's sources to the rows of each set, the held-out prompts and a report of all that was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding, Level, Rule
from hubkit.core.numbers import count, share
from hubkit.models.chat.control import control_tokens
from hubkit.models.chat.eos import EndOfTurn
from hubkit.recipe.models import Recipe, Source, Training
from hubkit.recipe.stage import Report
from hubkit.training.data import mappings, rows, turns
from hubkit.training.data.loading import Loaded
from hubkit.training.data.mappings import Message, Row
from hubkit.training.data.roles import Roles
from hubkit.training.data.rules import (
    DROPPED_ROWS,
    FEWER_ROWS,
    LONG_PROMPTS,
    MOVED_SYSTEM,
    NO_ROWS,
    OPEN_TURNS,
    OVERLAP,
    TOO_FEW_PROMPTS,
    TRUNCATED_EOS,
)

TOLERATED = 0.02
"""Share of rows that may be dropped, or lose their end-of-turn token, before the release is refused."""
CLOSED = 0.999
"""Least share of answers that must close with exactly one end-of-turn token."""

Length = Callable[[str], tuple[int | None, str]]
"""Of a stage's name: (max_length or None, which part truncation keeps)."""

TRUNCATING = ("max_length", "truncation_mode", "packing")
"""Arguments of a training that say where a row is cut (:func:`hubkit.training.arguments.truncation`)."""


@dataclass(frozen=True)
class DataSettings:
    """What the preparation of data reads of a recipe. ``stages`` are the training stages that some variant needs.

    ``prompts_from`` is empty where no prompts are held out.
    """

    data: Mapping[str, tuple[Source, ...]]
    stages: Mapping[str, Training]
    prompts: int
    prompts_from: str
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> DataSettings:
        """Build the settings from ``recipe``; a training stage without `uses` is named after its code."""
        rate = recipe.gates.stop_rate
        stages = {name: _read_of(recipe.stages[name]) for name in recipe.wanted_stages()}
        prompts, prompts_from = (rate.prompts, rate.prompts_from) if rate else (0, "")
        return cls(recipe.data, stages, prompts, prompts_from, recipe.seed)

    def method(self, stage: str) -> str:
        """The name of the code that trains ``stage``."""
        return self.stages[stage].uses or stage

    def wanted(self, name: str) -> mappings.Kind | None:
        """The kind of rows that the stages need which train on the dataset ``name``; None where they do not agree."""
        kinds = {mappings.METHOD_KINDS.get(self.method(stage)) for stage in self.users(name)}
        return kinds.pop() if len(kinds) == 1 else None

    def users(self, name: str) -> tuple[str, ...]:
        """The stages that train on the dataset ``name``."""
        return tuple(stage for stage, training in self.stages.items() if training.data == name)


def _read_of(stage: Training) -> Training:
    """``stage`` with what the preparation of data reads of it: nothing that only the training reads."""
    args = {name: value for name, value in stage.args.items() if name in TRUNCATING}
    return Training(uses=stage.uses, data=stage.data, accept=stage.accept, args=args)


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


@dataclass
class DataReport:
    """What was made of a recipe's data, and what was found on the way."""

    sets: dict[str, list[Row]] = field(default_factory=dict)
    sources: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    prompts: list[list[Message]] = field(default_factory=list)
    prompts_from: str = ""
    overlapping: int = 0
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[DataFinding] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The content of ``data.json``."""
        return {
            "sets": {name: {"rows": len(made), "sources": self.sources[name]} for name, made in self.sets.items()},
            "prompts": {
                "set": self.prompts_from,
                "rows": len(self.prompts),
                "also_in_other_sets": self.overlapping,
                "also_trained_on": sum(rows.overlap(self.prompts, made) for made in self.sets.values()),
            },
            "stages": self.stages,
            "findings": [item.to_json() for item in self.findings],
        }

    def refuse(self) -> None:
        """RefusedError with every error that no stage accepts; nothing when there is none."""
        errors = [item for item in self.findings if item.level == "error" and not item.accepted]
        if not errors:
            return
        codes = sorted({item.rule for item in errors} & {"truncated-end-of-turn", "dropped-rows"})
        hint = "Fix the data or the stage's arguments."
        if codes:
            hint = f"Fix the data or raise max_length, or accept it with `accept: [{', '.join(codes)}]`."
        raise RefusedError(" ".join(item.message for item in errors), hint=hint)


def prepare(
    settings: DataSettings,
    load: Callable[[Source], Loaded],
    tokenizer: Any,
    end_of_turn: EndOfTurn,
    length: Length,
    report: Report,
) -> DataReport:
    """Load, map and check every set that a stage or the gate needs; hold prompts out; look at the end-of-turn tokens.

    Errors in the data come back as findings (see :meth:`DataReport.refuse`); a recipe that does not fit the data
    raises UsageError.
    """
    made = DataReport(prompts_from=settings.prompts_from)
    control, roles = control_tokens(tokenizer, str(tokenizer.chat_template)), Roles(tokenizer)
    checked: dict[str, list[rows.Checked]] = {}
    held_out_from = [made.prompts_from] if made.prompts_from else []
    for name in dict.fromkeys([*(stage.data for stage in settings.stages.values()), *held_out_from]):
        checked[name] = _read_set(settings, name, load, end_of_turn, control, roles, made, report)
    _hold_out(settings, checked, made)
    for name, stage in settings.stages.items():
        if made.sets.get(stage.data):
            _look(settings, name, made, tokenizer, end_of_turn, length, report)
    return made


def _read_set(
    settings: DataSettings,
    name: str,
    load: Callable[[Source], Loaded],
    end_of_turn: EndOfTurn,
    control: Sequence[str],
    roles: Roles,
    made: DataReport,
    report: Report,
) -> list[rows.Checked]:
    seen: set[bytes] = set()
    found: list[rows.Checked] = []
    kinds: set[mappings.Kind] = set()
    made.sources[name] = []
    for source in settings.data[name]:
        report(f"reading {source.name}", None)
        loaded = load(source)
        columns = mappings.find_for(source, loaded.columns, settings.wanted(name))
        kinds.add(columns.kind)
        checked = rows.check(
            loaded.rows, columns, forbidden=(end_of_turn.token,), control=control, seen=seen, roles=roles
        )
        found.append(checked)
        made.sources[name].append(
            {
                "repo": source.name,
                "local": source.repo is None,
                "commit": loaded.commit,
                "split": source.split,
                "mapping": columns.name,
                "read": checked.read,
                "kept": len(checked.rows),
                "moved_system": checked.moved,
                "dropped": checked.dropped,
                "dropped_rows": checked.examples,
                "licence": loaded.licence,
            }
        )
        made.findings += _of_drops(settings, name, source, checked)
    for stage in settings.users(name):
        mappings.must_train(stage, settings.method(stage), name, kinds)
    return found


def _of_drops(settings: DataSettings, name: str, source: Source, checked: rows.Checked) -> Iterator[DataFinding]:
    users = settings.users(name)
    if checked.moved:
        message = (
            f"The chat template refuses system messages; in {count(checked.moved)} of {count(checked.read)} rows of"
            f" {source.name} their text is now the beginning of the question."
        )
        yield DataFinding.of(MOVED_SYSTEM, message, stages=users)
    if not checked.rows:
        yield DataFinding.of(
            NO_ROWS,
            f"No row of {source.name} can be trained on ({count(checked.read)} read). {checked.why()}".strip(),
            stages=users,
        )
    elif checked.dropped:
        message = (
            f"{count(checked.read - len(checked.rows))} of {count(checked.read)} rows of {source.name}"
            f" ({share(checked.dropped_share)}) were dropped: {checked.why()}."
        )
        accepted = bool(users) and all("dropped-rows" in settings.stages[stage].accept for stage in users)
        over = checked.dropped_share > TOLERATED
        yield DataFinding.of(
            DROPPED_ROWS, message, "error" if over else "warning", accepted=accepted and over, stages=users
        )


def _hold_out(settings: DataSettings, checked: Mapping[str, Sequence[rows.Checked]], made: DataReport) -> None:
    wanted = settings.prompts
    all_rows = {name: [row for item in sources for row in item.rows] for name, sources in checked.items()}
    held = rows.hold_out(all_rows, made.prompts_from, wanted, settings.seed) if wanted else rows.HeldOut([], 0)
    made.prompts, made.overlapping = held.prompts, held.overlapping
    for name, sources in checked.items():
        made.sets[name] = []
        for source, item, summary in zip(settings.data[name], sources, made.sources[name], strict=True):
            free = rows.without(item.rows, held.prompts) if name == made.prompts_from else item.rows
            drawn = rows.sample(free, source.rows, settings.seed)
            summary["used"] = len(drawn)
            made.sets[name] += drawn
            if source.rows and len(drawn) < source.rows:
                has, asks = count(len(drawn)), count(source.rows)
                message = f"{source.name} has only {has} usable rows; the recipe asks for {asks}."
                made.findings.append(DataFinding.of(FEWER_ROWS, message, stages=settings.users(name)))
    if held.overlapping:
        message = (
            f"{count(held.overlapping)} prompts of {made.prompts_from!r} are also in other entries of `data`"
            " and were not held out."
        )
        made.findings.append(DataFinding.of(OVERLAP, message))
    if len(held.prompts) < wanted:
        message = (
            f"Only {count(len(held.prompts))} of {count(wanted)} prompts could be held out from {made.prompts_from!r}."
        )
        made.findings.append(DataFinding.of(TOO_FEW_PROMPTS, message))
    users = settings.users(made.prompts_from)
    if users and not made.sets[made.prompts_from]:
        message = f"Holding out {count(len(held.prompts))} prompts leaves no row of {made.prompts_from!r} to train on."
        made.findings.append(DataFinding.of(NO_ROWS, message, stages=users))


def _look(
    settings: DataSettings,
    name: str,
    made: DataReport,
    tokenizer: Any,
    end_of_turn: EndOfTurn,
    length: Length,
    report: Report,
) -> None:
    stage = settings.stages[name]
    max_length, keep = length(name)
    found = turns.look(
        made.sets[stage.data],
        tokenizer,
        end_of_turn,
        max_length=max_length,
        keep=keep,
        report=lambda share: report(f"checking the end-of-turn tokens of {name}", share),
    )
    made.stages[name] = {
        "max_length": max_length,
        "longest": {side: seen.longest for side, seen in found.items()},
        "truncated_share": {side: seen.share(seen.truncated) for side, seen in found.items()},
        "end_of_turn_lost": {side: 1 - seen.share(seen.ends_trained) for side, seen in found.items()},
        "closed_once": {side: seen.share(seen.closed_once) for side, seen in found.items()},
        "prompt_fills": {side: seen.share(seen.prompt_fills) for side, seen in found.items()},
    }
    made.findings += _of_turns(name, found, max_length, end_of_turn, "truncated-end-of-turn" in stage.accept)


def _of_turns(
    name: str, found: Mapping[str, turns.Side], max_length: int | None, end_of_turn: EndOfTurn, accepted: bool
) -> Iterator[DataFinding]:
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
