"""Is a model worse than another one on the same questions, by more than it may be? One-sided tests of one hypothesis.

The hypothesis that must be refuted before a model counts as worse: its mean score fell by no more than the margin.
Both tests must refute it at the level that is asked for:

- the paired t-test, of the differences per question against the margin;
- McNemar's exact test, that there is a fall at all: of the questions whose score changed, as many are expected to have
  become worse as better. For scores that are not 0 or 1, and for means of several tasks, the signs of the differences
  are flipped instead, which is the same idea.

The t-test alone rejects too often where few scores change, as a handful of changes has hardly a variance; the exact
test knows nothing of a margin. The larger of the two probabilities is that of the pair. Where the scores of each
question are not known, the two means are compared by their standard errors, as if of different questions.

``docs/quality-gate.md`` has the error rates, from the simulation that is a test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

LEVEL = 0.05
"""The chance that a release in which nothing is worse than allowed is refused all the same: at most this."""
POWER = 0.9
"""The chance with which the least detectable drop is found."""
_FLIPS = 4_999
_MANY = 2_000
"""Changed scores from which on the sum of random signs is as good as normal."""
_CHANGING = 0.1
"""The share of questions whose answer changes from one version of a model to the next, where it is not known yet."""


@dataclass(frozen=True)
class Stratum:
    """The differences of one task, question by question, ``before - after``: above 0 is worse.

    ``weight`` is the share of the task's mean in the number that is compared.
    """

    drops: Sequence[float]
    weight: float = 1.0


@dataclass(frozen=True)
class Drop:
    """How much worse a model is: ``value`` with its standard error, and the probability ``p`` of such a result if the
    drop is no more than the margin.

    ``n`` are the questions, ``changed`` those whose score changed (None: unpaired).
    """

    value: float
    stderr: float
    p: float
    n: int
    changed: int | None


def paired_drop(strata: Iterable[Stratum], margin: float) -> Drop:
    """The drop of a mean over tasks, and how probable it is if the true one is at most ``margin``.

    ValueError for a stratum with fewer than two questions: it has no variance.
    """
    import numpy as np
    from scipy.special import stdtr

    tasks = [(np.asarray(item.drops, dtype=float), item.weight) for item in strata]
    if not tasks or any(drops.size < 2 for drops, _ in tasks):
        raise ValueError("a task has fewer than two questions")
    value = math.fsum(weight * float(drops.mean()) for drops, weight in tasks)
    parts = [(weight**2 * float(drops.var(ddof=1)) / drops.size, drops.size - 1) for drops, weight in tasks]
    variance = math.fsum(part for part, _ in parts)
    n = sum(drops.size for drops, _ in tasks)
    changed = sum(int(np.count_nonzero(drops)) for drops, _ in tasks)
    if variance == 0:
        return Drop(value, 0.0, 0.0 if value > margin and changed else 1.0, n, changed)
    freedom = variance**2 / math.fsum(part**2 / free for part, free in parts)  # Welch and Satterthwaite
    steps = np.concatenate([weight / drops.size * drops[drops != 0] for drops, weight in tasks])
    t = (value - margin - _half_step(steps)) / math.sqrt(variance)
    return Drop(value, math.sqrt(variance), max(float(stdtr(freedom, -t)), _no_drop(steps)), n, changed)


def _alike(steps: Any) -> bool:
    """Whether all ``steps`` have one size, as those of scores of 0 and 1 in one task."""
    return bool(abs(steps).max() - abs(steps).min() <= 1e-12 * abs(steps).max())


def _half_step(steps: Any) -> float:
    """Half of the least step by which the drop can grow: what a t-test of counts is corrected by."""
    return float(abs(steps[0])) / 2 if _alike(steps) else 0.0


def _no_drop(steps: Any) -> float:
    """The probability of a drop as large as this one, if each difference could as well have had the other sign.

    ``steps`` are the differences that are not 0, each as much as it moves the mean.
    """
    import numpy as np
    from scipy.special import bdtrc, ndtr

    lost = int(np.count_nonzero(steps > 0))
    if not lost:
        return 1.0
    if _alike(steps):  # McNemar
        return float(bdtrc(lost - 1, steps.size, 0.5))
    sizes, total = np.abs(steps), float(steps.sum())
    if steps.size > _MANY:
        return float(ndtr(-total / math.sqrt(float((sizes**2).sum()))))
    random, reached = np.random.default_rng(0), 0
    for start in range(0, _FLIPS, 1000):
        worse = random.integers(0, 2, (min(1000, _FLIPS - start), steps.size), dtype=np.int8)
        reached += int(np.count_nonzero(2 * (worse @ sizes) - sizes.sum() >= total - 1e-12))
    return (1 + reached) / (1 + _FLIPS)


def unpaired_drop(before: tuple[float, float], after: tuple[float, float], margin: float, n: int) -> Drop:
    """The drop from ``before`` to ``after``, each a mean and its standard error, as if of different questions.

    A score for which less is better is given with its sign changed.
    """
    from scipy.special import ndtr

    value, stderr = before[0] - after[0], math.hypot(before[1], after[1])
    if stderr == 0:
        return Drop(value, 0.0, 0.0 if value > margin else 1.0, n, None)
    return Drop(value, stderr, float(ndtr(-(value - margin) / stderr)), n, None)


def holm(probabilities: Sequence[float], level: float = LEVEL) -> list[tuple[bool, float]]:
    """For each hypothesis whether it is refuted, and the level that it was tested at: Holm's method.

    The chance that any true one is refuted is at most ``level``, however many there are.
    """
    order = sorted(range(len(probabilities)), key=lambda place: probabilities[place])
    found = [(False, level)] * len(probabilities)
    open_ = True
    for rank, place in enumerate(order):
        own = level / (len(order) - rank)
        open_ = open_ and probabilities[place] <= own
        found[place] = (open_, own)
    return found


def least_detectable(n: int, margin: float, level: float = LEVEL, stderr: float | None = None) -> float:
    """The drop that is found with probability ``POWER``.

    ``stderr`` is that of the measured difference; without one a tenth of the ``n`` questions is taken to change.
    """
    from scipy.special import ndtri

    error = stderr if stderr is not None else math.sqrt(_CHANGING / n)
    fewest = math.ceil(-math.log2(level)) / n  # so many changes for the worse, and none for the better
    return max(margin + float(ndtri(1 - level) + ndtri(POWER)) * error, fewest)
