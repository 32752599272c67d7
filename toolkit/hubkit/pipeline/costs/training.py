"""What a training stage costs: its tokens, the seconds of its steps, the memory of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.pipeline.costs.devices import Device
from hubkit.pipeline.costs.formulas import BYTES, Memory, ModelSize, padding, training_memory
from hubkit.pipeline.costs.sources import CERTAINTY, Rows
from hubkit.recipe.models import Training

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"max_length": 1024, "num_train_epochs": 3.0, "per_device_train_batch_size": 8},
    "sft": {"max_length": 1024, "num_train_epochs": 3.0, "per_device_train_batch_size": 8},
}
"""TRL 1.16's own values of what a recipe leaves out; a test compares them with the installed classes."""
ROWS_A_SECOND = 196.0
"""Rows that one core maps, checks and tokenizes a second: measured, and repeated by TRL at the start of a training."""
START = 8.0
"""Seconds until a training process has imported PyTorch, TRL and PEFT: measured on 2 cores."""


@dataclass(frozen=True)
class TrainingWork:
    """The work of one training stage, on any device.

    ``steps`` are passes over a batch of ``batch`` rows of ``sequences`` sequences each. ``length`` is the mean of a
    sequence before padding, ``longest`` that of the batch's longest, ``most`` what the longest may be (`max_length`).
    ``certainty`` is the share of these lengths that is certain. ``full``: all the weights are trained; ``reference``:
    beside a second model, to which DPO compares them.
    """

    method: str
    rows: int | None
    steps: float
    batch: int
    sequences: int
    length: float
    longest: float
    most: float
    optimizer: str
    checkpointing: bool | None
    quantized: bool
    certainty: float = 1.0
    full: bool = False
    reference: bool = False

    @property
    def tokens(self) -> float:
        """Tokens that are computed, padding among them."""
        return self.steps * self.batch * self.sequences * self.longest

    def recomputes(self, device: Device) -> bool:
        """Whether activations are computed again: TRL's default on a GPU, hubkit's on a CPU is not to."""
        return device.gpu if self.checkpointing is None else self.checkpointing


def work_of(training: Training, name: str, rows: Rows) -> TrainingWork | None:
    """The work of the stage ``name``; None for a stage that hubkit does not know, or whose rows are unknown."""
    method = training.uses or name
    if method not in DEFAULTS:
        return None
    args = {**DEFAULTS[method], **training.args}
    batch, sequences = max(1, int(args["per_device_train_batch_size"])), 2 if method == "dpo" else 1
    together = max(1, int(args.get("gradient_accumulation_steps") or 1))
    limit = int(args["max_length"]) if args.get("max_length") else None
    length = min(rows.tokens, limit or rows.tokens)
    if args.get("packing"):
        longest = most = float(limit or 1024)
    else:
        most = float(limit or 4 * length)
        longest = min(most, length * padding(batch * sequences))
    steps_given = int(args.get("max_steps") or -1)
    if steps_given > 0:
        steps = float(steps_given * together)
    elif rows.rows is None:
        return None
    else:
        a_row = length / longest if args.get("packing") else 1.0
        steps = rows.rows * a_row * float(args["num_train_epochs"]) / batch
    checkpointing = args.get("gradient_checkpointing", args.get("activation_checkpointing"))
    return TrainingWork(
        method=method,
        rows=rows.rows,
        steps=steps,
        batch=batch,
        sequences=sequences,
        length=length,
        longest=longest,
        most=most,
        optimizer=str(args.get("optim", "adamw_torch")),
        checkpointing=None if checkpointing is None else bool(checkpointing),
        quantized=training.quantization == "nf4",
        certainty=CERTAINTY[rows.basis],
        full=training.trains_all_weights,
        reference=training.trains_all_weights and method == "dpo" and not args.get("precompute_ref_log_probs"),
    )


def passes(work: TrainingWork, device: Device, trained_share: float) -> float:
    """Forward passes that a training step is worth: forward 1, backward 1, the trained share's own gradients, 1 more
    for recomputed activations, 1 more for the reference of DPO."""
    return 2 + trained_share + work.recomputes(device) + (work.method == "dpo")


def seconds(work: TrainingWork, size: ModelSize, trained: int, device: Device) -> float:
    """Seconds of the stage on ``device``: arithmetic, reading the weights, starting the layers, tokenizing.

    In each pass NF4 weights are read, written in 16 bits and read again (bitsandbytes dequantizes a layer at a time).
    """
    flops = size.forward(work.tokens, work.longest)
    moved = size.bytes("nf4") + 4 * size.linear if work.quantized else size.bytes(device.compute)
    calls = size.layers * device.call * (2 if work.quantized else 1)
    one = flops / device.rate(size.parameters) + work.steps * (moved / device.bandwidth + calls)
    rows = work.rows or work.steps * work.batch
    return START + rows / ROWS_A_SECOND + passes(work, device, trained / size.parameters) * one


def memory(work: TrainingWork, size: ModelSize, trained: int, device: Device, *, longest: bool = True) -> Memory:
    """Of a training step with rows as long as `max_length` allows, or (``longest=False``) as a mean batch certainly
    has them."""
    length = work.most if longest else work.longest * work.certainty
    return training_memory(
        size,
        dtype=device.compute,
        quantized=work.quantized,
        trained=trained,
        optimizer=work.optimizer,
        tokens=work.batch * work.sequences * length,
        checkpointing=work.recomputes(device),
        full=work.full,
        reference=work.reference,
    )


def checkpoint_bytes(work: TrainingWork, trained: int) -> int:
    """Of the checkpoints that are kept while it trains: two, each what is trained and the optimizer's state."""
    from hubkit.pipeline.costs.formulas import optimizer_bytes

    return round(2 * trained * (BYTES["float32"] + optimizer_bytes(work.optimizer)))
