"""The list of steps and the keys of what they make."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import RECIPE_TEXT

from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.files import write_atomic
from hubkit.core.findings import Finding
from hubkit.core.target import Target
from hubkit.pipeline import steps
from hubkit.pipeline.preflight import disk, gather, refuse
from hubkit.pipeline.runs import open_run
from hubkit.pipeline.steps import STEPS, Desk, Job, expand, find_stage, job_settings
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Context

RECIPE = parse_recipe(RECIPE_TEXT)
NAMES = {step.name for step in STEPS}


def test_every_need_is_a_step_that_stands_before() -> None:
    seen: set[str] = set()
    for step in STEPS:
        seen |= {step.name}
        for need in step.needs:
            assert need.partition(":")[0].rstrip("*<") in seen, f"{step.name} needs {need}"


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
    assert by_id["merge[dpo-v0]"].inputs == ("base", "train[dpo]")
    before = ("publish", "loadback", "snippets")
    assert set(by_id["promote"].inputs) == {f"{step}[{name}]" for step in before for name in ("main", "dpo-v0")}


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
    assert callable(stage.check) and callable(stage.run)
    assert isinstance(stage.VERSION, int) and isinstance(stage.SHAPED_BY, tuple)


def test_an_unknown_stage_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"installed are: .*dpo"):
        find_stage("ppo")


def settings(job_id: str, recipe: Recipe, folder: Path) -> dict[str, object]:
    job = next(job for job in expand(recipe) if job.id == job_id)
    return job_settings(job, recipe, folder)


def test_a_job_reads_its_part_of_the_recipe_and_the_files_it_names(tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE_TEXT.replace("suites: [tiny_facts]", "suites: [tiny_facts], include: tasks"))
    trained = settings("train[dpo]", recipe, tmp_path)
    assert set(trained) == {"training", "seed"}
    write_atomic(tmp_path / "tasks" / "a.yaml", "task: a")
    before = settings("evaluate[main]", recipe, tmp_path)
    write_atomic(tmp_path / "tasks" / "a.yaml", "task: b")
    assert settings("evaluate[main]", recipe, tmp_path) != before, "another task file is another number"
    assert settings("stopping[main]", recipe, tmp_path)["training"] == {"quantization": "nf4"}


def test_the_target_hub_is_in_no_key(tmp_path: Path) -> None:
    for job in expand(RECIPE):
        assert "hub" not in job_settings(job, RECIPE, tmp_path)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk whose stages only write the time at which they ran; they run in this process."""

    def run(ctx: Context) -> object:
        (ctx.out / "made.txt").write_text(ctx.key)
        return ctx.artifact()

    stage = SimpleNamespace(VERSION=1, SHAPED_BY=(), check=lambda ctx: (), run=run)
    monkeypatch.setattr(steps, "find_stage", lambda name: stage)
    target = Target("http://127.0.0.1:1", tmp_path / "hf")
    return Desk(RECIPE, tmp_path, target, open_run(tmp_path, RECIPE.repo, target), expand(RECIPE))


def make_all(desk: Desk) -> list[str]:
    """Run what is not kept, as the runner does; the ids of what ran."""
    ran = []
    desk.finished.clear()
    for job in desk.jobs:
        artifact, _ = desk.kept(job)
        if artifact is None:
            ctx = desk.context(job)
            desk.run.begin(job.id, ctx.key)
            artifact = steps.find_stage(job.stage).run(ctx)
            ran.append(job.id)
        desk.finished[job.id] = artifact
    return ran


@pytest.mark.fault("P3")
def test_a_second_pass_runs_nothing_and_a_change_only_what_it_touches(desk: Desk) -> None:
    assert len(make_all(desk)) == len(desk.jobs)
    assert make_all(desk) == []
    desk.recipe = desk.recipe.model_copy(update={"card": desk.recipe.card.model_copy(update={"title": "Other"})})
    ran = make_all(desk)
    assert ran[:2] == ["card[main]", "card[dpo-v0]"]
    assert not [job for job in ran if job.startswith(("train", "merge", "stopping", "evaluate"))]


def test_a_longer_repair_keeps_the_preference_training(desk: Desk) -> None:
    def write(ctx: Context) -> object:
        for name, sources in ctx.settings.get("data", {}).items():
            write_atomic(ctx.out / "sets" / f"{name}.jsonl", str(sources))
        (ctx.out / "made.txt").write_text(str(ctx.settings))
        return ctx.artifact()

    steps.find_stage("any").run = write
    make_all(desk)
    text = RECIPE_TEXT.replace("rows: 300", "rows: 400")
    desk.recipe = parse_recipe(text)
    ran = make_all(desk)
    assert "data" in ran and "train[sft]" in ran and "train[dpo]" not in ran


@pytest.mark.fault("C2")
def test_a_lost_artifact_is_made_again(desk: Desk) -> None:
    make_all(desk)
    (desk.run.artifacts / "merge[main]" / "made.txt").unlink()
    assert make_all(desk) == ["merge[main]"], "made from the same inputs it is the same, so nothing follows"


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
def test_findings_are_said_once_and_end_the_release(desk: Desk, findings: Iterable[Finding], code: int) -> None:
    found = gather(desk, desk.jobs, _checks(*findings, Finding("warning", "Mind this.")))
    assert len(found) == 2
    with pytest.raises(RefusedError if code == 3 else UsageError) as caught:
        refuse(found)
    assert caught.value.exit_code == code
    with pytest.raises(UsageError, match="2 things stand in the way"):
        refuse([Finding("error", "a", exit_code=2), *found])


def test_the_context_gives_a_variant_its_own_inputs(desk: Desk) -> None:
    make_all(desk)
    jobs = {job.id: job for job in desk.jobs}
    ctx = desk.context(jobs["card[main]"])
    assert ctx.input("merge").path.name == "merge[main]"
    assert ctx.input("train").path.name == "train[sft]"
    assert list(ctx.each("stopping")) == ["main", "dpo-v0"]
    assert ctx.training is RECIPE.stages["sft"] and ctx.variant is RECIPE.variants["main"]
    with pytest.raises(KeyError, match="was given no publish"):
        replace(ctx, inputs={}).input("publish")
