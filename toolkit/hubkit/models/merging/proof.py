"""Proves that merged weights are ``base + scaling * B @ A``, rounded once: recomputed from the base and the adapter.

    proof = prove(base, adapter, merged, dtype="bfloat16")

No model is loaded and nothing is generated. Of every tensor some rows are read, chosen by ``seed``, and small tensors
whole; with ``thorough`` everything is. Memory does not grow with the model. What each number may differ by is in
:mod:`hubkit.models.merging.exact`; a tensor that the adapter does not change must equal the base's bit by bit once it
is rounded.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from hubkit.core.errors import ConflictError
from hubkit.core.numbers import count, counted
from hubkit.models.merging.adapter import Adapter, read_adapter, torch_dtype
from hubkit.models.merging.changes import as_rows
from hubkit.models.merging.exact import Reader, Recomputed, blocks, half_place
from hubkit.models.merging.merge import fit_to
from hubkit.models.merging.suspicion import Difference, explain
from hubkit.models.tensors import DTYPE_NAMES

SMALL = 65_536
"""Numbers up to which a tensor is compared whole."""
PARTS, PART = 12, 6_144
"""Of a larger tensor that many parts are compared, each of whole rows with at least that many numbers."""
_BLOCK = 1 << 20
"""Numbers worked on at a time: 8 MiB in float64."""
Report = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Proof:
    """What was compared: ``changed`` of ``tensors`` tensors, ``numbers`` of ``parameters`` numbers.

    ``greatest`` is the greatest distance of a number of a changed tensor from its exact value, as a share of what one
    rounding allows. ``bytes`` were read in ``seconds``.
    """

    tensors: int
    changed: int
    numbers: int
    parameters: int
    thorough: bool
    greatest: float
    bytes: int
    seconds: float


def prove(
    base: Path,
    adapter: Path,
    merged: Path,
    *,
    dtype: str,
    seed: int = 0,
    thorough: bool = False,
    change_rounded: bool = False,
    hint: str = "Merge the adapter into its base again.",
    report: Report | None = None,
) -> Proof:
    """Compare the weights in ``merged`` with ``base`` and ``adapter``, folders with safetensors files.

    ``dtype`` is the one that was published (float32, float16 or bfloat16). ``change_rounded``: the change itself may
    have been rounded to it before it was added, as PEFT does with embeddings. Raises ConflictError, which names a
    tensor and what it looks like, when they differ; RefusedError when the adapter cannot be merged into this base.
    """
    began = time.monotonic()
    with Reader.of(base) as there, Reader.of(merged) as found, _scratch(merged) as scratch:
        fitted = fit_to(base, read_adapter(adapter), there.tensors(), scratch)
        with Reader.of_adapter(fitted) as tensors:
            work = _Work(there, found, fitted, tensors, DTYPE_NAMES[dtype], thorough, change_rounded)
            if problem := work.plan_problem():
                raise ConflictError(f"The merged weights are not the adapter on its base: {problem}", hint=hint)
            differences = list(work.differences(Random(seed), report))
            if differences:
                raise ConflictError(_sentence(differences, work), hint=hint)
            read = there.bytes + found.bytes + tensors.bytes
    return Proof(
        tensors=len(work.names),
        changed=len(fitted.changes),
        numbers=work.numbers,
        parameters=sum(item.count for item in found.tensors().values()),
        thorough=thorough,
        greatest=round(work.greatest, 4),
        bytes=read,
        seconds=round(time.monotonic() - began, 3),
    )


@contextmanager
def _scratch(merged: Path) -> Iterator[Path]:
    """A folder for what PEFT itself must merge, beside ``merged``; it is not made unless it is needed."""
    scratch = merged.with_name(f".{merged.name}.proof")
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sentence(differences: list[Difference], work: _Work) -> str:
    first = next((item for item in differences if item.change is not None), differences[0])
    looks = explain(first, work.others(first), only=len(differences) == 1)
    which = f"{counted(len(differences), 'tensor')} of {count(len(work.names))} differ" if len(differences) > 1 else ""
    return f"The merged weights are not the adapter on its base: {first.name} {looks}{f'; {which}' if which else ''}."


@dataclass
class _Work:
    """One proof under way."""

    base: Reader
    merged: Reader
    adapter: Adapter
    tensors: Reader
    dtype: str
    thorough: bool
    change_rounded: bool
    numbers: int = 0
    greatest: float = 0.0
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = [*self.base.places, *(name for name in self.adapter.changes if name not in self.base.places)]

    def plan_problem(self) -> str | None:
        """What is wrong with the names, dtypes and shapes of the merged tensors, a sentence; None when nothing is."""
        there, found = self.base.tensors(), self.merged.tensors()
        if missing := [name for name in self.names if name not in found]:
            return f"{missing[0]} is missing ({counted(len(missing), 'tensor')} in all)."
        if extra := [name for name in found if name not in set(self.names)]:
            return f"the base has no {extra[0]} ({counted(len(extra), 'such tensor')} in all)."
        for name, item in found.items():
            change = self.adapter.changes.get(name)
            before = there[(change.origin if change else None) or name]
            shape = change.shape if change else before.shape
            wanted = self.dtype if before.dtype in DTYPE_NAMES.values() else before.dtype
            if item.dtype != wanted:
                return f"{name} is in {item.dtype}, and {wanted} was to be published."
            if item.shape != shape:
                return f"{name} has the shape {item.shape}, and {shape} was to be published."
        return None

    def differences(self, random: Random, report: Report | None) -> Iterator[Difference]:
        """The tensors that differ, each with the first rows that do."""
        for place, name in enumerate(self.names):
            if report and place % 16 == 0:
                report(f"{count(place)} of {counted(len(self.names), 'tensor')} proved", place / len(self.names))
            change = self.adapter.changes.get(name)
            rows, width = as_rows(self.merged.places[name][1].shape)
            recomputed = Recomputed(change, name, self.base, self.adapter, self.tensors) if change else None
            for start, stop in self._parts(rows, width, random, whole=bool(recomputed and recomputed.whole)):
                self.numbers += (stop - start) * width
                if recomputed is None:
                    different = self._plain(name, start, stop)
                else:
                    different = self._changed(recomputed, start, stop)
                if different is not None:
                    yield different
                    break

    def _parts(self, rows: int, width: int, random: Random, *, whole: bool) -> Iterator[tuple[int, int]]:
        """The rows of a tensor that are compared: its first, its last, and some between."""
        if whole:
            yield 0, rows
            return
        if self.thorough or rows * width <= SMALL:
            yield from blocks(rows, width, _BLOCK)
            return
        step = min(rows, -(-PART // width))
        starts = {0, rows - step, *(random.randrange(rows - step + 1) for _ in range(PARTS - 2))}
        for start in sorted(starts):
            yield start, start + step

    def _plain(self, name: str, start: int, stop: int) -> Difference | None:
        """Rows that the adapter does not change."""
        import torch

        if self.base.places[name][1].dtype not in DTYPE_NAMES.values():
            one, other = self.base.raw(name, start, stop), self.merged.raw(name, start, stop)
            return None if one == other else Difference(name, start, stop, len(one), sum(map(int.__ne__, one, other)))
        before, after = self.base.rows(name, start, stop), self.merged.rows(name, start, stop)
        wanted = before.to(torch_dtype(self.dtype))
        bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[wanted.element_size()]
        wrong = wanted.view(bits) != after.view(bits)
        if not wrong.any():
            return None
        return Difference(name, start, stop, wrong.numel(), int(wrong.sum()), before.double(), after.double())

    def _changed(self, recomputed: Recomputed, start: int, stop: int) -> Difference | None:
        """Rows that the adapter changes."""
        name, expected = recomputed.name, recomputed.rows(start, stop)
        after = self.merged.rows(name, start, stop).double()
        off = (after - expected.exact).abs()
        half = half_place(after.abs().maximum(expected.exact.abs()), self.dtype)
        allowed = half + expected.lost
        if self.change_rounded:
            allowed = allowed + half_place(expected.change.abs(), self.dtype)
        wrong = ~(off <= allowed)  # NaN is wrong too
        if not wrong.any():
            if off.numel():
                self.greatest = max(self.greatest, float((off / allowed).max()))
            return None
        return Difference(
            name, start, stop, wrong.numel(), int(wrong.sum()), expected.before, after, expected.change, allowed
        )

    def others(self, different: Difference) -> Iterator[tuple[str, Any, Any]]:
        """(name, base's rows, change) of the other tensors of this shape, at the rows of ``different``."""
        shape = self.merged.places[different.name][1].shape
        for name in self.names:
            if name == different.name or self.merged.places[name][1].shape != shape:
                continue
            change = self.adapter.changes.get(name)
            if change is None:
                if self.base.places[name][1].dtype in DTYPE_NAMES.values():
                    yield name, self.base.rows(name, different.start, different.stop).double(), None
            elif change.by_rows:
                rows = Recomputed(change, name, self.base, self.adapter, self.tensors)
                expected = rows.rows(different.start, different.stop)
                yield name, expected.before, expected.change
