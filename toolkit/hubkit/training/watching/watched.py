"""What the main process of a training keeps of it while it runs: its curves, and the answers to the probe."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.core import numbers
from hubkit.training import checkpoints
from hubkit.training.contract import TrainingContext
from hubkit.training.watching import stopping, trackers
from hubkit.training.watching.curves import Curves
from hubkit.training.watching.probe import StopProbe
from hubkit.training.watching.schedule import Schedule
from hubkit.training.watching.spent import Spent

_log = logging.getLogger("hubkit.training.watching")


def stop_rates(probes: Sequence[Mapping[str, Any]], step: int) -> str:
    """The first and the last stop rate of ``probes``, for the line of ``step``; an older one with the step it is of."""
    if not probes:
        return ""
    rates = " → ".join(numbers.share(probe["rate"]) for probe in ([*probes[:1], probes[-1]] if probes[1:] else probes))
    at = probes[-1]["step"]
    return f"  stop rate {rates}" + (f" at step {numbers.count(at)}" if at < step else "")


@dataclass
class Watched:
    """The curves and the probe of the training of ``ctx``, as its main process feeds them.

    ``callback`` is the one that feeds them: what the probe finds is logged to all others, the trackers among them.
    """

    ctx: TrainingContext
    spent: Spent
    curves: Curves | None
    probe: StopProbe | None
    handler: Any = None
    callback: Any = None
    schedule: Schedule | None = None
    began: tuple[int, float] | None = None
    """The first step of this process, and when it ended: what is before it is loading."""
    paused: float = 0.0
    """Seconds of probes since then."""
    tokens: tuple[float, float] | None = None
    """Tokens and seconds at the last point, for the tokens per second of the next."""

    def begin(self, state: Any) -> None:
        """The trainer begins, or goes on: it now knows how many steps there will be."""
        if self.curves is None:
            return
        self.curves.steps = int(state.max_steps)
        if self.handler is not None:
            folder = self.ctx.scratch / trackers.FOLDER
            self.curves.trackers = trackers.begun(folder, self.ctx.settings, self.handler.callbacks)
        settings = self.ctx.settings.probe
        if self.probe is not None and settings is not None:
            self.schedule = Schedule(settings.every, settings.max_share, int(state.max_steps))
            probes = self.curves.probes
            if probes:
                spent = sum(float(point["seconds"]) for point in probes)
                self.schedule.resume(int(probes[-1]["step"]), float(probes[-1]["seconds"]), spent)
            else:
                share = numbers.share(settings.max_share)
                fits = f"none so far fits into {share} of the training time (`max_share`)"
                self.curves.off = f"{fits}; one follows the last step"
        self.curves.write()

    def logged(self, step: int, logs: Any) -> None:
        """The trainer logged ``logs``."""
        if self.curves is None:
            return
        values = dict(logs)
        seconds = self.spent.seconds + time.monotonic() - self.spent.began
        if "num_tokens" in values:
            now = (float(values["num_tokens"]), seconds - self.paused)
            if self.tokens and now[1] > self.tokens[1] and now[0] > self.tokens[0]:
                values["tokens_per_second"] = round((now[0] - self.tokens[0]) / (now[1] - self.tokens[1]), 1)
            self.tokens = now
        self.curves.add(step, seconds, values)
        self.curves.write(now=False)

    def step(self, args: Any, state: Any, control: Any, model: Any) -> None:
        """A step ended: ask the probe if it is due. RefusedError when too few answers end."""
        now = time.monotonic()
        if self.began is None:
            self.began = (state.global_step, now)
            return
        if self.schedule is None or self.probe is None or self.curves is None:
            return
        first, at = self.began
        pace = (now - at - self.paused) / (state.global_step - first)
        whole = now - self.spent.began + self.spent.seconds + pace * (state.max_steps - state.global_step)
        if not self.schedule.is_due(state.global_step, whole):
            return
        if self._measure(args, state, control, model, self.schedule.allowance(whole)):
            stopping.judge(self.ctx, self.curves)
            alone = args.world_size == 1
            if stopping.keeps(self.ctx) and (alone or checkpoints.saves(args, self.ctx.settings.checkpoint_minutes)):
                control.should_save = True  # the callback that saves by time tells the other processes
        self.schedule.took(state.global_step, time.monotonic() - now, whole)

    def end(self, args: Any, state: Any, control: Any, model: Any) -> None:
        """All steps are done: ask the probe once more, unless a run before this one has. RefusedError as at a step.

        The rate of the last step is that of what is published; it is measured in short trainings, too.
        """
        if self.schedule is None or self.curves is None or not state.global_step:
            return
        if not self._is_probed(state.global_step) and self.probe is not None:
            limit = self.schedule.allowance_at_end(self.spent.seconds + time.monotonic() - self.spent.began)
            found = self._measure(args, state, control, model, limit)
            if not found and not self.curves.probes and self.probe is not None:  # it did not fail
                self.curves.off = f"one takes longer than {numbers.duration(limit)}"
                self.curves.write()
        if self._is_probed(state.global_step):
            stopping.judge(self.ctx, self.curves)

    def _is_probed(self, step: int) -> bool:
        return self.curves is not None and bool(self.curves.probes) and self.curves.probes[-1]["step"] == step

    def _measure(self, args: Any, state: Any, control: Any, model: Any, seconds: float) -> bool:
        """Ask the probe, for ``seconds`` at most, and keep what it found; whether it found anything."""
        assert self.curves is not None
        began = time.monotonic()
        found = self._asked(model, seconds)
        self.paused += time.monotonic() - began
        if found is None:
            return False
        self.curves.add_probe(state.global_step, found)
        self.curves.write()
        self._share(args, state, control, found)
        return True

    def _asked(self, model: Any, seconds: float) -> Any:
        """What the probe found; None when it took too long, or when it failed, after which there is none any more."""
        assert self.probe is not None and self.curves is not None
        try:
            found = self.probe.ask(model, seconds)
        except Exception as error:  # whatever a model cannot do in the middle of its training must not end that
            self.probe = None
            self.curves.off = f"it failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            _log.warning("The stop-rate probe is off: %s", self.curves.off, exc_info=error)
            self.curves.write()
            return None
        if found is not None:
            self.curves.off = None
        return found

    def _share(self, args: Any, state: Any, control: Any, found: Any) -> None:
        """Log what the probe found to the other callbacks. Not by the trainer: that would end its running means."""
        if self.handler is None:
            return
        logs = {"stop_rate": found["rate"], "stop_rate_mean_tokens": found["mean_tokens"]}
        for other in self.handler.callbacks:
            if other is not self.callback:
                other.on_log(args, state, control, logs=dict(logs), model=self.handler.model)

    def figure(self, step: int) -> str:
        """The last stop rate, for the line of ``step``; where it is older, after which step it was."""
        return stop_rates(self.curves.probes[-1:], step) if self.curves else ""

    def saved(self) -> None:
        """A checkpoint is complete: one that was just found to be good is kept."""
        if self.curves is not None:
            stopping.keep_good(self.ctx, self.curves)

    def write(self) -> None:
        """Write the curves: what comes to a checkpoint is in them."""
        if self.curves is not None:
            self.curves.write()
