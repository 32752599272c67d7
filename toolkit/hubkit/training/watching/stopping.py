"""`stop_below`: a training whose stop rate falls too far ends, and the last checkpoint from before is kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from hubkit.core import numbers
from hubkit.core.errors import RefusedError
from hubkit.core.files import MANIFEST, read_json, write_json
from hubkit.training.checkpoints import last_complete
from hubkit.training.contract import TrainingContext
from hubkit.training.watching.curves import Curves

GOOD = "good"
"""The folder beside the checkpoints with the last one from before a probe that was good."""
_STOPPED = "stopped.json"


def keeps(ctx: TrainingContext) -> bool:
    """Whether each good probe is to be followed by a checkpoint: one can end the run, and a checkpoint is small."""
    probe = ctx.settings.probe
    return probe is not None and probe.stop_below is not None and not ctx.settings.trains_all_weights


def judge(ctx: TrainingContext, curves: Curves) -> None:
    """Compare the last probe with `stop_below`. RefusedError when the rate fell below it.

    Only a rate that was at or above it before counts: a stage that repairs a model begins below.
    """
    threshold = ctx.settings.probe.stop_below if ctx.settings.probe else None
    if threshold is None:
        return
    last = curves.probes[-1]
    if last["rate"] >= threshold:
        keep_good(ctx, curves)
        return
    good = [point for point in curves.probes if point["rate"] >= threshold]
    if not good:
        return
    _keep(ctx.scratch, int(good[-1]["step"]))
    write_json(ctx.scratch / _STOPPED, {"probe": _settings(ctx), "message": _message(ctx, last, good[-1], threshold)})
    refuse_again(ctx)


def keep_good(ctx: TrainingContext, curves: Curves) -> None:
    """Keep the newest checkpoint, if the last probe was good and it is from before it: a later one may push it out."""
    threshold = ctx.settings.probe.stop_below if ctx.settings.probe else None
    if threshold is not None and curves.probes and curves.probes[-1]["rate"] >= threshold:
        _keep(ctx.scratch, int(curves.probes[-1]["step"]))


def refuse_again(ctx: TrainingContext) -> None:
    """RefusedError when `stop_below` ended this training already, and `probe` is as it was: it would end it again."""
    path = ctx.scratch / _STOPPED
    if not path.is_file():
        return
    stopped = read_json(path)
    if stopped["probe"] != _settings(ctx):
        path.unlink()
        return
    good = last_complete(ctx.scratch / GOOD)
    publish = ", publish that checkpoint (`hubkit release --adapter`)" if good and keeps(ctx) else ""
    raise RefusedError(
        f"{stopped['message']} Last good checkpoint: {good or 'none'}.",
        hint=f"`hubkit runs watch` draws the curves. Train with other settings or data{publish}, or lower "
        f"stages.{ctx.settings.name}.probe.stop_below to continue.",
    )


def _settings(ctx: TrainingContext) -> dict[str, Any]:
    return ctx.settings.probe.model_dump(mode="json") if ctx.settings.probe else {}


def _message(ctx: TrainingContext, last: Any, good: Any, threshold: float) -> str:
    limit = ctx.settings.probe.max_new_tokens if ctx.settings.probe else 0
    return (
        f"Training {ctx.settings.name!r} was ended after step {last['step']}: its stop rate fell from "
        f"{numbers.share(good['rate'])} (step {good['step']}) to {numbers.share(last['rate'])}: {last['stopped']} of "
        f"{numbers.counted(last['prompts'], 'answer')} ended within {numbers.counted(limit or 0, 'token')}. "
        f"`stop_below` is {numbers.share(threshold)}."
    )


def _keep(scratch: Path, step: int) -> None:
    """Keep the newest checkpoint up to ``step`` in :data:`GOOD`, by links to its files: they take no room twice."""
    sealed = {
        int(path.parent.name.rpartition("-")[2]): path.parent
        for path in (scratch / "checkpoints").glob(f"checkpoint-*/{MANIFEST}")
    }
    newest = max((number for number in sealed if number <= step), default=None)
    if newest is None or (scratch / GOOD / sealed[newest].name).is_dir():
        return
    new = scratch / f"{GOOD}.new"
    shutil.rmtree(new, ignore_errors=True)
    try:
        shutil.copytree(sealed[newest], new / sealed[newest].name, copy_function=os.link)
    except OSError:  # a disk without links; shutil.Error is one, too
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(sealed[newest], new / sealed[newest].name)
    shutil.rmtree(scratch / GOOD, ignore_errors=True)
    new.rename(scratch / GOOD)
