"""Variants whose inputs are all there are merged in one go; each has the artifact that it would have alone."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from kept import sample
from training_case import recipe_text

from hubkit.core.errors import RefusedError
from hubkit.core.output import Output
from hubkit.core.processes.parent import JsonChild
from hubkit.core.step_view import StepView
from hubkit.core.target import Target
from hubkit.models.merging.merged import MergedWeights
from hubkit.pipeline import ahead, runner, worker
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runner import Retraining
from hubkit.pipeline.runs import open_run
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import Context, StageResult, silent
from hubkit_stages import merge

VARIANTS = "variants: {main: {stage: sft}}"
MERGES = ("merge[dpo-v0]", "merge[main]")


class Written:
    """An artifact whose files are there already."""

    def save(self, folder: Path) -> None:
        """Nothing is left to save."""


@pytest.fixture
def state(tmp_path: Path) -> ReleaseState:
    """A release whose trainings are done, with two variants."""
    recipe = parse_recipe(recipe_text().replace(VARIANTS, "variants: {dpo-v0: {stage: dpo}, main: {stage: sft}}"))
    target = Target("http://127.0.0.1:1", tmp_path / "hf", embedded=True)
    found = ReleaseState(recipe, tmp_path, target, open_run(tmp_path, recipe.repo, target), expand(recipe))
    facts = {"base": "base.json", "data": "data.json", "train[dpo]": "training.json", "train[sft]": "training.json"}
    for step, name in facts.items():
        job = job_of(found, step)
        found.run.begin(step, found.key(job), found.made_from(job))
        files = {f"sets/{rows}.jsonl": "{}\n" for rows in ("preferences", "repair")} if step == "data" else {}
        files |= {"chat_template.jinja": "c", "training_template.jinja": "t", name: json.dumps(sample(name))}
        for path, content in files.items():
            (found.run.out(step) / path).parent.mkdir(exist_ok=True)
            (found.run.out(step) / path).write_text(content)
        result = StageResult[Any](Written(), "made")
        found.finished[step] = found.run.keep(step, found.key(job), result, 1.0, found.made_from(job))
    return found


def job_of(state: ReleaseState, step: str) -> Job:
    return next(job for job in state.jobs if job.id == step)


def merges(calls: list[int], broken: Sequence[str] = ()) -> Callable[..., list[StageResult[MergedWeights]]]:
    """A merge that writes the variant's name; it fails when one of ``broken`` is among its variants."""

    def run_together(ctxs: Sequence[Context[Any, Any]]) -> list[StageResult[MergedWeights]]:
        calls.append(len(ctxs))
        made = []
        for ctx in ctxs:
            step = next(step for step in MERGES if f"/{step}/" in f"{ctx.out}/")
            if step in broken:
                raise RefusedError(f"{step} does not fit.")
            facts = {**sample("merge.json"), "targets": {step: 1}, "finite": ()}
            made.append(StageResult(MergedWeights(**facts, folder=ctx.out), "merged"))
        return made

    return run_together


class InThisProcess:
    """A worker's end that answers in the test's own process."""

    def __init__(self, state: ReleaseState, only: str | None = None) -> None:
        self.state = state

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def check(self, job: Job) -> list[Any]:
        return []

    def run(self, job: Job, report: Any, together: Sequence[Job] = ()) -> None:
        worker._answer(request(self.state, job, *together), report)


def request(state: ReleaseState, job: Job, *together: Job) -> dict[str, Any]:
    (state.run.path / "recipe.json").write_text(state.recipe.model_dump_json())
    return {
        "what": "run", "job": job.id, "together": [other.id for other in together], "only": None, "options": {},
        "run": state.run.path, "folder": state.folder, "endpoint": state.target.endpoint, "home": state.target.home,
        "embedded": True, "trusted": False,
    }  # fmt: skip


def no_retraining() -> Retraining:
    return Retraining(everything=False, consent=lambda found: None)


def test_the_merges_of_a_release_are_one_go(state: ReleaseState, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (job_of(state, step) for step in MERGES)
    assert runner._to_run_with(state, first, no_retraining()) == [second]
    assert runner._to_run_with(state, job_of(state, "gate"), no_retraining()) == []
    calls: list[int] = []
    monkeypatch.setattr(merge, "run_together", merges(calls))
    assert worker._run_together(state, [first, second], silent)
    assert calls == [2]
    for job in (first, second):
        artifact, _ = state.reusable_artifact(job)
        assert artifact is not None
        assert MergedWeights.load(artifact.path).targets == {job.id: 1}
    assert runner._to_run_with(state, first, no_retraining()) == [], "nothing is merged again"


@pytest.mark.parametrize("broken", [(), MERGES[1:]], ids=["both fit", "one does not"])
def test_a_release_shows_each_merge_as_its_own(
    state: ReleaseState, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: Sequence[str]
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(merge, "run_together", merges(calls, broken))
    for name, value in {"Worker": InThisProcess, "reach": lambda _: None}.items():
        monkeypatch.setattr(runner, name, value)
    monkeypatch.setattr(runner.preflight, "gather", lambda *_: [])
    monkeypatch.setattr(worker, "install", lambda *_: None)
    state.jobs = tuple(job for job in state.jobs if job.id in (*state.finished, *MERGES))
    state.finished = {}
    with nullcontext() if not broken else pytest.raises(RefusedError, match=r"merge\[main\] does not fit"):
        assert runner.run_jobs(state, Output(), None, None, no_retraining())
    shown = [line.split(":")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("merge")]
    lines = [json.loads(line) for line in (state.run.path / "journal.jsonl").read_text().splitlines()]
    done = [line["step"] for line in lines if line["event"] == "done"]
    if broken:
        assert calls == [2, 1, 1]
        assert (shown[-1], done) == (MERGES[1], [MERGES[0]])
    else:
        assert calls == [2]
        assert (shown, done) == (["merge[dpo-v0] …", *MERGES], list(MERGES))


def test_only_what_must_run_and_can_is_merged_along(state: ReleaseState, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (job_of(state, step) for step in MERGES)
    training = state.finished.pop("train[sft]")
    assert runner._to_run_with(state, first, no_retraining()) == []
    state.finished["train[sft]"] = training
    monkeypatch.setattr(merge, "run_together", merges([]))
    assert worker._run_together(state, [second], silent)
    assert runner._to_run_with(state, first, no_retraining()) == []


def test_a_merge_that_fails_does_not_take_the_other_along(state: ReleaseState, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (job_of(state, step) for step in MERGES)
    calls: list[int] = []
    monkeypatch.setattr(merge, "run_together", merges(calls, broken=[second.id]))
    monkeypatch.setattr(worker, "install", lambda *_: None)
    assert worker._answer(request(state, first, second), silent) == {}
    assert calls == [2, 1]
    assert state.reusable_artifact(first)[0] is not None
    assert state.reusable_artifact(second)[0] is None
    with pytest.raises(RefusedError, match=r"merge\[main\] does not fit"):
        worker._answer(request(state, second), silent)


# --- ahead of its turn


def test_an_upload_ahead_runs_beside_the_measurements_and_its_step_waits_for_it(
    state: ReleaseState, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upload ends only once the measurement runs: one after the other they would wait forever."""
    measuring, uploaded, order = threading.Event(), threading.Event(), []

    class Beside(InThisProcess):
        def ahead(self, job: Job) -> Callable[[], str]:
            def wait() -> str:
                assert measuring.wait(20)
                uploaded.set()
                order.append(f"uploaded {job.id}")
                return "2 files uploaded"

            return wait

        def close(self) -> None:
            """Nothing to end."""

        def run(self, job: Job, report: Any, together: Sequence[Job] = ()) -> None:
            order.append(job.id)
            if job.id == "stopping[main]":
                measuring.set()
                assert uploaded.wait(20)
            self.state.run.begin(job.id, self.state.key(job))
            (self.state.run.out(job.id) / "made").write_text(job.id)
            self.state.run.keep(job.id, self.state.key(job), StageResult[Any](Written(), "made"), 0.0)

    for place in (runner, ahead):
        monkeypatch.setattr(place, "Worker", Beside)
    monkeypatch.setattr(runner, "reach", lambda _: None)
    monkeypatch.setattr(runner.preflight, "gather", lambda *_: [])
    monkeypatch.setattr(runner, "_to_run_with", lambda *_: [])
    names = ("base-stopping", "merge[main]", "stopping[main]", "gate", "card[main]", "publish[main]")
    everything = ("evaluate[main]", "base-scores", "stopping[dpo-v0]", "merge[dpo-v0]", "evaluate[dpo-v0]")
    state.jobs = tuple(job for job in state.jobs if job.id in (*state.finished, *names, *everything))
    state.recipe = state.recipe.model_copy(update={"preupload": True})
    assert runner.run_jobs(state, Output(), None, None, no_retraining())
    assert order.index("merge[main]") < order.index("uploaded publish[main]") < order.index("publish[main]")
    assert "publish[main]: 2 files uploaded" in capsys.readouterr().err
    assert order.count("uploaded publish[main]") == 1


@pytest.fixture
def uploading(state: ReleaseState) -> ReleaseState:
    """One whose merge is done, so that the upload ahead begins."""
    state.recipe = state.recipe.model_copy(update={"preupload": True})
    state.finished["merge[main]"] = state.finished["base"]
    return state


@pytest.mark.parametrize("at_once", [False, True])
def test_an_upload_ahead_that_fails_is_a_warning(
    at_once: bool, uploading: ReleaseState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise RefusedError("The Hub is away.")

    class Failing(InThisProcess):
        def ahead(self, job: Job) -> Any:
            return fail() if at_once else fail

        def close(self) -> None:
            """Nothing to end."""

    monkeypatch.setattr(ahead, "Worker", Failing)
    output = Output()
    warnings: list[str] = []
    monkeypatch.setattr(Output, "warn", lambda self, text: warnings.append(text))
    with ahead.Ahead(uploading) as beside, output.steps(("publish[main]",)) as view:
        beside.begin()
        beside.finish(job_of(uploading, "publish[main]"), view)
    assert warnings == ["publish[main]: what was begun ahead failed: The Hub is away."]


@pytest.mark.parametrize("waiting", [True, False])
def test_a_release_that_is_broken_off_ends_an_upload_ahead(
    waiting: bool, uploading: ReleaseState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its step waits for it, and before its thread came to anything."""
    children: list[JsonChild] = []
    closed, close = threading.Event(), worker.Worker.close

    def start(self: worker.Worker) -> JsonChild:
        if not waiting and threading.current_thread() is not threading.main_thread():
            assert closed.wait(20)
        children.append(JsonChild.start([sys.executable, "-c", "import time; time.sleep(3)"], environment={}))
        return children[0]

    def closing(self: worker.Worker) -> None:
        close(self)
        closed.set()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker.Worker, "_start", start)
    monkeypatch.setattr(worker.Worker, "close", closing)
    monkeypatch.setattr(StepView, "progress", interrupt)
    job, output = job_of(uploading, "publish[main]"), Output()
    with (
        pytest.raises(KeyboardInterrupt),
        output.steps((job.id,)) as view,
        ahead.Ahead(uploading) as beside,
    ):
        beside.begin()
        if not waiting:
            raise KeyboardInterrupt
        beside.finish(job, view)
    assert [child.process.poll() for child in children] == [-signal.SIGKILL]
