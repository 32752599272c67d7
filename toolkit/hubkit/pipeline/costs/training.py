"""What a training stage costs: its tokens, the seconds of its steps, the memory of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.pipeline.costs.devices import Device
from hubkit.pipeline.costs.formulas import BYTES, Memory, ModelSize, padding, training_memory
from hubkit.pipeline.costs.sources import CERTAINTY, Rows
from hubkit.recipe.models import Training
from hubkit.training import batch_size
from hubkit.training.pairs.proof import ROWS, args_problem

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"max_length": 1024, "num_train_epochs": 3.0, "per_device_train_batch_size": 8},
    "sft": {"max_length": 1024, "num_train_epochs": 3.0, "per_device_train_batch_size": 8},
}
"""TRL 1.16's own values of what a recipe leaves out; a test compares them with the installed classes."""
ROWS_A_SECOND = 196.0
"""Rows that one core maps, checks and tokenizes a second: measured, and repeated by TRL at the start of a training."""
ONCE = 0.73
"""Tokens that are computed where a prompt is computed once and nothing is padded, of those of both sequences of a pair:
measured with the lengths of orca pairs (docs/bench-training.md)."""
START = 8.0
"""Seconds until a training process has imported PyTorch, TRL and PEFT: measured on 2 cores."""


@dataclass(frozen=True)
class TrainingWork:
    """The work of one training stage, on any device.

    ``steps`` are passes over a batch of ``batch`` rows of ``sequences`` sequences each. ``length`` is the mean of a
    sequence before padding, ``longest`` that of the batch's longest, ``most`` what the longest may be (`max_length`).
    ``certainty`` is the share of these lengths that is certain. ``full``: all the weights are trained; ``reference``:
    beside a second model, to which DPO compares them. ``auto``: the batch is chosen to fit, so that one row must.
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
    auto: bool = False
    processes: int = 1
    """Processes that train together, each with ``steps`` and ``batch``: on a device each, but for a CPU."""
    once: bool = False
    """Whether prompts are computed once, without padding, as `speedups` of a DPO stage does where it can."""
    known: str | None = None
    """The kind of device ("cpu", "cuda") for which the reference's log-probabilities are kept from an earlier run."""

    @property
    def padded(self) -> float:
        """Tokens that one process would compute in padded rows."""
        return self.steps * self.batch * self.sequences * self.longest

    @property
    def tokens(self) -> float:
        """Tokens that one process computes, padding among them."""
        return self.steps * self.batch * self.sequences * self.length * ONCE if self.once else self.padded

    @property
    def mean(self) -> float:
        """Tokens of a sequence in a mean batch, as they are computed."""
        return self.length * ONCE if self.once else self.longest

    def recomputes(self, device: Device) -> bool:
        """Whether activations are computed again: TRL's default on a GPU, hubkit's on a CPU is not to."""
        return device.gpu if self.checkpointing is None else self.checkpointing

    def asks_reference(self, device: Device) -> bool:
        """Whether the reference of DPO is computed, and not known."""
        return self.method == "dpo" and self.known != ("cuda" if device.gpu else "cpu")


def work_of(training: Training, name: str, rows: Rows, processes: int = 1) -> TrainingWork | None:
    """The work of the stage ``name`` in each of ``processes``; None for a stage that hubkit does not know, or whose
    rows are unknown."""
    method = training.uses or name
    if method not in DEFAULTS:
        return None
    args, auto = {**DEFAULTS[method], **training.args}, batch_size.is_auto(training.args)
    rows_a_step = batch_size.rows_a_step(training.args, training.batch_size)
    if auto:
        args["per_device_train_batch_size"] = min(
            DEFAULTS[method]["per_device_train_batch_size"], max(1, (rows_a_step or 1) // processes)
        )
    batch, sequences = max(1, int(args["per_device_train_batch_size"])), 2 if method == "dpo" else 1
    together = max(1, int(args.get("gradient_accumulation_steps") or 1))
    if rows_a_step is not None:
        together = max(1, rows_a_step // (batch * processes))
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
        steps = rows.rows * a_row * float(args["num_train_epochs"]) / (batch * processes)
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
        auto=auto,
        processes=processes,
        once=method == "dpo" and training.speedups == "auto" and args_problem(args) is None,
    )


def passes(work: TrainingWork, device: Device, trained_share: float) -> float:
    """Forward passes that a training step is worth: forward 1, backward 1, the trained share's own gradients, 1 more
    for recomputed activations, 1 more for the reference of DPO, unless its numbers are known."""
    return 2 + trained_share + work.recomputes(device) + work.asks_reference(device)


def seconds(work: TrainingWork, size: ModelSize, trained: int, device: Device) -> float:
    """Seconds of the stage on ``device``: arithmetic, reading the weights, starting the layers, tokenizing.

    In each pass NF4 weights are read, written in 16 bits and read again (bitsandbytes dequantizes a layer at a time).
    """
    flops = size.forward(work.tokens, work.length if work.once else work.longest)
    moved = size.bytes("nf4") + 4 * size.linear if work.quantized else size.bytes(device.compute)
    calls = size.layers * device.call * (2 if work.quantized else 1)
    one = flops / device.rate(size.parameters) + work.steps * (moved / device.bandwidth + calls)
    rows = work.rows or work.steps * work.batch
    shared = 1 if device.gpu else work.processes  # those on a CPU take its cores from each other
    proof = _proof(work, size) / device.rate(size.parameters)
    return START + rows / ROWS_A_SECOND + proof + shared * passes(work, device, trained / size.parameters) * one


def _proof(work: TrainingWork, size: ModelSize) -> float:
    """FLOPs of the comparison with TRL's own forward pass on the first rows."""
    if not work.once:
        return 0.0
    sequences = ROWS * work.sequences
    return size.forward(sequences * work.longest, work.longest) + size.forward(sequences * work.mean, work.length)


def memory(work: TrainingWork, size: ModelSize, trained: int, device: Device, *, longest: bool = True) -> Memory:
    """Of a training step with rows as long as `max_length` allows, or (``longest=False``) as a mean batch certainly
    has them. On a CPU all the processes are in the same memory; on GPUs each has its own."""
    length = work.most if longest else work.mean * work.certainty
    one = training_memory(
        size,
        dtype=device.compute,
        quantized=work.quantized,
        trained=trained,
        optimizer=work.optimizer,
        tokens=(1 if work.auto else work.batch) * work.sequences * length,
        checkpointing=work.recomputes(device),
        full=work.full,
        reference=work.reference,
    )
    return one if device.gpu else one.times(work.processes)


def checkpoint_bytes(work: TrainingWork, trained: int) -> int:
    """Of the checkpoints that are kept while it trains: two, each what is trained and the optimizer's state."""
    from hubkit.pipeline.costs.formulas import optimizer_bytes

    return round(2 * trained * (BYTES["float32"] + optimizer_bytes(work.optimizer)))
