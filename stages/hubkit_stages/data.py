"""Map, check and sample the rows of each set; hold prompts out for the gate; look at the turn ends.

    data:
      preferences:
        - {repo: Intel/orca_dpo_pairs}
        - {repo: argilla/ultrafeedback-binarized-preferences}
      repair:
        - {repo: teknium/openhermes, rows: 7000}
    gates: {stop_rate: {prompts_from: preferences, prompts: 256}}

A finding that is an error ends the run here, before any training, unless the stage that it concerns names it in its
``accept``. What was accepted is said in ``data.json``, in the log and on the card.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import HubkitError
from hubkit.core.files import write_atomic, write_json
from hubkit.core.findings import Finding
from hubkit.core.numbers import count
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Artifact, Context

if TYPE_CHECKING:
    from hubkit.training.data.preparing import DataReport

VERSION = 3
SHAPED_BY = ("datasets", "transformers", "tokenizers", "trl")

_log = logging.getLogger("hubkit.training.data")


def check(ctx: Context) -> Iterator[Finding]:
    """Are the sets there, and does a mapping fit the columns of each: reads one row of each at most."""
    from hubkit.hub.client import connect
    from hubkit.training.data import mappings
    from hubkit.training.data.loading import first_columns

    hub = connect(ctx.target)
    for name, sources in ctx.recipe.data.items():
        for number, source in enumerate(sources):
            where = f"data.{name}.{number}"
            if source.mapping and (problem := mappings.name_problem(source.mapping)):
                yield Finding("error", f"{where}.mapping: {problem}", "Mend the recipe.", exit_code=2)
                continue
            try:
                if ctx.recipe.provide and ctx.target.embedded and not hub.repo_exists(source.repo, "dataset"):
                    continue
                columns = mappings.find(source.mapping, first_columns(hub, source), source.repo)
                for stage in ctx.recipe.wanted_stages():
                    if ctx.recipe.stages[stage].data == name:
                        mappings.must_train(stage, _method(ctx.recipe, stage), name, {columns.kind})
            except HubkitError as error:
                yield Finding("error", f"{where}: {error.message}", error.hint, error.exit_code)


def run(ctx: Context) -> Artifact:
    """Make ``sets/<set>.jsonl``, ``prompts.jsonl`` and ``data.json``."""
    from hubkit.hub.client import connect
    from hubkit.hub.errors import translated
    from hubkit.models.chat.eos import EndOfTurn
    from hubkit.training.arguments import truncation
    from hubkit.training.data.loading import load
    from hubkit.training.data.preparing import prepare
    from hubkit.training.shared import load_tokenizer

    base, hub = ctx.input("base").json("base.json"), connect(ctx.target)
    with translated(hub.endpoint, base["repo"], base["commit"]):
        tokenizer = load_tokenizer(base, ctx.input("base").path)
    made = prepare(
        ctx.recipe,
        lambda source: load(hub, source),
        tokenizer,
        EndOfTurn.from_json(base["end_of_turn"]),
        lambda stage: truncation(ctx.recipe.stages[stage], stage),
        ctx.report,
    )
    for finding in made.findings:
        _log.warning("%s%s: %s", finding.code, " (accepted)" if finding.accepted else "", finding.message)
    made.refuse()
    write(made, ctx.out)
    figure = ", ".join(
        [
            *(f"{count(len(rows))} {name}" for name, rows in made.sets.items()),
            f"{count(len(made.prompts))} held out",
        ]
    )
    accepted = sorted({finding.code for finding in made.findings if finding.accepted})
    said = f"; accepted: {', '.join(accepted)}" if accepted else ""
    return ctx.artifact(figure=figure + said, accepted=accepted, warnings=[item.message for item in made.findings])


def write(made: DataReport, folder: Path) -> None:
    """Write the rows, the held-out prompts and the report to ``folder``. A set may have any name, 'prompts' too."""
    from hubkit.training.shared import set_file

    for name, rows in made.sets.items():
        _write(set_file(folder, name), rows)
    _write(folder / "prompts.jsonl", [{"messages": prompt} for prompt in made.prompts])
    write_json(folder / "data.json", made.to_json())


def _method(recipe: Recipe, stage: str) -> str:
    return recipe.stages[stage].uses or stage


def _write(path: Path, rows: Iterable[Any]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
