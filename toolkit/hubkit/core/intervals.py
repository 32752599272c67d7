"""Confidence intervals of shares, and of their differences."""

from __future__ import annotations

import math


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, from 0 to 1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927), 209-212. Unlike the usual normal interval it is sound at 0 % and 100 %.
    """
    if trials == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    share = successes / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    below = 1 + z * z / trials
    return max(0.0, (middle - spread) / below), min(1.0, (middle + spread) / below)


def difference(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """The 95 % confidence interval of the share of ``first`` less that of ``second``, each (successes, trials).

    From -1 to 1. Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 17 (1998), 873-890, method 10, which squares the Wilson limits. To see whether two Wilson
    intervals overlap is a coarser look: they still do where this one no longer holds 0.
    """
    (low, high), (other_low, other_high) = wilson(*first), wilson(*second)
    if not first[1] or not second[1]:
        return -1.0, 1.0
    share, other = first[0] / first[1], second[0] / second[1]
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return max(-1.0, share - other - below), min(1.0, share - other + above)
