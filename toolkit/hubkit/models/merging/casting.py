"""A whole model in the dtype of a release, streamed as a merge is: for weights that were trained without an adapter."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from hubkit.core.errors import RefusedError
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.merging.adapter import Adapter, torch_dtype
from hubkit.models.merging.blocks import BLOCK, WHOLE_NUMBERS, Base, Block, Reader, Target
from hubkit.models.merging.companions import tokenizer_of, write_companions
from hubkit.models.merging.merge import (
    SHARD_BYTES,
    MergeReport,
    Output,
    Report,
    refuse_unusable,
    tensors_of,
    write_outputs,
)
from hubkit.models.merging.shards import in_order
from hubkit.models.tensors import DTYPE_BITS, DTYPE_NAMES, Header, Tensor


def cast_weights(
    weights: Path,
    base: Path,
    out: Path,
    *,
    dtype: str = "bfloat16",
    max_shard_bytes: int = SHARD_BYTES,
    chat_template: str | None = None,
    end_of_turn: EndOfTurn | None = None,
    pad_token: str | None = None,
    report: Report | None = None,
) -> MergeReport:
    """Write the whole model in ``weights`` to ``out``, a new folder, in ``dtype``: streamed, as a merge is.

    What ``weights`` lacks of tokenizer and generation config is that of ``base``, which was trained. ``changed`` counts
    the tensors that the base does not hold in these bits. Raises what :func:`merge_all` does; RefusedError, too, when
    every tensor is the base's.
    """
    began = time.monotonic()
    refuse_unusable([out], dtype)
    tensors, kind = tensors_of(weights), DTYPE_NAMES[dtype]
    kept = {name: item.dtype if item.dtype in WHOLE_NUMBERS else kind for name, (_, item) in tensors.items()}
    planned = {
        name: (kept[name], item.shape, item.count * DTYPE_BITS[kept[name]] // 8) for name, (_, item) in tensors.items()
    }
    target = Target(Adapter(weights, {}, Header({}, {}), way="cast"), in_order(planned))
    output = Output(out, target, max_shard_bytes)

    def beside(output: Output) -> None:
        write_companions(
            weights,
            output.partial,
            dtype=dtype,
            chat_template=chat_template,
            end_of_turn=end_of_turn,
            pad_token=pad_token,
            tokenizer=tokenizer_of(weights) or base,
            trained=base,
        )

    write_outputs(tensors, [output], dtype, beside, report)
    target.changed.update(different_tensors(tensors_of(base), tensors_of(out)))
    if not target.changed:
        shutil.rmtree(out)
        raise RefusedError(
            f"The weights are those of the base: every tensor is the same in {dtype}.",
            hint="The model is untrained, or its changes are too small for this dtype.",
        )
    return output.report(dtype, round(time.monotonic() - began, 3))


def different_tensors(base: Base, other: Base) -> Iterator[str]:
    """The names of ``other`` whose numbers are not those of ``base``, in its own dtype."""
    files = [list(dict.fromkeys(path for path, _ in tensors.values())) for tensors in (base, other)]
    with Reader(files[0]) as before, Reader(files[1]) as after:
        for name, place in other.items():
            if name not in base or base[name][1].shape != place[1].shape or _differs(before, base[name], after, place):
                yield name


def _differs(before: Reader, old: tuple[Path, Tensor], after: Reader, new: tuple[Path, Tensor]) -> bool:
    """Whether the tensor ``old``, in the dtype of ``new``, holds other numbers than it."""
    import torch

    for start in range(0, new[1].count, BLOCK):
        stop = min(new[1].count, start + BLOCK)
        if new[1].dtype in WHOLE_NUMBERS:
            kinds = [torch.uint8, torch.uint8]
        else:
            kinds = [torch_dtype(item.dtype) for _, item in (old, new)]
        was, now = (
            torch.from_numpy(reader.read(Block("", path, item, start, stop, 1, {}))).view(kind)
            for reader, (path, item), kind in zip((before, after), (old, new), kinds, strict=True)
        )
        if not torch.equal(was.to(kinds[1]), now):
            return True
    return False
