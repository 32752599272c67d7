"""How many rows a device takes at once (`per_device_train_batch_size: auto`), and whether gradients are checkpointed.

    stages:
      dpo:
        batch_size: 32                                  # pairs of an optimizer step, over all devices
        args: {per_device_train_batch_size: auto}

The rows of an optimizer step stay what the recipe says: `gradient_accumulation_steps` follows from what is found.
What was found is kept beside the checkpoints, so that a resumed training cuts its batches alike, and is reported in
``training.json``. How it is found: :mod:`hubkit.training.probe`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.core.files import read_json, write_json

AUTO = "auto"
PER_DEVICE, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")
"""TRL's name of it, and the new one."""
TRL_DEFAULT = 8
"""TRL's own batch on a device."""
FILE = "batches.json"
"""In the scratch folder of a training: what was chosen."""


@dataclass(frozen=True)
class Batches:
    """How the rows of an optimizer step are cut: ``per_device`` x ``accumulation`` x ``processes``.

    ``checkpointing``: activations are computed again in the backward pass. ``chosen_by`` is how it was found, in words.
    """

    per_device: int
    accumulation: int
    processes: int
    checkpointing: bool
    chosen_by: str

    @property
    def rows(self) -> int:
        """Rows of an optimizer step, over all devices."""
        return self.per_device * self.accumulation * self.processes

    @property
    def in_words(self) -> str:
        """'batches of 4 x 8 rows, without gradient checkpointing'."""
        devices = f" on each of {self.processes} devices" if self.processes > 1 else ""
        how = "with" if self.checkpointing else "without"
        return f"batches of {self.per_device} x {self.accumulation} rows{devices}, {how} gradient checkpointing"

    def save(self, scratch: Path) -> None:
        """Keep it for a resumed training."""
        scratch.mkdir(parents=True, exist_ok=True)
        write_json(scratch / FILE, asdict(self))

    def lighter(self, *, rows_open: bool, checkpointing_open: bool) -> Batches | None:
        """What takes less memory, after this ran out of it; None where nothing does.

        About half the rows at once, if they are hubkit's to choose; and at one row (or where they are not) activations
        are computed again, if that is open.
        """
        words = f"less memory than {self.in_words}, which ran out of it"
        if rows_open and self.per_device > 1:
            fewer, together = self.halved()
            return replace(self, per_device=fewer, accumulation=together, chosen_by=words)
        return replace(self, checkpointing=True, chosen_by=words) if checkpointing_open else None

    def halved(self) -> tuple[int, int]:
        """``per_device`` and ``accumulation`` for about half as many rows at once, and as many in a step."""
        each = self.per_device * self.accumulation
        fewer = max(size for size in divisors(each) if size <= (self.per_device + 1) // 2)
        return fewer, each // fewer

    def cuts_as(self, other: Batches) -> bool:
        """Whether ``other`` differs at most in how it was found."""
        return replace(self, chosen_by=other.chosen_by) == other

    @classmethod
    def of(cls, args: Any) -> Batches:
        """Those of ``args`` of a trainer of TRL."""
        return cls(
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps,
            args.world_size,
            bool(getattr(args, CHECKPOINTING[0], False)),
            "the recipe",
        )

    @classmethod
    def kept(cls, scratch: Path, now: Batches) -> Batches | None:
        """What was chosen before for as many rows a step on as many devices as ``now``; None when nothing was."""
        if not (scratch / FILE).is_file():
            return None
        found = cls(**read_json(scratch / FILE))
        return found if (found.rows, found.processes) == (now.rows, now.processes) else None


def is_auto(args: Mapping[str, Any]) -> bool:
    """Whether ``args`` of TRL leave the rows of a device to hubkit."""
    return args.get(PER_DEVICE) == AUTO


def processes() -> int:
    """The processes that train together, as their launcher says."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rows_a_step(args: Mapping[str, Any], batch_size: int | None) -> int | None:
    """The rows of an optimizer step that the recipe states; None where TRL's own arithmetic decides.

    With `auto` and no `batch_size` they are TRL's 8, times `gradient_accumulation_steps`.
    """
    if batch_size is not None:
        return batch_size
    return TRL_DEFAULT * int(args.get(ACCUMULATION) or 1) if is_auto(args) else None


def share_of(rows: int, devices: int, stage: str) -> int:
    """The rows of a step that fall to one of ``devices``; RefusedError when they cannot be shared evenly."""
    if rows % devices:
        raise RefusedError(
            f"stages.{stage}: {rows} rows of an optimizer step cannot be shared evenly by {devices} processes.",
            hint=f"Set stages.{stage}.batch_size to a multiple of {devices}.",
        )
    return rows // devices


def divisors(number: int) -> list[int]:
    """The divisors of ``number``, least first."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def plain_args(args: Mapping[str, Any], batch_size: int | None) -> dict[str, Any]:
    """``args`` with a number in the place of `auto`, for checks that need TRL's own types."""
    replaced = {PER_DEVICE: 1} if is_auto(args) else {}
    if batch_size is not None and ACCUMULATION not in args:
        per_device = 1 if is_auto(args) else args.get(PER_DEVICE, TRL_DEFAULT)
        replaced[ACCUMULATION] = max(1, batch_size // per_device) if isinstance(per_device, int) else 1
    return {**args, **replaced}


def problems(args: Mapping[str, Any], batch_size: int | None) -> Iterator[str]:
    """What is wrong with the stage's `batch_size` beside its ``args``, a sentence each."""
    if batch_size is None:
        return
    if ACCUMULATION in args:
        yield (f"args.{ACCUMULATION}: follows from `batch_size`, which is set too; remove one of the two")
    per_device = args.get(PER_DEVICE, TRL_DEFAULT)
    if isinstance(per_device, int) and per_device > 0 and batch_size % per_device:
        yield f"batch_size: {batch_size} is no multiple of {PER_DEVICE}, which is {per_device}"


def arguments_for(
    args: Mapping[str, Any], batch_size: int | None, scratch: Path, stage: str, *, gpu: bool
) -> tuple[dict[str, Any], bool]:
    """What of TRL's arguments follows from ``args`` and ``batch_size``, and whether something is still to be chosen.

    What was chosen before is used again. Until it is chosen a batch is one row, computed with gradient checkpointing.
    """
    rows, devices = rows_a_step(args, batch_size), processes()
    checkpointing_open = gpu_decides(args, gpu=gpu)
    if rows is None:
        per_device = int(args.get(PER_DEVICE, TRL_DEFAULT))
        accumulation = int(args.get(ACCUMULATION) or 1)
        rows = per_device * accumulation * devices
    else:
        each = share_of(rows, devices, stage)
        per_device = 1 if is_auto(args) else int(args.get(PER_DEVICE, TRL_DEFAULT))
        accumulation = share_of(each, per_device, stage)
    found = {PER_DEVICE: per_device, ACCUMULATION: accumulation}
    if not is_auto(args) and not checkpointing_open:
        return found if batch_size is not None else {}, False
    now = Batches(per_device, accumulation, devices, True, "the recipe")
    before = Batches.kept(scratch, now)
    if before is not None and (is_auto(args) or before.per_device == per_device):
        found = {PER_DEVICE: before.per_device, ACCUMULATION: before.accumulation}
        return found | ({CHECKPOINTING[0]: before.checkpointing} if checkpointing_open else {}), False
    return found | ({CHECKPOINTING[0]: True} if checkpointing_open else {}), True


def after_out_of_memory(
    args: Mapping[str, Any], batch_size: int | None, scratch: Path, had: Batches, *, gpu: bool
) -> str:
    """What to do next when ``had`` were too many rows; what the recipe leaves open the next attempt does itself.

    Of several processes one may have written already what comes next.
    """
    rows_open, checkpointing_open = is_auto(args), gpu_decides(args, gpu=gpu)
    kept = Batches.kept(scratch, had) if rows_open or checkpointing_open else None
    if kept is not None and kept.cuts_as(had):
        kept = kept.lighter(rows_open=rows_open, checkpointing_open=checkpointing_open and not had.checkpointing)
        if kept is not None:
            kept.save(scratch)
    if kept is not None and (rows_open or kept.per_device == had.per_device):
        return f"Run the same command again: it resumes with {kept.in_words}."
    if not rows_open and had.per_device > 1:
        fewer, together = had.halved()
        if batch_size is not None:
            return f"Set per_device_train_batch_size to {fewer} (batch_size stays {batch_size}), or lower max_length."
        both = f"per_device_train_batch_size to {fewer} and gradient_accumulation_steps to {together}"
        return f"Set {both}, or lower max_length."
    if had.checkpointing:
        return "One row at a time is too much for this device: lower max_length."
    return "One row at a time is too much for this device: set gradient_checkpointing to true, or lower max_length."


def what_to_lower(args: Mapping[str, Any], batch_size: int | None) -> str:
    """The keys of ``args`` that lower the memory of a step: of what the recipe states, not of what it leaves open."""
    if is_auto(args):
        return "max_length"
    others = "batch_size stays as it is" if batch_size is not None else f"and raise {ACCUMULATION}"
    return f"{PER_DEVICE} ({others}) or max_length"


def gpu_decides(args: Mapping[str, Any], *, gpu: bool) -> bool:
    """Whether it is open if activations are computed again: on a GPU, or with `auto`, unless ``args`` say."""
    return not any(name in args for name in CHECKPOINTING) and (gpu or is_auto(args))
