"""Near duplicates: rows that are almost the same text, found by MinHash.

Two rows are near duplicates when the estimated Jaccard similarity of their sets of five-word shingles is at least 0.8,
from 128 permutations (standard error 0.035 there). Candidates come from locality-sensitive hashing with the bands that
datasketch computes for this threshold. Of a cluster of near duplicates (rows that are connected by such pairs) the
first row stays.

Signatures are in a file that is mapped into memory; in memory itself is one band at a time, 8 bytes a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.training.data.mappings import Row
from hubkit.training.data.rows import texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIMILAR = 0.8
PERMUTATIONS = 128
SHINGLE = 5
_BATCH = 4096
_WORD = re.compile(r"\w+")


def shingles(row: Row) -> set[bytes]:
    """The sets of five consecutive words in the texts of ``row``, without regard to case and punctuation."""
    words = [word for text in texts(row) for word in _WORD.findall(text.casefold())]
    if len(words) <= SHINGLE:
        return {" ".join(words).encode()}
    return {" ".join(words[place : place + SHINGLE]).encode() for place in range(len(words) - SHINGLE + 1)}


def signatures(rows: Iterable[Row], count: int, file: Path) -> NDArray[Any]:
    """The MinHash signatures of ``count`` ``rows``: (count, 128) uint32, mapped from ``file``, which is written."""
    import numpy as np
    from datasketch import MinHash

    file.parent.mkdir(parents=True, exist_ok=True)
    found = np.memmap(file, dtype=np.uint32, mode="w+", shape=(max(count, 1), PERMUTATIONS))
    empty = MinHash(num_perm=PERMUTATIONS, scheme="affine32")
    for number, row in enumerate(rows):
        made = empty.copy()
        made.update_batch(shingles(row))
        found[number] = made.hashvalues
    return found[:count]


def near_duplicates(found: NDArray[Any]) -> NDArray[Any]:
    """Which rows of the signatures ``found`` are near duplicates of an earlier row, or of one that is of one."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = list(_candidates(found))
    again = np.zeros(len(found), dtype=bool)
    if not pairs:
        return again
    one, other = np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
    shape = (len(found), len(found))
    linked = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=shape)
    _, cluster = connected_components(linked, directed=False)
    again[:] = True
    again[np.unique(cluster, return_index=True)[1]] = False
    return again


def _candidates(found: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Pairs of rows that are equal in one band and similar enough: each row with the one before it in its bucket, and
    with the first of its bucket."""
    import numpy as np
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=SIMILAR, num_perm=PERMUTATIONS)
    bands, width = index.b, index.r
    weights = np.random.default_rng(0).integers(1, 2**63, size=width, dtype=np.uint64) | np.uint64(1)
    for band in range(bands):
        keys = np.empty(len(found), dtype=np.uint64)
        for start in range(0, len(found), _BATCH):
            part = found[start : start + _BATCH, band * width : (band + 1) * width].astype(np.uint64)
            keys[start : start + _BATCH] = (part * weights).sum(axis=1, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        later = np.flatnonzero(same) + 1
        starts = np.where(np.concatenate(([True], ~same)), np.arange(len(order)), 0)
        firsts = np.maximum.accumulate(starts)
        for other in (later - 1, firsts[later]):
            one, two = order[later], order[other]
            for start in range(0, len(one), _BATCH):
                a, b = one[start : start + _BATCH], two[start : start + _BATCH]
                close = (found[a] == found[b]).mean(axis=1) >= SIMILAR
                if close.any():
                    yield a[close], b[close]
