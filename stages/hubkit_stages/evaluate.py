"""Benchmark a model with lm-evaluation-harness, as a library: the base by its commit, a variant by its merged weights.

    evaluate:
      suites: [agieval, gpt4all]        # or own task files in the folder `include`
      apply_chat_template: true
      backend: hf                       # or vllm, where it is installed

Writes ``results.json`` (the typed results of ``hubkit.evals``), ``benchmarks.json.gz`` (the same, with the score of
every question and without its text) and, below ``raw/``, what the harness reported for each suite, without the
samples. The digest of the folder ``include`` counts for the key, so a changed question is measured again. Results are
kept in ``evaluations`` of hubkit's home, too: another run that asks the same of the same weights measures nothing
(:mod:`hubkit.evals.caching`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hubkit.core.errors import HubkitError
from hubkit.core.files import write_json
from hubkit.core.findings import Finding
from hubkit.core.home import hubkit_home
from hubkit.core.libraries import installed
from hubkit.core.numbers import count, share
from hubkit.evals.caching import FOLDER, Cache, CachedResult, Key, hub_data, key_of, tasks_digest
from hubkit.evals.harness import batch_size, hidden_paths, plain, run_suite
from hubkit.evals.lm_eval_json import lm_eval_suite
from hubkit.evals.results import RAW_FOLDER, Results, Subject, SuiteResult
from hubkit.evals.results import Settings as ResultSettings
from hubkit.evals.scores import SCORES_FILE, Measured, TaskScores, compact, scores_of, write_measured
from hubkit.evals.suites import Suite, harness_tasks, resolve
from hubkit.hub.client import connect
from hubkit.hub.errors import translated
from hubkit.models.base import PinnedBase
from hubkit.models.load import benchmark_device, load_tokenizer, memory_released
from hubkit.models.merging.merged import MergedWeights
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Evaluate, Recipe
from hubkit.recipe.stage import CheckContext, Context, Report, Scope, StageResult
from hubkit.training.launching import ranks
from hubkit.training.launching.launch import Launching

VERSION = 5
SHAPED_BY = ("lm_eval", "torch", "transformers", "tokenizers", "datasets")


@dataclass(frozen=True)
class Settings:
    """What is measured and how. ``tasks`` is the recipe's folder of task files; ``dtype`` is that of the base.

    ``launch``: processes that share the questions, each with a whole model; vLLM starts its own, ``data_parallel``.
    """

    asked: Evaluate
    tasks: NamedFile | None
    dtype: str | None
    launch: Launching | None = field(default=None, metadata={"counts": False})
    data_parallel: int = field(default=1, metadata={"counts": False})

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        asked, include = recipe.evaluate, recipe.evaluate.include
        launch = Launching.of_measuring(recipe.launch, scope.recipe_folder)
        return cls(
            asked=asked.model_copy(update={"include": None, "results": {}}),
            tasks=NamedFile.beside(scope.recipe_folder, include) if include else None,
            dtype=recipe.base.dtype if scope.variant is None else None,
            launch=launch if asked.backend == "hf" else None,
            data_parallel=launch.count if launch is not None and asked.backend == "vllm" else 1,
        )

    @property
    def include(self) -> Path | None:
        """The folder of the recipe's own task files."""
        return self.tasks.path if self.tasks else None

    @property
    def turns(self) -> bool:
        """Whether the examples in the prompt are turns of their own."""
        return self.asked.apply_chat_template and self.asked.fewshot_as_multiturn is not False


@dataclass(frozen=True)
class Inputs:
    """The base, and the merged weights of the variant (None: the base is measured)."""

    base: PinnedBase
    merged: MergedWeights | None = None


Output = Results
SAMPLES = "scores"
"""Where the harness's raw results, as they are cached, hold the score of every question."""
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """Every suite must be known and installed, and the backend installed; a limit gets a note. Loads no model."""
    asked = ctx.settings.asked
    suites: tuple[Suite, ...] = ()
    try:
        harness_tasks()
        suites = resolve(asked.suites, ctx.settings.include)
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)
    for suite in suites:
        if lacking := suite.lacking():
            yield Finding(
                "error",
                f"The suite {suite.name} needs packages that are not installed: {', '.join(lacking)}.",
                f"pip install 'lm_eval[{suite.extras}]'",
                2,
            )
        if suite.own_shots and asked.num_fewshot is not None:
            yield Finding("note", f"{suite.title} has a fixed number of few-shot examples; num_fewshot is ignored.")
    if asked.backend == "vllm":
        if find_spec("vllm") is None:
            yield Finding(
                "error",
                "evaluate.backend is vllm, but vLLM is not installed.",
                "pip install vllm on a machine with a supported GPU, or set evaluate.backend: hf.",
                2,
            )
        else:
            yield Finding(
                "note",
                "The backend vllm has not been tested with hubkit: compare its numbers with those of hf. Multiple"
                " choice takes longer with it (8 times as long where it was measured).",
            )
    if ctx.settings.data_parallel > 1 and find_spec("ray") is None:
        yield Finding(
            "error",
            f"launch.processes is {ctx.settings.data_parallel}, and vLLM needs Ray to run on several GPUs in lm-eval.",
            "pip install ray, or set evaluate.backend: hf.",
            1,
        )
    if asked.limit is not None:
        yield Finding(
            "note",
            f"Benchmarks use {count(asked.limit)} examples of each task; the card marks them as a partial run.",
        )


def outdated(ctx: StageContext, measured: Results) -> str | None:
    """None while the backend is the one that measured; vLLM is not among the libraries that every release needs."""
    before = measured.libraries.get("vllm")
    if ctx.settings.asked.backend != "vllm" or before == (now := installed("vllm")):
        return None
    return f"vLLM {before} measured, and {now or 'none'} is installed"


def run(ctx: StageContext) -> StageResult[Results]:
    """Measure every suite of the recipe, or reuse its cached results; shows the average of the suites."""
    ranks.join(ranks.MEASURING_WAIT)
    asked = ctx.settings.asked
    suites = tuple({suite.name: suite for suite in resolve(asked.suites, ctx.settings.include)}.values())
    subject, source, dtype = _subject(ctx)
    device, kind = benchmark_device()
    cache, libraries = Cache(hubkit_home() / FOLDER), _libraries(asked.backend)
    found, raws, seconds, reused = {}, {}, 0.0, 0
    scores: dict[str, TaskScores] = {}
    with _Harness(ctx, source, subject, dtype, device) as harness:
        for place, suite in enumerate(suites):
            report = _part(ctx.report, suite.title if len(suites) > 1 else "", place / len(suites), 1 / len(suites))
            key = _key(ctx, suite, subject, dtype, kind, libraries)
            kept = ranks.agreed(partial(_cached, cache, key))
            if kept is not None and not _lacking(lm_eval_suite(kept.raw, suite)):
                report("measured before", 1.0)
                raw, took = kept.raw, kept.seconds
                reused += 1
            else:
                started = time.monotonic()
                raw = harness.measure(suite, report)
                took = time.monotonic() - started
                # A dataset that changed meanwhile: the commit that was read is unknown.
                complete = not _lacking(lm_eval_suite(raw, suite))
                unchanged = key is not None and (not key["data"] or _data(ctx, suite) == key["data"])
                if key is not None and complete and unchanged and ranks.is_main():
                    cache.keep(key, raw, took)
            seconds += took
            found[suite.name] = lm_eval_suite(raw, suite)
            scores |= scores_of(raw.get(SAMPLES, {}), suite)
            raws[suite.name] = {name: value for name, value in raw.items() if name != SAMPLES}
    results = Results.of(
        suites=found,
        subject=subject,
        settings=ResultSettings(
            backend=asked.backend,
            apply_chat_template=asked.apply_chat_template,
            limit=asked.limit,
            num_fewshot=asked.num_fewshot,
            fewshot_as_multiturn=ctx.settings.turns if asked.apply_chat_template else None,
            dtype=dtype,
            batch_size=asked.batch_size if asked.batch_size != "auto" else None,
            device=device,
        ),
        libraries={name: there for name, there in libraries.items() if there},
        seconds=round(seconds, 3),
    )
    for place, (name, raw) in enumerate(raws.items(), start=1):
        write_json(ctx.out / RAW_FOLDER / f"{place}-{re.sub('[^A-Za-z0-9_.-]', '_', name)[:100]}.json", raw)
    write_measured(ctx.out / SCORES_FILE, Measured(results, scores))
    if missing := [name for suite in found.values() for name in _lacking(suite)]:
        raise HubkitError(
            f"lm-eval gave no usable number for {', '.join(missing)}.",
            hint="See the errors of these tasks in the step's log.",
        )
    average = results.average.value
    figure = (
        f"average {share(average)}" if average is not None else "no average: the metrics differ in direction or unit"
    )
    if not suites:
        return StageResult(results, "no suites in the recipe", facts={"average": None, "rehearsal": False, "reused": 0})
    figure += f" on {count(asked.limit)} examples a task" if asked.limit else ""
    figure += ", measured before" if reused == len(suites) else ""
    facts = {"average": average, "rehearsal": results.rehearsal, "reused": reused}
    return StageResult(results, figure, facts=facts)


def _cached(cache: Cache, key: Key | None) -> CachedResult | None:
    return cache.find(key) if key is not None else None


def _lacking(suite: SuiteResult) -> list[str]:
    """The tasks of ``suite`` without a number, or without all that the average needs of them."""
    unmeasured = [name for name, task in suite.tasks.items() if task is None]
    return list(dict.fromkeys([*unmeasured, *suite.average.missing]))


def _subject(ctx: StageContext) -> tuple[Subject, str, str]:
    """What is measured, where it is loaded from (a repo id or a folder), and its dtype.

    The base is measured in the dtype of the merged weights, whatever its files hold: the columns are to be compared.
    """
    base, merged = ctx.inputs.base, ctx.inputs.merged
    if merged is None:
        return Subject(repo=base.repo, commit=base.commit, form="base"), base.repo, ctx.settings.dtype or base.dtype
    return Subject(repo=base.repo, commit=base.commit, form="merged"), str(merged.model), merged.dtype


def _template(ctx: StageContext) -> str | None:
    """The release's chat template, where one is applied."""
    return ctx.inputs.base.template if ctx.settings.asked.apply_chat_template else None


def _libraries(backend: str) -> dict[str, str | None]:
    """The versions of the libraries that shape the numbers; vLLM's only where it is the backend."""
    also = ("vllm",) if backend == "vllm" else ()
    return {name: installed(name) for name in (*SHAPED_BY, *also)}


def _imported(suite: Suite) -> dict[str, str | None]:
    """The versions of what the tasks of ``suite`` import themselves, by distribution: it scores the answers."""
    owners = packages_distributions() if suite.modules else {}
    return {name: installed(name) for module in suite.modules for name in owners.get(module, ())}


def _data(ctx: StageContext, suite: Suite) -> dict[str, str] | None:
    """The commits of the datasets on the Hub that ``suite`` reads now; None when that is not known."""
    return hub_data(suite, ctx.settings.include, lambda repo, at: connect(ctx.target).resolve(repo, at, "dataset"))


def _key(
    ctx: StageContext, suite: Suite, subject: Subject, dtype: str, kind: str, libraries: Mapping[str, str | None]
) -> Key | None:
    """Under what this suite's numbers are kept; None when not all that shapes them is known."""
    asked = ctx.settings.asked
    if ctx.inputs.merged is not None:
        weights = ctx.inputs.merged.model_digests()
    elif re.fullmatch(r"[0-9a-f]{40,64}", subject.commit):
        weights = {"commit": subject.commit}
    else:
        return None
    data = _data(ctx, suite)
    if data is None:
        return None
    shapes = asked.model_dump(mode="json", exclude={"suites", "include", "backend", "results"})
    return key_of(
        suite=suite,
        tasks=tasks_digest(suite, ctx.settings.include),
        data=data,
        weights=weights,
        template=_template(ctx),
        dtype=dtype,
        device=kind,
        backend=asked.backend,
        asked={**shapes, "fewshot_as_multiturn": ctx.settings.turns},
        libraries={**libraries, **_imported(suite)},
        code=VERSION,
    )


def _part(report: Report, title: str, start: float, part_of_all: float) -> Report:
    """``report`` for one suite of several: ``title`` before its figures, its share after those before it."""

    def part(figure: str, done: float | None) -> None:
        report(f"{title}: {figure}" if title else figure, None if done is None else start + part_of_all * done)

    return part


class _Harness:
    """lm-eval with one model, loaded when the first suite is measured and freed when the block exits."""

    def __init__(self, ctx: StageContext, source: str, subject: Subject, dtype: str, device: str) -> None:
        self.ctx, self.source, self.subject, self.dtype, self.device = ctx, source, subject, dtype, device
        self._model: Any = None
        self._memory = ExitStack()

    def __enter__(self) -> _Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self._model = None
        self._memory.close()

    def measure(self, suite: Suite, report: Report) -> dict[str, Any]:
        """lm-eval's results of ``suite`` as plain JSON values without paths of this machine; of its samples, scores."""
        endpoint = self.ctx.target.endpoint
        if self._model is None:
            report("loading the model", 0.0)
            self._memory.enter_context(memory_released())
            with translated(endpoint, self.subject.repo, self._revision):
                self._model = self._load()
        raw = run_suite(
            self._model,
            suite,
            self.ctx.settings.asked,
            turns=self.ctx.settings.turns,
            include=self.ctx.settings.include,
            scratch=ranks.own_folder(self.ctx.scratch),
            endpoint=endpoint,
            report=report,
        )
        return ranks.agreed(partial(self._plain, raw))

    def _plain(self, raw: Any) -> dict[str, Any]:
        """What lm-eval returned to the main process, as plain values."""
        if raw is None:
            raise HubkitError("lm-eval returned no results.", hint="See the step's log.")
        hidden = hidden_paths(self.ctx.scratch, self.ctx.settings.include)
        if self.subject.form == "merged":
            hidden = {self.source: "merged", **hidden}
        return {**plain(raw, hidden), SAMPLES: compact(raw.get("samples") or {})}

    @property
    def _revision(self) -> str | None:
        return self.subject.commit if self.subject.form == "base" else None

    def _load(self) -> Any:
        """The model as lm-eval's backend wants it, with the release's chat template where one is applied."""
        base = self.ctx.inputs.base.source(self.ctx.target.endpoint)
        source = base if self.subject.form == "base" else Path(self.source)
        tokenizer = load_tokenizer(source, chat_template=_template(self.ctx))
        asked = self.ctx.settings.asked
        if asked.backend == "vllm":
            from lm_eval.models.vllm_causallms import VLLM

            # vLLM loads the tokenizer itself, so one with this template is laid down for it.
            tokenizer.save_pretrained(self.ctx.scratch / "tokenizer")
            return VLLM(
                pretrained=self.source,
                revision=self._revision,
                tokenizer=str(self.ctx.scratch / "tokenizer"),
                dtype=self.dtype,
                batch_size=asked.batch_size,
                data_parallel_size=self.ctx.settings.data_parallel,
            )
        from lm_eval.models.huggingface import HFLM

        model = HFLM(
            pretrained=self.source,
            revision=self._revision or "main",
            tokenizer=tokenizer,
            dtype=self.dtype,
            device=self.device,
            batch_size=batch_size(asked.batch_size, self.device),
        )
        if ranks.count() > 1:  # lm-eval shares the questions by itself on GPUs alone
            model._rank, model._world_size = ranks.number(), ranks.count()
        return model
