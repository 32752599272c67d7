"""Merge a LoRA adapter into its base, tensor by tensor, in memory that does not grow with the model.

    report = merge(base, adapter, out, dtype="bfloat16")

Each tensor is ``W + scaling * B @ A``, computed in float32 in blocks of rows and rounded once to the target dtype.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.files import Digests, os_error
from hubkit.core.numbers import size
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.merging.adapter import Adapter, fit, read_adapter, torch_dtype
from hubkit.models.merging.changes import Change, as_rows
from hubkit.models.merging.companions import read_settings, write_companions
from hubkit.models.merging.shards import Planned, ShardWriter, plan, write_index
from hubkit.models.tensors import DTYPE_BITS, DTYPE_NAMES, Tensor, read_weights

SHARD_BYTES = 5_000_000_000
"""The most bytes of a shard: small enough for every store and for a retry."""
_BLOCK = 4 * 1024 * 1024
"""Numbers worked on at a time: 16 MiB in float32."""
_WHOLE_NUMBERS = frozenset({"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"})
Report = Callable[[str, float | None], None]


@dataclass(frozen=True)
class MergeReport:
    """What a merge made. ``files`` are the weights' digests, known from the writing; ``targets`` the number of
    changed tensors by the last part of their module's name, as in ``target_modules``."""

    dtype: str
    tensors: int
    changed: int
    parameters: int
    bytes: int
    seconds: float
    targets: Mapping[str, int]
    files: Mapping[str, Digests]

    def to_json(self) -> dict[str, Any]:
        """The figures; of the files the sha256 alone, as ``finite``: the merge refuses NaN and infinite numbers."""
        return {
            "dtype": self.dtype,
            "tensors": self.tensors,
            "changed": self.changed,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "targets": dict(self.targets),
            "finite": sorted(item.sha256 for item in self.files.values()),
        }


def merge(
    base: Path,
    adapter: Path,
    out: Path,
    *,
    dtype: str = "bfloat16",
    max_shard_bytes: int = SHARD_BYTES,
    chat_template: str | None = None,
    end_of_turn: EndOfTurn | None = None,
    pad_token: str | None = None,
    report: Report | None = None,
) -> MergeReport:
    """Write ``base`` with ``adapter`` merged into it to ``out``, a new folder that loads as a model of its own.

    ``base`` and ``adapter`` are folders with safetensors files; ``dtype`` is float32, float16 or bfloat16.
    ``chat_template`` replaces the base's; ``end_of_turn`` is put among the stop tokens; ``pad_token`` pads where the
    base has no padding token or pads with the end-of-turn token. ``out`` appears complete or not
    at all. Raises RefusedError when the two do not fit, the adapter uses what is not understood, it changes
    nothing, or a weight is NaN or infinite; HubkitError when the disk is full; UsageError when ``out`` is not empty.
    """
    began = time.monotonic()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already exists.", hint="Choose a new folder, or remove it.")
    if dtype not in DTYPE_NAMES or dtype == "float64":
        raise UsageError(f"Unsupported dtype {dtype!r}.", hint="Use float32, float16 or bfloat16.")
    work = _Work.of(base, read_adapter(adapter), DTYPE_NAMES[dtype], report)
    shards = plan(work.planned, max_shard_bytes)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        if (free := shutil.disk_usage(partial).free) < work.total:
            raise HubkitError(
                f"Merging needs {size(work.total)} at {out.parent}; {size(free)} are free.",
                hint="Free space there, or choose another folder.",
            )
        write_companions(
            base, partial, dtype=dtype, chat_template=chat_template, end_of_turn=end_of_turn, pad_token=pad_token
        )
        files = {}
        for name, tensors in shards:
            with ShardWriter(partial / name, tensors) as writer:
                for tensor in tensors:
                    work.write(tensor, writer)
            if writer.digests is not None:
                files[name] = writer.digests
        if len(shards) > 1:
            write_index(partial, shards)
        targets = work.targets()
        _verify(partial, work.planned)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise os_error(error, out, work.total) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return MergeReport(
        dtype=dtype,
        tensors=len(work.planned),
        changed=len(work.changed),
        parameters=sum(tensor.count for _, tensor in work.base.values() if tensor.dtype not in _WHOLE_NUMBERS),
        bytes=sum(item.size for item in files.values()),
        seconds=round(time.monotonic() - began, 3),
        targets=targets,
        files=files,
    )


@dataclass
class _Work:
    """One merge under way: where each base tensor is, what is written instead, and what changed so far."""

    base: Mapping[str, tuple[Path, Tensor]]
    adapter: Adapter
    dtype: str
    planned: Planned
    report: Report | None
    changed: set[str] = field(default_factory=set)
    done: int = 0

    @classmethod
    def of(cls, base: Path, adapter: Adapter, dtype: str, report: Report | None) -> _Work:
        weights = read_weights(base)
        tensors = {name: (path, item) for path, header in weights.items() for name, item in header.tensors.items()}
        config = read_settings(base, "config.json")
        adapter = fit(adapter, {name: item for name, (_, item) in tensors.items()}, config)
        planned = {}
        for name in [*tensors, *(name for name in adapter.changes if name not in tensors)]:
            change = adapter.changes.get(name)
            _, item = tensors[(change and change.origin) or name]
            if item.dtype not in _WHOLE_NUMBERS:
                torch_dtype(item.dtype)
            kept = item.dtype if item.dtype in _WHOLE_NUMBERS else dtype
            shape = change.shape if change else item.shape
            planned[name] = (kept, shape, math.prod(shape) * DTYPE_BITS[kept] // 8)
        return cls(tensors, adapter, dtype, planned, report)

    @property
    def total(self) -> int:
        """Bytes of all the tensors to be written."""
        return sum(length for _, _, length in self.planned.values())

    def write(self, name: str, writer: ShardWriter) -> None:
        """Append the tensor ``name``, merged, to ``writer``."""
        for block in self._blocks(name):
            writer.write(block)
        self.done += self.planned[name][2]
        if self.report:
            figure = f"{size(self.done)} of {size(self.total)}"
            self.report(figure, self.done / self.total if self.total else 1.0)

    def targets(self) -> dict[str, int]:
        """Changed tensors by the last part of their module's name; RefusedError when one has none."""
        wanted = {name: change.module.rpartition(".")[2] for name, change in self.adapter.changes.items()}
        counted = Counter(wanted[name] for name in self.changed)
        for target in dict.fromkeys(wanted.values()):
            if not counted[target]:
                raise RefusedError(
                    f"The adapter changes nothing in {target}: every merged tensor equals the base's.",
                    hint="The adapter is untrained, or its update is too small for this dtype.",
                )
        return dict(counted)

    def _blocks(self, name: str) -> Iterator[memoryview]:
        """The bytes of the merged tensor, a block at a time."""
        change = self.adapter.changes.get(name)
        if change is None:
            yield from self._plain(name, *self.base[name])
        else:
            yield from self._changed(name, change)

    def _plain(self, name: str, path: Path, tensor: Tensor) -> Iterator[memoryview]:
        """The unchanged tensor in the target dtype."""
        if tensor.dtype in _WHOLE_NUMBERS:
            yield from _read(path, tensor, _BLOCK * 8)
            return
        source, target = torch_dtype(tensor.dtype), torch_dtype(self.dtype)
        for block in _read(path, tensor, _BLOCK * DTYPE_BITS[tensor.dtype] // 8):
            yield _finite(_as_tensor(block, source).to(target), name)

    def _changed(self, name: str, change: Change) -> Iterator[memoryview]:
        """The changed tensor, computed in float32, a block of rows at a time, rounded to the target dtype."""
        import torch

        path, tensor = self.base[change.origin or name]
        source, target = torch_dtype(tensor.dtype), torch_dtype(self.dtype)
        prepared = change.prepare(self.adapter)
        rows, width = as_rows(change.shape)
        step = max(1, _BLOCK // max(1, width)) if change.by_rows else rows
        there = _read(path, tensor, step * width * DTYPE_BITS[tensor.dtype] // 8)
        for start in range(0, rows, step):
            before = _as_tensor(next(there, memoryview(b"")), source).reshape(-1, width)[: rows - start]
            missing = min(step, rows - start) - len(before)
            padded = torch.nn.functional.pad(before.float(), (0, 0, 0, missing))
            after = prepared.apply(padded, start).to(target)
            if name not in self.changed and (missing or not torch.equal(after, before.to(target))):
                self.changed.add(name)
            yield _finite(after, name)


def _read(path: Path, tensor: Tensor, block: int) -> Iterator[memoryview]:
    """The tensor's bytes, ``block`` at a time, in one buffer that is filled anew for each."""
    buffer = memoryview(bytearray(min(block, tensor.size)))
    with path.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        left = tensor.size
        while left:
            view = buffer[: min(block, left)]
            filled = 0
            while filled < len(view):
                got = file.readinto(view[filled:])
                if not got:
                    raise HubkitError(f"{path.name} ended early; it changed while it was read.")
                filled += got
            left -= filled
            yield view


def _as_tensor(block: memoryview, dtype: Any) -> Any:
    import torch

    return torch.frombuffer(block, dtype=dtype) if block else torch.empty(0, dtype=dtype)


def _finite(values: Any, name: str) -> memoryview:
    """The bytes of ``values``; RefusedError when one is NaN or infinite."""
    import torch

    if values.numel() and not math.isfinite(float(values.abs().max())):
        raise RefusedError(
            f"{name} holds a NaN or an infinite number in {str(values.dtype).removeprefix('torch.')}.",
            hint="The base or the adapter is broken, or overflows the dtype (float16 max: 65,504).",
        )
    return memoryview(values.contiguous().view(torch.uint8).numpy().reshape(-1).data)


def _verify(folder: Path, planned: Planned) -> None:
    """Read the headers back: the base's names, and the dtype, shape and bytes that were planned."""
    found = {
        name: (item.dtype, item.shape, item.size)
        for header in read_weights(folder).values()
        for name, item in header.tensors.items()
    }
    if found != dict(planned):
        raise HubkitError("The merged files do not hold the tensors that were planned.", hint="Run the merge again.")
