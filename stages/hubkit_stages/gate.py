"""Compare what was measured with the recipe's gates; an enforced gate that fails stops the release.

    gates:
      stop_rate: {at_least: base - 0.02}                  # or a share: 0.95
      benchmarks: {gsm8k: [base - 0.01, current - 0.01]}  # a suite or a task; current: what the branch publishes now
    variants: {dpo-v0: {stage: dpo, gate: report}, main: {stage: sft}}

Every published form of a variant (merged weights, adapter, GGUF files) must reach the threshold of the stop rate. With
``gguf: {gate: report}`` a GGUF file that does not is reported. A benchmark fails when its drop exceeds what is allowed
by more than its error, by paired tests on the same questions (:mod:`hubkit.evals.quality_gate`). Writes ``gates.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.files import digests
from hubkit.core.findings import Finding
from hubkit.core.numbers import count, counted, score, share, short_commit, signed
from hubkit.core.trees import Entry
from hubkit.evals.published import PUBLISHED_SCORES, published
from hubkit.evals.quality_gate import Comparison, condition_problems, judge
from hubkit.evals.scores import Measured
from hubkit.evals.suites import resolve
from hubkit.hub.client import Hub, connect
from hubkit.models.chat.gate_verdicts import BenchmarkVerdict, GatedBase, GateVerdict, GateVerdicts, GgufVerdict
from hubkit.models.chat.stop_rates import MeasuredRate, StopRates
from hubkit.models.gguf.made import GgufFiles
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.benchmark_keys import BenchmarkCondition
from hubkit.recipe.models import Recipe, StopRate
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult

VERSION = 3
SHAPED_BY = ()

LOW_BASE = 0.9
"""A base that stops less often than this share gets a remark: a threshold taken from it asks for little."""


@dataclass(frozen=True)
class Benchmarks:
    """The conditions on benchmarks, and what the recipe measures: its suites, with the folder of its own tasks."""

    conditions: tuple[BenchmarkCondition, ...]
    suites: tuple[str, ...]
    limit: int | None
    tasks: NamedFile | None


@dataclass(frozen=True)
class Settings:
    """The gates, whether they are enforced for each variant, and where each is published: (repo, branch).

    What is not gated does not count: without conditions on benchmarks there are no ``benchmarks``, and without one on
    what is published no ``places``. ``gguf``: whether it is enforced for the GGUF files of the variants that have some.
    """

    stop_rate: StopRate | None
    variants: Mapping[str, Literal["enforce", "report"]]
    benchmarks: Benchmarks | None = None
    places: Mapping[str, tuple[str, str]] | None = None
    gguf: Mapping[str, Literal["enforce", "report"]] = field(default_factory=dict, metadata={"later": True})

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        gates = {name: variant.gate for name, variant in recipe.variants.items()}
        gguf = {name: recipe.gguf_gate(name) for name in recipe.gguf_variants()}
        conditions, asked = recipe.gates.conditions(), recipe.evaluate
        if not conditions:
            return cls(recipe.gates.stop_rate, gates, gguf=gguf)
        tasks = NamedFile.beside(scope.recipe_folder, asked.include) if asked.include else None
        places = {name: (recipe.place(name).repo, recipe.place(name).branch) for name in recipe.variants}
        return cls(
            recipe.gates.stop_rate,
            gates,
            Benchmarks(conditions, asked.suites, asked.limit, tasks),
            places if any(condition.against == "current" for condition in conditions) else None,
            gguf,
        )

    @property
    def conditions(self) -> tuple[BenchmarkCondition, ...]:
        """The conditions on benchmarks."""
        return self.benchmarks.conditions if self.benchmarks else ()


@dataclass(frozen=True)
class Inputs:
    """The measured stop rates and benchmarks of the base, and of each variant; None, or empty: not measured.

    ``gguf`` are the GGUF files of the variants that have some.
    """

    base: StopRates | None
    variants: Mapping[str, StopRates]
    base_benchmarks: Measured | None = None
    benchmarks: Mapping[str, Measured] = field(default_factory=dict)
    gguf: Mapping[str, GgufFiles] = field(default_factory=dict, metadata={"later": True})


Output = GateVerdicts
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """Whether the gate is enforced for any variant, and the conditions on benchmarks can be tested."""
    if all(gate == "report" for gate in ctx.settings.variants.values()):
        yield Finding("note", "No variant's gate is enforced: the release is published whatever was measured.")
    asked = ctx.settings.benchmarks
    if asked is None:
        return
    try:
        suites = resolve(asked.suites, asked.tasks.path if asked.tasks else None)
    except HubkitError:
        return  # the stage `evaluate` reports it
    for condition, problem, wrong in condition_problems(asked.conditions, suites, asked.limit):
        message = f"gates.benchmarks.{condition.benchmark}: {problem}."
        yield (
            Finding("error", message, "Change gates.benchmarks in the recipe.", 2)
            if wrong
            else Finding("note", message)
        )
    yield from _nothing_published(ctx)


def _nothing_published(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """A note for each branch that is to be compared with what it publishes, and publishes nothing."""
    hub = connect(ctx.target)
    for repo, branch in (ctx.settings.places or {}).values():
        if not hub.repo_exists(repo) or hub.head(repo, branch) is None:
            yield Finding(
                "note",
                f"There is no branch {branch!r} of {repo} yet, so its benchmarks are not compared with any.",
            )


def outdated(ctx: StageContext, verdicts: GateVerdicts) -> str | None:
    """None while each branch is at the commit that was compared with, or holds this release already."""
    hub = connect(ctx.target)
    for name, (repo, branch) in (ctx.settings.places or {}).items():
        known = {item.commit for item in verdicts.variants[name].benchmarks if item.against == "current"}
        head = hub.head(repo, branch) if hub.repo_exists(repo) else None
        if {head} == known or (head and _is_this_release(ctx, hub, repo, head, name)):
            continue
        return f"the branch {branch!r} of {repo} moved since its benchmarks were compared"
    return None


def _is_this_release(ctx: StageContext, hub: Hub, repo: str, head: str, variant: str) -> bool:
    own = ctx.inputs.benchmarks.get(variant)
    there = hub.tree(repo, head).get(PUBLISHED_SCORES)
    if own is None or own.file is None or there is None:
        return False
    found = digests(own.file)
    return there.same(Entry(found.size, found.sha256, found.git))


def run(ctx: StageContext) -> StageResult[GateVerdicts]:
    """Write ``gates.json``. RefusedError, with every number, when an enforced gate fails."""
    base = ctx.inputs.base.base if ctx.inputs.base else None
    rule = ctx.settings.stop_rate
    threshold = round(rule.threshold(base.rate), 9) if rule and base else None
    benchmarks = _judged(ctx)
    verdicts: dict[str, GateVerdict] = {}
    for name, gate in ctx.settings.variants.items():
        measured = ctx.inputs.variants.get(name)
        rates = {str(form): found.rate for form, found in measured.published.items()} if measured else {}
        verdicts[name] = GateVerdict(
            passed=threshold is None or all(rate >= threshold for rate in rates.values()),
            enforced=gate == "enforce",
            threshold=threshold,
            rates=rates,
            benchmarks=benchmarks.get(name, ()),
            gguf=_of_files(ctx.inputs.gguf.get(name), threshold),
            gguf_enforced=ctx.settings.gguf.get(name) == "enforce",
        )
    remark = _remark(base.rate, threshold) if base and threshold is not None else None
    if remark:
        ctx.report(remark, None)
    _refuse(verdicts, base, threshold, remark)
    _refuse_files(verdicts, ctx.inputs.gguf, base, threshold)
    results = "; ".join(f"{name} {_result(verdict)}" for name, verdict in verdicts.items())
    required = [f"at least {share(threshold)}"] if threshold is not None else []
    all_benchmarks = [item for verdict in verdicts.values() for item in verdict.benchmarks]
    if all_benchmarks:
        held = sum(item.result == "passed" for item in all_benchmarks)
        required.append(f"{held} of {counted(len(all_benchmarks), 'condition')} on benchmarks hold")
    return StageResult(
        GateVerdicts(base=GatedBase(base.rate, remark) if base else None, variants=verdicts),
        f"{results} ({', '.join(required)})" if required else results,
        warnings=tuple(_warnings(verdicts)),
        facts={"threshold": threshold},
    )


def _judged(ctx: StageContext) -> dict[str, tuple[BenchmarkVerdict, ...]]:
    """The verdicts on the benchmarks of each variant. Those that are enforced are tested together."""
    found: dict[str, tuple[BenchmarkVerdict, ...]] = {}
    compared = {name: _comparisons(ctx, name) for name in ctx.settings.variants} if ctx.settings.conditions else {}
    for gate in ("enforce", "report"):
        mine = {name: items for name, items in compared.items() if ctx.settings.variants[name] == gate}
        verdicts = iter(judge([item for items in mine.values() for item in items]))
        found |= {name: tuple(next(verdicts) for _ in items) for name, items in mine.items()}
    return found


def _comparisons(ctx: StageContext, variant: str) -> list[Comparison]:
    """Each condition on ``variant``, with what it is compared with."""
    after = ctx.inputs.benchmarks.get(variant)
    if after is None:
        return []
    there = None
    if ctx.settings.places is not None:
        repo, branch = ctx.settings.places[variant]
        ctx.report(f"reading what {branch} publishes", None)
        there = published(connect(ctx.target), repo, branch, after.results)
    found = []
    for condition in ctx.settings.conditions:
        if condition.against == "current" and there is not None:
            found.append(Comparison(condition, after, there.measured, there.why, there.commit))
        else:
            found.append(Comparison(condition, after, ctx.inputs.base_benchmarks, "the base was not measured"))
    return found


def _refuse(
    verdicts: Mapping[str, GateVerdict], base: MeasuredRate | None, threshold: float | None, remark: str | None
) -> None:
    """RefusedError when a gate that is enforced failed."""
    refused = [name for name, verdict in verdicts.items() if verdict.result == "failed"]
    if not refused:
        return
    low = [name for name in refused if not verdicts[name].passed]
    parts, hints = [], []
    if low and base is not None and threshold is not None:
        parts.append(f"Stop rate below the gate: {', '.join(low)} is not released. {_base_line(base, threshold)}")
        parts += [f"  {_line(name, verdict)}" for name, verdict in verdicts.items()]
        parts += [f"  {remark}"] if remark else []
        hints.append("Train the repair stage longer or with a higher learning rate")
    worse = [name for name in refused if any(item.result == "failed" for item in verdicts[name].benchmarks)]
    if worse:
        parts.append(f"Worse than the gate allows: {', '.join(worse)} is not released.")
        parts += [
            f"  {name}: {benchmark_line(item)}"
            for name, verdict in verdicts.items()
            for item in verdict.benchmarks
            if item.result == "failed"
        ]
        hints.append("Allow more in gates.benchmarks")
    hint = ", or ".join([hints[0], *(text[0].lower() + text[1:] for text in hints[1:])])
    raise RefusedError("\n".join(parts), hint=f"{hint}, or set `gate: report` for the variant.")


def _of_files(made: GgufFiles | None, threshold: float | None) -> tuple[GgufVerdict, ...]:
    """The verdicts on the GGUF files of a variant; none without a gate on the stop rate."""
    if made is None or threshold is None:
        return ()
    rates = [(item, item.stop_rate.rate if item.stop_rate else None) for item in made.files]
    return tuple(
        GgufVerdict(item.name, item.kind, rate, rate is not None and rate >= threshold) for item, rate in rates
    )


def _result(verdict: GateVerdict) -> str:
    """The verdict in words, with that on its GGUF files where it is another."""
    other = verdict.gguf_result
    return f"{verdict.result}, its GGUF files {other}" if other not in (None, verdict.result) else verdict.result


def _refuse_files(
    verdicts: Mapping[str, GateVerdict],
    made: Mapping[str, GgufFiles],
    base: MeasuredRate | None,
    threshold: float | None,
) -> None:
    """RefusedError when a GGUF file failed and its gate is enforced: each such file, by name."""
    failed = {
        name: [item for item in verdict.gguf if not item.passed]
        for name, verdict in verdicts.items()
        if verdict.gguf_result == "failed"
    }
    if not failed or base is None or threshold is None:
        return
    unmeasured = [name for name, files in failed.items() if any(item.rate is None for item in files)]
    if unmeasured:
        why = made[unmeasured[0]].unmeasured or "nothing measured them"
        raise RefusedError(
            f"The stop rate of the GGUF files of {', '.join(unmeasured)} was not measured: {why}.",
            hint="pip install 'hubkit[llama-cpp]', or set `gguf: {gate: report}`.",
        )
    lines = [
        f"  {name}: {item.file} {share(item.rate)}{_of_weights(verdicts[name])}: failed"
        for name, files in failed.items()
        for item in files
        if item.rate is not None
    ]
    raise RefusedError(
        "\n".join([f"Stop rate of GGUF files below the gate. {_base_line(base, threshold)}", *lines]),
        hint="Where the weights pass, leave that type out of `gguf.types`; else train the repair stage longer. Or set"
        " `gguf: {gate: report}`.",
    )


def _of_weights(verdict: GateVerdict) -> str:
    """The rate of the weights that a GGUF file was written from, in parentheses; nothing where it is unknown."""
    return f" (merged weights {share(verdict.rates['merged'])})" if "merged" in verdict.rates else ""


def _warnings(verdicts: Mapping[str, GateVerdict]) -> Iterable[str]:
    """What is to be known of conditions that did not simply hold."""
    for name, verdict in verdicts.items():
        for file in verdict.gguf:
            if not file.passed:
                rate = "was not measured" if file.rate is None else f"is {share(file.rate)}: failed"
                yield f"{name}: the stop rate of {file.file} {rate} (reported)."
        for item in verdict.benchmarks:
            if item.result != "passed" or item.note:
                yield f"{name}: {benchmark_line(item)}"


def benchmark_line(item: BenchmarkVerdict) -> str:
    """One condition in words: the numbers, and the verdict."""
    there = f"what the branch publishes at {short_commit(item.commit)}" if item.commit else "what the branch publishes"
    against = "the base" if item.against == "base" else there
    if item.drop is None or item.before is None or item.after is None:
        return f"{item.benchmark} is not compared with {against}: {item.note}."
    pairs = f", {count(item.changed)} changed" if item.changed is not None else ""
    note = f" ({item.note})" if item.note else ""
    return (
        f"{item.benchmark} is {score(item.after)}, {against} has {score(item.before)}: {signed(-item.drop)} ± "
        f"{score(item.stderr or 0.0)} on {counted(item.n or 0, 'question')}{pairs}; a drop of {score(item.margin)} is "
        f"allowed: {item.result}{note}."
    )


def _base_line(base: MeasuredRate, threshold: float) -> str:
    return (
        f"Base model: {share(base.rate)} of {counted(base.prompts, 'answer')}. Required: at least {share(threshold)}:"
    )


def _line(name: str, verdict: GateVerdict) -> str:
    """One variant in words: its rates, and the verdict."""
    rates = ", ".join(f"{form} {share(rate)}" for form, rate in verdict.rates.items())
    return f"{name}: {rates}: {verdict.result}"


def _remark(rate: float, threshold: float) -> str | None:
    """What to know about a base that does not stop reliably itself."""
    if rate < threshold:
        return f"The base model's own stop rate is only {share(rate)}, below the required {share(threshold)}."
    if rate < LOW_BASE:
        return (
            f"The base model's stop rate is only {share(rate)}; "
            "an absolute threshold such as at_least: 0.95 would be stricter."
        )
    return None
