"""Which rows are trained on: duplicates, held-out prompts, samples, the shares of a mixture, rows for evaluation.

Rows are chosen by the digests that a :class:`~hubkit.training.data.spool.Spool` has of them, so what is held is some
bytes a row. Every draw follows the seed of the recipe and the order of the rows alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hubkit.training.data.mappings import Message
from hubkit.training.data.rows import digest, question
from hubkit.training.data.spool import Spool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[Any]


@dataclass
class Pool:
    """The rows of one source that may still be chosen: those for which ``free`` is true."""

    spool: Spool
    free: Mask

    @classmethod
    def of(cls, spool: Spool) -> Pool:
        """All rows of ``spool``."""
        import numpy as np

        return cls(spool, np.ones(len(spool), dtype=bool))

    def asked(self) -> Mask:
        """The digests of the questions of the free rows, in order."""
        return self.spool.asked[self.free]

    def take_out(self, asked: Any) -> None:
        """No longer choose rows whose question is one of the digests ``asked``."""
        import numpy as np

        self.free &= ~np.isin(self.spool.asked, asked)

    def positions(self) -> Mask:
        """The numbers of the free rows."""
        import numpy as np

        return np.flatnonzero(self.free)

    def keep(self, places: Iterable[int]) -> None:
        """Leave only the free rows at ``places`` (numbers among the free rows)."""
        import numpy as np

        positions = self.positions()
        self.free = np.zeros_like(self.free)
        self.free[positions[np.fromiter(places, dtype=np.int64)]] = True


def repeated(pools: Sequence[Pool]) -> list[Mask]:
    """For each of ``pools``, in order, which of its rows are in it or in one before it already."""
    import numpy as np

    marks = np.concatenate([pool.spool.marks for pool in pools]) if pools else np.zeros(0, np.uint64)
    again = np.ones(len(marks), dtype=bool)
    again[np.unique(marks, return_index=True)[1]] = False
    ends = np.cumsum([len(pool.spool) for pool in pools])[:-1]
    return list(np.split(again, ends))


@dataclass(frozen=True)
class HeldOut:
    """Prompts that are never trained on, and how many were skipped because another entry of `data` has them, too."""

    prompts: list[list[Message]] = field(default_factory=list)
    overlapping: int = 0

    @property
    def asked(self) -> list[int]:
        """The digests of their questions."""
        return [digest(question(prompt)) for prompt in self.prompts]


def hold_out(sets: Mapping[str, Sequence[Pool]], name: str, wanted: int, seed: int) -> HeldOut:
    """Draw ``wanted`` different prompts from the set ``name``; the caller takes them out of it.

    A prompt that another set has too is never drawn, nor one with tools, which would be asked without them. Fewer come
    back when the set has no more to give.
    """
    import numpy as np

    asked = _different(np.concatenate([pool.spool.asked[pool.free & pool.spool.plain] for pool in sets[name]]))
    free = asked[~np.isin(asked, elsewhere(sets, name))]
    drawn = random.Random(f"prompts {seed}").sample(range(len(free)), min(wanted, len(free)))
    wanted_asked = {int(item) for item in free[drawn]} if drawn else set()
    prompts: list[list[Message]] = []
    for pool in sets[name]:
        firsts = pool.free & pool.spool.plain & np.isin(pool.spool.asked, np.array([*wanted_asked], np.uint64))
        for number, row in pool.spool.rows(firsts):
            if (mark := int(pool.spool.asked[number])) in wanted_asked:
                wanted_asked.remove(mark)
                prompts.append(row["prompt"])
    return HeldOut(prompts, len(asked) - len(free))


def elsewhere(sets: Mapping[str, Sequence[Pool]], name: str) -> Mask:
    """The digests of the questions in all sets but ``name``."""
    import numpy as np

    others = [pool.asked() for other, pools in sets.items() if other != name for pool in pools]
    return np.unique(np.concatenate(others)) if others else np.zeros(0, np.uint64)


def _different(values: Mask) -> Mask:
    """``values`` without repetition, in the order of their first occurrence."""
    import numpy as np

    return values[np.sort(np.unique(values, return_index=True)[1])]


def sample(pool: Pool, wanted: int | None, seed: int) -> None:
    """Leave ``wanted`` of the free rows, drawn by ``seed``; all of them when ``wanted`` is None or not less."""
    there = int(pool.free.sum())
    if wanted is not None and wanted < there:
        pool.keep(sorted(random.Random(f"rows {seed}").sample(range(there), wanted)))


def in_shares(available: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many rows of each source make a mixture with the shares ``weights``, the largest that repeats no row."""
    whole = sum(weights)
    most = min(count * whole / weight for count, weight in zip(available, weights, strict=True))
    # A share of a row that rounding took is given back: 0.7 of 10 rows are 7.
    return [min(count, int(most * weight / whole + 1e-9)) for count, weight in zip(available, weights, strict=True)]


def for_evaluation(
    pools: Sequence[Pool], asked: Sequence[float | int | None], elsewhere: Mask, seed: int
) -> list[Mask]:
    """Take rows out of ``pools`` for evaluation, and return which: a mask for each pool.

    ``asked``: of each pool a share below 1, or a number of rows, or None. All rows with a drawn question leave the
    training, so that no question is both trained on and evaluated; nor is one that is in another set (``elsewhere``).
    """
    import numpy as np

    drawn: list[int] = []
    for place, (pool, wanted) in enumerate(zip(pools, asked, strict=True)):
        if not wanted:
            continue
        there = pool.asked()
        number = round(wanted * len(there)) if wanted < 1 else int(wanted)
        different = _different(there)
        different = different[~np.isin(different, elsewhere)]
        chosen = random.Random(f"evaluation {place} {seed}").sample(range(len(different)), min(number, len(different)))
        drawn += [int(item) for item in different[chosen]] if chosen else []
    taken = []
    for pool in pools:
        mask = pool.free & np.isin(pool.spool.asked, np.array(drawn, np.uint64))
        pool.free = pool.free & ~mask
        taken.append(mask)
    return taken


def overlap(prompts: HeldOut, pools: Iterable[Pool]) -> int:
    """How many of the held-out ``prompts`` are asked in the free rows of ``pools``."""
    import numpy as np

    there = [pool.asked() for pool in pools]
    return int(np.isin(np.array(prompts.asked, np.uint64), np.concatenate(there)).sum()) if there else 0
