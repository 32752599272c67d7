"""Merges an adapter once more and compares every bit with the merged weights that are there. Nothing is written.

    found = merge_again(base, adapter, merged, dtype="bfloat16")
    found.differences                                       # empty: the files hold exactly what the merge makes

The merge is the one that writes releases (:mod:`hubkit.models.merging.merge`): its blocks go to a comparison in place
of files, so memory does not grow with the model. Headers of the files and their index are compared too: no byte of the
weights is left out.

The same bits come out for any number of threads. Another version of torch, another kind of processor or a GPU may add
the products in another order, which can change the last bit of some numbers.
"""

from __future__ import annotations

import math
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hubkit.core.bounded_json import INDEX as INDEX_LIMITS
from hubkit.core.bounded_json import load_json
from hubkit.models.merging.adapter import read_adapter, torch_dtype
from hubkit.models.merging.blocks import WHOLE_NUMBERS, Base, Block, Reader, Target
from hubkit.models.merging.merge import Report, stream, targets_of, tensors_of
from hubkit.models.merging.shards import Planned, first_bytes, in_order, index_of
from hubkit.models.merging.support import Way
from hubkit.models.tensors import DTYPE_BITS, DTYPE_NAMES, INDEX


@dataclass(frozen=True)
class Number:
    """One number that differs: its place in the tensor, and both values, as numbers and as bits (hexadecimal)."""

    index: tuple[int, ...]
    published: float | None
    merged: float | None
    published_bits: str
    merged_bits: str


@dataclass(frozen=True)
class TensorDifference:
    """What differs in the tensor ``name`` (``header``, ``index``: the name of a file). ``message`` follows the name.

    Of ``numbers`` numbers the ``first`` is given, and ``largest``, the greatest distance of two of them; None where no
    distance can be said because one is NaN or infinite.
    """

    name: str
    kind: Literal["missing", "extra", "dtype", "shape", "numbers", "header", "index"]
    message: str
    numbers: int = 0
    first: Number | None = None
    largest: float | None = None


@dataclass(frozen=True)
class MergedAgain:
    """The outcome: ``changed`` of ``tensors`` tensors are changed by the adapter; ``bytes`` were compared.

    ``way`` and ``reason`` say how it was merged, as in :class:`hubkit.models.merging.merge.MergeReport`. ``config``
    are keys of config.json that this merge changes.
    """

    tensors: int
    changed: int
    bytes: int
    files: tuple[str, ...]
    way: Way
    reason: str
    differences: tuple[TensorDifference, ...]
    config: Mapping[str, Any]
    seconds: float


def merge_again(
    base: Path,
    adapter: Path,
    merged: Path,
    *,
    dtype: str,
    scratch: Path,
    device: str | None = None,
    report: Report | None = None,
) -> MergedAgain:
    """Merge ``adapter`` into ``base`` in ``dtype`` and compare it with the weights in ``merged``, a folder.

    ``scratch`` is a folder for what PEFT itself must merge; it is made only then, and removed. ``device`` is where it
    computes; None: on the fastest. Raises RefusedError when the adapter does not fit the base or the files are no sound
    safetensors.
    """
    began = time.monotonic()
    found = tensors_of(merged)
    try:
        tensors = tensors_of(base)
        (target,) = targets_of(base, tensors, [(read_adapter(adapter), scratch)], DTYPE_NAMES[dtype])
        differences = list(_named(target.planned, found))
        if not differences:
            differences = _compared(tensors, target, found, dtype, report, device)
            differences += _files(merged, target.planned, found)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return MergedAgain(
        tensors=len(target.planned),
        changed=len(target.adapter.changes),
        bytes=sum(size for _, _, size in target.planned.values()),
        files=tuple(sorted({path.name for path, _ in found.values()})),
        way=target.adapter.way,
        reason=target.adapter.reason,
        differences=tuple(differences),
        config=dict(target.adapter.config),
        seconds=round(time.monotonic() - began, 3),
    )


def _named(planned: Planned, found: Base) -> Iterator[TensorDifference]:
    """Tensors that are missing, extra, or of another dtype or shape."""
    for name, (dtype, shape, _) in planned.items():
        if name not in found:
            yield TensorDifference(name, "missing", "is missing")
            continue
        there = found[name][1]
        if there.dtype != dtype:
            yield TensorDifference(name, "dtype", f"is in {there.dtype}, merged again in {dtype}")
        elif there.shape != shape:
            yield TensorDifference(name, "shape", f"has the shape {list(there.shape)}, merged again {list(shape)}")
    for name in found:
        if name not in planned:
            yield TensorDifference(name, "extra", "is in neither the base nor the adapter")


def _compared(
    tensors: Base, target: Target, found: Base, dtype: str, report: Report | None, device: str | None
) -> list[TensorDifference]:
    """The tensors whose numbers differ."""
    paths = [list(dict.fromkeys(path for path, _ in places.values())) for places in (tensors, found)]
    with Reader(paths[0]) as reader, Reader(paths[1]) as there:
        comparison = _Comparison(target, found, there)
        stream(reader, tensors, [comparison], DTYPE_NAMES[dtype], report, device)
    return [made.difference(name, target.planned[name]) for name, made in comparison.different.items()]


def _files(merged: Path, planned: Planned, found: Base) -> Iterator[TensorDifference]:
    """Files whose header, or index, is not what the merge writes for the tensors that they hold."""
    ordered = in_order(planned)
    held: dict[str, dict[str, tuple[str, tuple[int, ...], int]]] = {}
    for name, item in ordered.items():
        held.setdefault(found[name][0].name, {})[name] = item
    for file, tensors in held.items():
        expected = first_bytes(tensors)
        with (merged / file).open("rb") as opened:
            if opened.read(len(expected)) != expected:
                yield TensorDifference(file, "header", "has another header than the merge writes")
    if (merged / INDEX).is_file():
        content = load_json((merged / INDEX).read_bytes(), INDEX_LIMITS)
        if content != index_of(list(held.items())):
            yield TensorDifference(INDEX, "index", "is not the index of these tensors")


@dataclass
class _Different:
    """What differs so far in one tensor."""

    numbers: int = 0
    first: tuple[int, bytes, bytes] | None = None
    largest: float = 0.0

    def difference(self, name: str, planned: tuple[str, tuple[int, ...], int]) -> TensorDifference:
        """What is reported."""
        dtype, shape, _ = planned
        assert self.first is not None
        place, published, merged = self.first
        first = Number(
            _index(place, shape),
            _value(published, dtype),
            _value(merged, dtype),
            published[::-1].hex(),
            merged[::-1].hex(),
        )
        largest = self.largest if math.isfinite(self.largest) else None
        of = f"{self.numbers:,} of {math.prod(shape):,} numbers differ"
        values = f"{_shown(first.published)} published, {_shown(first.merged)} merged again"
        at = f"the first at {list(first.index)}: {values}"
        size = f"; the largest difference is {largest:.3g}" if largest is not None else ""
        return TensorDifference(name, "numbers", f"{of}, {at}{size}", self.numbers, first, largest)


@dataclass
class _Comparison:
    """Takes the blocks of a merge (:class:`hubkit.models.merging.merge.Taking`) and compares them with ``there``."""

    target: Target
    found: Base
    there: Reader
    different: dict[str, _Different] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = iter([name for name, (_, _, size) in self.target.planned.items() if size])
        self._name = ""
        self._done = self._left = 0

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(size for _, _, size in self.target.planned.values())

    @property
    def ends(self) -> Sequence[Callable[[memoryview], None]]:
        """The one comparison."""
        return [self._take]

    def _take(self, block: memoryview) -> None:
        """Compare the next bytes; no block reaches beyond a tensor."""
        if not self._left:
            self._name = next(self._names)
            self._done, self._left = 0, self.target.planned[self._name][2]
        path, tensor = self.found[self._name]
        bits = DTYPE_BITS[tensor.dtype]
        start, stop = self._done * 8 // bits, (self._done + len(block)) * 8 // bits
        published = self.there.read(Block(self._name, path, tensor, start, stop, 1, {}))
        self._done += len(block)
        self._left -= len(block)
        if memoryview(published) != block:
            self._note(self.different.setdefault(self._name, _Different()), start, published, block, tensor.dtype)

    @staticmethod
    def _note(noted: _Different, start: int, published: Any, block: memoryview, dtype: str) -> None:
        import numpy
        import torch

        width = DTYPE_BITS[dtype] // 8
        merged = numpy.frombuffer(block, numpy.uint8)
        places = numpy.flatnonzero((published.reshape(-1, width) != merged.reshape(-1, width)).any(axis=1))
        noted.numbers += len(places)
        if noted.first is None:
            place = int(places[0])
            span = slice(place * width, (place + 1) * width)
            noted.first = start + place, published[span].tobytes(), merged[span].tobytes()
        if dtype in WHOLE_NUMBERS:
            whole = f"{'u' if dtype[0] in 'UB' else ''}int{width * 8}"
            one, other = (body.view(whole)[places].astype("float64") for body in (published, merged))
            distance = float(abs(one - other).max())
        else:
            kind = torch_dtype(dtype)
            one, other = (torch.from_numpy(body.copy()).view(kind)[places].double() for body in (published, merged))
            distance = float((one - other).abs().max())
        noted.largest = distance if math.isnan(distance) else max(noted.largest, distance)


def _index(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The indices of the number at ``place`` of a tensor that is read row by row."""
    found: list[int] = []
    for width in reversed(shape):
        place, rest = divmod(place, width)
        found.append(rest)
    return tuple(reversed(found))


_FORMATS: Mapping[str, str] = {"F64": "<d", "F32": "<f", "F16": "<e"}


def _value(body: bytes, dtype: str) -> float | None:
    """The number whose bytes are ``body``; None when it is NaN or infinite."""
    if dtype in WHOLE_NUMBERS:
        return int.from_bytes(body, "little", signed=dtype.startswith("I"))
    raw = body if dtype != "BF16" else b"\0\0" + body
    (value,) = struct.unpack(_FORMATS.get(dtype, "<f"), raw)
    return float(value) if math.isfinite(value) else None


def _shown(value: float | None) -> str:
    return "not a finite number" if value is None else f"{value:.6g}"
