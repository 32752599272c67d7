"""Runs and artifacts: done means the manifest exists; a kill loses only the step that ran."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import RECIPE_TEXT

from hubkit.core.errors import ConflictError, UsageError
from hubkit.core.files import write_json
from hubkit.core.home import hubkit_home
from hubkit.core.target import Target
from hubkit.pipeline.keys import artifact_key
from hubkit.pipeline.runs import FORMAT, Run, find_runs, last_run, named_run, open_run, release_lock
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import StageResult

RECIPE = parse_recipe(RECIPE_TEXT)


STEP = "merge[main]"


class Written:
    """An artifact whose files are there already."""

    def save(self, folder: Path) -> None:
        """Nothing is left to save."""


def keep(run: Run, step: str = STEP, **facts: object) -> StoredArtifact:
    return run.keep(step, "k1", StageResult(Written(), "made", facts=facts), 0.1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = open_run(tmp_path, RECIPE.repo, Target("http://127.0.0.1:1", tmp_path / "hf"))
    made.begin(STEP, "k1")
    return made


@pytest.mark.fault("C2")
def test_an_artifact_is_found_only_when_whole(run: Run) -> None:
    (run.out(STEP) / "model.bin").write_bytes(b"12345")
    assert run.find("merge[main]") is None, "not done before its manifest is written"
    made = keep(run, tensors=3)
    found = run.find("merge[main]")
    assert found is not None and found.manifest.digest == made.manifest.digest
    assert found.summary == {"figure": "made", "tensors": 3, "warnings": []} and found.key == "k1"
    assert not (run.work / "merge[main]").exists()
    (found.path / "model.bin").unlink()
    assert run.find("merge[main]") is None, "a file of it is gone"


def test_scratch_survives_a_kill_but_not_another_key(run: Run) -> None:
    (run.scratch(STEP) / "checkpoint").write_text("x")
    (run.out(STEP) / "half").write_text("x")
    run.begin("merge[main]", "k1")
    assert (run.scratch(STEP) / "checkpoint").exists() and not (run.out(STEP) / "half").exists()
    run.begin("merge[main]", "k2")
    assert not (run.scratch(STEP) / "checkpoint").exists()


def test_a_branch_with_a_slash_is_one_folder(run: Run) -> None:
    run.begin("merge[a/b]", "k1")
    keep(run, "merge[a/b]")
    assert run.find("merge[a/b]") is not None
    assert [path.name for path in run.artifacts.iterdir()] == ["merge[a~b]"]


@pytest.mark.fault("F10")
def test_a_run_has_one_writer(run: Run) -> None:
    with (
        run.lock(),
        pytest.raises(ConflictError, match="Another process") as caught,
        Run(run.path).lock(),
    ):
        pass
    assert caught.value.exit_code == 4
    with run.lock():
        pass


@pytest.mark.fault("F1")
@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_line_of_the_journal_may_hold_any_character(run: Run, char: str) -> None:
    run.log("done", step="data", title=f"a{char}b")
    assert run.journal()[-1]["title"] == f"a{char}b"


def test_the_journal_keeps_what_was_said_before_a_kill(run: Run) -> None:
    code = f"""
from pathlib import Path
from hubkit.pipeline.runs import Run
run = Run(Path({str(run.path)!r}))
run.log("done", step="data")
run.log("done", step="dpo")
run.log("done", step="never")
"""
    environment = {**os.environ, "HUBKIT_TEST_KILL_AT": "done:dpo"}
    child = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert child.returncode == -signal.SIGKILL
    with (run.path / "journal.jsonl").open("a") as journal:
        journal.write('{"event": "cut sho')
    assert [line["step"] for line in run.journal()] == ["data", "dpo"]


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


def test_a_run_of_another_format_is_neither_resumed_nor_overwritten(tmp_path: Path) -> None:
    here = Target("http://127.0.0.1:1", tmp_path, embedded=True)
    about = {"id": "my-model-1", "repo": RECIPE.repo, "hub": "embedded", "made": "2020-01-01T00:00:00+00:00"}
    write_json(tmp_path / "runs" / "my-model-1" / "run.json", about)
    assert last_run(tmp_path, RECIPE.repo, here) is None
    opened = open_run(tmp_path, RECIPE.repo, here)
    assert opened.name == "my-model-2" and opened.about()["format"] == FORMAT
    assert open_run(tmp_path, RECIPE.repo, here) == opened
    assert named_run(tmp_path, "my-model-1").about() == about, "it is listed, and can be removed"


def test_a_stage_finds_what_its_earlier_attempts_noted(run: Run) -> None:
    run.log("start", step=STEP, key="k1")
    run.log("branch-moved[main]", step=STEP, commit="c")
    run.log("branch-moved[main]", step="promote", commit="d")
    run.log("done", step=STEP, seconds=1.0)
    (noted,) = run.notes(STEP)
    assert (noted.point, noted.facts) == ("branch-moved[main]", {"commit": "c"})


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


def test_the_key_changes_with_all_that_shapes_the_artifact(run: Run) -> None:
    stage = SimpleNamespace(VERSION=1, SHAPED_BY=("click",), check=None, run=None)
    digest = keep(run).manifest.digest
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
