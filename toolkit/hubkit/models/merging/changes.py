"""What a merge does to one tensor of the base: the interface, and the changes that are made of nothing but numbers.

Rows: every tensor is read as a matrix, its last dimension the width and all the others flattened; a vector is one
row. A change is prepared once (the adapter's small matrices are loaded) and then applied to any blocks of rows, in any
order. Changes by a low-rank product are in :mod:`hubkit.models.merging.low_rank`.
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

    @property
    def expected(self) -> bool:
        """Whether a trained adapter is sure to change this tensor: one that does not was not trained."""

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """Load what is needed of the adapter to ``device``, where :meth:`Prepared.apply` then works."""


def as_rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, width) of a tensor of this ``shape`` read as a matrix."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return math.prod(shape[:-1]), shape[-1]


def starting(adapter: Weights, frozen: str | None, before: Any, start: int) -> Any:
    """``before``, or the same rows of the adapter's tensor ``frozen`` that it was trained on instead."""
    if frozen is None:
        return before
    return adapter.load(frozen, start, start + len(before), device=str(before.device)).reshape(before.shape)


@dataclass(frozen=True)
class ReplacedTensor:
    """The tensor is replaced by the adapter's tensor ``source`` (``modules_to_save``, a trained bias)."""

    module: str
    source: str
    shape: tuple[int, ...]
    origin: str | None = None
    expected: bool = True
    by_rows: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """The one tensor."""
        return (self.source,)

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """See :class:`Change`. Nothing is loaded yet: an embedding may be the largest tensor of a model."""
        return _PreparedReplacement(self.source, adapter, device)


@dataclass(frozen=True)
class _PreparedReplacement:
    source: str
    adapter: Weights
    device: str

    def apply(self, before: Any, start: int) -> Any:
        """See :class:`Prepared`."""
        rows = self.adapter.load(self.source, start, start + len(before), device=self.device)
        return rows.reshape(before.shape)


@dataclass(frozen=True)
class CopiedTensor:
    """A tensor that the base shares with ``origin`` gets numbers of its own: the other one is changed."""

    module: str
    shape: tuple[int, ...]
    origin: str | None
    sources: tuple[str, ...] = ()
    expected: bool = False
    by_rows: bool = True

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """See :class:`Change`."""
        return _PreparedCopy()


@dataclass(frozen=True)
class _PreparedCopy:
    def apply(self, before: Any, start: int) -> Any:
        """See :class:`Prepared`."""
        return before.clone()


@dataclass(frozen=True)
class TokenRows:
    """The rows ``indices`` of an embedding are replaced by those of ``source`` (``trainable_token_indices``)."""

    module: str
    source: str
    indices: tuple[int, ...]
    shape: tuple[int, ...]
    origin: str | None = None
    frozen: str | None = None
    expected: bool = True
    by_rows: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """The rows, and the embedding that they were trained in where the adapter brings it."""
        return (self.source,) if self.frozen is None else (self.source, self.frozen)

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """See :class:`Change`."""
        return _PreparedTokens(self, adapter, adapter.load(self.source, device=device))


@dataclass(frozen=True)
class _PreparedTokens:
    change: TokenRows
    adapter: Weights
    rows: Any

    def apply(self, before: Any, start: int) -> Any:
        """See :class:`Prepared`."""
        after = starting(self.adapter, self.change.frozen, before, start).clone()
        for place, index in enumerate(self.change.indices):
            if start <= index < start + len(after):
                after[index - start] = self.rows[place]
        return after


@dataclass(frozen=True)
class ShiftedBias:
    """``bias + scaling * source``: LoRA's own bias (``lora_bias``)."""

    module: str
    source: str
    scaling: float
    shape: tuple[int, ...]
    origin: str | None = None
    frozen: str | None = None
    expected: bool = False
    by_rows: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """LoRA's bias, and the layer's own where it was trained."""
        return (self.source,) if self.frozen is None else (self.source, self.frozen)

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """See :class:`Change`."""
        return _PreparedShift(self, adapter, adapter.load(self.source, device=device).mul_(self.scaling))


@dataclass(frozen=True)
class _PreparedShift:
    change: ShiftedBias
    adapter: Weights
    shift: Any

    def apply(self, before: Any, start: int) -> Any:
        """See :class:`Prepared`."""
        return starting(self.adapter, self.change.frozen, before, start) + self.shift.reshape(before.shape)
