"""Map, check and sample the rows of each dataset; hold out prompts for the gate; check the end-of-turn tokens.

    data:
      preferences:
        - {repo: Intel/orca_dpo_pairs}
        - {repo: argilla/ultrafeedback-binarized-preferences}
      repair:
        - {repo: teknium/openhermes, rows: 7000}
        - {file: mine/*.jsonl, columns: {prompt: question, completion: answer}}
    gates: {stop_rate: {prompts_from: preferences, prompts: 256}}

A finding that is an error ends the run here, before any training, unless the training stage that it concerns names it
in its ``accept``. What was accepted is reported in ``data.json``, in the log and on the card.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from hubkit.core.errors import HubkitError
from hubkit.core.findings import Finding
from hubkit.core.numbers import count
from hubkit.evals.contamination import Contamination, questions_of
from hubkit.evals.harness import tasks_translated
from hubkit.evals.suites import resolve
from hubkit.models.base import PinnedBase
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Recipe, Source
from hubkit.recipe.provided import ProvidedRepos
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.data import files, mappings
from hubkit.training.data.findings import DataFinding
from hubkit.training.data.prepared import PreparedData
from hubkit.training.data.preparing import DataSettings, prepare
from hubkit.training.data.rules import BENCHMARK_OVERLAP

VERSION = 7
SHAPED_BY = ("datasets", "transformers", "tokenizers", "trl", "datasketch")

_log = logging.getLogger("hubkit.training.data")


@dataclass(frozen=True)
class Settings:
    """The datasets and who trains on them; ``provided``: a recipe creates the repos. ``files``: those beside it.

    The questions of ``suites``, with the recipe's folder of task files ``tasks``, are looked for in the rows.
    """

    data: DataSettings
    provided: bool
    files: files.DataFiles = field(default_factory=files.DataFiles)
    suites: tuple[str, ...] = ()
    tasks: NamedFile | None = None

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        sources = [source for entry in recipe.data.values() for source in entry]
        include = recipe.evaluate.include
        return cls(
            DataSettings.of(recipe),
            recipe.provide is not None,
            files.DataFiles.of(scope.recipe_folder, sources),
            recipe.evaluate.suites,
            NamedFile.beside(scope.recipe_folder, include) if include else None,
        )


@dataclass(frozen=True)
class Inputs:
    """The base, whose tokenizer and template render the rows; the repos that were created first, if any."""

    base: PinnedBase
    provided: ProvidedRepos | None


Output = PreparedData


def check(ctx: CheckContext[Settings]) -> Iterator[Finding]:
    """Do the repos and files exist, and does a mapping fit the columns of each: reads their first rows at most."""
    for name, sources in ctx.settings.data.data.items():
        for number, source in enumerate(sources):
            where = f"data.{name}.{number}"
            if source.mapping and (problem := mappings.name_problem(source.mapping)):
                yield Finding("error", f"{where}.mapping: {problem}", "Fix the recipe.", exit_code=2)
                continue
            try:
                _check_columns(ctx, name, source)
            except HubkitError as error:
                yield Finding("error", f"{where}: {error.message}", error.hint, error.exit_code)


def _check_columns(ctx: CheckContext[Settings], name: str, source: Source) -> None:
    """UsageError when no mapping fits the columns of ``source``, or a stage cannot train on what it makes."""
    from hubkit.hub.client import connect
    from hubkit.training.data import loading

    settings, hub = ctx.settings, connect(ctx.target)
    if source.repo is None:
        form = loading.check_files(settings.files.of_source(source), source, settings.data.wanted(name))
    elif settings.provided and ctx.target.embedded and not hub.repo_exists(source.repo, "dataset"):
        return
    else:
        form = mappings.find_for(source, loading.first_columns(hub, source), settings.data.wanted(name))
    for stage in settings.data.users(name):
        mappings.must_train(stage, settings.data.method(stage), name, {form.kind})


def run(ctx: Context[Settings, Inputs]) -> StageResult[PreparedData]:
    """Write the rows and their tokens, ``prompts.jsonl``, ``shown.json`` and ``data.json``."""
    from hubkit.hub.client import connect
    from hubkit.training.arguments import truncation
    from hubkit.training.data.loading import load

    base, settings, named, hub = ctx.inputs.base, ctx.settings.data, ctx.settings.files, connect(ctx.target)
    tokenizer = base.load_tokenizer(hub.endpoint)
    benchmarks, unread = _benchmarks(ctx)
    report = prepare(
        settings,
        lambda source: load(hub, source, () if source.repo else named.of_source(source)),
        tokenizer,
        base.end_of_turn,
        lambda stage: truncation(settings.stages[stage], stage),
        ctx.report,
        ctx.out,
        ctx.scratch,
        benchmarks,
    )
    report.findings += unread
    for finding in report.findings:
        _log.warning("%s%s: %s", finding.rule, " (accepted)" if finding.accepted else "", finding.message)
    if not ctx.options.report_data:
        report.refuse()
    prepared = PreparedData.write(report, ctx.out)
    counts = [f"{count(rows)} {name}" for name, rows in report.sets.items()]
    counts.append(f"{count(len(report.prompts))} held out")
    if evaluated := sum(report.evaluation.values()):
        counts.append(f"{count(evaluated)} for the evaluation loss")
    accepted = sorted({finding.rule for finding in report.findings if finding.accepted})
    figure = ", ".join(counts) + (f"; accepted: {', '.join(accepted)}" if accepted else "")
    warnings = tuple(finding.message for finding in report.findings)
    return StageResult(prepared, figure, warnings, {"accepted": accepted})


def _benchmarks(ctx: Context[Settings, Inputs]) -> tuple[Contamination, list[DataFinding]]:
    """The questions of the recipe's benchmarks, and a finding for each suite whose questions cannot be read."""
    found, unread = Contamination(), list[DataFinding]()
    include = ctx.settings.tasks.path if ctx.settings.tasks else None
    for name in dict.fromkeys(ctx.settings.suites):
        ctx.report(f"reading the questions of {name}", None)
        try:
            (suite,) = resolve([name], include)
            with tasks_translated(ctx.target.endpoint, list(suite.tasks)):
                for task, questions in questions_of(suite, include, ctx.scratch):
                    found.add(suite.name, task, questions)
        except (HubkitError, ImportError) as error:
            message = f"The questions of {name} were not looked for in the training data: {error}"
            unread.append(DataFinding.of(BENCHMARK_OVERLAP, message))
    return found, unread
