"""A run of the version before: a finished release is recognized, and its folder is never changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from releases import REPO, Release, hub_of

from hubkit.cli.runs import list_runs, remove
from hubkit.core.files import Manifest
from hubkit.core.output import Output
from hubkit.pipeline import runner
from hubkit.pipeline.earlier_runs import finished_before
from hubkit.pipeline.runs import find_runs, open_run
from hubkit.publishing.spaces.building import ending
from hubkit.publishing.spaces.deployed import DeployedSpace
from hubkit.publishing.staged import StagedCommit
from hubkit.recipe.models import Recipe
from hubkit.server.process import Running
from hubkit_stages.recipes import tiny

SAMPLE = Path(__file__).parents[1] / "data" / "run-0.1.0"
"""The run folder of a tiny release by hubkit 0.1.0, without weights, rows, pictures and logs."""
FOLDER = tiny.RECIPE.parent


def rewrite(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.fixture
def released(hub: Running, tmp_path: Path) -> Release:
    """A Hub that holds two branches, and beside it the sample as if it had released them."""
    made = Release.on(hub, tmp_path / "publisher").train().publish()
    moved = made.promote()
    run = tmp_path / "home" / "runs" / "tiny-hermes-dpo-1"
    shutil.copytree(SAMPLE / "tiny-hermes-dpo-1", run)
    for name in ("run.json", "recipe.json", "artifacts/promote/release.json"):
        rewrite(run / name, lambda value: value.update(repo=REPO))
    rewrite(run / "recipe.json", lambda value: value.update(space=None))

    def commits(value: dict[str, object]) -> None:
        for name, item in value["variants"].items():  # type: ignore[attr-defined]
            item["commit"] = moved[name]["commit"]

    rewrite(run / "artifacts" / "promote" / "release.json", commits)
    for name in moved:
        bundle = made.made[f"publish[{name}]"].path / "bundle.json"
        shutil.copyfile(bundle, run / "artifacts" / f"publish[{name}]" / "bundle.json")
    return replace(made, folder=tmp_path / "home")


def recipe_of(released: Release) -> Recipe:
    """The recipe of the sample, as today's models read it."""
    return Recipe.model_validate_json((released.folder / "runs/tiny-hermes-dpo-1/recipe.json").read_text())


def found(released: Release, recipe: Recipe | None = None, folder: Path = FOLDER) -> object:
    return finished_before(recipe or recipe_of(released), folder, released.target, released.folder)


def test_a_release_that_the_version_before_finished_is_up_to_date(
    released: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Manifest.of(released.folder / "runs")
    outcome = runner.release(recipe_of(released), FOLDER, released.target, released.folder, Output())
    assert outcome.up_to_date and outcome.run == "tiny-hermes-dpo-1"
    assert [(line.variant, line.gate, line.blocks) for line in outcome.variants] == [
        ("dpo-v0", "failed (reported)", 5), ("main", "passed", 5),
    ]  # fmt: skip
    assert outcome.variants[1].stop_rates["merged"] == 1.0 == outcome.base_stop_rate
    assert [line.average for line in outcome.variants] == pytest.approx([0.988, 0.982], abs=0.001)
    assert "released by an earlier version of hubkit (run tiny-hermes-dpo-1)" in capsys.readouterr().err
    assert Manifest.of(released.folder / "runs").digest == before.digest, "nothing was written, no run was opened"


def test_a_change_of_the_recipe_or_its_files_is_released(released: Release, tmp_path: Path) -> None:
    recipe = recipe_of(released)
    assert found(released) is not None
    assert found(released, recipe.model_copy(update={"seed": 1})) is None
    assert found(released, recipe.model_copy(update={"hub": "huggingface"})) is not None, "--hub names it, too"
    shutil.copytree(FOLDER / "tasks", tmp_path / "tasks")
    assert found(released, folder=tmp_path) is not None
    (tmp_path / "tasks" / "more.yaml").write_text("task: more")
    assert found(released, folder=tmp_path) is None, "another task is another benchmark"


def test_what_the_hub_no_longer_holds_is_released(released: Release) -> None:
    hub_of(released).api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=REPO)
    assert found(released) is None


def test_a_space_that_is_not_there_is_deployed(released: Release) -> None:
    with_space = json.loads((SAMPLE / "tiny-hermes-dpo-1" / "recipe.json").read_text())["space"]
    run = released.folder / "runs" / "tiny-hermes-dpo-1"
    rewrite(run / "recipe.json", lambda value: value.update(space=with_space))
    assert recipe_of(released).space is not None
    assert found(released) is None


@pytest.mark.parametrize("event", ["stopped", "begin"])
def test_an_unfinished_run_of_the_version_before_is_left_alone(released: Release, event: str) -> None:
    run = released.folder / "runs" / "tiny-hermes-dpo-1"
    with (run / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps({"event": event}) + "\n")
    assert found(released) is None
    assert open_run(released.folder, REPO, released.target).path != run


def test_a_newer_run_goes_first(released: Release) -> None:
    opened = open_run(released.folder, REPO, released.target)
    assert opened.name != "tiny-hermes-dpo-1"
    assert found(released) is None


def test_a_damaged_sample_is_released_again(released: Release) -> None:
    (released.folder / "runs/tiny-hermes-dpo-1/artifacts/gate/gates.json").unlink()
    assert found(released) is None


def test_an_old_run_is_listed_and_removed(released: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBKIT_HOME", str(released.folder))
    listed = CliRunner().invoke(list_runs, ["--json"])
    (run,) = json.loads(listed.stdout)
    assert (run["id"], run["state"]) == ("tiny-hermes-dpo-1", "released")
    assert CliRunner().invoke(remove, ["tiny-hermes-dpo-1", "-y"]).exit_code == 0
    assert find_runs(released.folder) == []


def test_the_names_of_the_version_before_are_read() -> None:
    artifacts = SAMPLE / "tiny-hermes-dpo-1" / "artifacts"
    answers = DeployedSpace.load(artifacts / "space").answers
    assert [answer.ended for answer in answers] == ["eos", "limit"] * 2, "an app of before answers 'turn end'"
    assert [ending(ended) for ended in ("turn end", "eos", "limit", "</s>")] == ["eos", "eos", "limit", "</s>"]
    staged = StagedCommit.load(artifacts / "publish[main]")
    before = json.loads((artifacts / "publish[main]" / "published.json").read_text())
    assert staged.expected_card_digests == before["over"]
