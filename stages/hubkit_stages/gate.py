"""Compare the measured stop rates with the recipe's gates; an enforced gate that fails stops the release.

    gates: {stop_rate: {at_least: base - 0.02}}     # or a share: 0.95
    variants: {dpo-v0: {stage: dpo, gate: report}, main: {stage: sft}}

Every published form of a variant (merged weights, adapter) must reach the threshold. Writes ``gates.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding
from hubkit.core.numbers import counted, share
from hubkit.models.chat.gate_verdicts import GatedBase, GateVerdict, GateVerdicts
from hubkit.models.chat.stop_rates import MeasuredRate, StopRates
from hubkit.recipe.models import Recipe, StopRate
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult

VERSION = 2
SHAPED_BY = ()

LOW_BASE = 0.9
"""A base that stops less often than this share gets a remark: a threshold taken from it asks for little."""


@dataclass(frozen=True)
class Settings:
    """The gate, and whether it is enforced for each variant."""

    stop_rate: StopRate
    variants: Mapping[str, Literal["enforce", "report"]]

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        return cls(recipe.gates.on_stop_rate(), {name: variant.gate for name, variant in recipe.variants.items()})


@dataclass(frozen=True)
class Inputs:
    """The measured stop rates of the base, and of each variant."""

    base: StopRates
    variants: Mapping[str, StopRates]


Output = GateVerdicts


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """Whether the gate is enforced for any variant."""
    if all(gate == "report" for gate in ctx.settings.variants.values()):
        yield Finding("note", "No variant's gate is enforced: the release is published at any stop rate.")


def run(ctx: Context[Settings, Inputs]) -> StageResult[GateVerdicts]:
    """Write ``gates.json``. RefusedError, with every number, when an enforced gate fails."""
    base = ctx.inputs.base.base
    threshold = round(ctx.settings.stop_rate.threshold(base.rate), 9)
    verdicts: dict[str, GateVerdict] = {}
    for name, measured in ctx.inputs.variants.items():
        rates = {str(form): found.rate for form, found in measured.published.items()}
        verdicts[name] = GateVerdict(
            passed=all(rate >= threshold for rate in rates.values()),
            enforced=ctx.settings.variants[name] == "enforce",
            threshold=threshold,
            rates=rates,
        )
    remark = _remark(base.rate, threshold)
    if remark:
        ctx.report(remark, None)
    refused = [name for name, verdict in verdicts.items() if verdict.result == "failed"]
    if refused:
        lines = [f"  {_line(name, verdict)}" for name, verdict in verdicts.items()]
        first = f"Stop rate below the gate: {', '.join(refused)} is not released. {_base_line(base, threshold)}"
        raise RefusedError(
            "\n".join([first, *lines, *([f"  {remark}"] if remark else [])]),
            hint="Train the repair stage longer or with a higher learning rate, or set `gate: report` for the variant.",
        )
    results = "; ".join(f"{name} {verdict.result}" for name, verdict in verdicts.items())
    return StageResult(
        GateVerdicts(base=GatedBase(base.rate, remark), variants=verdicts),
        f"{results} (at least {share(threshold)})",
        facts={"threshold": threshold},
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
