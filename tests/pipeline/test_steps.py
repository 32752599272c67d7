"""The list of steps and the keys of what they make."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples import RECIPE_TEXT

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.files import Manifest, write_atomic
from hubkit.core.findings import Finding
from hubkit.core.target import Target
from hubkit.pipeline import release_state
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.keys import input_digests, key_parts
from hubkit.pipeline.preflight import disk, gather, refuse
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import open_run
from hubkit.pipeline.steps import STEPS
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import StageResult
from hubkit.training.data.prepared import rows_file

RECIPE = parse_recipe(RECIPE_TEXT)
NAMES = {step.name for step in STEPS}


def test_every_need_is_a_step_that_stands_before() -> None:
    seen: set[str] = set()
    for step in STEPS:
        seen |= {step.name}
        for source in step.inputs.values():
            assert source.step in seen, f"{step.name} needs {source.step}"


def test_the_jobs_come_in_an_order_that_can_run() -> None:
    jobs = expand(RECIPE)
    assert [job.id for job in jobs] == [
        "base", "data", "base-stopping", "base-scores", "train[dpo]", "train[sft]", "merge[main]", "merge[dpo-v0]",
        "stopping[main]", "stopping[dpo-v0]", "evaluate[main]", "evaluate[dpo-v0]", "gate", "card[main]",
        "card[dpo-v0]", "publish[main]", "publish[dpo-v0]", "loadback[main]", "loadback[dpo-v0]", "snippets[main]",
        "snippets[dpo-v0]", "promote",
    ]  # fmt: skip
    done: set[str] = set()
    for job in jobs:
        assert set(job.inputs) <= done, job.id
        done.add(job.id)
    by_id = {job.id: job for job in jobs}
    assert by_id["train[sft]"].inputs == ("base", "data", "train[dpo]")
    assert by_id["train[sft]"].input_sources["rows"].part == "sets/repair.jsonl"
    assert by_id["train[dpo]"].inputs == ("base", "data")
    assert by_id["merge[dpo-v0]"].inputs == ("base", "train[dpo]")
    before = ("publish", "loadback", "snippets")
    assert set(by_id["promote"].inputs) == {f"{step}[{name}]" for step in before for name in ("main", "dpo-v0")}


@pytest.mark.parametrize("more", ["", "collection: {title: Mine}\nspace: {repo: me/space}\n"])
def test_what_a_recipe_does_not_use_is_in_no_key(more: str) -> None:
    """A release of before there were `gguf`, `readers` and `card.replaces` is up to date where it asks for none."""
    recipe = parse_recipe(RECIPE_TEXT + more)
    done: dict[str, StoredArtifact] = {}
    for job in expand(recipe):
        stage = find_stage(job.stage)
        parts = key_parts(stage, stage.Settings.of(recipe, job.scope(Path())), input_digests(job, done))
        assert not re.findall(r'"\w*(?:gguf|readers|replaces)\w*":', json.dumps(parts)), job.id
        done[job.id] = StoredArtifact(Path(), job.id, Manifest({}), {}, 0.0)
    assert parse_recipe(json.dumps(recipe.model_dump(mode="json"))) == recipe, "and read again it is the same"


def test_only_one_variant_is_published_but_all_are_measured() -> None:
    ids = {job.id for job in expand(RECIPE, only="main")}
    assert {"publish[main]", "snippets[main]", "evaluate[dpo-v0]"} <= ids
    assert not {"publish[dpo-v0]", "snippets[dpo-v0]"} & ids


def test_provide_runs_only_when_the_recipe_asks() -> None:
    asking = RECIPE.model_copy(update={"provide": "tiny"})
    assert expand(asking)[0].id == "provide"
    assert all(job.id != "provide" for job in expand(RECIPE))


@pytest.mark.parametrize("name", sorted({step.stage for step in STEPS if step.stage} | {"dpo", "sft"}))
def test_every_stage_is_installed_with_its_two_functions(name: str) -> None:
    stage = find_stage(name)
    assert callable(stage.check) and callable(stage.run) and callable(stage.Settings.of)
    assert callable(stage.Output.load) and callable(stage.Output.save)
    assert isinstance(stage.VERSION, int) and isinstance(stage.SHAPED_BY, tuple)


def test_an_unknown_stage_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"Installed: .*dpo"):
        find_stage("ppo")


def settings(job_id: str, recipe: Recipe, folder: Path) -> Any:
    job = next(job for job in expand(recipe) if job.id == job_id)
    return find_stage(job.stage).Settings.of(recipe, job.scope(folder))


def test_a_job_reads_its_part_of_the_recipe_and_the_files_it_names(tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE_TEXT.replace("suites: [tiny_facts]", "suites: [tiny_facts], include: tasks"))
    trained = settings("train[dpo]", recipe, tmp_path)
    assert {item.name for item in fields(trained)} == {
        "name", "uses", "continues", "quantization", "lora", "args", "seed", "continued_form", "train_on",
        "batch_size", "checkpoint_minutes", "launch", "probe", "probe_asked_for", "project", "links", "speedups",
    }  # fmt: skip
    write_atomic(tmp_path / "tasks" / "a.yaml", "task: a")
    before = settings("evaluate[main]", recipe, tmp_path)
    write_atomic(tmp_path / "tasks" / "a.yaml", "task: b")
    assert settings("evaluate[main]", recipe, tmp_path) != before, "another task file is another number"
    assert settings("stopping[main]", recipe, tmp_path).quantization == "nf4"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReleaseState:
    """A state whose stages only write the time at which they ran; they run in this process."""

    def run(settings: object, key: str, out: Path) -> None:
        (out / "made.txt").write_text(key)

    def find(name: str) -> Any:
        real = find_stage(name)
        return SimpleNamespace(
            VERSION=1, SHAPED_BY=(), check=lambda ctx: (), Settings=real.Settings, run=lambda *given: stage.run(*given)
        )

    stage = SimpleNamespace(run=run)
    monkeypatch.setattr(release_state, "find_stage", find)
    target = Target("http://127.0.0.1:1", tmp_path / "hf")
    made = ReleaseState(RECIPE, tmp_path, target, open_run(tmp_path, RECIPE.repo, target), expand(RECIPE))
    made.stage = stage  # type: ignore[attr-defined]
    return made


class Written:
    """An artifact whose files are there already."""

    def save(self, folder: Path) -> None:
        """Nothing is left to save."""


def make_all(state: ReleaseState) -> list[str]:
    """Run what is not kept, as the runner does; the ids of what ran."""
    ran = []
    state.finished.clear()
    for job in state.jobs:
        artifact, _ = state.reusable_artifact(job)
        if artifact is None:
            key = state.key(job)
            state.run.begin(job.id, key)
            state.stage.run(state.settings(job), key, state.run.out(job.id))  # type: ignore[attr-defined]
            artifact = state.run.keep(job.id, key, StageResult(Written(), "made"), 0.0)
            ran.append(job.id)
        state.finished[job.id] = artifact
    return ran


@pytest.mark.fault("P3")
def test_a_second_pass_runs_nothing_and_a_change_only_what_it_touches(state: ReleaseState) -> None:
    assert len(make_all(state)) == len(state.jobs)
    assert make_all(state) == []
    state.recipe = state.recipe.model_copy(update={"card": state.recipe.card.model_copy(update={"title": "Other"})})
    ran = make_all(state)
    assert ran[:2] == ["card[main]", "card[dpo-v0]"]
    assert not [job for job in ran if job.startswith(("train", "merge", "stopping", "evaluate"))]


def test_a_longer_repair_keeps_the_preference_training(state: ReleaseState) -> None:
    def write(settings: Any, key: str, out: Path) -> None:
        if isinstance(settings, find_stage("data").Settings):
            for name, sources in settings.data.data.items():
                write_atomic(out / rows_file(name), str(sources))
        (out / "made.txt").write_text(str(settings))

    state.stage.run = write  # type: ignore[attr-defined]
    make_all(state)
    text = RECIPE_TEXT.replace("rows: 300", "rows: 400")
    state.recipe = parse_recipe(text)
    ran = make_all(state)
    assert "data" in ran and "train[sft]" in ran and "train[dpo]" not in ran


@pytest.mark.fault("C2")
def test_a_lost_artifact_is_made_again(state: ReleaseState) -> None:
    make_all(state)
    (state.run.artifacts / "merge[main]" / "made.txt").unlink()
    assert make_all(state) == ["merge[main]"], "made from the same inputs it is the same, so nothing follows"


@pytest.mark.fault("F8")
def test_the_disk_is_checked_first(tmp_path: Path) -> None:
    assert not list(disk(tmp_path))
    (finding,) = disk(tmp_path, needed=10**18)
    assert finding.level == "error" and finding.exit_code == 1 and "HUBKIT_HOME" in (finding.hint or "")


def _checks(*findings: Finding) -> Callable[[Job], list[Finding]]:
    return lambda job: list(findings)


@pytest.mark.parametrize(
    ("findings", "code"),
    [((Finding("error", "No rights.", exit_code=3),), 3), ((Finding("error", "Bad key.", exit_code=2),), 2)],
)
def test_findings_are_said_once_and_end_the_release(
    state: ReleaseState, findings: Iterable[Finding], code: int
) -> None:
    found = gather(state, state.jobs, _checks(*findings, Finding("warning", "Mind this.")))
    assert len(found) == 2
    with pytest.raises(RefusedError if code == 3 else UsageError) as caught:
        refuse(found)
    assert caught.value.exit_code == code
    with pytest.raises(UsageError, match="2 problems must be fixed first"):
        refuse([Finding("error", "a", exit_code=2), *found])


def test_a_variant_is_given_its_own_inputs_and_all_that_are_compared(state: ReleaseState) -> None:
    jobs = {job.id: job for job in state.jobs}
    card = jobs["card[main]"].input_sources
    assert card["merged"].jobs == {"": "merge[main]"} and card["base"].jobs == {"": "base"}
    assert list(card["stop_rates"].jobs) == ["main", "dpo-v0"], "in the recipe's order"
    assert list(card["adapters"].jobs) == ["dpo", "sft"]
    assert jobs["merge[main]"].input_sources["adapter"].jobs == {"": "train[sft]"}
    assert jobs["stopping[dpo-v0]"].input_sources["adapter"].jobs == {"": "train[dpo]"}
    assert jobs["base-stopping"].input_sources.keys() == {"base", "data"}, "the base has no adapter"
