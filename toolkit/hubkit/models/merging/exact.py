"""What a merged tensor must hold, computed apart from the engine that merged: in float64, with the error it may have.

The engine works in float32 and rounds once. A published number ``p`` is right when it lies within half a unit in the
last place of the exact value ``e``, plus what float32 may have lost on the way::

    |p - e|  <=  ulp(max(|p|, |e|)) / 2  +  2**-24 * ((rank + 4) * scaling * (|B| @ |A|) + 2 * |e| + |w|)

The sum is the worst case of a product of ``rank`` terms in any order (Higham, Accuracy and Stability of Numerical
Algorithms, 3.5), the scaling, and the addition of the base's number ``w``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from hubkit.models.merging.adapter import Adapter, torch_dtype
from hubkit.models.merging.changes import Change, CopiedTensor, ReplacedTensor, TokenRows, as_rows
from hubkit.models.merging.low_rank import LowRank
from hubkit.models.tensors import Tensor, read_weights

ROUNDING = 2.0**-24
"""Half a unit in the last place of 1 in float32."""
OTHER_FORMS = 64 * ROUNDING
"""What float32 may lose of the larger of a number and its row's greatest, for changes that are no plain product."""
_COPIES = (ReplacedTensor, CopiedTensor, TokenRows)
PLACES = {"F64": (52, -1022), "F32": (23, -126), "F16": (10, -14), "BF16": (7, -126)}
"""Bits of the fraction and the least exponent of a normal number, by safetensors' name of the dtype."""


@dataclass
class Reader:
    """The tensors of a model's folder, or of the adapter's file, read by rows (see ``changes``)."""

    places: Mapping[str, tuple[Path, Tensor]]
    bytes: int = 0
    _files: dict[Path, BinaryIO] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of(cls, folder: Path) -> Reader:
        """The weights of the model in ``folder``. RefusedError when its files are not sound."""
        found = read_weights(folder)
        return cls({name: (path, item) for path, header in found.items() for name, item in header.tensors.items()})

    @classmethod
    def of_adapter(cls, adapter: Adapter) -> Reader:
        """The tensors of ``adapter``."""
        path = adapter.folder / adapter.file
        return cls({name: (path, item) for name, item in adapter.header.tensors.items()})

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name: item for name, (_, item) in self.places.items()}

    def raw(self, name: str, start: int, stop: int) -> bytearray:
        """The bytes of rows ``start`` to ``stop`` of ``name``; rows beyond its last are left out."""
        path, tensor = self.places[name]
        rows, _ = as_rows(tensor.shape)
        size = tensor.size // rows if rows else 0
        start, stop = min(start, rows), min(stop, rows)
        if path not in self._files:
            self._files[path] = self._stack.enter_context(path.open("rb", buffering=0))
        body = bytearray((stop - start) * size)
        file, left = self._files[path], memoryview(body)
        file.seek(tensor.start + start * size)
        while left:
            if not (got := file.readinto(left)):  # type: ignore[attr-defined]
                raise OSError(f"{path.name} ended early; it changed while it was read")
            left = left[got:]
        self.bytes += len(body)
        return body

    def rows(self, name: str, start: int, stop: int) -> Any:
        """Rows ``start`` to ``stop`` of ``name`` as a matrix in its own dtype."""
        import torch

        tensor = self.places[name][1]
        body, dtype = self.raw(name, start, stop), torch_dtype(tensor.dtype)
        width = as_rows(tensor.shape)[1]
        return torch.frombuffer(body, dtype=dtype).reshape(-1, width) if body else torch.empty(0, width, dtype=dtype)


@dataclass(frozen=True)
class Expected:
    """What some rows of a changed tensor must hold. ``exact`` and ``lost`` (what float32 may lose) are float64."""

    before: Any
    exact: Any
    lost: Any

    @property
    def change(self) -> Any:
        """What the adapter adds."""
        return self.exact - self.before


@dataclass
class Recomputed:
    """A changed tensor, recomputed by rows. ``whole``: all the rows are needed for any of them."""

    change: Change
    name: str
    base: Reader
    adapter: Adapter
    tensors: Reader
    _parts: Any = None

    @property
    def whole(self) -> bool:
        """Whether the rows cannot be computed apart."""
        return not self.change.by_rows

    def rows(self, start: int, stop: int) -> Expected:
        """Rows ``start`` to ``stop``."""
        before = self._before(start, stop)
        if isinstance(self.change, LowRank):
            if self.change.frozen is not None:  # what PEFT saves of an embedding that it was trained on
                before = self.tensors.rows(self.change.frozen, start, stop).double()
            return self._product(self.change, before, start, stop)
        return self._other(before, start)

    def _before(self, start: int, stop: int) -> Any:
        """The base's rows in float64; zeros beyond its last, as for a vocabulary that grew."""
        import torch

        there = self.base.rows(self.change.origin or self.name, start, stop).double()
        _, width = as_rows(self.change.shape)
        return torch.nn.functional.pad(there.reshape(-1, width), (0, 0, 0, stop - start - len(there)))

    def _product(self, change: LowRank, before: Any, start: int, stop: int) -> Expected:
        """``before + scaling * B @ A``, with nothing of the engine but the names of A and B."""
        if self._parts is None:
            a, b = (self.tensors.rows(name, 0, self._count(name)).double() for name in (change.a, change.b))
            left, right = (a.T, b.T) if change.transposed else (b, a)
            self._parts = left, right, scaling_of(self.adapter.settings, change.module, len(a))
        left, right, scaling = self._parts
        some = left[start:stop]
        exact = before + scaling * (some @ right)
        sums = abs(scaling) * (some.abs() @ right.abs())
        return Expected(before, exact, ROUNDING * ((right.shape[0] + 4) * sums + 2 * exact.abs() + before.abs()))

    def _count(self, name: str) -> int:
        return as_rows(self.tensors.places[name][1].shape)[0]

    def _other(self, before: Any, start: int) -> Expected:
        """Any other kind of change, by its own rule in float32; numbers that are only copied lose nothing."""
        import torch

        if self._parts is None:
            self._parts = self.change.prepare(self.adapter)
        exact = self._parts.apply(before.float(), start).double()
        if isinstance(self.change, _COPIES) and self.adapter.way == "streamed":
            return Expected(before, exact, torch.zeros_like(exact))
        greatest = exact.abs().amax(-1, keepdim=True) if exact.numel() else exact
        return Expected(before, exact, (exact.abs().maximum(before.abs()) + greatest) * OTHER_FORMS)


def scaling_of(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies ``B @ A`` of ``module`` with, from ``settings`` (adapter_config.json)."""
    alpha = settings["lora_alpha"]
    for key, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            alpha = value
            break
    return float(alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def half_place(values: Any, dtype: str) -> Any:
    """Half a unit in the last place of each of ``values`` (float64), where they are rounded to ``dtype``."""
    import torch

    bits, least = PLACES[dtype]
    exponent = torch.frexp(values).exponent - 1
    return torch.ldexp(torch.ones_like(values), exponent.clamp(min=least) - bits - 1)


def blocks(rows: int, width: int, most: int) -> Iterator[tuple[int, int]]:
    """All the rows, in parts of at most ``most`` numbers (of one row at least)."""
    step = max(1, most // max(1, width))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)
