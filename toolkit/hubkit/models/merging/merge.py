"""Merge LoRA adapters into their base, in one pass over its bytes and in memory that does not grow with the model.

    report = merge(base, adapter, out, dtype="bfloat16")
    reports = merge_all(base, [(adapter, out), (other, elsewhere)])

Each tensor is ``W + scaling * B @ A``, computed in float32 in blocks of rows and rounded once to the target dtype.
Reading, computing, hashing and writing overlap on all cores.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.files import Digests, os_error
from hubkit.core.numbers import size
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.merging.adapter import Adapter, fit, read_adapter, torch_dtype
from hubkit.models.merging.blocks import WHOLE_NUMBERS, Base, Block, Bytes, Reader, Target, choose_device, compute, cut
from hubkit.models.merging.by_peft import fit_by_peft
from hubkit.models.merging.companions import read_settings, write_companions
from hubkit.models.merging.overlap import Overlap, cores
from hubkit.models.merging.resolution import NotLocalError
from hubkit.models.merging.shards import Planned, ShardedWriter, in_order, plan, write_index
from hubkit.models.merging.support import Way
from hubkit.models.tensors import DTYPE_BITS, DTYPE_NAMES, Tensor, read_weights

SHARD_BYTES = 5_000_000_000
"""The most bytes of a shard: small enough for every store and for a retry."""
_MEMORY = 192 * 1024 * 1024
"""Bytes of blocks that may be under way at a time."""
Report = Callable[[str, float | None], None]


@dataclass(frozen=True)
class MergeReport:
    """What a merge made. ``files`` are the weights' digests, known from the writing; ``targets`` the number of
    changed tensors by the last part of their module's name, as in ``target_modules``. ``way``: tensor by tensor, by
    PEFT itself, for ``reason``, or "cast": nothing was merged. ``config``: what the merge changed of config.json."""

    dtype: str
    tensors: int
    changed: int
    parameters: int
    bytes: int
    seconds: float
    targets: Mapping[str, int]
    files: Mapping[str, Digests]
    way: Way = "streamed"
    reason: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

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
            "way": self.way,
            "reason": self.reason,
            "config": dict(self.config),
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
    tokenizer: Path | None = None,
    report: Report | None = None,
) -> MergeReport:
    """Write ``base`` with ``adapter`` merged into it to ``out``, a new folder; see :func:`merge_all`."""
    return merge_all(
        base,
        [(adapter, out)],
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        chat_template=chat_template,
        end_of_turn=end_of_turn,
        pad_token=pad_token,
        tokenizer=tokenizer,
        report=report,
    )[0]


def merge_all(
    base: Path,
    merges: Sequence[tuple[Path, Path]],
    *,
    dtype: str = "bfloat16",
    max_shard_bytes: int = SHARD_BYTES,
    chat_template: str | None = None,
    end_of_turn: EndOfTurn | None = None,
    pad_token: str | None = None,
    tokenizer: Path | None = None,
    report: Report | None = None,
) -> list[MergeReport]:
    """For each (adapter, out) write ``base`` with the adapter merged into it to ``out``, a new folder that loads as a
    model of its own. The base is read once for all of them.

    ``base`` and the adapters are folders with safetensors files; ``dtype`` is float32, float16 or bfloat16.
    ``chat_template`` replaces the base's; ``end_of_turn`` is put among the stop tokens; ``pad_token`` pads where the
    base has no padding token or pads with the end-of-turn token; ``tokenizer``: a folder whose tokenizer replaces the
    base's. Either every ``out`` appears, complete, or none does.
    Raises RefusedError when an adapter does not fit, uses what is not understood or changes nothing, or a weight is
    NaN or infinite; HubkitError when the disk is full; UsageError when an ``out`` is not empty.
    """
    began = time.monotonic()
    refuse_unusable([out for _, out in merges], dtype)
    tensors = tensors_of(base)
    scratches = [out.with_name(f".{out.name}.peft") for _, out in merges]
    try:
        adapters = [read_adapter(adapter) for adapter, _ in merges]
        targets = targets_of(base, tensors, list(zip(adapters, scratches, strict=True)), DTYPE_NAMES[dtype])
        outputs = [Output(out, target, max_shard_bytes) for (_, out), target in zip(merges, targets, strict=True)]

        def beside(output: Output) -> None:
            write_companions(
                base,
                output.partial,
                dtype=dtype,
                chat_template=chat_template,
                end_of_turn=end_of_turn,
                pad_token=pad_token,
                changes=output.target.adapter.config,
                tokenizer=tokenizer,
            )

        write_outputs(tensors, outputs, dtype, beside, report)
    except OSError as error:
        raise os_error(error, merges[0][1], 0) from error
    finally:
        for scratch in scratches:
            shutil.rmtree(scratch, ignore_errors=True)
    return [output.report(dtype, round(time.monotonic() - began, 3)) for output in outputs]


def refuse_unusable(outs: Sequence[Path], dtype: str) -> None:
    """UsageError when an ``out`` is not empty, or no model is published in ``dtype``."""
    for out in outs:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} already exists.", hint="Choose a new folder, or remove it.")
    if dtype not in DTYPE_NAMES or dtype == "float64":
        raise UsageError(f"Unsupported dtype {dtype!r}.", hint="Use float32, float16 or bfloat16.")


def tensors_of(folder: Path) -> Base:
    """The tensors of the model in ``folder``, with their files."""
    return {
        name: (path, item) for path, header in read_weights(folder).items() for name, item in header.tensors.items()
    }


def write_outputs(
    tensors: Base, outputs: Sequence[Output], dtype: str, beside: Callable[[Output], None], report: Report | None
) -> None:
    """Write all ``outputs``, or none: in one pass over ``tensors``, after what ``beside`` writes to each folder."""
    try:
        for output in outputs:
            output.begin()
        _refuse_full_disk(outputs)
        for output in outputs:
            beside(output)
        with Reader(list(dict.fromkeys(path for path, _ in tensors.values()))) as reader:
            stream(reader, tensors, outputs, DTYPE_NAMES[dtype], report)
        for output in outputs:
            output.finish()
        for output in outputs:
            output.appear()
    except OSError as error:
        raise os_error(error, outputs[0].out, sum(output.size for output in outputs)) from error
    finally:
        for output in outputs:
            output.close()


def fit_to(base: Path, adapter: Adapter, tensors: Mapping[str, Tensor], scratch: Path) -> Adapter:
    """``adapter`` fitted to the model in ``base``, which has ``tensors``; if it must be, by PEFT into ``scratch``."""
    try:
        return fit(adapter, tensors, read_settings(base, "config.json"))
    except NotLocalError as error:
        return fit_by_peft(adapter, base, tensors, scratch, str(error))


def targets_of(base: Path, tensors: Base, unfitted: Sequence[tuple[Adapter, Path]], dtype: str) -> list[Target]:
    """What each merged model will have: one order of names for all of them, so that one pass serves them."""
    there = {name: item for name, (_, item) in tensors.items()}
    adapters = [fit_to(base, adapter, there, scratch) for adapter, scratch in unfitted]
    names = dict.fromkeys([*tensors, *(name for adapter in adapters for name in adapter.changes)])
    targets = []
    for adapter in adapters:
        planned = {}
        for name in names:
            change = adapter.changes.get(name)
            if name not in tensors and change is None:
                continue
            _, item = tensors[(change and change.origin) or name]
            if item.dtype not in WHOLE_NUMBERS:
                torch_dtype(item.dtype)
            kept = item.dtype if item.dtype in WHOLE_NUMBERS else dtype
            shape = change.shape if change else item.shape
            planned[name] = (kept, shape, math.prod(shape) * DTYPE_BITS[kept] // 8)
        targets.append(Target(adapter, in_order(planned)))
    return targets


class Taking(Protocol):
    """What is made of a merge, block by block: files (:class:`Output`), or a comparison with files that are there."""

    @property
    def target(self) -> Target:
        """The merged model."""
        ...

    @property
    def size(self) -> int:
        """Bytes of all its tensors."""
        ...

    @property
    def ends(self) -> Sequence[Callable[[memoryview], None]]:
        """Each is given every block of the tensors in their order, by a thread of its own."""
        ...


def stream(
    reader: Reader,
    tensors: Base,
    outputs: Sequence[Taking],
    dtype: str,
    report: Report | None,
    device: str | None = None,
) -> None:
    """The one pass: blocks are read and computed by a worker for each core, and hashed and written in their order.

    Changed tensors are computed on ``device``; None: on the fastest.
    """
    targets, device = [output.target for output in outputs], device or choose_device()
    order = in_order({name: item for target in targets for name, item in target.planned.items()})
    total, done = sum(output.size for output in outputs), 0

    def work(block: Block) -> Bytes:
        return compute(block, reader.read(block), targets, dtype, device)

    def take(number: int, consume: Callable[[memoryview], None], made: Bytes) -> None:
        consume(made[number])

    with _arithmetic(), Overlap[Bytes](cores(), _MEMORY) as overlap:
        lines = [
            [overlap.consumer(partial(take, number, end)) for end in output.ends]
            for number, output in enumerate(outputs)
        ]
        for name in order:
            for block in cut(tensors, targets, name, device):
                consumers = [consumer for number in block.changes for consumer in lines[number]]
                overlap.put(partial(work, block), consumers, block.memory)
            done += sum(target.planned[name][2] for target in targets if name in target.planned)
            if report:
                report(f"{size(done)} of {size(total)}", done / total if total else 1.0)


@contextmanager
def _arithmetic() -> Iterator[None]:
    """Float32 is not shortened in products, and each worker computes by itself: the cores are busy with several blocks,
    not with parts of one."""
    import torch

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


@dataclass
class Output:
    """One merged model under way: it is made in a hidden folder, which becomes ``out`` at the end."""

    out: Path
    target: Target
    max_shard_bytes: int
    files: dict[str, Digests] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)

    @property
    def partial(self) -> Path:
        """The hidden folder."""
        return self.out.with_name(f".{self.out.name}.partial")

    @property
    def size(self) -> int:
        """Bytes of all its tensors."""
        return sum(length for _, _, length in self.target.planned.values())

    @property
    def ends(self) -> Sequence[Callable[[memoryview], None]]:
        """What takes the blocks: see :class:`Taking`."""
        return self.writer.ends

    def begin(self) -> None:
        """Create the hidden folder anew."""
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        self.shards = plan(self.target.planned, self.max_shard_bytes)
        self.writer = ShardedWriter(self.partial, self.shards)

    def finish(self) -> None:
        """Complete the files. RefusedError when the adapter changes nothing."""
        self.files = self.writer.finish()
        if len(self.shards) > 1:
            write_index(self.partial, self.shards)
        self.targets = changed_targets(self.target)
        _verify(self.partial, self.target.planned)

    def appear(self) -> None:
        """Give the folder its name."""
        if self.out.exists():
            self.out.rmdir()
        self.partial.rename(self.out)

    def close(self) -> None:
        """Remove what was not finished."""
        if hasattr(self, "writer"):
            self.writer.close()
        shutil.rmtree(self.partial, ignore_errors=True)

    def report(self, dtype: str, seconds: float) -> MergeReport:
        """What was made."""
        planned = self.target.planned.values()
        return MergeReport(
            dtype=dtype,
            tensors=len(planned),
            changed=len(self.target.changed),
            parameters=sum(math.prod(shape) for kept, shape, _ in planned if kept not in WHOLE_NUMBERS),
            bytes=sum(item.size for item in self.files.values()),
            seconds=seconds,
            targets=self.targets,
            files=self.files,
            way=self.target.adapter.way,
            reason=self.target.adapter.reason,
            config=self.target.adapter.config,
        )


def changed_targets(target: Target) -> dict[str, int]:
    """Changed tensors by the last part of their module's name; RefusedError when one has none."""
    wanted = {name: change.module.rpartition(".")[2] for name, change in target.adapter.changes.items()}
    counted = Counter(wanted[name] for name in target.changed)
    for module in dict.fromkeys(wanted[name] for name, change in target.adapter.changes.items() if change.expected):
        if not counted[module]:
            raise RefusedError(
                f"The adapter changes nothing in {module}: every merged tensor equals the base's.",
                hint="The adapter is untrained, or its update is too small for this dtype.",
            )
    return dict(counted)


def _refuse_full_disk(outputs: Sequence[Output]) -> None:
    """HubkitError when a disk has no room for what will be written to it."""
    needed: Counter[int] = Counter()
    for output in outputs:
        device = output.partial.stat().st_dev
        needed[device] += output.size
        if (free := shutil.disk_usage(output.partial).free) < needed[device]:
            raise HubkitError(
                f"Merging needs {size(needed[device])} at {output.out.parent}; {size(free)} are free.",
                hint="Free space there, or choose another folder.",
            )


def _verify(folder: Path, planned: Planned) -> None:
    """Read the headers back: the base's names, and the dtype, shape and bytes that were planned."""
    found = {
        name: (item.dtype, item.shape, item.size)
        for header in read_weights(folder).values()
        for name, item in header.tensors.items()
    }
    if found != dict(planned):
        raise HubkitError("The merged files do not hold the tensors that were planned.", hint="Run the merge again.")
