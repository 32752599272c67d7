"""The one model of benchmark results: suites, their tasks, the tasks' metrics, and how they were measured.

Whatever measured a model is read into this (:mod:`hubkit.evals.readers`), and everything that shows results reads
from it. A task that was not measured is None, never a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hubkit.core.errors import ConflictError
from hubkit.core.files import read_json, write_json
from hubkit.evals.averages import Average, average_of_suites, average_of_tasks

RESULTS_FILE = "results.json"
RAW_FOLDER = "raw"
"""What the harness said, a file for each suite."""
RAW_FILE = "raw.json"
"""The same in one file, as older runs left it."""


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


class SuiteResult(Part):
    """A suite: its tasks in order (None: not measured) and the average that its rule makes of them."""

    name: str
    title: str
    rule: str
    tasks: Mapping[str, TaskResult | None]
    average: Average

    @model_validator(mode="after")
    def _average_is_computed(self) -> SuiteResult:
        if not self.average.agrees(average_of_tasks(self.rule, self.tasks)):
            raise ValueError(f"the average of {self.name} is not what its rule gives")
        return self

    @classmethod
    def of(cls, name: str, title: str, rule: str, tasks: Mapping[str, TaskResult | None]) -> SuiteResult:
        """A suite whose average is computed here, by ``rule`` (a key of ``hubkit.evals.averages.RULES``)."""
        return cls(name=name, title=title, rule=rule, tasks=tasks, average=average_of_tasks(rule, tasks))


class Subject(Part):
    """What was measured: a Hub repo at a commit, or the merged weights that stand on that base.

    'other' is what a file of another program measured: ``repo`` is the name that it gives, ``commit`` often empty.
    """

    repo: str
    commit: str = ""
    form: Literal["base", "merged", "other"]


class Settings(Part):
    """Everything that shapes the numbers besides weights and tasks.

    ``num_fewshot`` is set when it replaced the tasks' own numbers; ``fewshot_as_multiturn`` says whether the examples
    in the prompt were turns of their own. None, or an empty word, is what the source does not say.
    """

    backend: str
    apply_chat_template: bool | None
    limit: int | None = None
    num_fewshot: int | None = None
    fewshot_as_multiturn: bool | None = None
    dtype: str
    batch_size: int | None
    device: str


class Results(Part):
    """All the suites of one model, measured under one set of settings."""

    subject: Subject
    suites: Mapping[str, SuiteResult]
    average: Average
    settings: Settings
    libraries: Mapping[str, str]
    seconds: float | None = Field(ge=0)

    @model_validator(mode="after")
    def _average_is_computed(self) -> Results:
        if not self.average.agrees(average_of_suites(self.suites)):
            raise ValueError("the overall average is not the mean of the suites' averages")
        return self

    @classmethod
    def of(cls, *, suites: Mapping[str, SuiteResult], **facts: Any) -> Results:
        """Results whose overall average is computed here."""
        return cls(suites=suites, average=average_of_suites(suites), **facts)

    @property
    def rehearsal(self) -> bool:
        """Whether only a part of each task was measured."""
        return self.settings.limit is not None

    def write(self, path: Path) -> None:
        """Write them as JSON, atomically; :func:`read_results` reads them back equal."""
        write_json(path, self.model_dump(mode="json"))


def read_results(path: Path) -> Results:
    """The results in ``path``. ConflictError when they do not fit the model or an average was changed by hand."""
    return parse_results(read_json(path), str(path))


def parse_results(value: Any, name: str) -> Results:
    """The results in the plain ``value``; ``name`` is what messages call it."""
    try:
        return Results.model_validate(value)
    except ValidationError as error:
        raise ConflictError(
            f"{name} does not hold benchmark results: {why(error)}.", hint="Run the evaluation again."
        ) from error


def why(error: Exception) -> str:
    """What is wrong with a file, in a few words: where in it, when a model refused it."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where + ': ' if where else ''}{first['msg']}"
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def finite(value: Any) -> float | None:
    """``value`` as a float, or None when it is no finite number (lm-eval writes 'N/A' and NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        return None
    return number if math.isfinite(number) else None


def finite_text(text: str) -> float | None:
    """The number that ``text`` writes, or None when it writes no finite one."""
    try:
        return finite(float(text))
    except ValueError:
        return None


def whole(value: Any) -> int | None:
    """``value`` as a whole number, when it is written as one of at most 15 digits."""
    text = str(value)
    return int(text) if text.isdecimal() and len(text) <= 15 else None


_DOWNWARD = {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ppl", "loss", "brier_score"}
_DOWNWARD |= {"wer", "cer", "ter"}


def upward(metric: str) -> bool:
    """Whether more of ``metric`` is better, where a file does not say it."""
    return metric not in _DOWNWARD
