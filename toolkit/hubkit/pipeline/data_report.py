"""What the data step finds in a recipe's data, without a release: for `hubkit data`.

What the last run prepared is used where it still counts. Otherwise the steps up to the data run in a folder of their
own, which is removed afterwards; nothing is trained or published, and errors in the data are reported, not refused.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.files import write_atomic
from hubkit.core.output import Output
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.recipe_checks import name_mistakes
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runner import figure
from hubkit.pipeline.runs import Run
from hubkit.pipeline.stored import folder_name
from hubkit.pipeline.worker import Worker
from hubkit.recipe.mistakes import Places, error_of
from hubkit.recipe.stage import Options
from hubkit.training.data.prepared import PreparedData

_STEPS = ("provide", "base", "data")


@dataclass(frozen=True)
class DataFound:
    """The report of the data step, and what it keeps to be shown (:meth:`PreparedData.shown`)."""

    data: PreparedData
    shown: Mapping[str, Any]


def data_of(last: ReleaseState, home: Path, output: Output, places: Places) -> DataFound:
    """What is found in the data of the recipe of ``last``, the state of its last run.

    Raises HubkitError where the recipe has mistakes, or the base or a dataset cannot be read.
    """
    if mistakes := list(name_mistakes(last.recipe, last.folder)):
        raise error_of(mistakes, places)
    if (kept := last.finished.get("data")) is not None:
        return _found(kept.path)
    home.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="data-", dir=home))
    try:
        return _found(_run(last, Run(folder), output))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _found(folder: Path) -> DataFound:
    data = PreparedData.load(folder)
    return DataFound(data, data.shown())


def _run(last: ReleaseState, run: Run, output: Output) -> Path:
    """Run what is missing in ``run``; the folder of the data step's artifact."""
    jobs = tuple(job for job in expand(last.recipe) if job.step.name in _STEPS)
    state = ReleaseState(last.recipe, last.folder, last.target, run, jobs, options=Options(report_data=True))
    write_atomic(run.path / "recipe.json", last.recipe.model_dump_json(indent=2) + "\n")
    with output.steps([job.id for job in jobs]) as view, Worker(state) as worker:
        for job in jobs:
            if (kept := last.finished.get(job.id)) is not None:
                shutil.copytree(kept.path, run.artifacts / folder_name(job.id))
            else:
                view.start(job.id)
                began = time.monotonic()
                try:
                    _run_one(worker, job, view)
                except BaseException as error:
                    view.failed(job.id, interrupted=not isinstance(error, Exception))
                    raise
                made = run.find(job.id)
                assert made is not None
                view.done(job.id, figure(made), time.monotonic() - began)
    artifact = run.find("data")
    assert artifact is not None
    return artifact.path


def _run_one(worker: Worker, job: Job, view: Any) -> None:
    worker.run(job, lambda words, share: view.progress(job.id, words, share))
