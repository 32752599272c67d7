"""What stages do ahead of their turn, beside the steps that run: weights are uploaded while the models are measured.

A stage with ``ahead`` gets a worker of its own as soon as its inputs ``AHEAD`` are finished. Its step waits for it.
What goes wrong in it is a warning: the step does the work itself, or says what is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from hubkit.core.errors import HubkitError
from hubkit.core.step_view import StepView
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.worker import Worker


@dataclass
class _Task:
    job: Job
    worker: Worker
    words: str | None = None
    problem: str | None = None
    thread: threading.Thread | None = None

    def begin(self) -> None:
        """Give the worker its order, not yet in the thread: whoever closes the worker from now on ends its work."""
        try:
            wait = self.worker.ahead(self.job)
        except HubkitError as error:
            self.problem = error.message
            return
        self.thread = threading.Thread(target=self._run, args=(wait,), daemon=True)
        self.thread.start()

    def _run(self, wait: Callable[[], str]) -> None:
        try:
            self.words = wait()
        except HubkitError as error:
            self.problem = error.message
        except (OSError, ValueError) as error:  # its pipe was closed under it
            self.problem = str(error)

    @property
    def is_running(self) -> bool:
        """Whether the worker still works."""
        return self.thread is not None and self.thread.is_alive()

    def join(self) -> None:
        """Wait for its end."""
        if self.thread is not None:
            self.thread.join()


@dataclass
class Ahead:
    """The work that runs ahead. Use it as a context manager: leaving it ends what is still running."""

    state: ReleaseState
    only: str | None = None
    _tasks: dict[str, _Task] = field(default_factory=dict)

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks.values():
            task.worker.close()
        for task in self._tasks.values():
            task.join()

    def begin(self) -> None:
        """Start what can be done now, of steps that never ended in this run; only where the recipe asks for it."""
        if not self.state.recipe.preupload or self.state.recipe.pull_request:
            return
        for job in self.state.jobs:
            if job.id not in self._tasks and self._can(job):
                self._start(job)

    def finish(self, job: Job, view: StepView) -> None:
        """Wait for what runs ahead of ``job``, and say what became of it."""
        task = self._tasks.get(job.id)
        if task is None:
            return
        if task.is_running:
            view.progress(job.id, "the upload that began after the merge goes on", None)
        task.join()  # who breaks it off here leaves the task to be ended with the others
        del self._tasks[job.id]
        task.worker.close()
        if task.problem is not None:
            view.output.warn(f"{job.id}: what was begun ahead failed: {task.problem}")
        elif task.words:
            view.output.say(f"{job.id}: {task.words}")

    def _can(self, job: Job) -> bool:
        needed = getattr(find_stage(job.stage), "AHEAD", None)
        if needed is None or self.state.run.find(job.id) is not None:
            return False
        jobs = [made for name in needed for made in job.input_sources[name].jobs.values()]
        return all(made in self.state.finished for made in jobs)

    def _start(self, job: Job) -> None:
        task = _Task(job, Worker(self.state, self.only))
        self._tasks[job.id] = task
        self.state.run.log("ahead", step=job.id)
        task.begin()
