"""Write GGUF files from a variant's merged weights, and measure them as every other form is measured.

    gguf: {types: [f16, q8_0], variants: [main], ollama: true, benchmarks: []}

llama-cpp-python loads each file: its vocabulary must encode conversations to the token ids of transformers, and the
held-out prompts are answered with the template, the token ids and the stops that are in the file. Without it nothing is
measured, and an enforced gate refuses the release before it begins.

Writes ``gguf/`` (the GGUF files and Ollama's), ``gguf.json`` and, for each file with benchmarks, their results as the
stage ``evaluate`` writes them: ``benchmarks-q8_0.json``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from hubkit.core.bounded_json import SETTINGS, load_json
from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.files import write_json
from hubkit.core.findings import Finding
from hubkit.core.libraries import installed
from hubkit.core.numbers import share, size
from hubkit.core.target import Target
from hubkit.evals.harness import hidden_paths, plain, run_suite
from hubkit.evals.lm_eval_json import lm_eval_suite
from hubkit.evals.results import Results, Subject, SuiteResult
from hubkit.evals.results import Settings as ResultSettings
from hubkit.evals.suites import resolve
from hubkit.hub.client import connect
from hubkit.models.base import PinnedBase
from hubkit.models.base_files import read_base
from hubkit.models.chat import library
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.chat.stop_rates import MeasuredRate
from hubkit.models.gguf.checking import same_token_ids
from hubkit.models.gguf.library import RUNTIME, runtime
from hubkit.models.gguf.made import FOLDER, GgufBenchmark, GgufFile, GgufFiles
from hubkit.models.gguf.measuring import measure_gguf
from hubkit.models.gguf.model import refuse_unwritable
from hubkit.models.gguf.ollama import of_model
from hubkit.models.gguf.runtime_needs import without_runtime
from hubkit.models.gguf.write import GgufReport, file_name, write_gguf
from hubkit.models.load import load_tokenizer
from hubkit.models.merging.companions import PATTERNS
from hubkit.models.merging.merged import MergedWeights
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.gguf import GgufType, example_type
from hubkit.recipe.models import Evaluate, Recipe
from hubkit.recipe.names import model_name
from hubkit.recipe.stage import BaseRepo, CheckContext, Context, Scope, StageResult
from hubkit.training.data.prepared import PreparedData

VERSION = 1
SHAPED_BY = ("gguf", "transformers", "tokenizers")
_SMALL = tuple(pattern for pattern in PATTERNS if "safetensors" not in pattern)
"""What the check reads of the base: all but its weights."""


@dataclass(frozen=True)
class Benchmarks:
    """The suites that are run on each file: how, the recipe's folder of own tasks, and lm-eval's version."""

    asked: Evaluate
    tasks: NamedFile | None
    lm_eval: str | None

    @classmethod
    def of(cls, recipe: Recipe, folder: Path) -> Benchmarks | None:
        """Those of ``recipe``, whose files are in ``folder``; None where it asks for none."""
        suites, asked = recipe.gguf.benchmarks if recipe.gguf else (), recipe.evaluate
        if not suites:
            return None
        tasks = NamedFile.beside(folder, asked.include) if asked.include else None
        only: dict[str, Any] = {"suites": suites, "include": None, "results": {}, "backend": "hf", "batch_size": 1}
        return cls(asked.model_copy(update=only), tasks, installed("lm_eval"))


@dataclass(frozen=True)
class Settings:
    """What is written, and how it is measured. ``name`` is what the files are called, before their type.

    ``prompts`` is None, and so is ``max_new_tokens``, without a gate on the stop rate. ``llama_cpp`` is the version of
    llama-cpp-python; None: it is not installed. ``base`` and ``template`` are what the check reads before anything is
    merged; ``enforced``: whether the gate needs a measured rate.
    """

    base: BaseRepo
    template: str | NamedFile
    name: str
    types: tuple[GgufType, ...]
    ollama: bool
    prompts: int | None
    max_new_tokens: int | None
    llama_cpp: str | None
    benchmarks: Benchmarks | None
    enforced: bool = field(metadata={"counts": False})

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        asked, rate, variant = recipe.gguf, recipe.gates.stop_rate, scope.published
        if asked is None:
            raise ValueError("the recipe asks for no GGUF files")
        template = recipe.chat.template
        return cls(
            base=BaseRepo(recipe.base.repo, recipe.base.revision, recipe.provide is not None),
            template=NamedFile.beside(scope.recipe_folder, template) if library.names_file(template) else template,
            name=model_name(*recipe.place(variant)),
            types=asked.types,
            ollama=asked.ollama,
            prompts=(asked.prompts or rate.prompts) if rate else None,
            max_new_tokens=rate.max_new_tokens if rate else None,
            llama_cpp=installed(RUNTIME),
            benchmarks=Benchmarks.of(recipe, scope.recipe_folder),
            enforced=rate is not None and recipe.gguf_gate(variant) == "enforce",
        )


@dataclass(frozen=True)
class Inputs:
    """The base with its end-of-turn token, the held-out prompts, and the weights."""

    base: PinnedBase
    data: PreparedData
    merged: MergedWeights


Output = GgufFiles


def check(ctx: CheckContext[Settings]) -> Iterator[Finding]:
    """Whether llama.cpp can run models of this base, and whether the files can be written and measured."""
    settings = ctx.settings
    if settings.llama_cpp is None:
        benchmarks = settings.benchmarks is not None
        yield without_runtime(settings.types, benchmarks=benchmarks, enforced=settings.enforced)
    else:
        try:
            runtime()
        except HubkitError as error:
            yield Finding("error", f"gguf: {error.message}", error.hint, exit_code=1)
    template = settings.template
    found = _unwritable(ctx.target, settings.base, str(template.path) if isinstance(template, NamedFile) else template)
    if found is not None:
        yield Finding("error", f"gguf: {found.message}", f"{found.hint} Or remove `gguf` from the recipe.".lstrip())


@lru_cache(8)
def _unwritable(target: Target, base: BaseRepo, template: str) -> RefusedError | None:
    """Why models of ``base`` cannot be written as GGUF; None: they can, or the checks of other steps say what is wrong.

    The variants of a release ask the same.
    """
    try:
        files = read_base(target, base)
        if files is None or files.config is None or not files.has_tokenizer:
            return None
        config = load_json(files.config, SETTINGS)
        folder = connect(target).download(files.repo, files.commit, patterns=_SMALL)
        chosen = library.choose(template, load_tokenizer(folder), Path())
    except Exception:  # tokenizers raises nothing narrower for a tokenizer.json that it cannot read
        return None
    try:
        refuse_unwritable(folder, config, chosen.shipped)
    except RefusedError as error:
        return error
    except HubkitError:
        return None
    return None


def run(ctx: Context[Settings, Inputs]) -> StageResult[GgufFiles]:
    """Write ``gguf/`` and ``gguf.json``. RefusedError for a model that llama.cpp would run differently.

    ConflictError when a file encodes text differently than the weights' tokenizer.
    """
    settings, model = ctx.settings, ctx.inputs.merged.model
    files: list[GgufFile] = []
    reports: list[GgufReport] = []
    for place, kind in enumerate(settings.types):
        start, part = place / len(settings.types), 1 / len(settings.types)
        report = _written(ctx, kind, start, part / 6)
        refuse_other_end(report, ctx.inputs.base.end_of_turn)
        compared = same_token_ids(model, report.file) if settings.llama_cpp else None
        rate = _measured(ctx, report, start + part / 6, part / (3 if settings.benchmarks else 1.2))
        scores = _benchmarks(ctx, report, start + part / 2, part / 2)
        reports.append(report)
        files.append(_facts(report, compared, rate, scores))
    names, notes = _ollama(ctx, reports)
    made = GgufFiles(
        architecture=reports[0].architecture,
        files=tuple(files),
        ollama=names,
        notes=tuple(dict.fromkeys([*(note for report in reports for note in report.notes), *notes])),
        source={name.removeprefix("model/"): digest for name, digest in ctx.inputs.merged.model_digests().items()},
        max_new_tokens=settings.max_new_tokens if settings.llama_cpp else None,
        llama_cpp=settings.llama_cpp,
        unmeasured=_why_unmeasured(settings),
        folder=ctx.out,
    )
    return StageResult(
        made,
        "; ".join(_figure(item) for item in files),
        warnings=made.notes,
        facts={"rates": {item.kind: item.stop_rate.rate for item in files if item.stop_rate}},
    )


def _written(ctx: Context[Settings, Inputs], kind: GgufType, start: float, part: float) -> GgufReport:
    """Write the file of ``kind``."""
    name = ctx.settings.name
    return write_gguf(
        ctx.inputs.merged.model,
        ctx.out / FOLDER / file_name(name, kind),
        kind,
        name=name,
        report=lambda figure, done: ctx.report(f"{kind}: {figure}", start + part * done),
    )


def refuse_other_end(report: GgufReport, end_of_turn: EndOfTurn) -> None:
    """RefusedError when the file of ``report`` does not end answers at ``end_of_turn``, the release's."""
    if report.stops.get(end_of_turn.token) != end_of_turn.id:
        raise RefusedError(
            f"{report.file.name} does not end answers at {end_of_turn.token!r} ({end_of_turn.id}), the end-of-turn"
            f" token of the release, but at {', '.join(map(repr, report.stops)) or 'nothing'}.",
            hint="Run `hubkit release --fresh`; `hubkit check` says what is wrong with the base's files.",
        )


def _measured(ctx: Context[Settings, Inputs], report: GgufReport, start: float, part: float) -> MeasuredRate | None:
    """The stop rate of the file of ``report``; None where it is not measured."""
    settings, base = ctx.settings, ctx.inputs.base
    if _why_unmeasured(settings) is not None or settings.max_new_tokens is None:
        return None
    measured = measure_gguf(
        report.file,
        ctx.inputs.data.held_out(settings.prompts),
        base.end_of_turn,
        max_new_tokens=settings.max_new_tokens,
        kind=report.kind,
        report=lambda figure, done: ctx.report(f"{report.kind}: {figure}", start + part * (done or 0.0)),
        threads=1 if base.is_small else None,
    )
    return MeasuredRate.of(measured)


def _why_unmeasured(settings: Settings) -> str | None:
    """Why no stop rate is measured, as a clause; None where it is."""
    if settings.prompts is None:
        return "the recipe has no gate on the stop rate"
    return None if settings.llama_cpp else f"{RUNTIME} was not installed"


def _benchmarks(
    ctx: Context[Settings, Inputs], report: GgufReport, start: float, part: float
) -> tuple[GgufBenchmark, ...]:
    """The averages of the recipe's suites on the file of ``report``, whose results are written beside it."""
    wanted, base, merged = ctx.settings.benchmarks, ctx.inputs.base, ctx.inputs.merged
    if wanted is None:
        return ()
    from hubkit.evals.gguf_lm import gguf_lm

    asked, include = wanted.asked, wanted.tasks.path if wanted.tasks else None
    suites = resolve(asked.suites, include)
    turns = asked.apply_chat_template and asked.fewshot_as_multiturn is not False
    template = base.template if asked.apply_chat_template else None
    hidden = {str(merged.model): "merged", **hidden_paths(ctx.scratch, include)}
    found: dict[str, SuiteResult] = {}
    with gguf_lm(report.file, merged.model, template, 1 if base.is_small else None) as model:
        for place, suite in enumerate(suites):
            before, each = start + part * place / len(suites), part / len(suites)
            raw = run_suite(
                model,
                suite,
                asked,
                turns=turns,
                include=include,
                scratch=ctx.scratch,
                endpoint=ctx.target.endpoint,
                report=partial(_tell, ctx, f"{report.kind}: {suite.title}", before, each),
            )
            found[suite.name] = lm_eval_suite(plain(raw or {}, hidden), suite)
    results = Results.of(
        suites=found,
        subject=Subject(repo=base.repo, commit=base.commit, form="gguf"),
        settings=ResultSettings(
            backend=RUNTIME,
            apply_chat_template=asked.apply_chat_template,
            limit=asked.limit,
            num_fewshot=asked.num_fewshot,
            fewshot_as_multiturn=turns if asked.apply_chat_template else None,
            dtype=report.kind,
            batch_size=1,
            device="cpu",
        ),
        libraries={RUNTIME: ctx.settings.llama_cpp or "", "lm_eval": wanted.lm_eval or ""},
        seconds=None,
    )
    write_json(ctx.out / f"benchmarks-{report.kind}.json", results.model_dump(mode="json"))
    if missing := [name for name, suite in found.items() if suite.average.value is None]:
        raise HubkitError(
            f"lm-eval gave no average of {', '.join(missing)} for {report.file.name}.",
            hint="See the step's log, or leave the suite out of gguf.benchmarks.",
        )
    return tuple(
        GgufBenchmark(name, suite.title, suite.average.value, suite.average.stderr)
        for name, suite in found.items()
        if suite.average.value is not None
    )


def _tell(
    ctx: Context[Settings, Inputs], title: str, start: float, part: float, figure: str, done: float | None
) -> None:
    """Report ``figure`` of one part of the work."""
    ctx.report(f"{title}: {figure}", start + part * (done or 0.0))


def _facts(
    report: GgufReport, compared: int | None, rate: MeasuredRate | None, benchmarks: tuple[GgufBenchmark, ...]
) -> GgufFile:
    worst = report.worst
    return GgufFile(
        name=report.file.name,
        kind=report.kind,
        bytes=report.bytes,
        sha256=report.sha256,
        worst_tensor=worst.name,
        largest_error=float(f"{worst.largest_error:.6g}"),
        relative_error=float(f"{worst.relative_error:.6g}"),
        stops=tuple(report.stops),
        compared_texts=compared,
        stop_rate=rate,
        benchmarks=benchmarks,
    )


def _ollama(ctx: Context[Settings, Inputs], reports: list[GgufReport]) -> tuple[tuple[str, ...], list[str]]:
    """Write Ollama's files; their names, and what readers should know.

    The Modelfile loads the file that the card's commands name.
    """
    if not ctx.settings.ollama:
        return (), []
    named = example_type(ctx.settings.types)
    file = next(item.file for item in reports if item.kind == named)
    companions = of_model(ctx.inputs.merged.model, file)
    reason = [f"There is no template for Ollama: {companions.reason}"] if companions.reason else []
    return tuple(path.name for path in companions.write(ctx.out / FOLDER)), [*reason, *companions.notes]


def _figure(item: GgufFile) -> str:
    """One file in a few words: 'Q8_0 143 MB, stop rate 99.2 %'."""
    rate = f"stop rate {share(item.stop_rate.rate)}" if item.stop_rate else "not measured"
    scores = [f"{found.title} {share(found.value)}" for found in item.benchmarks]
    return ", ".join([f"{item.kind.upper()} {size(item.bytes)}", rate, *scores])
