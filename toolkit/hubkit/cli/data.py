"""`hubkit data`: check the rows of a recipe, and show what is trained of them, without training."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from hubkit.cli.findings import printed
from hubkit.cli.options import output_of, output_options, recipe_argument, recipe_hub_option
from hubkit.cli.recipes import find_recipe_file, last_state
from hubkit.cli.targets import find_target
from hubkit.core.errors import UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.numbers import count, share
from hubkit.core.output import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hubkit.pipeline.data_report import DataFound
    from hubkit.recipe.models import Recipe
    from hubkit.training.data.findings import DataFinding
    from hubkit.training.data.prepared import PreparedData, SourceReport

Pieces = Sequence[tuple[str, bool]]


@click.group()
def data() -> None:
    """Check and show the rows of a recipe, without training."""


@data.command()
@recipe_argument
@recipe_hub_option
@output_options
def check(recipe: str | None, hub_name: str | None) -> None:
    """Report what a release would do with the rows of RECIPE.

    It reports the rows kept and dropped, by reason and with examples; duplicates; what max_length cuts off;
    and questions of the recipe's benchmarks that are in the training data. The exit code is 3 if there is an error that
    no stage accepts. Nothing is trained or published.

    \b
    Example:
      hubkit data check hubkit.yaml
    """
    _, found = _find(recipe, hub_name)
    findings = [item.restored() for item in found.data.findings]
    output_of().result({**found.data.to_json(), "dropped": found.shown["dropped"]}, *_check_lines(found, findings))
    if any(item.level == "error" and not item.accepted for item in findings):
        sys.exit(3)


@data.command()
@recipe_argument
@click.argument("name", required=False)
@recipe_hub_option
@output_options
def show(recipe: str | None, name: str | None, hub_name: str | None) -> None:
    """Show three rows of RECIPE as each stage trains on them.

    Rows are rendered by the chat template and cut at max_length. The tokens in the loss are bold at a terminal, and
    in [[double brackets]] elsewhere. NAME is a training stage or an entry of `data`; all stages if left out.

    \b
    Example:
      hubkit data show hubkit.yaml preferences
    """
    settings, found = _find(recipe, hub_name)
    examples: Mapping[str, list[dict[str, Pieces]]] = found.shown["examples"]
    wanted = _stages(settings, name, examples)
    value = {
        stage: [
            {side: [{"text": text, "trained": trained} for text, trained in pieces] for side, pieces in row.items()}
            for row in examples[stage]
        ]
        for stage in wanted
    }
    lines = [line for stage in wanted for line in _row_lines(stage, settings.stages[stage].data or "", examples[stage])]
    output_of().result(value, *lines)


def _find(recipe: str | None, hub_name: str | None) -> tuple[Recipe, DataFound]:
    from dataclasses import replace

    from hubkit.pipeline.data_report import data_of

    file = find_recipe_file(recipe)
    last = last_state(file.recipe, file.folder, hub_name)
    if "data" not in last.finished:
        last = replace(last, target=find_target(hub_name, file.recipe))
    return file.recipe, data_of(last, hubkit_home(), output_of(), file.places)


def _stages(settings: Recipe, name: str | None, examples: Mapping[str, Any]) -> list[str]:
    """The stages that ``name`` stands for. UsageError when it is neither a stage nor an entry of `data`."""
    found = [stage for stage in examples if name in (None, stage, settings.stages[stage].data)]
    if not found:
        known = ", ".join(dict.fromkeys([*examples, *(settings.stages[stage].data or "" for stage in examples)]))
        raise UsageError(f"No stage trains on {name!r}.", hint=f"Pass one of {known}, or leave it out.")
    return found


def _row_lines(stage: str, dataset: str, rows: Sequence[Mapping[str, Pieces]]) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(f"Stage {stage}, dataset {dataset}", "bold")
    terminal = sys.stdout.isatty()
    for number, row in enumerate(rows, 1):
        for side, pieces in row.items():
            yield Text(f"\nRow {number}" + (f", {side}" if side != "rows" else ""), "dim")
            if terminal:
                yield Text.assemble(*((text, "bold green" if trained else "") for text, trained in pieces))
            else:
                yield "".join(f"[[{text}]]" if trained else text for text, trained in pieces)
    yield ""


def _check_lines(found: DataFound, findings: Sequence[DataFinding]) -> Iterator[RenderableType]:
    from rich.text import Text

    yield from _sources(found.data)
    yield from _dropped(found.shown["dropped"])
    yield from _lengths(found.data)
    yield from _benchmarks(found.data)
    for finding in findings:
        yield Text.assemble(printed(finding), " Accepted by the recipe." if finding.accepted else "")
    if not findings:
        yield "No problems found in the data."


def _sources(data: PreparedData) -> Iterator[RenderableType]:
    heads = ("dataset", "source", "read#", "kept#", "held out#", "evaluation#", "trained on#", "dropped")
    rows = [
        (
            name,
            f"{source.repo} ({source.mapping})",
            count(source.read),
            count(source.kept),
            count(source.held_out),
            count(source.evaluation),
            count(source.kept if source.used is None else source.used),
            _reasons(source),
        )
        for name, found in data.sets.items()
        for source in found.sources
    ]
    yield table(heads, rows)
    yield f"{count(data.prompts.rows)} prompts held out from {data.prompts.set}.\n" if data.prompts.rows else ""


def _reasons(source: SourceReport) -> str:
    listed = sorted(source.dropped.items(), key=lambda item: -item[1])
    return ", ".join(f"{count(number)} {reason}" for reason, number in listed) or "none"


def _dropped(dropped: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    if not dropped:
        return
    rows = [(item["source"], item["reason"], str(item["row"]), _short(item["text"])) for item in dropped]
    yield table(("source", "reason", "row#", "dropped rows, the first of each reason"), rows)
    yield ""


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"


def _lengths(data: PreparedData) -> Iterator[RenderableType]:
    rows = [
        (
            stage,
            side,
            count(longest),
            count(lengths.max_length) if lengths.max_length is not None else "none",
            share(lengths.truncated_share.get(side, 0.0)),
        )
        for stage, lengths in data.stages.items()
        for side, longest in lengths.longest.items()
    ]
    if rows:
        yield table(("stage", "answers", "longest, tokens#", "max_length#", "end-of-turn token cut off#"), rows)
        yield ""


def _benchmarks(data: PreparedData) -> Iterator[RenderableType]:
    rows = [
        (
            item.suite,
            item.task,
            count(item.questions),
            count(item.overlapping),
            _short(item.examples[0]) if item.examples else "",
        )
        for item in data.benchmarks
    ]
    if rows:
        yield table(("suite", "task", "questions#", "in the training data#", "for example"), rows)
        yield ""
