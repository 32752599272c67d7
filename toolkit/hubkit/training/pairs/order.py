"""The order of the rows: batches of similar length, seeded, the same after a kill and in every process.

Rows are shuffled, cut into chunks, sorted by length within a chunk and cut into groups of as many rows as all
processes compute at once, so that no process waits for another's longer rows. Then the groups are shuffled: an
optimizer step sees short and long rows, as without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

_CHUNK = 64
"""Groups in a chunk: enough that the rows of a group are nearly equally long, few enough that epochs differ."""


def by_length(lengths: Sequence[int], group: int, seed: int) -> list[int]:
    """The places of ``lengths`` in groups of ``group`` similar ones, the groups in an order that ``seed`` decides.

    A last group that is not full stays last, so that only the end of an epoch has a smaller batch.
    """
    import numpy as np

    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(len(lengths))
    full = len(shuffled) - len(shuffled) % group
    sizes = np.asarray(lengths)
    groups: list[Any] = []
    for start in range(0, full, group * _CHUNK):
        chunk = shuffled[start : min(start + group * _CHUNK, full)]
        chunk = chunk[np.argsort(sizes[chunk], kind="stable")]
        groups += np.split(chunk, len(chunk) // group)
    ordered = [groups[place] for place in draw.permutation(len(groups))]
    return [int(place) for part in (*ordered, shuffled[full:]) for place in part]


class ByLength:
    """A sampler of torch's kind. ``epoch`` is asked each time it is iterated, so a resumed run goes on in its order."""

    def __init__(self, lengths: Sequence[int], group: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths, self.group, self.seed, self.epoch = lengths, group, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(by_length(self.lengths, self.group, self.seed + self.epoch()))


def lengths_of(dataset: Dataset, longest: int | None) -> list[int]:
    """The tokens of the longer side of each pair of the tokenized ``dataset``, at most ``longest`` (None: any)."""
    import numpy as np
    import pyarrow.compute as pc

    found: list[Any] = []
    columns = ["prompt_ids", "chosen_ids", "rejected_ids"]
    for table in dataset.select_columns(columns).with_format("arrow").iter(10_000):
        prompt, chosen, rejected = (np.asarray(pc.list_value_length(table.column(name))) for name in columns)
        found.append(prompt + np.maximum(chosen, rejected))
    lengths = np.concatenate(found) if found else np.zeros(0, dtype=int)
    return list((lengths if longest is None else np.minimum(lengths, longest)).tolist())
