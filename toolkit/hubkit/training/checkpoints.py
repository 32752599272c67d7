"""Checkpoints: saved by the clock, and sealed by a manifest, which is written last; incomplete ones are ignored."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import HubkitError
from hubkit.core.files import MANIFEST, Manifest, read_json, write_json

if TYPE_CHECKING:
    from transformers import TrainerCallback

MINUTES = 15.0
"""Between two checkpoints at most, where the recipe does not say: what a kill may cost."""
_COST = 20
"""Times what the last save took, which is the least time to the next one where the recipe does not say."""
SPENT = "hubkit_spent.json"
"""In each checkpoint: what the training took until then (``seconds``, ``peak_memory_bytes``)."""


def seal(folder: Path) -> None:
    """Write the manifest of the checkpoint ``folder``: all of its files are written."""
    if folder.is_dir():
        write_json(folder / MANIFEST, Manifest.of(folder).to_json())


def by_time(minutes: float | None = None, clock: Callable[[], float] = time.monotonic) -> TrainerCallback:
    """A callback of the trainers that saves a checkpoint ``minutes`` after the last one.

    None: :data:`MINUTES`, or longer where saving takes so long that it would cost more than a twentieth of the time;
    and never where the trainer is told to save nothing. The main process decides for all that train together, also
    when another callback of it has asked for a checkpoint: so this one is the last that is added.
    """
    from transformers import TrainerCallback

    class ByTime(TrainerCallback):  # type: ignore[misc]
        last = clock()
        asked = 0.0
        took = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.last = clock()

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if not saves(args, minutes):
                return
            self.asked = clock()
            limit = minutes * 60 if minutes is not None else max(MINUTES * 60, _COST * self.took)
            if _decided_by_main(control.should_save or self.asked - self.last >= limit, args):
                control.should_save = True

        def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.asked = clock()  # it comes between the end of a step and its save, and is no part of the save

        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.last = clock()
            self.took = self.last - self.asked

    return ByTime()


def saves(args: Any, minutes: float | None) -> bool:
    """Whether a training with ``args`` saves checkpoints, with ``minutes`` of the recipe between two."""
    return minutes is not None or str(getattr(args.save_strategy, "value", args.save_strategy)) != "no"


def _decided_by_main(decision: bool, args: Any) -> bool:
    """``decision`` of the main process: saving takes all processes, whose clocks differ."""
    if args.world_size < 2:
        return decision
    import torch

    if not torch.distributed.is_initialized():
        return decision
    shared = torch.tensor([int(decision)], device=args.device)
    torch.distributed.broadcast(shared, 0)
    return bool(shared.item())


def last_complete(folder: Path) -> Path | None:
    """The newest complete ``checkpoint-N`` in ``folder``; None when there is none.

    Newer ones that are incomplete (a kill during the save, a byte changed) are removed: the trainer would trip
    over them.
    """
    if not folder.is_dir():
        return None
    numbered = [
        (int(found[1]), item) for item in folder.iterdir() if (found := re.fullmatch(r"checkpoint-(\d+)", item.name))
    ]
    for _, item in sorted(numbered, reverse=True):
        if _is_complete(item):
            return item
        shutil.rmtree(item)
    return None


def seconds_spent(folder: Path) -> float:
    """How long it took to come to the newest sealed checkpoint in ``folder``; 0.0 when there is none. Reads only."""
    spent = [0.0]
    for item in folder.glob("checkpoint-*"):
        if (item / MANIFEST).is_file() and (item / SPENT).is_file():
            spent.append(float(read_json(item / SPENT).get("seconds") or 0.0))
    return max(spent)


def _is_complete(folder: Path) -> bool:
    try:
        return not Manifest.from_json(read_json(folder / MANIFEST)).differences(folder)
    except (HubkitError, OSError, KeyError, TypeError):
        return False
