"""The batch that fits this device: on a GPU by trying it with the longest rows, on a CPU by arithmetic.

A trial is a forward and a backward pass of the trainer's own loss. It leaves no trace: gradients, metrics and random
numbers are as before, so that the training that follows is the one that would have been without it.

Without gradient checkpointing a row takes more memory and a third less arithmetic. Both ways are tried, each with as
many rows as fit, and timed on rows of median length; the faster one is taken.

The trials on a GPU were not run by hubkit's tests, which have no machine for them: they run the same trials on a CPU
with a limit of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hubkit.core.memory import available_memory
from hubkit.models.load import device, device_name, release_memory
from hubkit.models.meta import facts_of
from hubkit.models.model_size import ModelSize, activation_bytes, logit_bytes, optimizer_bytes
from hubkit.recipe.stage import Report
from hubkit.training.batch_size import CHECKPOINTING, Batches, arguments_for, divisors, gpu_decides, is_auto
from hubkit.training.contract import Settings
from hubkit.training.launching import ranks

_MOST_TOKENS = 32_768
"""Of a batch on a GPU: with more of them at once no GPU becomes faster."""
_MOST_ON_CPU = 8
"""Rows of a batch on a CPU, which gains nothing from more."""
_SHARE = 0.9
"""Of a GPU's free memory that the worst batch may take; the rest is lost between blocks."""
_SHARE_OF_CPU = 0.6


class Trials(Protocol):
    """What can be found out of a device, one batch at a time."""

    def fits(self, rows: int, *, checkpointing: bool) -> bool:
        """Whether a batch of ``rows`` of the longest rows fits."""
        ...

    def seconds_a_row(self, rows: int, *, checkpointing: bool) -> float:
        """Seconds of a row of median length in a batch of ``rows``."""
        ...


def best(trials: Trials, sizes: Sequence[int], ways: Sequence[bool]) -> tuple[int, bool] | None:
    """The fastest (rows, checkpointing) of those that fit; None when not one row does.

    ``sizes`` are the possible batches, least first; ``ways`` whether activations are computed again: the ways to try.
    """
    found: list[tuple[int, bool]] = []
    for way in ways:
        fitting = 0
        for rows in sizes:
            if not trials.fits(rows, checkpointing=way):
                break
            fitting = rows
        if fitting:
            found.append((fitting, way))
        if fitting == sizes[-1] and not way:  # all fit without: computing again only costs
            break
    if len(found) < 2:
        return found[0] if found else None
    return min(found, key=lambda item: trials.seconds_a_row(item[0], checkpointing=item[1]))


def settle(settings: Settings, trainer: Any, scratch: Path, report: Report) -> Batches:
    """How ``trainer`` (of TRL, not yet training) cuts its batches; what the recipe leaves open is found first.

    A resumed training uses what was kept in ``scratch``. A trainer that has several ways to compute a batch decides
    before: a trial is of the way that it will go, and all processes take part.
    """
    if hasattr(trainer, "decide_way"):
        trainer.decide_way()
    args, gpu = settings.args, device() == "cuda"
    now = trainer.args
    batches = Batches.of(now)
    _, is_open = arguments_for(args, settings.batch_size, scratch, settings.name, gpu=gpu)
    if is_open:
        report("looking for the batch that fits", None)
        batches = choose(trainer, batches, rows_open=is_auto(args), checkpointing_open=gpu_decides(args, gpu=gpu))
        ranks.wait()  # each has looked whether something was kept
        if trainer.is_world_process_zero():
            batches.save(scratch)
        apply(trainer, batches)
    elif (kept := Batches.kept(scratch, batches)) is not None and kept.cuts_as(batches):
        batches = kept
    if is_auto(args) and "per_device_eval_batch_size" not in args:
        now.per_device_eval_batch_size = 2 * batches.per_device  # nothing is kept for a backward pass
    return batches


def choose(trainer: Any, batches: Batches, *, rows_open: bool, checkpointing_open: bool) -> Batches:
    """How ``trainer`` (of TRL, not yet training) is to cut its batches; ``batches`` are what it has.

    ``rows_open``: the rows of a device are to be found; ``checkpointing_open``: whether activations are computed again.
    All processes choose the same: the least of what each of them finds.
    """
    each = batches.per_device * batches.accumulation
    ways = (False, True) if checkpointing_open else (batches.checkpointing,)
    sharded = getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False)
    if sharded:  # the memory of a step is known only once the weights are shared out
        return Batches(
            1 if rows_open else batches.per_device,
            each if rows_open else batches.accumulation,
            batches.processes,
            True if checkpointing_open else batches.checkpointing,
            "sharded weights",
        )
    longest, median = lengths(trainer)
    sizes = divisors(each) if rows_open else [batches.per_device]
    if device() == "cuda":
        most = max(1, _MOST_TOKENS // max(1, longest))
        sizes = [size for size in sizes if size <= most or not rows_open]
        found = best(GpuTrials(trainer, longest, median), sizes, ways)
        how = f"tried on {device_name()} with rows of {longest} tokens"
    else:
        sizes = [size for size in sizes if size <= _MOST_ON_CPU or not rows_open]
        found = best(Arithmetic.of(trainer, longest), sizes, ways)
        how = f"computed for rows of {longest} tokens"
    rows, checkpointing = _least(found or (sizes[0], ways[-1]), batches.processes)
    rows = max(size for size in sizes if size <= rows)
    return Batches(rows, each // rows, batches.processes, checkpointing, how)


def apply(trainer: Any, batches: Batches) -> None:
    """Let ``trainer`` cut its batches so. It may not have begun to train."""
    args = trainer.args
    args.per_device_train_batch_size = trainer._train_batch_size = batches.per_device
    args.gradient_accumulation_steps = batches.accumulation
    for name in CHECKPOINTING:
        if hasattr(args, name):
            setattr(args, name, batches.checkpointing)
    _recompute(trainer.model, args, batches.checkpointing)


def lengths(trainer: Any) -> tuple[int, int]:
    """Tokens of the longest and of the median row of ``trainer``'s dataset, as it cuts them: of DPO, of one side."""
    import numpy as np

    found = np.sort(row_lengths(trainer.train_dataset))
    limit = getattr(trainer.args, "max_length", None) or int(found[-1])
    return min(limit, int(found[-1])), min(limit, int(found[len(found) // 2]))


def row_lengths(dataset: Any) -> Any:
    """Tokens of each row of a tokenized dataset, as a NumPy array: of a pair, of its longer side."""
    import numpy as np
    import pyarrow.compute as pc

    def column(name: str) -> Any:
        if dataset._indices is None:
            return np.asarray(pc.list_value_length(dataset.data.column(name)))
        return np.asarray([len(row) for row in dataset[name]])

    if "prompt_ids" in dataset.column_names:
        return column("prompt_ids") + np.maximum(column("chosen_ids"), column("rejected_ids"))
    return column("input_ids")


def _least(found: tuple[int, bool], processes: int) -> tuple[int, bool]:
    """The choice of all processes: the fewest rows, computed again if any of them must."""
    if processes < 2:
        return found
    from accelerate.utils import gather_object

    everyone = gather_object([found])
    return min(rows for rows, _ in everyone), any(again for _, again in everyone)


# --- by arithmetic


@dataclass(frozen=True)
class Arithmetic:
    """What fits in ``memory`` bytes by the cost model's formulas; seconds are not needed: fewer passes are faster."""

    size: ModelSize
    dtype: str
    tokens: int
    memory: float
    fixed: float

    @classmethod
    def of(cls, trainer: Any, longest: int) -> Arithmetic:
        """For ``trainer`` on this machine, whose model is loaded already."""
        model = trainer.model
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        sides = 2 if "prompt_ids" in trainer.train_dataset.column_names else 1
        optimizer = str(getattr(trainer.args.optim, "value", trainer.args.optim))
        return cls(
            ModelSize.of(facts_of(model.config.to_json_string(use_diff=False).encode())),
            "float32" if str(model.dtype) not in {"torch.bfloat16", "torch.float16"} else "bfloat16",
            longest * sides,
            available_memory() * _SHARE_OF_CPU / ranks.on_this_machine(),
            trained * (4 + optimizer_bytes(optimizer)),
        )

    def fits(self, rows: int, *, checkpointing: bool) -> bool:
        """Whether activations, logits, gradients and optimizer fit."""
        tokens = rows * self.tokens
        kept = activation_bytes(self.size, tokens, self.dtype, checkpointing=checkpointing)
        return kept + logit_bytes(self.size, tokens, self.dtype) + self.fixed <= self.memory

    def seconds_a_row(self, rows: int, *, checkpointing: bool) -> float:
        """In units of a forward pass: one more where activations are computed again."""
        return 4.0 if checkpointing else 3.0


# --- by trying


class GpuTrials:
    """Batches of ``trainer``'s own rows, computed as a training step computes them."""

    def __init__(self, trainer: Any, longest: int, median: int) -> None:
        self.trainer = trainer
        self.lengths = row_lengths(trainer.train_dataset)
        self.longest, self.median = self._row_of(longest), self._row_of(median)
        trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
        optimizer = str(getattr(trainer.args.optim, "value", trainer.args.optim))
        self.to_come = trained * optimizer_bytes(optimizer)

    def _row_of(self, length: int) -> Mapping[str, Any]:
        """A row of at least ``length`` tokens, as near to it as there is one."""
        import numpy as np

        longer = np.where(self.lengths >= length, self.lengths, self.lengths.max() + 1)
        row: Mapping[str, Any] = self.trainer.train_dataset[int(longer.argmin())]
        return row

    def fits(self, rows: int, *, checkpointing: bool) -> bool:
        """Whether a training step fits, with what the optimizer will take."""
        import torch

        try:
            with self._room() as within:
                attempt(self.trainer, [self.longest] * rows, checkpointing=checkpointing)
                return bool(within())
        except torch.OutOfMemoryError:
            return False
        finally:
            release_memory()

    @contextmanager
    def _room(self) -> Iterator[Any]:
        """Yields what tells whether the peak since stayed within the share that may be taken."""
        import torch

        if not torch.cuda.is_available():
            yield lambda: True
            return
        torch.cuda.reset_peak_memory_stats()
        free, _ = torch.cuda.mem_get_info()
        allowed = _SHARE * (free + torch.cuda.memory_reserved()) - self.to_come
        yield lambda: torch.cuda.max_memory_reserved() <= allowed

    def seconds_a_row(self, rows: int, *, checkpointing: bool) -> float:
        """The faster of two passes."""
        import torch

        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            attempt(self.trainer, [self.median] * rows, checkpointing=checkpointing)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append((time.perf_counter() - began) / rows)
        release_memory()
        return min(seconds)


def attempt(trainer: Any, rows: Sequence[Mapping[str, Any]], *, checkpointing: bool) -> None:
    """A forward and a backward pass of ``trainer``'s loss on ``rows``, without a trace.

    It has no step of the optimizer, and no process waits for another.
    """
    model = trainer.model
    was_training = model.training
    with _no_trace(trainer), _alone(trainer.accelerator):
        model.train()
        _recompute(model, trainer.args, checkpointing)
        try:
            batch = trainer._prepare_inputs(trainer.data_collator([dict(row) for row in rows]))
            with trainer.accelerator.autocast() if device() == "cuda" else nullcontext():
                loss = trainer.compute_loss(model, batch)
            loss.backward()
        finally:
            model.train(was_training)
            model.zero_grad(set_to_none=True)


@contextmanager
def _no_trace(trainer: Any) -> Iterator[None]:
    """Put random numbers, metrics and token counts back as they were."""
    import copy

    import torch

    names = ("_metrics", "_total_train_tokens")
    kept = {name: copy.deepcopy(getattr(trainer, name)) for name in names if hasattr(trainer, name)}
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(trainer, name, value)


@contextmanager
def _alone(accelerator: Any) -> Iterator[None]:
    """Metrics that the loss gathers from all processes stay in this one: another may have run out of memory."""
    names = ("gather", "gather_for_metrics")
    for name in names:
        setattr(accelerator, name, lambda value, *_, **__: value)
    try:
        yield
    finally:
        for name in names:
            delattr(accelerator, name)


def _recompute(model: Any, args: Any, checkpointing: bool) -> None:
    """Switch gradient checkpointing of ``model`` on or off, as transformers' Trainer does."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if checkpointing:
        given = dict(getattr(args, "activation_checkpointing_kwargs", None) or {})
        layers, offload = given.pop("every_n_layers", 1), given.pop("offload", False)
        inner.activation_checkpointing_enable(given or None, every_n_layers=layers, offload=offload)
    else:
        inner.activation_checkpointing_disable()
