"""What merged rows that are not right look like: another base, another scaling, a layer of another place, damage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hubkit.core.numbers import count, counted, share

FEW = 0.002
"""Up to this share of wrong numbers is damage; a wrong merge has more."""
SOME = 0.05
"""Up to this share of numbers may contradict an explanation: those near zero, whose last place is another one."""


@dataclass(frozen=True)
class Difference:
    """Rows ``start`` to ``stop`` of a tensor, of whose ``numbers`` ``wrong`` are not what they must be.

    ``before`` are the base's rows and ``after`` the merged ones (None for tensors of whole numbers), ``change`` what
    the adapter adds (None where it changes nothing), ``allowed`` by how much each number may be off; all float64.
    """

    name: str
    start: int
    stop: int
    numbers: int
    wrong: int
    before: Any = None
    after: Any = None
    change: Any = None
    allowed: Any = None


Other = tuple[str, Any, Any]
"""Another tensor's name, its rows in the base, and what the adapter adds to them (None: nothing)."""


def explain(different: Difference, others: Iterable[Other], *, only: bool) -> str:
    """A clause about what ``different`` looks like. ``only``: no other tensor differs."""
    if different.before is None or not bool(different.after.isfinite().all()):
        return _damaged(different)
    if different.change is None:
        return _of_unchanged(different, others, only=only)
    return _of_changed(different, others, only=only)


def _of_unchanged(different: Difference, others: Iterable[Other], *, only: bool) -> str:
    if only and different.wrong <= max(1, FEW * different.numbers):
        return _damaged(different)
    if found := _swapped(different, others):
        return f"holds the rows of {found}: tensors were swapped"
    return f"is not the base's, though the adapter does not change it: another base{_how_many(different)}"


def _of_changed(different: Difference, others: Iterable[Other], *, only: bool) -> str:
    added, change, allowed = different.after - different.before, different.change, different.allowed
    if _misfit(added, allowed) <= FEW:
        return "holds the base's numbers: it was not merged"
    twice = 2 * allowed  # rounded twice; what fits must fit much better than the right merge does by this measure
    poor = _misfit(added - change, twice) / 3
    if _misfit(added - 2 * change, twice) <= min(SOME, poor):
        return "was changed twice: the adapter was merged into weights that had it already"
    times = _fraction(added, change)
    if abs(times - 1) > 0.01 and _misfit(added - times * change, twice) <= min(SOME, poor):
        return f"was changed by {times:.3g} times what the adapter adds: another scaling, or an older adapter"
    if only and different.wrong <= max(1, FEW * different.numbers):
        return _damaged(different)
    for name, before, added_there in others:
        places = (before,) if added_there is None else (before, before + added_there, different.before + added_there)
        if min(_misfit(different.after - rows, twice) for rows in places) <= min(SOME, poor):
            return f"holds the rows of {name}, or was changed as that is: layers were swapped"
    return f"comes from another base, another adapter or another scaling{_how_many(different)}"


def _swapped(different: Difference, others: Iterable[Other]) -> str | None:
    """The tensor whose rows in the base these are; None when there is none."""
    allowed = (different.after.abs().mean() * 2.0**-7).expand_as(different.after)
    for name, before, change in others:
        if change is None and _misfit(different.after - before, allowed) <= SOME:
            return name
    return None


def _misfit(off: Any, allowed: Any) -> float:
    """The share of numbers that are off by more than is allowed."""
    return float((off.abs() > allowed).double().mean())


def _fraction(added: Any, change: Any) -> float:
    """How many times ``change`` is in ``added``, by least squares."""
    norm = float((change * change).sum())
    found = float((added * change).sum()) / norm if norm else 0.0
    return found if math.isfinite(found) else 0.0


def _damaged(different: Difference) -> str:
    return (
        f"is damaged: {count(different.wrong)} of {counted(different.numbers, 'number')} differ "
        f"in rows {count(different.start)} to {count(different.stop)}"
    )


def _how_many(different: Difference) -> str:
    return f" ({share(different.wrong / different.numbers)} of the compared numbers differ)"
