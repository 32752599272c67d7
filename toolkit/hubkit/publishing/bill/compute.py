"""How much a training computed, from measured figures: 6 · N · D floating point operations.

N is the number of the model's parameters, D the number of tokens that it was trained on (Kaplan et al. 2020,
"Scaling Laws for Neural Language Models", section 2.1; the European Commission's guidelines on obligations for
general-purpose AI models of July 2025 name the same estimate). It is an estimate from above for an adapter, where most
of the gradients of frozen weights are not computed. The reference of a preference training is not in it: up to
2 · N · D more, less where its log-probabilities were kept.
"""

from __future__ import annotations

from hubkit.publishing.bill.facts import Facts

THIRD = 1 / 3
"""The share of the original's compute above which who modifies a model becomes its provider (the same guidelines)."""


def tokens(facts: Facts) -> int | None:
    """Tokens of all trainings; None unless every one was measured."""
    counted = [item.number("tokens") for item in facts.trainings]
    if not counted or facts.adopted:
        return None
    known = [int(item) for item in counted if item is not None]
    return sum(known) if len(known) == len(counted) else None


def operations(facts: Facts) -> int | None:
    """6 · N · D of all trainings; None when the parameters or the tokens are not known."""
    base, trained = facts.base, tokens(facts)
    if base is None or not base.parameters or trained is None:
        return None
    return 6 * base.parameters * trained


def share_of_original(facts: Facts, original_tokens: int | None) -> float | None:
    """This training's compute divided by that of the base, which was trained on ``original_tokens``."""
    trained = tokens(facts)
    if operations(facts) is None or trained is None or not original_tokens:
        return None
    return trained / original_tokens
