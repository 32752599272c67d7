"""From the recipe's sources to the rows of each set, the held-out prompts and a report of all that was found.

Rows pass through twice and are never held together: each source is read once, checked, and spooled to disk; then the
rows of each set are chosen by their digests, written, and tokenized as they are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import RefusedError
from hubkit.core.numbers import count
from hubkit.evals.contamination import Contamination
from hubkit.models.chat.control import control_tokens
from hubkit.models.chat.eos import EndOfTurn
from hubkit.recipe.models import Recipe, Source, Training
from hubkit.recipe.stage import Report
from hubkit.training.data import choosing, mappings, near, own_prompts, tokens, turns
from hubkit.training.data.choosing import HeldOut, Pool
from hubkit.training.data.findings import DataFinding, of_benchmark, of_rows, of_turns
from hubkit.training.data.loading import Loaded
from hubkit.training.data.mappings import Message
from hubkit.training.data.roles import Roles
from hubkit.training.data.rows import Checked, Checker, texts
from hubkit.training.data.rules import FEWER_ROWS, NO_ROWS, OVERLAP, TOO_FEW_PROMPTS
from hubkit.training.data.spool import Spool

if TYPE_CHECKING:
    from numpy.typing import NDArray

Length = Callable[[str], tuple[int | None, str]]
"""Of a stage's name: (max_length or None, which part truncation keeps)."""

TRUNCATING = ("max_length", "truncation_mode", "packing")
"""Arguments of a training that say where a row is cut (:func:`hubkit.training.arguments.truncation`)."""
SHOWN = 3
"""Rows that are kept of each stage with the tokens that it trains on, for `hubkit data show`."""


@dataclass(frozen=True)
class DataSettings:
    """What the preparation of data reads of a recipe. ``stages`` are the training stages that some variant needs.

    ``prompts_from`` is empty where none are held out: then ``prompts`` are hubkit's own, or there are 0. ``stages``
    are those that train on rows.
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
        stages = {name: _read_of(stage) for name in recipe.wanted_stages() if (stage := recipe.stages[name]).data}
        prompts, prompts_from = (rate.prompts, rate.prompts_from or "") if rate else (0, "")
        return cls(recipe.data, stages, prompts, prompts_from, recipe.seed)

    def named(self) -> tuple[str, ...]:
        """The datasets that are read: those that a stage trains on, and that of the prompts."""
        names = [*(stage.data for stage in self.stages.values()), self.prompts_from]
        return tuple(dict.fromkeys(name for name in names if name))

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

    def all_answers(self, name: str) -> bool:
        """Whether stages train on all answers of the dataset ``name``."""
        return any(self.stages[stage].train_on == "all" for stage in self.users(name))

    def accepted(self, rule: str, users: Sequence[str]) -> bool:
        """Whether all of the stages ``users`` accept findings of ``rule``."""
        return bool(users) and all(rule in self.stages[stage].accept for stage in users)


def _read_of(stage: Training) -> Training:
    """``stage`` with what the preparation of data reads of it: nothing that only the training reads."""
    args = {name: value for name, value in stage.args.items() if name in TRUNCATING}
    return Training(uses=stage.uses, data=stage.data, accept=stage.accept, train_on=stage.train_on, args=args)


@dataclass
class DataReport:
    """What was made of a recipe's data, and what was found on the way. The rows are in files."""

    sets: dict[str, int] = field(default_factory=dict)
    evaluation: dict[str, int] = field(default_factory=dict)
    sources: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    prompts: list[list[Message]] = field(default_factory=list)
    prompts_from: str = ""
    overlapping: int = 0
    trained_on: int = 0
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    excerpts: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    findings: list[DataFinding] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The content of ``data.json``."""
        return {
            "sets": {
                name: {"rows": rows, "evaluation": self.evaluation.get(name, 0), "sources": self.sources[name]}
                for name, rows in self.sets.items()
            },
            "prompts": {
                "set": self.prompts_from,
                "rows": len(self.prompts),
                "also_in_other_sets": self.overlapping,
                "also_trained_on": self.trained_on,
            },
            "stages": self.stages,
            "benchmarks": self.benchmarks,
            **({"overlap": self._overlap()} if self.benchmarks else {}),
            "findings": [item.to_json() for item in self.findings],
        }

    def _overlap(self) -> dict[str, Any]:
        """All the benchmarks together, and the tasks of which questions were found."""
        found = [item for item in self.benchmarks if item["overlapping"]]
        return {
            "questions": sum(item["questions"] for item in self.benchmarks),
            "overlapping": sum(item["overlapping"] for item in self.benchmarks),
            "tasks": [{name: item[name] for name in ("task", "questions", "overlapping")} for item in found],
        }

    def refuse(self) -> None:
        """RefusedError with every error that no stage accepts; nothing when there is none."""
        errors = [item for item in self.findings if item.level == "error" and not item.accepted]
        if not errors:
            return
        codes = sorted({item.rule for item in errors} & {"truncated-end-of-turn", "dropped-rows", "benchmark-overlap"})
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
    folder: Path,
    scratch: Path,
    benchmarks: Contamination | None = None,
) -> DataReport:
    """Load, map and check every set that a stage or the gate needs; hold prompts out; write rows and their tokens.

    Rows, tokens and examples go to ``folder``, what is needed on the way to ``scratch``. Errors in the data come back
    as findings (see :meth:`DataReport.refuse`); a recipe that does not fit the data raises UsageError.
    """
    work = _Preparing(settings, load, tokenizer, end_of_turn, length, report, folder, scratch, benchmarks)
    for name in settings.named():
        work.read(name)
    work.choose()
    for name in work.made.sets:
        work.write(name)
    work.look()
    return work.made


@dataclass
class _Preparing:
    settings: DataSettings
    load: Callable[[Source], Loaded]
    tokenizer: Any
    end_of_turn: EndOfTurn
    length: Length
    report: Report
    folder: Path
    scratch: Path
    benchmarks: Contamination | None
    made: DataReport = field(init=False)
    pools: dict[str, list[Pool]] = field(default_factory=dict)
    checked: dict[str, list[Checked]] = field(default_factory=dict)
    evaluation: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = own_prompts.NAME if self.settings.prompts else ""
        self.made = DataReport(prompts_from=self.settings.prompts_from or own)
        control = control_tokens(self.tokenizer, str(self.tokenizer.chat_template))
        self.checker = Checker((self.end_of_turn.token,), control, Roles(self.tokenizer))

    def read(self, name: str) -> None:
        """Read, check and spool the sources of the set ``name``."""
        kinds: set[mappings.Kind] = set()
        self.pools[name], self.checked[name], self.made.sources[name] = [], [], []
        for number, source in enumerate(self.settings.data[name]):
            self.report(f"reading {source.name}", None)
            loaded = self.load(source)
            columns = mappings.find_for(source, loaded.columns, self.settings.wanted(name))
            kinds.add(columns.kind)
            checked = Checked()
            passed = self.checker.each(loaded.rows, columns, checked)
            spool = Spool.write(self.scratch / "spool" / f"{name}-{number}.jsonl", passed)
            self.pools[name].append(Pool.of(spool))
            self.checked[name].append(checked)
            self.made.sources[name].append(
                {
                    "repo": source.name,
                    "local": source.repo is None,
                    "commit": loaded.commit,
                    "split": source.split,
                    "mapping": columns.name,
                    "licence": loaded.licence,
                }
            )
        for stage in self.settings.users(name):
            mappings.must_train(stage, self.settings.method(stage), name, kinds)
        self._drop_duplicates(name)
        self._report_rows(name)

    def _drop_duplicates(self, name: str) -> None:
        sources, pools = self.settings.data[name], self.pools[name]
        again = choosing.repeated(pools)
        for source, pool, repeated, checked in zip(sources, pools, again, self.checked[name], strict=True):
            if source.duplicates != "keep":
                pool.free &= ~repeated
                checked.drop_known("duplicate", pool.spool.indices[repeated].tolist())
        if any(source.duplicates == "near" for source in sources):
            self.report(f"looking for near duplicates in {name}", None)
            rows = (row for pool in pools for _, row in pool.spool.rows(pool.free))
            number = sum(int(pool.free.sum()) for pool in pools)
            found = near.near_duplicates(near.signatures(rows, number, self.scratch / "signatures" / name))
            start = 0
            for source, pool, checked in zip(sources, pools, self.checked[name], strict=True):
                positions = pool.positions()
                close = positions[found[start : start + len(positions)]]
                start += len(positions)
                if source.duplicates == "near":
                    pool.free[close] = False
                    checked.drop_known("near duplicate", pool.spool.indices[close].tolist())

    def _report_rows(self, name: str) -> None:
        users = self.settings.users(name)
        accepted = self.settings.accepted("dropped-rows", users)
        for source, checked, summary in zip(
            self.settings.data[name], self.checked[name], self.made.sources[name], strict=True
        ):
            summary |= {
                "read": checked.read,
                "kept": checked.kept,
                "moved_system": checked.moved,
                "dropped": checked.dropped,
                "dropped_rows": checked.examples,
            }
            self.made.findings += of_rows(source.name, checked, users, accepted=accepted)
            self.made.excerpts += [
                {"set": name, "source": source.name, "reason": reason, "row": index, "text": text}
                for reason, excerpts in checked.excerpts.items()
                for index, text in zip(checked.examples[reason], excerpts, strict=False)
            ]

    def choose(self) -> None:
        """Hold the prompts out, draw the samples, and take the rows for evaluation out."""
        settings, made = self.settings, self.made
        held = HeldOut()
        if not settings.prompts_from:
            held = HeldOut(own_prompts.conversations(settings.prompts))
            for pool in (pool for pools in self.pools.values() for pool in pools):
                pool.take_out(held.asked)
        else:
            held = choosing.hold_out(self.pools, made.prompts_from, settings.prompts, settings.seed)
            for pool, summary in zip(self.pools[made.prompts_from], made.sources[made.prompts_from], strict=True):
                before = len(pool.positions())
                pool.take_out(held.asked)
                summary["held_out"] = before - len(pool.positions())
        made.prompts, made.overlapping = held.prompts, held.overlapping
        for name in self.pools:
            self._draw(name)
        made.trained_on = choosing.overlap(held, [pool for pools in self.pools.values() for pool in pools])
        self._report_prompts(held)

    def _draw(self, name: str) -> None:
        """Draw the rows of the set ``name`` from what is free, and those for its evaluation from them."""
        settings, sources, pools = self.settings, self.settings.data[name], self.pools[name]
        wanted = [source.rows for source in sources]
        weights = [source.weight for source in sources if source.weight is not None]
        if weights:
            there = [len(pool.positions()) for pool in pools]
            most = [rows if most is None else min(rows, most) for rows, most in zip(there, wanted, strict=True)]
            wanted = list(choosing.in_shares(most, weights))
        for pool, rows in zip(pools, wanted, strict=True):
            choosing.sample(pool, rows, settings.seed)
        for source, pool, summary in zip(sources, pools, self.made.sources[name], strict=True):
            summary["used"] = drawn = len(pool.positions())
            if source.rows and not weights and drawn < source.rows:
                message = (
                    f"{source.name} has only {count(drawn)} usable rows; the recipe asks for {count(source.rows)}."
                )
                self.made.findings.append(DataFinding.of(FEWER_ROWS, message, stages=settings.users(name)))
        elsewhere = choosing.elsewhere(self.pools, name)
        taken = choosing.for_evaluation(pools, [source.eval for source in sources], elsewhere, settings.seed)
        self.evaluation[name] = taken
        for mask, summary in zip(taken, self.made.sources[name], strict=True):
            if evaluated := int(mask.sum()):
                summary["used"] -= evaluated
                summary["evaluation"] = evaluated
        self.made.sets[name] = sum(summary["used"] for summary in self.made.sources[name])

    def _report_prompts(self, held: HeldOut) -> None:
        settings, made = self.settings, self.made
        if held.overlapping:
            message = (
                f"{count(held.overlapping)} prompts of {made.prompts_from!r} are also in other entries of `data`"
                " and were not held out."
            )
            made.findings.append(DataFinding.of(OVERLAP, message))
        there = len(held.prompts)
        if settings.prompts_from and there < settings.prompts:
            message = (
                f"Only {count(there)} of {count(settings.prompts)} prompts could be held out from"
                f" {made.prompts_from!r}."
            )
            made.findings.append(DataFinding.of(TOO_FEW_PROMPTS, message))
        users = settings.users(made.prompts_from)
        if users and not made.sets[made.prompts_from]:
            message = f"Holding out {count(there)} prompts leaves no row of {made.prompts_from!r} to train on."
            made.findings.append(DataFinding.of(NO_ROWS, message, stages=users))

    def write(self, name: str) -> None:
        """Write the rows of the set ``name``, those for its evaluation, and the tokens of both."""
        users = self.settings.users(name)
        looks = {stage: tokens.Cut(*self.length(stage)) for stage in users}
        all_answers = self.settings.all_answers(name)
        encoder = tokens.Encoder(self.tokenizer, self.end_of_turn, looks, all_answers)
        chosen = [pool.free for pool in self.pools[name]]
        found = self._write_rows("sets", name, chosen, encoder if users else None)
        for stage, sides in found.items():
            self._report_lengths(stage, sides)
        taken = self.evaluation[name]
        if rows := sum(int(mask.sum()) for mask in taken):
            self.made.evaluation[name] = rows
            self._write_rows("evaluation", name, taken, replace(encoder, cuts={}))

    def _write_rows(
        self, kind: str, name: str, chosen: Sequence[NDArray[Any]], encoder: tokens.Encoder | None
    ) -> dict[str, dict[str, turns.Side]]:
        number = sum(int(mask.sum()) for mask in chosen)
        lines = self._lines(name, chosen)
        if kind == "sets" and encoder is not None and self.benchmarks is not None:
            lines = self._compared(name, lines, self.benchmarks)
        lines = _written(self.folder / kind / f"{name}.jsonl", lines)
        if encoder is None or not number:
            for _ in lines:
                pass
            return {}
        sides: dict[str, dict[str, turns.Side]] = {}
        for made in tokens.write(lines, number, self.folder / tokens.FOLDERS[kind] / name, encoder):
            self.report(f"tokenizing {name}", made.rows / number)
            sides = made.sides
        return sides

    def _lines(self, name: str, chosen: Sequence[NDArray[Any]]) -> Iterator[str]:
        for pool, mask in zip(self.pools[name], chosen, strict=True):
            for _, line in pool.spool.lines(mask):
                yield line

    def _compared(self, name: str, lines: Iterator[str], benchmarks: Contamination) -> Iterator[str]:
        for line in lines:
            benchmarks.compare(name, texts(json.loads(line)))
            yield line

    def _report_lengths(self, stage: str, found: Mapping[str, turns.Side]) -> None:
        max_length = self.length(stage)[0]
        self.made.stages[stage] = {
            "max_length": max_length,
            "longest": {side: seen.longest for side, seen in found.items()},
            "truncated_share": {side: seen.share(seen.truncated) for side, seen in found.items()},
            "end_of_turn_lost": {side: 1 - seen.share(seen.ends_trained) for side, seen in found.items()},
            "closed_once": {side: seen.share(seen.closed_once) for side, seen in found.items()},
            "prompt_fills": {side: seen.share(seen.prompt_fills) for side, seen in found.items()},
        }
        accepted = "truncated-end-of-turn" in self.settings.stages[stage].accept
        self.made.findings += of_turns(stage, found, max_length, self.end_of_turn, accepted)

    def look(self) -> None:
        """Report what of the benchmarks is in the sets, and render the first rows of each stage."""
        for overlap in self.benchmarks.overlaps if self.benchmarks else ():
            self.made.benchmarks.append(overlap.to_json())
            users = tuple(stage for name in overlap.found for stage in self.settings.users(name))
            accepted = self.settings.accepted("benchmark-overlap", users)
            self.made.findings += of_benchmark(overlap, users, accepted=accepted)
        for stage, training in self.settings.stages.items():
            max_length, keep = self.length(stage)
            name = training.data or ""
            lines = self._lines(name, [pool.free for pool in self.pools[name]])
            first = [json.loads(line) for line in islice(lines, SHOWN)]
            self.made.examples[stage] = turns.spans(
                first,
                self.tokenizer,
                max_length=max_length,
                keep=keep,
                all_answers=self.end_of_turn if training.train_on == "all" else None,
            )


def _written(path: Path, lines: Iterator[str]) -> Iterator[str]:
    """``lines``, each written to ``path`` before it is given on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
            yield line
