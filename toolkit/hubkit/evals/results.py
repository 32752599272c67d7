"""The one model of benchmark results: suites, their tasks, the tasks' metrics, and how they were measured.

Whatever measured a model is read into this (:mod:`hubkit.evals.readers`), and everything that shows results reads
from it. A task that was not measured is None, never a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from hubkit.core.errors import ConflictError
from hubkit.core.files import read_json, write_json
from hubkit.evals.averages import Average, average_of_averages, average_of_tasks, counted_metric
from hubkit.evals.measurements import Dataset, Metric, Part, TaskResult
from hubkit.evals.parsing import why

__all__ = [
    "Average",
    "Dataset",
    "Metric",
    "Part",
    "Results",
    "Settings",
    "Subject",
    "SuiteResult",
    "TaskResult",
    "average_of_suites",
    "directions",
    "parse_results",
    "read_results",
]

RESULTS_FILE = "results.json"
RAW_FOLDER = "raw"
"""What the harness returned, a file for each suite."""
RAW_FILE = "raw.json"
"""The same in one file, as older runs left it."""


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


def directions(suite: SuiteResult) -> set[bool | None]:
    """Whether more is better, of each metric that counts in ``suite``; None where it has no direction."""
    return {
        task.metrics[metric].higher_is_better
        for task in suite.tasks.values()
        if task and (metric := counted_metric(suite.rule, task))
    }


def average_of_suites(suites: Mapping[str, SuiteResult]) -> Average:
    """The mean of the suites' averages; none where they are unlike."""
    better = {up for suite in suites.values() for up in directions(suite)}
    return average_of_averages({name: suite.average for name, suite in suites.items()}, better)


class Subject(Part):
    """What was measured: a Hub repo at a commit, or the weights merged into that base.

    'gguf' is a GGUF file that was written from these weights. 'other' is what a file of another program measured:
    ``repo`` is the name that it gives, ``commit`` often empty.
    """

    repo: str
    commit: str = ""
    form: Literal["base", "merged", "gguf", "other"]


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

    @classmethod
    def load(cls, folder: Path) -> Results:
        """The results of the artifact in ``folder``."""
        return read_results(folder / RESULTS_FILE)

    def save(self, folder: Path) -> None:
        """Write them to the artifact in ``folder``."""
        self.write(folder / RESULTS_FILE)


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
