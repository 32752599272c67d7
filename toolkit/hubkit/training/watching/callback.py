"""A callback of the trainers: it reports the loss, keeps the curves, seals checkpoints, asks the probe, and stops a
training that diverges, no longer ends its answers, or was complete already.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core import numbers
from hubkit.core.errors import HubkitError
from hubkit.core.files import write_json
from hubkit.training.checkpoints import SPENT, last_complete, seal
from hubkit.training.contract import TrainingContext
from hubkit.training.launching import ranks
from hubkit.training.watching.curves import Curves
from hubkit.training.watching.probe import StopProbe
from hubkit.training.watching.spent import Spent
from hubkit.training.watching.watched import Watched

if TYPE_CHECKING:
    from transformers import TrainerCallback

SUMMARY = "train_samples_per_second"
"""What the trainers log once, when the last step is done."""
_DIVERGED = 20.0
"""A logged loss this many times the first one, and above 10, is a diverged run and not a bad batch."""


class CompleteError(Exception):
    """The checkpoint that a training was resumed from is that of its last step.

    Between two ends of the data, transformers' trainers would take one step more before they see it.
    """


def watch(
    ctx: TrainingContext,
    spent: Spent | None = None,
    curves: Curves | None = None,
    probe: StopProbe | None = None,
    handler: Any = None,
) -> TrainerCallback:
    """A callback that reports the loss, seals checkpoints, and stops a run whose numbers are no longer finite.

    A gradient that is not finite is caught before the optimizer uses it, so the weights of that step stay good.
    With a gradient scaler (fp16) it is not looked for: there the first scales overflow as a rule, and the scaler
    leaves such a step out itself. ``spent`` is written into each checkpoint. What is logged is kept in ``curves``, and
    ``probe`` is asked as the recipe's `probe` says, by the main process alone; the callbacks of ``handler``, the
    trackers' among them, are told what it found. :class:`CompleteError` leaves a training that has no step to do.
    """
    import torch
    from transformers import TrainerCallback

    so_far = spent or Spent()
    watched = Watched(ctx, so_far, curves, probe, handler)

    class Watch(TrainerCallback):  # type: ignore[misc]
        first: float | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.is_world_process_zero:
                watched.begin(state)
            if state.global_step >= state.max_steps > 0:
                if state.is_world_process_zero:
                    watched.end(args, state, control, given["model"])
                raise CompleteError

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if getattr(given.get("optimizer"), "scaler", None) is not None:
                return
            gradients = [weight.grad for weight in given["model"].parameters() if weight.grad is not None]
            if gradients and not torch.stack([item.isfinite().all() for item in gradients]).all().item():
                raise _diverged(ctx, state.global_step + 1, "a gradient is not finite")

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.is_world_process_zero:
                watched.step(args, state, control, given["model"])

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            if logs and getattr(state, "is_world_process_zero", True):
                if SUMMARY in logs:  # all steps are done, and the trackers still listen
                    watched.end(args, state, control, given["model"])
                else:
                    watched.logged(state.global_step, logs)
            if "loss" not in (logs or {}):
                return
            loss = float(logs["loss"])
            self.first = loss if self.first is None else self.first
            if not math.isfinite(loss):
                raise _diverged(ctx, state.global_step, f"the loss is {loss}")
            if loss > max(10.0, _DIVERGED * abs(self.first)):
                raise _diverged(
                    ctx, state.global_step, f"the loss went from {numbers.short(self.first)} to {numbers.short(loss)}"
                )
            share = state.global_step / state.max_steps if state.max_steps else None
            done = f"step {state.global_step}/{state.max_steps}  loss {numbers.loss(loss)}"
            ctx.report(done + watched.figure(state.global_step), share)

        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            ranks.wait()  # each process has written its part
            if state.is_world_process_zero:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                if folder.is_dir():
                    watched.write()
                    write_json(folder / SPENT, so_far.total())
                    seal(folder)
                    watched.saved()

    callback = Watch()
    watched.callback = callback
    return callback


def _diverged(ctx: TrainingContext, step: int, what: str) -> HubkitError:
    kept = last_complete(ctx.scratch / "checkpoints")
    saved = kept.name if kept else "none"
    return HubkitError(
        f"Training {ctx.settings.name!r} diverged at step {step}: {what}. Last good checkpoint: {saved}.",
        hint="Lower learning_rate or raise warmup_steps in the stage's `args`.",
    )
