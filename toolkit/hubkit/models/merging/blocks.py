"""A base model cut into blocks of rows, and what becomes of a block in each of the merged models.

Every block is read once, whichever number of models are made of it, and computed in float32 where an adapter changes
it. Where none does and the dtype stays, its bytes are passed on as they are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from hubkit.core.errors import HubkitError, RefusedError
from hubkit.models.merging.adapter import Adapter, torch_dtype
from hubkit.models.merging.changes import Prepared, as_rows
from hubkit.models.merging.shards import Planned
from hubkit.models.tensors import DTYPE_BITS, Tensor

BLOCK = 1024 * 1024
"""Numbers of a block: 4 MiB in float32, which the caches of a core hold."""
WHOLE_NUMBERS = frozenset({"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"})
_GPU_MEMORY = 4 * 1024**3
"""Bytes that must be free on a GPU: far more than the blocks that are under way."""
Base = Mapping[str, tuple[Path, Tensor]]
"""Where each tensor of a base is: its file, and its place there."""
Bytes = Mapping[int, memoryview]
"""The bytes of a block in each merged model, by the model's number."""


@dataclass(frozen=True)
class Target:
    """One of the merged models: its adapter, the tensors that it will have, and those seen to differ from the base."""

    adapter: Adapter
    planned: Planned
    changed: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Block:
    """Rows ``start`` to ``stop`` of the tensor ``name``, ``width`` numbers each, for the models in ``changes``.

    They are made from ``source``, a tensor in the file ``path``; rows beyond its end are zeros. A model has its change,
    or None where the tensor stays as it is.
    """

    name: str
    path: Path
    source: Tensor
    start: int
    stop: int
    width: int
    changes: Mapping[int, Prepared | None]

    @property
    def memory(self) -> int:
        """About how many bytes are needed while the block is under way."""
        numbers = (self.stop - self.start) * self.width
        computed = sum(12 for change in self.changes.values() if change)
        return numbers * (DTYPE_BITS[self.source.dtype] // 8 + 4 + computed)


def cut(base: Base, targets: Sequence[Target], name: str, device: str) -> Iterator[Block]:
    """The blocks of the tensor ``name``, in the order of its bytes.

    Models that make it from the same rows share the blocks; what reads the base's tensor in another way (all of its
    rows at once, or a tensor of another name or shape) has blocks of its own.
    """
    groups: dict[tuple[str, tuple[int, ...], bool], list[int]] = {}
    for number, target in enumerate(targets):
        if name in target.planned:
            change = target.adapter.changes.get(name)
            by_rows = change.by_rows if change else True
            groups.setdefault(((change and change.origin) or name, target.planned[name][1], by_rows), []).append(number)
    for (origin, shape, by_rows), numbers in groups.items():
        path, source = base[origin]
        changes = {number: targets[number].adapter.changes.get(name) for number in numbers}
        rows, width = as_rows(shape) if any(changes.values()) else (math.prod(shape), 1)
        if not rows * width:
            continue
        prepared = {
            number: change.prepare(targets[number].adapter, device) if change else None
            for number, change in changes.items()
        }
        step = max(1, BLOCK // width) if by_rows else rows
        for start in range(0, rows, step):
            yield Block(name, path, source, start, min(rows, start + step), width, prepared)


class Reader:
    """The open files of a base. Use as a context: a file that changed meanwhile is an error at the end."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = {path: os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)) for path in paths}
        if hasattr(os, "posix_fadvise"):  # the system reads further ahead: twice as fast from a disk
            for file in self._files.values():
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        self._before = {path: _state(file) for path, file in self._files.items()}

    def read(self, block: Block) -> Any:
        """The bytes of the source's rows, as many of the block's as it has: a numpy array."""
        import numpy

        tensor = block.source
        bits = DTYPE_BITS[tensor.dtype] * block.width
        start = min(tensor.start + block.start * bits // 8, tensor.end)
        stop = min(tensor.start + block.stop * bits // 8, tensor.end)
        content = numpy.empty(stop - start, numpy.uint8)
        left, file = content.data, self._files[block.path]
        while left:
            got = os.preadv(file, [left], stop - len(left))
            if not got:
                raise HubkitError(f"{block.path.name} ended early; it changed while it was read.")
            left = left[got:]
        return content

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        after = {path: _state(file) for path, file in self._files.items()}
        for file in self._files.values():
            os.close(file)
        for path, before in self._before.items():
            if kind is None and after[path] != before:
                raise HubkitError(
                    f"{path.name} changed while it was read.", hint="Let its writer finish and try again."
                )


def _state(file: int) -> tuple[int, int]:
    found = os.fstat(file)
    return found.st_size, found.st_mtime_ns


def compute(block: Block, content: Any, targets: Sequence[Target], dtype: str, device: str) -> Bytes:
    """What the merged models hold in the rows of ``block``, whose bytes are ``content``; ``dtype`` is that of floats.

    Names in ``targets`` whose tensor differs from the base's are added to ``changed``. RefusedError when a number is
    NaN or infinite.
    """
    import torch

    if block.source.dtype in WHOLE_NUMBERS and not any(block.changes.values()):
        return dict.fromkeys(block.changes, content.data)
    kind = torch_dtype(dtype)
    held = torch_dtype(block.source.dtype)
    source = torch.from_numpy(content).view(held) if content.size else torch.empty(0, dtype=held)
    source = source.reshape(len(source) // block.width, block.width)
    missing = block.stop - block.start - len(source)
    kept = before = None
    made: dict[int, memoryview] = {}
    for number, change in block.changes.items():
        if change is None:
            kept = kept or finite(source.to(kind), block.name, dtype)
            made[number] = kept
            continue
        if before is None:
            before = source.to(device).float()
            if missing:
                before = torch.nn.functional.pad(before, (0, 0, 0, missing))
        after = change.apply(before, block.start).to(kind).cpu()
        changed = targets[number].changed
        if block.name not in changed and (missing or not _equal(after, source, kind)):
            changed.add(block.name)
        made[number] = finite(after, block.name, dtype)
    return made


def _equal(after: Any, source: Any, kind: Any) -> bool:
    """Whether ``source`` in the dtype ``kind`` is ``after``. Most differ in the first row, and comparing is slow."""
    import torch

    return bool(torch.equal(after[:1], source[:1].to(kind)) and torch.equal(after, source.to(kind)))


def finite(values: Any, name: str, dtype: str) -> memoryview:
    """The bytes of ``values``, in safetensors' ``dtype``; RefusedError when one is NaN or infinite.

    Told from the bits, for these are the numbers whose exponent is all ones: as signed whole numbers, the positive ones
    are the largest, and as unsigned ones, the negative ones are.
    """
    import torch

    signed, exponent = _EXPONENTS[dtype]
    bits = values.contiguous().reshape(-1).view(getattr(torch, signed)).numpy()
    if bits.size and (int(bits.max()) >= exponent or int(bits.view(f"u{signed}").max()) >= exponent + 2 ** (
        DTYPE_BITS[dtype] - 1
    )):  # fmt: skip
        raise RefusedError(
            f"{name} holds a NaN or an infinite number in {str(values.dtype).removeprefix('torch.')}.",
            hint="The base or the adapter is broken, or overflows the dtype (float16 max: 65,504).",
        )
    return memoryview(bits).cast("B")


_EXPONENTS = {"BF16": ("int16", 0x7F80), "F16": ("int16", 0x7C00), "F32": ("int32", 0x7F800000)}
"""By dtype, a whole number of its width, and the bits of infinity."""


def choose_device() -> str:
    """Where changed tensors are computed: a GPU that can be used and has memory to spare, otherwise the CPU."""
    import torch

    try:
        if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > _GPU_MEMORY:
            return "cuda"
    except RuntimeError:  # the driver does not let this process in
        return "cpu"
    return "cpu"
