"""The erratum of a card, generated from measurements: which variant lost its turn ends, what repaired it, at what cost.

Nobody writes it and nobody can forget it. There is none when every variant of the chain passed its gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from hubkit.cards.benchmarks import of_averages
from hubkit.cards.evidence import Evidence
from hubkit.config import Recipe
from hubkit.evals import compare

_PUBLISHED = ("merged", "adapter")

Kind = Literal["lost", "repaired", "unrepaired"]


def erratum(
    recipe: Recipe, variant: str, variants: Mapping[str, Mapping[str, Any]], evidence: Evidence
) -> dict[str, Any] | None:
    """What went wrong, for the card of ``variant``; None when nothing did.

    ``kind`` is 'lost' (this branch does not end its turns), 'repaired' (this branch mends ``broken``) or 'unrepaired'
    (it was to mend ``broken`` and did not). ``broken`` and ``repaired`` are rows of the table of variants, ``stages``
    the stages that were trained in between, ``worse`` whether ``broken`` ends fewer answers than the base (see
    :func:`_worse`), ``scores`` how the benchmark average went (see :func:`_scores`).
    """
    passed = {name: row["gate"]["passed"] if row.get("gate") else None for name, row in variants.items()}
    before = _before(recipe, variant)
    broken_before = [name for name in before if passed[name] is False]
    if passed[variant] is False:
        if broken_before:
            return _said("unrepaired", broken_before[-1], variant, recipe, variants, evidence)
        repaired = [name for name in variants if variant in _before(recipe, name) and passed[name]]
        return _said("lost", variant, repaired[0] if repaired else None, recipe, variants, evidence)
    if broken_before:
        return _said("repaired", broken_before[-1], variant, recipe, variants, evidence)
    return None


def _before(recipe: Recipe, variant: str) -> list[str]:
    """The variants whose chain of stages is a beginning of this one's, shortest first."""
    chain = recipe.chain(recipe.variants[variant].stage)
    chains = {name: recipe.chain(item.stage) for name, item in recipe.variants.items()}
    found = [name for name, other in chains.items() if len(other) < len(chain) and chain[: len(other)] == other]
    return sorted(found, key=lambda name: len(chains[name]))


def _said(
    kind: Kind,
    broken: str,
    mended: str | None,
    recipe: Recipe,
    variants: Mapping[str, Mapping[str, Any]],
    evidence: Evidence,
) -> dict[str, Any]:
    stages: list[str] = []
    if mended is not None:
        done = recipe.chain(recipe.variants[broken].stage)
        stages = list(recipe.chain(recipe.variants[mended].stage)[len(done) :])
    return {
        "kind": kind,
        "broken": variants[broken],
        "repaired": variants[mended] if mended is not None else None,
        "stages": stages,
        "worse": _worse(evidence, broken),
        "scores": {
            "broken": _scores(evidence, "base-scores", f"evaluate[{broken}]"),
            "repaired": _scores(evidence, f"evaluate[{broken}]", f"evaluate[{mended}]") if mended else None,
        },
    }


def _worse(evidence: Evidence, variant: str) -> bool:
    """Whether a published form of ``variant`` ends its answers less often than the base.

    So it counts where its whole 95 % interval lies below the base's; where either was not measured, it counts too.
    """
    base = ((evidence.get("base-stopping", "stopping.json") or {}).get("forms") or {}).get("base")
    forms = (evidence.get(f"stopping[{variant}]", "stopping.json") or {}).get("forms") or {}
    if not base or not all(forms.get(form) for form in _PUBLISHED):
        return True
    return any(forms[form]["high"] < base["low"] for form in _PUBLISHED)


def _scores(evidence: Evidence, before: str, after: str) -> str | None:
    """How the average of ``after`` stands to that of ``before``: 'rose', 'fell', 'within', or None: not measured.

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
