"""What a merge does to one tensor of the base: the interface, and each kind of change that is local to a tensor.

Rows: every tensor is read as a matrix, its last dimension the width and all the others flattened; a vector is one
row. A change is prepared once (the adapter's small matrices are loaded) and then applied to any blocks of rows, in any
order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol


class Weights(Protocol):
    """Where a change finds the adapter's tensors."""

    def load(self, name: str, start: int = 0, stop: int | None = None, *, device: str = "cpu") -> Any:
        """Rows ``start`` to ``stop`` of the adapter's tensor ``name`` in float32; all of them in its own shape."""


class Prepared(Protocol):
    """A change whose matrices are in memory. It may be applied by several threads at once."""

    def apply(self, before: Any, start: int) -> Any:
        """Rows ``start`` and following of the result, in float32: as many as ``before`` has, and as wide.

        ``before`` is a matrix in float32 with these rows of the base's tensor; rows beyond its last are zeros. It
        stays as it is: the result is a new tensor. Without ``by_rows`` it is all the rows, and ``start`` is 0.
        """


class Change(Protocol):
    """How one tensor of the merged model comes from one tensor of the base and some of the adapter's."""

    @property
    def module(self) -> str:
        """The name of the changed module in the model, as PEFT sees it."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The adapter's tensors that are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result; the base's own unless a vocabulary was resized."""

    @property
    def origin(self) -> str | None:
        """The base's tensor that it starts from; None for the one of the same name."""

    @property
    def by_rows(self) -> bool:
        """Whether some rows of the result depend on the same rows of the base alone."""

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """Load what is needed of the adapter to ``device``, where :meth:`Prepared.apply` then works."""


def as_rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, width) of a tensor of this ``shape`` read as a matrix."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return math.prod(shape[:-1]), shape[-1]


@dataclass(frozen=True)
class LowRank:
    """The tensor changes by ``scaling * B @ A``; ``a`` and ``b`` name tensors of the adapter's file.

    ``A`` is [rank, in], ``B`` is [out, rank]. ``transposed``: the base keeps this tensor as [in, out].
    """

    module: str
    a: str
    b: str
    scaling: float
    transposed: bool
    shape: tuple[int, ...]
    origin: str | None = None
    by_rows: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """A and B."""
        return self.a, self.b

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """See :class:`Change`."""
        a, b = adapter.load(self.a, device=device), adapter.load(self.b, device=device)
        left, right = (a.T, b.T) if self.transposed else (b, a)
        return _PreparedProduct(left, right, self.scaling)


@dataclass(frozen=True)
class _PreparedProduct:
    """``before + scaling * left @ right``."""

    left: Any
    right: Any
    scaling: float

    def apply(self, before: Any, start: int) -> Any:
        """See :class:`Prepared`."""
        import torch

        return torch.mm(self.left[start : start + len(before)], self.right).mul_(self.scaling).add_(before)


@dataclass(frozen=True)
class ReplacedTensor:
    """The tensor is replaced by the adapter's tensor ``source`` (``modules_to_save``, trained biases)."""

    module: str
    source: str
    shape: tuple[int, ...]
    origin: str | None = None
    by_rows: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """The one tensor."""
        return (self.source,)

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """See :class:`Change`. Nothing is loaded yet: an embedding may be the largest tensor of a model."""
        return _PreparedReplacement(self, adapter, device)


@dataclass(frozen=True)
class _PreparedReplacement:
    change: ReplacedTensor
    adapter: Weights
    device: str

    def apply(self, before: Any, start: int) -> Any:
        """See :class:`Prepared`."""
        rows = self.adapter.load(self.change.source, start, start + len(before), device=self.device)
        return rows.reshape(before.shape)
