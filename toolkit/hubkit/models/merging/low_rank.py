"""Changes by a low-rank product: LoRA, DoRA, and LoRA on the stacked experts of a mixture.

``A`` is [rank, in], ``B`` is [out, rank]. Source: PEFT 0.21, tuners/lora/{layer,variants,dora}.py (``merge``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hubkit.models.merging.changes import Prepared, Weights, starting


@dataclass(frozen=True)
class LowRank:
    """The tensor changes by ``scaling * B @ A``; ``a`` and ``b`` name tensors of the adapter's file.

    ``transposed``: the base keeps this tensor as [in, out] (embeddings, Conv1D). ``frozen``: the adapter's own copy of
    the tensor that it was trained on, as PEFT saves it of embeddings.
    """

    module: str
    a: str
    b: str
    scaling: float
    transposed: bool
    shape: tuple[int, ...]
    origin: str | None = None
    frozen: str | None = None
    expected: bool = True
    by_rows: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """A and B, and the frozen tensor."""
        return (self.a, self.b) if self.frozen is None else (self.a, self.b, self.frozen)

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """See :class:`~hubkit.models.merging.changes.Change`."""
        left, right = _factors(adapter, self.a, self.b, self.transposed, device)
        return _PreparedProduct(left, right, self.scaling, adapter, self.frozen)


def _factors(adapter: Weights, a: str, b: str, transposed: bool, device: str) -> tuple[Any, Any]:
    first, second = adapter.load(a, device=device), adapter.load(b, device=device)
    return (first.T, second.T) if transposed else (second, first)


@dataclass(frozen=True)
class _PreparedProduct:
    """``before + scaling * left @ right``."""

    left: Any
    right: Any
    scaling: float
    adapter: Weights
    frozen: str | None = None

    def apply(self, before: Any, start: int) -> Any:
        """See :class:`~hubkit.models.merging.changes.Prepared`."""
        import torch

        delta = torch.mm(self.left[start : start + len(before)], self.right).mul_(self.scaling)
        return delta.add_(starting(self.adapter, self.frozen, before, start))


@dataclass(frozen=True)
class Dora:
    """DoRA: ``magnitude / norm(V) * V`` with ``V = W + scaling * B @ A``, the norm of each output's weights.

    The outputs are rows of a Linear, and columns of what is ``transposed``: those need the whole tensor at once.
    """

    module: str
    a: str
    b: str
    magnitude: str
    scaling: float
    transposed: bool
    shape: tuple[int, ...]
    origin: str | None = None
    frozen: str | None = None
    expected: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """A, B, the magnitudes, and the frozen tensor."""
        names = (self.a, self.b, self.magnitude)
        return names if self.frozen is None else (*names, self.frozen)

    @property
    def by_rows(self) -> bool:
        """See :class:`~hubkit.models.merging.changes.Change`."""
        return not self.transposed

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """See :class:`~hubkit.models.merging.changes.Change`."""
        left, right = _factors(adapter, self.a, self.b, self.transposed, device)
        product = _PreparedProduct(left, right, self.scaling, adapter, self.frozen)
        return _PreparedDora(product, adapter.load(self.magnitude, device=device).reshape(-1), self.transposed)


@dataclass(frozen=True)
class _PreparedDora:
    product: _PreparedProduct
    magnitude: Any
    transposed: bool

    def apply(self, before: Any, start: int) -> Any:
        """See :class:`~hubkit.models.merging.changes.Prepared`."""
        import torch

        directed = self.product.apply(before, start)
        if self.transposed:
            return directed.mul_((self.magnitude / torch.linalg.norm(directed, dim=0)).reshape(1, -1))
        factors = self.magnitude[start : start + len(before)] / torch.linalg.norm(directed, dim=1)
        return directed.mul_(factors.reshape(-1, 1))


@dataclass(frozen=True)
class ExpertLowRank:
    """LoRA on a parameter with the weights of ``count`` experts (``target_parameters``), or on a part of it.

    ``A`` is [count * rank, in], ``B`` is [out, rank * count]: PEFT keeps the experts together, first in A and last in
    B. The tensor is [count, out, in], or [count, in, out] if ``transposed``. ``expert``: the base keeps that one's rows
    from ``first`` on as a tensor of its own; None: the tensor has all of them.
    """

    module: str
    a: str
    b: str
    scaling: float
    count: int
    transposed: bool
    shape: tuple[int, ...]
    expert: int | None = None
    first: int = 0
    origin: str | None = None
    expected: bool = True
    by_rows: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """A and B."""
        return self.a, self.b

    def prepare(self, adapter: Weights, device: str = "cpu") -> Prepared:
        """See :class:`~hubkit.models.merging.changes.Change`."""
        a, b = adapter.load(self.a, device=device), adapter.load(self.b, device=device)
        one, other = a.reshape(self.count, -1, a.shape[-1]), b.reshape(len(b), -1, self.count)
        if self.expert is None:
            pairs = [(other[:, :, expert], one[expert]) for expert in range(self.count)]
        else:
            pairs = [(other[:, :, self.expert], one[self.expert])]
        if self.transposed:
            pairs = [(right.T, left.T) for left, right in pairs]
        rows = self.shape[-2] if self.expert is None else len(pairs[0][0])
        return _PreparedExperts(tuple(pairs), rows, self.first, self.scaling)


@dataclass(frozen=True)
class _PreparedExperts:
    pairs: tuple[tuple[Any, Any], ...]
    rows: int
    first: int
    scaling: float

    def apply(self, before: Any, start: int) -> Any:
        """See :class:`~hubkit.models.merging.changes.Prepared`."""
        import torch

        after = torch.empty_like(before)
        done = 0
        while done < len(before):
            expert, row = divmod(self.first + start + done, self.rows)
            left, right = self.pairs[expert]
            count = min(self.rows - row, len(before) - done)
            delta = torch.mm(left[row : row + count], right).mul_(self.scaling)
            torch.add(before[done : done + count], delta, out=after[done : done + count])
            done += count
        return after
