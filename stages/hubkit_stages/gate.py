"""Hold the measurements against the recipe's gates; an enforced one that fails ends the release here.

    gates: {stop_rate: {at_least: base - 0.02}}     # or a share: 0.95
    variants: {dpo-v0: {stage: dpo, gate: report}, main: {stage: sft}}

Every published form of a variant (merged weights, adapter) must reach the least rate. Makes: ``gates.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.core.files import write_json
from hubkit.core.findings import Finding
from hubkit.core.numbers import share
from hubkit.recipe.stage import Artifact, Context

VERSION = 1
SHAPED_BY = ()

GATED = ("merged", "adapter")
"""The forms that are published, so gated."""
LOW_BASE = 0.9
"""A base that stops less often than this share is said aloud: a threshold taken from it asks for little."""


def check(ctx: Context) -> Iterable[Finding]:
    """Whether any variant is held back at all."""
    if all(variant.gate == "report" for variant in ctx.recipe.variants.values()):
        yield Finding("note", "No variant's gate is enforced: the release goes out whatever its stop rates are.")


def run(ctx: Context) -> Artifact:
    """Make ``gates.json``. RefusedError, with every number, when an enforced gate does not hold."""
    base = ctx.input("base-stopping").json("stopping.json")["forms"]["base"]
    threshold = round(ctx.recipe.gates.stop_rate.threshold(base["rate"]), 9)
    variants: dict[str, Any] = {}
    for name, artifact in ctx.each("stopping").items():
        forms = artifact.json("stopping.json")["forms"]
        rates = {form: forms[form]["rate"] for form in GATED}
        variants[name] = {
            "passed": all(rate >= threshold for rate in rates.values()),
            "enforced": ctx.recipe.variants[name].gate == "enforce",
            "threshold": threshold,
            "rates": rates,
        }
    remark = _remark(base["rate"], threshold)
    if remark:
        ctx.report(remark, None)
    refused = [name for name, item in variants.items() if item["enforced"] and not item["passed"]]
    if refused:
        lines = [f"  {_line(name, item)}" for name, item in variants.items()]
        said = [f"Too few answers end: {', '.join(refused)} may not be released. {_base_line(base, threshold)}", *lines]
        raise RefusedError(
            "\n".join([*said, *([f"  {remark}"] if remark else [])]),
            hint="Train the turn-end repair longer or at a higher rate; or set the variant's gate to 'report'.",
        )
    write_json(ctx.out / "gates.json", {"base": {"rate": base["rate"], "remark": remark}, "variants": variants})
    figure = "; ".join(f"{name} {'passes' if item['passed'] else 'below'}" for name, item in variants.items())
    return ctx.artifact(figure=f"{figure} (at least {share(threshold)})", threshold=threshold)


def _base_line(base: Mapping[str, Any], threshold: float) -> str:
    return f"The base stops in {share(base['rate'])} of {base['prompts']}; at least {share(threshold)} is asked for:"


def _line(name: str, item: Mapping[str, Any]) -> str:
    """One variant in words: its rates, and what they mean for it."""
    rates = ", ".join(f"{form} {share(rate)}" for form, rate in item["rates"].items())
    if item["passed"]:
        return f"{name}: {rates}: passes"
    return f"{name}: {rates}: {'refused' if item['enforced'] else 'below, and only reported'}"


def _remark(rate: float, threshold: float) -> str | None:
    """What to know about a base that does not stop reliably itself."""
    if rate < threshold:
        return f"The base itself stops in only {share(rate)}, below what is asked of the variants ({share(threshold)})."
    if rate < LOW_BASE:
        return f"The base itself stops in only {share(rate)}; a share for at_least, such as 0.95, would ask for more."
    return None
