"""What one task measured: its metrics, and where its examples come from. Parts of :mod:`hubkit.evals.results`."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A frozen part of a result that knows all of its keys and holds finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Metric(Part):
    """One measured number.

    ``value`` is in the metric's own unit (a share from 0 to 1 for accuracies), ``stderr`` its standard error in the
    same unit (None when the harness gave none), ``n`` how many examples it rests on (0: the source does not say).
    ``filter`` is the name of what picked the answer out of the text, 'none' when nothing did.
    """

    value: float
    stderr: float | None = None
    n: int = Field(ge=0)
    higher_is_better: bool | None = True
    filter: str = "none"


class Dataset(Part):
    """Where a task's examples come from. ``path`` is a Hub id, or None when they lie beside the task file."""

    path: str | None = None
    config: str | None = None
    split: str | None = None


class TaskResult(Part):
    """The metrics of one task, by name and in the harness's order.

    ``available`` is how many examples the task has; fewer were used when ``settings.limit`` is set. ``n_shot`` counts
    the examples in the prompt (None: the source does not say), ``n`` the questions asked (0: the source does not say).
    """

    name: str
    version: str
    n_shot: int | None = Field(ge=0)
    n: int = Field(ge=0)
    available: int | None = None
    dataset: Dataset = Dataset()
    metrics: Mapping[str, Metric]
