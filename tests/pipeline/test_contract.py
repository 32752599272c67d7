"""The contract of stages: what is read and what counts for a key are the same, by construction."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import training_case
from kept import kept
from pydantic import BaseModel
from samples import RECIPE_TEXT

from hubkit.core.files import Digests, Manifest
from hubkit.core.target import Target
from hubkit.evals.results import Results
from hubkit.evals.scores import Measured
from hubkit.pipeline import jobs as job_lists
from hubkit.pipeline import release_state, step_inputs
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.keys import artifact_key, input_digests, plain
from hubkit.pipeline.release_state import ReleaseState, _artifact_type
from hubkit.pipeline.runs import Run
from hubkit.pipeline.steps import STEPS
from hubkit.recipe.artifact import NamedFile, StoredArtifact
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import Options
from hubkit.training.data.prepared import TrainingRows

ROOT = Path(__file__).parents[2]
TEXT = (
    RECIPE_TEXT.replace("suites: [tiny_facts]", "suites: [tiny_facts], include: tasks")
    .replace("summary: It answers.", "summary: It answers., template: card.jinja, replaces: [me/old]")
    .replace("visibility: public", "visibility: public\nprovide: tiny\nchat: {template: chat.jinja}")
    + "space: {repo: me/space}\ncollection: {title: Mine}\nsign: {key: key.pem}\n"
    "gguf: {variants: [main, dpo-v0], benchmarks: [tiny_facts]}\nreaders: [transformers-4, peft-0.6]\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe that names every kind of file."""
    made = tmp_path_factory.mktemp("recipe")
    (made / "tasks").mkdir()
    (made / "tasks" / "a.yaml").write_text("task: a")
    for name in ("card.jinja", "chat.jinja", "key.pem"):
        (made / name).write_text(name)
    return made


RECIPE = parse_recipe(TEXT)
JOBS = {job.id: job for job in expand(RECIPE)}
"""Every job of a recipe that has all the steps."""


def settings_of(job: Job, folder: Path) -> Any:
    return find_stage(job.stage).Settings.of(RECIPE, job.scope(folder))


def other(value: Any) -> Iterator[tuple[str, Any]]:
    """(where, ``value`` with one thing in it changed), for everything that it declares."""
    if isinstance(value, NamedFile):
        yield "", replace(value, digest=f"{value.digest}0")
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            for where, changed in other(getattr(value, item.name)):
                yield f".{item.name}{where}", replace(value, **{item.name: changed})
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            for where, changed in other(getattr(value, name)):
                yield f".{name}{where}", value.model_copy(update={name: changed})
    elif isinstance(value, Mapping):
        yield "{}", {**value, "another": 1}
        for name, item in value.items():
            for where, changed in other(item):
                yield f"[{name}]{where}", {**value, name: changed}
    elif isinstance(value, tuple | list):
        yield "()", (*value, "another")
    elif isinstance(value, bool):
        yield "", not value
    elif isinstance(value, int | float):
        yield "", value + 1
    else:
        yield "", f"{value} changed"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("job", JOBS)
def test_every_declared_setting_counts_for_the_key(job: str, folder: Path) -> None:
    stage, settings = find_stage(JOBS[job].stage), settings_of(JOBS[job], folder)
    assert is_dataclass(settings) and settings.__dataclass_params__.frozen  # type: ignore[attr-defined]
    key = artifact_key(stage, settings, {})
    seen = {where: artifact_key(stage, changed, {}) for where, changed in other(settings)}
    assert {where.split(".")[1].partition("[")[0].rstrip("{}()") for where in seen} == {
        item.name for item in fields(settings)
    }, "each field was changed"
    where_only = {
        "evaluate": [".launch", ".data_parallel"],
        "stopping": [".launch"],
        "gguf": [".enforced"],
        "publish": [".gguf()", ".gguf_paths()"],  # which only its preflight reads
        "publish_gguf": [".paths()"],
    }  # and not what is measured
    assert [where for where, found in seen.items() if found == key] == where_only.get(JOBS[job].stage, [])


def finished(job: Job) -> dict[str, StoredArtifact]:
    """An artifact for each of the inputs of ``job``."""
    parts = {given.part for given in job.input_sources.values() if given.part}
    files = {name: Digests(1, name, name) for name in ("facts.json", *parts)}
    return {name: StoredArtifact(Path(name), "k", Manifest(files), {}, 0.0) for name in job.inputs}


def changed_file(artifact: StoredArtifact, name: str) -> StoredArtifact:
    return replace(artifact, manifest=Manifest({**artifact.manifest.files, name: Digests(1, "other", "other")}))


@pytest.mark.parametrize("job", [name for name, job in JOBS.items() if job.inputs])
def test_every_declared_input_counts_for_the_key_and_no_other(job: str) -> None:
    asked, made = JOBS[job], finished(JOBS[job])
    stage, before = find_stage(asked.stage), input_digests(asked, made)
    assert before.keys() == {item.name for item in fields(stage.Inputs)} or asked.step.name in {
        "base-stopping",
        "base-scores",
    }
    for name in asked.inputs:
        part = next((given.part for given in asked.input_sources.values() if name in given.jobs.values()), None)
        after = input_digests(asked, {**made, name: changed_file(made[name], part or "facts.json")})
        assert artifact_key(stage, {}, after) != artifact_key(stage, {}, before), name
    unrelated = StoredArtifact(Path("x"), "k", Manifest({}), {}, 0.0)
    assert input_digests(asked, {**made, "unrelated": unrelated}) == before


def test_a_training_counts_the_rows_of_its_own_dataset_alone() -> None:
    job, made = JOBS["train[dpo]"], finished(JOBS["train[dpo]"])
    before = input_digests(job, made)
    for name in ("data.json", "prompts.jsonl", "sets/repair.jsonl"):
        assert input_digests(job, {**made, "data": changed_file(made["data"], name)}) == before
    assert input_digests(job, {**made, "data": changed_file(made["data"], "sets/preferences.jsonl")}) != before


def test_what_is_not_declared_is_in_no_key(folder: Path, tmp_path: Path) -> None:
    """The Hub, the place of the recipe's files, the options of the command."""
    target = Target("http://127.0.0.1:1", tmp_path)
    elsewhere = Target("http://127.0.0.1:2", tmp_path / "other", "hf_x")
    here = ReleaseState(RECIPE, folder, target, Run(tmp_path / "run"), tuple(JOBS.values()))
    copy = tmp_path / "moved"
    copy.mkdir()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (copy / path.relative_to(folder)).parent.mkdir(exist_ok=True)
            (copy / path.relative_to(folder)).write_bytes(path.read_bytes())
    there = ReleaseState(
        parse_recipe(TEXT + "hub: embedded\n"), copy, elsewhere, Run(tmp_path / "run2"), here.jobs,
        options=Options(overwrite_card=True),
    )  # fmt: skip
    for job in JOBS.values():
        here.finished.update(finished(job))
        there.finished.update(finished(job))
    assert [job.id for job in here.jobs if here.key(job) != there.key(job)] == []
    assert all(here.key(job) for job in here.jobs)


def test_a_setting_that_only_the_data_check_reads_does_not_repeat_a_training(folder: Path) -> None:
    accepting = parse_recipe(
        TEXT.replace("dpo: {data: preferences,", "dpo: {data: preferences, accept: [dropped-rows],")
    )
    for name, same in (("train[dpo]", True), ("data", False)):
        settings = find_stage(JOBS[name].stage).Settings.of(accepting, JOBS[name].scope(folder))
        assert (settings == settings_of(JOBS[name], folder)) is same


def test_a_bare_path_cannot_be_a_setting() -> None:
    with pytest.raises(TypeError, match="NamedFile"):
        plain({"file": Path("x")})


def test_each_input_is_of_the_type_that_its_step_makes() -> None:
    outputs = {job.step.name: find_stage(job.stage).Output for job in JOBS.values()}
    for job in JOBS.values():
        kinds = get_type_hints(find_stage(job.stage).Inputs)
        for name, source in job.step.inputs.items():
            wanted = TrainingRows if source.rows_only else outputs[source.step]
            # The same artifact, read with the score of every question.
            also = Measured if wanted is Results else wanted
            assert _artifact_type(kinds[name]) in {wanted, also}, f"{job.id}.{name}"
    assert {step.name for step in STEPS} == outputs.keys()


# --- a stage that reads more


READS_MORE = '''
"""A stage that reads what it does not declare."""

from collections.abc import Iterable
from dataclasses import dataclass

from hubkit.core.findings import Finding
from hubkit.models.base import PinnedBase
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult


@dataclass(frozen=True)
class Settings:
    seed: int

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> "Settings":
        return cls(recipe.seed)


@dataclass(frozen=True)
class Inputs:
    base: PinnedBase


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    print(ctx.settings.seed, ctx.inputs)
    return ()


def run(ctx: Context[Settings, Inputs]) -> StageResult[PinnedBase]:
    print(ctx.settings.seed, ctx.inputs.base.commit, ctx.options.overwrite_card)
    print(ctx.settings.title)
    print(ctx.inputs.data)
    print(ctx.inputs.base.licence_text)
    print(ctx.recipe, ctx.run)
    ctx.settings.seed = 3
    return StageResult(ctx.inputs.base, "done")
'''


def mypy(path: Path) -> tuple[int, str]:
    """What mypy says of the file ``path`` by the rules of this project: exit status and output."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(path)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"}, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_stage_that_reads_more_than_it_declares_does_not_type_check(tmp_path: Path) -> None:
    sample = tmp_path / "reads_more.py"
    sample.write_text(READS_MORE)
    status, output = mypy(sample)
    assert status == 1
    lines = READS_MORE.splitlines()
    found = {int(line.split(":")[1]) for line in output.splitlines() if ": error: " in line}
    assert found == {
        number
        for number, line in enumerate(lines, 1)
        if any(
            word in line
            for word in ("ctx.settings.seed, ctx.inputs)", ".title", ".data)", "licence_text", "ctx.run", "seed = 3")
        )
    }, output
    for said in (
        '"Settings" has no attribute "title"',
        '"Inputs" has no attribute "data"',
        'has no attribute "recipe"',
    ):
        assert said in output


# --- the example of CONTRIBUTING.md


def example() -> tuple[str, str]:
    """The stage and its line of the list, as "Add a stage" shows them."""
    section = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Add a stage")[2].partition("\n## ")[0]
    )
    blocks = [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL)]
    stage, line = blocks
    return stage, line


def test_the_stage_of_the_guide_runs_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, line = example()
    (tmp_path / "words_of_the_guide.py").write_text(source)
    status, output = mypy(tmp_path / "words_of_the_guide.py")
    assert status == 0, output
    monkeypatch.syspath_prepend(str(tmp_path))
    words = importlib.import_module("words_of_the_guide")
    step = eval(line, vars(step_inputs))
    real = find_stage
    monkeypatch.setattr(release_state, "find_stage", lambda name: words if name == "words" else real(name))
    monkeypatch.setattr(job_lists, "STEPS", (*STEPS, step))
    case = training_case.Case(tmp_path).prepare()
    recipe = parse_recipe(training_case.recipe_text())
    finished = {"data": kept(case.run.find("data"))}
    state = ReleaseState(recipe, tmp_path, Target("http://127.0.0.1:1", tmp_path), case.run, expand(recipe), finished)
    job = state.jobs[-1]
    assert (job.id, job.inputs, list(words.check(state.check_context(job)))) == ("words", ("data",), [])
    case.run.begin(job.id, state.key(job))
    made = case.run.keep(job.id, state.key(job), words.run(state.context(job)), 0.1)
    assert made.summary["figure"] == "168 words"  # 24 rows of "What is number N?" and "It is N."
    assert words.WordCount.load(made.path) == words.WordCount(words=168)
    found, why = state.reusable_artifact(job)
    assert found is not None and why == "reused"
