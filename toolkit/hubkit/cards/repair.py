"""The section of a card about unreliable stopping: which variant is affected, which one fixes it, at what cost.

It is generated from the measured stop rates (parts/repair.md.jinja shows it). There is none when this variant and the
one that its training continues passed their gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from hubkit.cards.benchmarks import of_averages
from hubkit.cards.evidence import BASE_BENCHMARKS, BASE_STOP_RATE, Evidence, benchmarks_step, stop_rate_step
from hubkit.core.intervals import difference
from hubkit.evals.comparing import compare
from hubkit.models.chat.stop_rates import Form, MeasuredRate
from hubkit.recipe.models import Recipe

Kind = Literal["lost", "repaired", "unrepaired"]
RELIABLE = 0.9
"""The stop rate below which a card says of a base, too, that it does not reliably end its answers."""


def stop_rate_repair(
    recipe: Recipe, variant: str, variants: Mapping[str, Mapping[str, Any]], evidence: Evidence
) -> dict[str, Any] | None:
    """What went wrong, for the card of ``variant``; None when nothing did.

    ``kind`` is 'lost' (this branch does not end its answers), 'repaired' (this branch repairs ``broken``, the variant
    that it continues) or 'unrepaired' (it should repair ``broken`` and does not). ``broken`` and ``repaired`` are
    rows of the table of variants, ``stages`` the stages that were trained in between, ``worse`` whether ``broken``
    ends fewer answers than the base (see :func:`_worse`), ``never`` whether it ended none, ``base_fails`` whether the
    base itself is below the gate or below :data:`RELIABLE` (a gate that is relative to the base is never above it),
    ``adapter_fails`` whether the adapter of this variant is, ``scores`` how the benchmark average changed (see
    :func:`_scores`).
    """
    gates = evidence.gates()
    verdicts = gates.variants if gates else {}
    passed = {name: verdicts[name].passed if name in verdicts else None for name in variants}
    judged = [name for name in _before(recipe, variant) if passed[name] is not None]
    broken = judged[-1] if judged and passed[judged[-1]] is False else None
    if passed[variant] is None or (passed[variant] and broken is None):
        return None
    if passed[variant]:
        facts = _facts("repaired", broken or variant, variant, recipe, variants, evidence)
    elif broken is not None:
        facts = _facts("unrepaired", broken, variant, recipe, variants, evidence)
    else:
        repaired = [name for name in variants if variant in _before(recipe, name) and passed[name]]
        facts = _facts("lost", variant, repaired[0] if repaired else None, recipe, variants, evidence)
    return {**facts, "adapter_fails": _fails(evidence, variant, _form(evidence, variant, "adapter"))}


def _before(recipe: Recipe, variant: str) -> list[str]:
    """The variants whose chain of stages is a beginning of this one's, shortest first."""
    chain = recipe.chain(recipe.variants[variant].stage)
    chains = {name: recipe.chain(item.stage) for name, item in recipe.variants.items()}
    found = [name for name, other in chains.items() if len(other) < len(chain) and chain[: len(other)] == other]
    return sorted(found, key=lambda name: len(chains[name]))


def _facts(
    kind: Kind,
    broken: str,
    repaired_by: str | None,
    recipe: Recipe,
    variants: Mapping[str, Mapping[str, Any]],
    evidence: Evidence,
) -> dict[str, Any]:
    stages: list[str] = []
    base = _base(evidence)
    if repaired_by is not None:
        done = recipe.chain(recipe.variants[broken].stage)
        stages = list(recipe.chain(recipe.variants[repaired_by].stage)[len(done) :])
    return {
        "kind": kind,
        "broken": variants[broken],
        "repaired": variants[repaired_by] if repaired_by is not None else None,
        "stages": stages,
        "worse": _worse(evidence, broken),
        "never": _never(evidence, broken),
        "base_fails": _fails(evidence, broken, base) or bool(base and base.rate < RELIABLE),
        "scores": {
            "broken": _scores(evidence, BASE_BENCHMARKS, benchmarks_step(broken)),
            "repaired": _scores(evidence, benchmarks_step(broken), benchmarks_step(repaired_by))
            if repaired_by
            else None,
        },
    }


def _base(evidence: Evidence) -> MeasuredRate | None:
    """The base's stop rate; None: not measured."""
    found = evidence.stop_rates(BASE_STOP_RATE)
    return found.forms.get("base") if found else None


def _form(evidence: Evidence, variant: str, form: Form) -> MeasuredRate | None:
    """The stop rate of a form of ``variant``; None: not measured."""
    found = evidence.stop_rates(stop_rate_step(variant))
    return found.forms.get(form) if found else None


def _fails(evidence: Evidence, variant: str, form: MeasuredRate | None) -> bool:
    """Whether ``form`` is below the threshold of the gate of ``variant``."""
    gates = evidence.gates()
    gate = gates.variants.get(variant) if gates else None
    return bool(form and gate and gate.threshold is not None and form.rate < gate.threshold)


def _worse(evidence: Evidence, variant: str) -> bool:
    """Whether a published form of ``variant`` ends its answers less often than the base.

    So it counts where the whole 95 % interval of the difference lies below zero; where either was not measured, it
    counts too.
    """
    base, found = _base(evidence), evidence.stop_rates(stop_rate_step(variant))
    forms = list(found.published.values()) if found else []
    if not base or not forms:
        return True
    return any(difference(_counts(form), _counts(base))[1] < 0 for form in forms)


def _never(evidence: Evidence, variant: str) -> bool:
    """Whether no published form of ``variant`` ended any answer."""
    found = evidence.stop_rates(stop_rate_step(variant))
    return found is not None and bool(found.published) and not any(form.stopped for form in found.published.values())


def _counts(form: MeasuredRate) -> tuple[int, int]:
    return form.stopped, form.prompts


def _scores(evidence: Evidence, before: str, after: str) -> str | None:
    """How the average of ``after`` compares with that of ``before``: 'rose', 'fell', 'within', or None: not measured.

    'within': the difference is no more than the noise (:func:`hubkit.evals.compare`), or nothing.
    """
    first, second = evidence.results(before), evidence.results(after)
    if first is None or second is None:
        return None
    found = compare(of_averages(first), of_averages(second)).average
    if found.value is None:
        return None
    if found.exceeds is False or not found.value:
        return "within"
    return "rose" if found.value > 0 else "fell"
