"""When the stop rate is probed: every so many steps, more seldom where that would cost too much of the training, and
once more at its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST = 2
"""The step after which the first probe may run. After the first one the time of a step is not known yet; and the layers
of bitsandbytes choose the dtype in which they compute at their first input, which must be one of the training."""
LAST_SECONDS = 60.0
"""The last probe may take so long, whatever the others have left of their share: it says what was trained."""


@dataclass
class Schedule:
    """Due each ``every`` steps of ``steps``, as long as all probes together take at most ``share`` of the training.

    ``spent`` are the seconds of the probes so far and ``cost`` those of the last one. A probe is due at the second step
    (what comes later is compared with it). The one after the last step is asked in any case: the others leave it its
    time, and where that is more than there is, it alone goes beyond ``share`` (:meth:`allowance_at_end`).
    """

    every: int
    share: float
    steps: int
    spent: float = 0.0
    cost: float = 0.0
    due: int = FIRST
    last: int = 0

    def allowance(self, whole: float) -> float:
        """Seconds that probes may still take of a training that takes ``whole`` seconds."""
        return self.share * whole - self.spent

    def allowance_at_end(self, whole: float) -> float:
        """Seconds that the probe after the last step may take."""
        return max(self.allowance(whole), LAST_SECONDS)

    def is_due(self, step: int, whole: float) -> bool:
        """Whether to probe after ``step``, which is not the last, of a training that will take ``whole`` seconds."""
        if step < self.due or step >= self.steps:
            return False
        if step == self.last or self.allowance(whole) < max(2 * self.cost, 0.001):
            self.due = max(self.due, self._multiple(step + 1))
            return False
        return True

    def took(self, step: int, seconds: float, whole: float) -> None:
        """The probe after ``step`` took ``seconds``: those that can still be paid for are spread over the rest."""
        self.spent, self.cost, self.last = self.spent + seconds, seconds, step
        affordable = int(max(0.0, self.allowance(whole)) / max(seconds, 0.001)) - 1  # the last one comes in any case
        interval = max(self.every, math.ceil((self.steps - step) / affordable)) if affordable > 0 else self.every
        self.due = self._multiple(step + (interval if interval > self.every else 1))

    def resume(self, step: int, cost: float, spent: float) -> None:
        """The training goes on; its last probe was after ``step`` and took ``cost`` seconds, all of them ``spent``."""
        self.last, self.cost, self.spent, self.due = step, cost, spent, self._multiple(step + 1)

    def _multiple(self, step: int) -> int:
        return math.ceil(step / self.every) * self.every
