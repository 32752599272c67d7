"""Runs and artifacts: done means the manifest exists; a kill loses only the step that ran."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import RECIPE_TEXT

from hubkit.core.errors import ConflictError, UsageError
from hubkit.core.home import hubkit_home
from hubkit.core.target import Target
from hubkit.pipeline.runs import Run, find_runs, last_run, named_run, open_run, release_lock
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import Context, artifact_key

RECIPE = parse_recipe(RECIPE_TEXT)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    target = Target("http://127.0.0.1:1", tmp_path / "hf")
    run = open_run(tmp_path, RECIPE.repo, target)
    run.begin("merge[main]", "k1")
    return Context("merge[main]", RECIPE, tmp_path, {}, {}, target, run, key="k1", variant_name="main")


@pytest.mark.fault("C2")
def test_an_artifact_is_found_only_when_whole(context: Context) -> None:
    (context.out / "model.bin").write_bytes(b"12345")
    assert context.run.find("merge[main]") is None, "not done before its manifest is written"
    made = context.artifact(tensors=3)
    found = context.run.find("merge[main]")
    assert found is not None and found.manifest.digest == made.manifest.digest
    assert found.summary == {"tensors": 3} and found.key == "k1"
    assert not (context.run.work / "merge[main]").exists()
    (found.path / "model.bin").unlink()
    assert context.run.find("merge[main]") is None, "a file of it is gone"


def test_scratch_survives_a_kill_but_not_another_key(context: Context) -> None:
    (context.scratch / "checkpoint").write_text("x")
    (context.out / "half").write_text("x")
    context.run.begin("merge[main]", "k1")
    assert (context.scratch / "checkpoint").exists() and not (context.out / "half").exists()
    context.run.begin("merge[main]", "k2")
    assert not (context.scratch / "checkpoint").exists()


def test_a_branch_with_a_slash_is_one_folder(context: Context) -> None:
    context = replace(context, step="merge[a/b]")
    context.run.begin("merge[a/b]", "k1")
    context.artifact()
    assert context.run.find("merge[a/b]") is not None
    assert [path.name for path in context.run.artifacts.iterdir()] == ["merge[a~b]"]


@pytest.mark.fault("F10")
def test_a_run_has_one_writer(context: Context) -> None:
    with (
        context.run.lock(),
        pytest.raises(ConflictError, match="Another process") as caught,
        Run(context.run.path).lock(),
    ):
        pass
    assert caught.value.exit_code == 4
    with context.run.lock():
        pass


@pytest.mark.fault("F1")
def test_the_journal_keeps_what_was_said_before_a_kill(context: Context) -> None:
    code = f"""
from pathlib import Path
from hubkit.run import Run
run = Run(Path({str(context.run.path)!r}))
run.log("done", step="data")
run.log("done", step="dpo")
run.log("done", step="never")
"""
    environment = {**os.environ, "HUBKIT_TEST_KILL_AT": "done:dpo"}
    child = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert child.returncode == -signal.SIGKILL
    with (context.run.path / "journal.jsonl").open("a") as journal:
        journal.write('{"event": "cut sho')
    assert [line["step"] for line in context.run.journal()] == ["data", "dpo"]


def test_the_same_release_gets_its_run_back_unless_fresh(tmp_path: Path) -> None:
    here = Target("http://127.0.0.1:1", tmp_path, embedded=True)
    first = open_run(tmp_path, RECIPE.repo, here)
    moved = Target("http://127.0.0.1:2", tmp_path, embedded=True)
    assert open_run(tmp_path, RECIPE.repo, moved) == first, "the embedded Hub may change its port"
    second = open_run(tmp_path, RECIPE.repo, here, fresh=True)
    assert [run.name for run in find_runs(tmp_path)] == ["my-model-1", "my-model-2"]
    assert open_run(tmp_path, RECIPE.repo, here) == second
    real = Target("https://huggingface.co", tmp_path)
    assert open_run(tmp_path, RECIPE.repo, real).name == "my-model-3", "what was made for one Hub is not for another"
    assert last_run(tmp_path, RECIPE.repo, here) == second
    with pytest.raises(UsageError, match="runs list"):
        named_run(tmp_path, "nonsense")


@pytest.mark.fault("F10")
def test_a_release_has_one_doer_even_before_it_has_a_run(tmp_path: Path) -> None:
    here = Target("http://127.0.0.1:1", tmp_path, embedded=True)
    moved = Target("http://127.0.0.1:2", tmp_path, embedded=True)
    with release_lock(tmp_path, "me/x", here):
        other = release_lock(tmp_path, "Me/X", moved)
        with pytest.raises(ConflictError, match="Another process is releasing Me/X to embedded") as caught, other:
            pass
        assert caught.value.exit_code == 4
        with release_lock(tmp_path, "me/y", here):
            pass


def test_the_key_changes_with_all_that_shapes_the_artifact(context: Context) -> None:
    stage = SimpleNamespace(VERSION=1, SHAPED_BY=("click",), check=None, run=None)
    made = context.artifact()
    digest = made.manifest.digest
    key = artifact_key(stage, {"lr": 1}, {})
    assert key == artifact_key(stage, {"lr": 1}, {})
    assert key != artifact_key(stage, {"lr": 2}, {})
    assert key != artifact_key(stage, {"lr": 1}, {"merge": digest})
    assert key != artifact_key(SimpleNamespace(VERSION=2, SHAPED_BY=("click",)), {"lr": 1}, {})
    assert key != artifact_key(SimpleNamespace(VERSION=1, SHAPED_BY=("rich",)), {"lr": 1}, {})
    absent = SimpleNamespace(VERSION=1, SHAPED_BY=("not-there",))
    assert artifact_key(absent, {}, {}) != artifact_key(SimpleNamespace(VERSION=1, SHAPED_BY=()), {}, {})


def test_home_is_the_nearest_hubkit_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUBKIT_HOME", raising=False)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert hubkit_home() == tmp_path / "a" / "b" / ".hubkit"
    (tmp_path / ".hubkit").mkdir()
    assert hubkit_home() == tmp_path / ".hubkit"
    monkeypatch.setenv("HUBKIT_HOME", str(tmp_path / "elsewhere"))
    assert hubkit_home() == tmp_path / "elsewhere"


@pytest.mark.fault("S11")
def test_a_target_never_shows_its_token() -> None:
    target = Target("http://127.0.0.1:1", Path("/x"), "hf_secret_token", embedded=True)
    assert "secret" not in repr(target)
    environment = target.environment()
    assert environment["HF_HUB_DISABLE_XET"] == "1" and environment["HF_TOKEN"] == "hf_secret_token"
    assert "HF_TOKEN" not in Target("http://127.0.0.1:1", Path("/x")).environment()
    assert json.dumps(environment)
