"""Experiment trackers (TensorBoard, trackio, W&B and others): where they write, and what of it is kept and linked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from watched_recipe import settings

from hubkit.training.watching import trackers


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://wandb.ai/me/tiny/runs/abc", True),
        ("http://127.0.0.1:5000/#/experiments/1/runs/2", False),
        ("http://192.168.0.7:5000/", False),
        ("http://mlflow:5000/", False),
        ("http://localhost:5000/", False),
        ("http://tracking.corp.internal/x", False),
        ("https://me:secret@mlflow.example.org/", False),
        ("sqlite:///mlflow.db", False),
    ],
)
def test_only_a_page_that_others_can_open_is_linked(url: str, public: bool) -> None:
    assert trackers.is_public(url) is public


def test_variables_that_the_user_set_stay_and_ours_are_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", "/mine")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    tracked = settings(report_to="[wandb, mlflow]")
    with trackers.kept_in(tmp_path / "t", tracked, []):
        assert os.environ["WANDB_DIR"] == "/mine"
        assert os.environ["WANDB_PROJECT"] == "my-model" == os.environ["MLFLOW_EXPERIMENT_NAME"]
        first = os.environ["WANDB_RUN_ID"]
    assert "WANDB_PROJECT" not in os.environ
    with trackers.kept_in(tmp_path / "t", tracked, []):
        assert os.environ["WANDB_RUN_ID"] == first, "a resumed training goes on with its page"
    assert trackers.defaults(tracked) == {"run_name": "my-model-dpo", "project": "my-model"}
    assert trackers.defaults(settings()) == {}


class TensorBoardCallback:
    """As transformers' own: it writes beside the checkpoints unless it is told where."""

    logging_dir: str | None = None


def test_event_files_are_written_where_they_are_kept(tmp_path: Path) -> None:
    ours, mine = TensorBoardCallback(), TensorBoardCallback()
    mine.logging_dir = "/mine"
    with trackers.kept_in(tmp_path / "tracking", settings(report_to="tensorboard"), [ours, mine]):
        assert (ours.logging_dir, mine.logging_dir) == (str(tmp_path / "tracking" / "tensorboard"), "/mine")


def test_trackio_keeps_its_projects_where_its_user_looks_for_them() -> None:
    home = Path.home()
    assert trackers.trackio_folder({}) == home / ".cache" / "huggingface" / "trackio"
    assert trackers.trackio_folder({"HF_HOME": "/data/hf"}) == Path("/data/hf/trackio")
    assert trackers.trackio_folder({"HF_HOME": "/data/hf", "TRACKIO_DIR": "~/t"}) == home / "t"


def test_the_pip_command_of_a_tracker_that_is_missing() -> None:
    assert trackers.missing("none") == trackers.missing(None) == trackers.missing([]) == ()
    assert trackers.missing(["comet_ml", "swanlab"]) == ("comet_ml", "swanlab")


def test_links_out_of_what_a_tracker_wrote_are_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "scratch" / "tracking"
    (folder / "empty").mkdir(parents=True)
    (folder / "wandb").mkdir()
    (folder / "wandb" / "run.wandb").write_text("x")
    (folder / "latest").symlink_to(folder / "wandb")
    out = tmp_path / "out"
    out.mkdir()
    trackers.move(folder, out)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*")) == [
        "tracking", "tracking/wandb", "tracking/wandb/run.wandb",
    ]  # fmt: skip
    trackers.move(folder, out)
    assert [path.name for path in out.iterdir()] == ["tracking"]
