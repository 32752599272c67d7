"""Write the cards of one variant from what all the steps measured.

Writes ``README.md`` (the branch's card), ``adapter-README.md`` (the adapter's), ``gguf/README.md`` (that of the GGUF
files where they have a place of their own), their pictures in ``assets/``,
``.eval_results/*.yaml`` (results for the Hub's leaderboards), ``comparisons.json`` (differences that are computed for
the card), ``memory.json`` and ``sampling.json`` (what running the model takes), ``.hubkit/benchmarks.json.gz`` (the
score of every question, for the next release), ``.hubkit/reported.json`` (what the files of ``evaluate.results`` hold)
and ``numbers.json``: for each card, every number on it with the result file and the place in that file from which it
was read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.cards.card_files import WrittenCards
from hubkit.cards.evidence import Evidence, Measurements, card_step, gather
from hubkit.cards.leaderboards import eval_results, eval_results_problems
from hubkit.cards.memory import keep_running
from hubkit.cards.pictures import draw
from hubkit.cards.placeholder import placeholder
from hubkit.cards.render import template_of
from hubkit.cards.reported import doubts_of, keep
from hubkit.cards.template_context import cards_of
from hubkit.cards.validate import validate
from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.files import write_atomic, write_json
from hubkit.core.findings import Finding
from hubkit.core.libraries import installed
from hubkit.core.numbers import counted
from hubkit.evals.published import PUBLISHED_SCORES
from hubkit.evals.reported import ReportedResults, digest_of_files, read_reported
from hubkit.hub.client import connect
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.data.loading import card_licence

if TYPE_CHECKING:
    from hubkit.cards.render import Rendered

VERSION = 8
SHAPED_BY = ("hubkit", "huggingface_hub", "jinja2", "matplotlib", "transformers")


@dataclass(frozen=True)
class Settings:
    """All of the recipe but the Hub that it is published to; ``template`` is the recipe's own card template.

    ``results`` are the files of ``evaluate.results`` by whose they are: a digest of all, at the recipe's folder.
    """

    recipe: Recipe
    variant: str
    template: NamedFile | None
    results: Mapping[str, NamedFile] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        named = recipe.card.template
        template = NamedFile.beside(scope.recipe_folder, named) if named is not None else None
        folder = scope.recipe_folder.absolute()
        asked = recipe.evaluate.results
        results = {name: NamedFile(folder, digest_of_files(folder, patterns)) for name, patterns in asked.items()}
        return cls(recipe.for_any_hub(), scope.published, template, results)

    def reported(self) -> ReportedResults:
        """What the files of ``evaluate.results`` hold. UsageError when one is missing, or holds no results."""
        folder = next((named.path for named in self.results.values()), None)
        return read_reported(folder, self.recipe.evaluate.results) if folder else ReportedResults()


Inputs = Measurements
Output = WrittenCards


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """Render both cards with placeholder numbers and validate them, before anything is trained."""
    settings = ctx.settings
    if installed("matplotlib") is None:
        yield Finding("error", "The cards' pictures need matplotlib.", "pip install 'hubkit[train]'", 2)
    if settings.recipe.license is None:
        yield from _licence(ctx)
    try:
        reported, evidence = settings.reported(), placeholder(settings.recipe)
        for doubt in doubts_of(settings.recipe, reported):
            yield Finding("warning", doubt)
        keep(reported, settings.variant, evidence)
        for name, card in _cards(settings, evidence)[1].items():
            for problem in validate(card.text):
                message = f"{name} of {settings.variant}: {problem.message}"
                yield Finding("error", message, "Fix the text in the recipe.", 2, problem.rule, name, problem.line)
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)


def _licence(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """An error when the base, whose licence the recipe leaves it to, is on the Hub and its card names none."""
    hub, base = connect(ctx.target), ctx.settings.recipe.base
    if not hub.repo_exists(base.repo):
        return  # the step `provide` creates it, or the step `base` reports that it is missing
    if not card_licence(hub, base.repo, hub.resolve(base.repo, base.revision), "model"):
        yield Finding(
            "error",
            f"Neither the recipe nor the card of {base.repo} names a license.",
            "Set `license:` in the recipe to a license that the base model allows.",
            2,
        )


def run(ctx: Context[Settings, Measurements]) -> StageResult[WrittenCards]:
    """Render both cards from the artifacts. RefusedError when the Hub would reject one."""
    ctx.report("reading the results", 0.0)
    variant = ctx.settings.variant
    evidence = gather(ctx.inputs, variant)
    reported = ctx.settings.reported()
    keep(reported, variant, evidence)
    keep_running(ctx.inputs.merged, variant, evidence)
    context, cards = _cards(ctx.settings, evidence)
    results = eval_results(variant, evidence)
    problems = [
        *(f"{name}: {problem.message}" for name, card in cards.items() for problem in validate(card.text)),
        *(f"{name}: {problem}" for name, (text, _) in results.items() for problem in eval_results_problems(text)),
    ]
    if problems:
        raise RefusedError(
            f"The card of {variant} would be rejected by the Hub: {' '.join(problems)}",
            hint="Fix the text in the recipe's `card`.",
        )
    for name, card in cards.items():
        write_atomic(ctx.out / name, card.text)
    for name, (text, _) in results.items():
        write_atomic(ctx.out / name, text)
    ctx.report("drawing", 0.5)
    os.environ.setdefault("MPLCONFIGDIR", str(ctx.scratch))  # where matplotlib keeps its list of fonts
    for name, picture in draw(context).items():
        write_atomic(ctx.out / name, picture)
    scores = ctx.inputs.scores
    if scores is not None and scores.file is not None and scores.scores:
        write_atomic(ctx.out / PUBLISHED_SCORES, scores.file.read_bytes())
    for name, value in evidence.derived.get(card_step(variant), {}).items():
        write_json(ctx.out / name, value)
    numbers = {name: card.numbers for name, card in cards.items()}
    numbers |= {name: tuple(listed) for name, (_, listed) in results.items()}
    total = sum(len(listed) for listed in numbers.values())
    written = WrittenCards.of(numbers, ctx.out)
    figure = f"{counted(total, 'number')}, each from a result file"
    files = len({source.sha256 for source in reported.sources})
    facts = {"numbers": total, "reported": files}
    return StageResult(written, f"{figure}, {counted(files, 'file')} of yours" if files else figure, facts=facts)


def _cards(settings: Settings, evidence: Evidence) -> tuple[dict[str, Any], dict[str, Rendered]]:
    return cards_of(settings.recipe, settings.variant, evidence, _template(settings))


def _template(settings: Settings) -> Path | None:
    return template_of(settings.recipe, settings.template.path) if settings.template else None
