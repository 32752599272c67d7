"""Trainings that took long are neither repeated nor removed unasked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kept import sample
from terminals import run_forked
from training_case import recipe_text

from hubkit.cli.release import _consent as consent
from hubkit.core.errors import HubkitError, RefusedError, RemoteError
from hubkit.core.files import MANIFEST, digest_of, read_json, write_json
from hubkit.core.output import Output
from hubkit.core.target import Target
from hubkit.pipeline import keys, made_from
from hubkit.pipeline.discards import discarded, refuse
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job, expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runner import Retraining, release
from hubkit.pipeline.runs import open_run
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import StageResult
from hubkit.training import checkpoints

LONG = 36_000.0
DPO = "max_steps: 8, learning_rate: 1e-3, logging_steps: 2"
SFT = "max_steps: 4, learning_rate: 1e-3, logging_steps: 1"


class Written:
    """An artifact whose files are there already."""

    def save(self, folder: Path) -> None:
        """Nothing is left to save."""


def state_of(home: Path, dpo: str = DPO, sft: str = SFT, **changes: Any) -> ReleaseState:
    """The state of a release, as a command finds it; ``changes`` are keys of the recipe."""
    recipe = parse_recipe(recipe_text(dpo, sft)).model_copy(update=changes)
    target = Target("http://127.0.0.1:1", home / "hf", embedded=True)
    return ReleaseState(recipe, home, target, open_run(home, recipe.repo, target), expand(recipe))


def job_of(state: ReleaseState, step: str) -> Job:
    return next(job for job in state.jobs if job.id == step)


def files(state: ReleaseState, job: Job, seconds: float, weights: str) -> dict[str, str]:
    if job.id == "base":
        facts = sample("base.json")
        return {"base.json": json.dumps(facts), "chat_template.jinja": "c", "training_template.jinja": "t"}
    if job.id == "data":
        rows = {f"sets/{name}.jsonl": "{}\n" for name in ("preferences", "repair")}
        return {"data.json": json.dumps(sample("data.json")), **rows}
    args = dict(state.settings(job).args)
    libraries = {name: keys.installed(name) for name in find_stage(job.stage).SHAPED_BY}
    facts = sample("training.json", stage=job.stage_name, args=args, seconds=seconds, libraries=libraries)
    return {"training.json": json.dumps(facts), "adapter/adapter_model.safetensors": weights}


def finish(state: ReleaseState, step: str, seconds: float = LONG, weights: str = "w") -> StoredArtifact:
    """Make the artifact of ``step`` as its worker does."""
    job = job_of(state, step)
    state.run.begin(step, state.key(job), state.made_from(job))
    for name, content in files(state, job, seconds, weights).items():
        path = state.run.out(step) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    result = StageResult[Any](Written(), "made")
    state.finished[step] = state.run.keep(step, state.key(job), result, seconds, state.made_from(job))
    return state.finished[step]


STEPS = ("base", "data", "train[dpo]", "train[sft]")


def trained(home: Path, seconds: float = LONG, **changes: Any) -> ReleaseState:
    state = state_of(home, **changes)
    write_json(state.run.path / "recipe.json", state.recipe.model_dump(mode="json"))
    for step in STEPS:
        finish(state, step, seconds)
    return state


def checkpoint(state: ReleaseState, step: str, seconds: float = LONG) -> Path:
    """An interrupted training of ``step`` with one whole checkpoint."""
    job = job_of(state, step)
    state.run.begin(step, state.key(job), state.made_from(job))
    folder = state.run.scratch(step) / "checkpoints" / "checkpoint-5"
    write_json(folder / checkpoints.SPENT, {"seconds": seconds, "peak_memory_bytes": 1})
    checkpoints.seal(folder)
    return folder


def reused(state: ReleaseState) -> list[str]:
    state.finished.clear()
    for step in STEPS:
        artifact, _ = state.reusable_artifact(job_of(state, step))
        if artifact is not None:
            state.finished[step] = artifact
    return list(state.finished)


SAME = {
    "logging_steps": {"dpo": DPO.replace("logging_steps: 2", "logging_steps: 1")},
    "report_to": {"dpo": f"{DPO}, report_to: wandb, run_name: second"},
    "save_steps": {"sft": f"{SFT}, save_steps: 0.5, save_total_limit: 5"},
    "workers": {"dpo": f"{DPO}, dataloader_num_workers: 4, dataloader_pin_memory: true, disable_tqdm: false"},
}


@pytest.mark.parametrize("changes", SAME.values(), ids=SAME)
def test_what_cannot_change_the_weights_trains_nothing_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    trained(tmp_path)
    now = state_of(tmp_path, **changes)
    assert reused(now) == list(STEPS) and discarded(now) == []


def test_what_is_accepted_trains_nothing_again(tmp_path: Path) -> None:
    """The data check runs again, its rows are the same."""
    stages = trained(tmp_path).recipe.stages
    accepting = {name: stage.model_copy(update={"accept": ("dropped-rows",)}) for name, stage in stages.items()}
    now = state_of(tmp_path, stages=accepting)
    assert reused(now) == ["base"] and discarded(now) == []
    finish(now, "data")
    assert reused(now) == list(STEPS) and discarded(now) == []


CHANGED = {
    "lr": ({"dpo": DPO.replace("1e-3", "5e-5")}, "stages.dpo.args.learning_rate: 0.001 → 5e-05"),
    "new": ({"dpo": f"{DPO}, beta: 0.2"}, "stages.dpo.args.beta: (absent) → 0.2"),
    "gone": ({"dpo": "learning_rate: 1e-3, logging_steps: 2"}, "stages.dpo.args.max_steps: 8 → (absent)"),
    "seed": ({"seed": 4}, "seed: 3 → 4"),
}


@pytest.mark.parametrize(("changes", "why"), CHANGED.values(), ids=CHANGED)
def test_what_would_be_trained_again_is_named_before(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    trained(tmp_path)
    first, second = discarded(state_of(tmp_path, **changes))
    assert (first.step, first.what, first.seconds, first.why) == ("train[dpo]", "adapter", LONG, why)
    assert (second.step, second.why) == ("train[sft]", "train[dpo] is trained again, which it continues") or (
        second.why.startswith("seed")
    )
    with pytest.raises(RefusedError, match="--retrain") as caught:
        refuse([first, second])
    assert "2 adapters" in caught.value.message and "10 h" in caught.value.message and caught.value.exit_code == 3


def test_a_training_of_seconds_is_repeated_unasked(tmp_path: Path) -> None:
    trained(tmp_path, seconds=20.0)
    now = state_of(tmp_path, dpo=DPO.replace("1e-3", "5e-5"))
    assert "train[dpo]" not in reused(now) and discarded(now) == []
    finish(now, "train[dpo]", 20.0)
    assert now.run.kept() == [], "and what it replaces is not kept"


def test_changed_rows_are_known_when_the_data_step_has_run(tmp_path: Path) -> None:
    """Before that, nothing is known; afterwards the release stops before any training."""
    trained(tmp_path)
    more = parse_recipe(recipe_text(DPO, SFT).replace("them/pairs", "them/more-pairs"))
    now = state_of(tmp_path, data=more.data)
    assert discarded(now) == []
    reused(now)
    retraining = Retraining(False, refuse)
    assert not retraining.asks(now)
    job = job_of(now, "data")
    now.run.begin("data", now.key(job))
    for name, content in {**files(now, job, 0, ""), "sets/preferences.jsonl": "{}\n{}\n"}.items():
        (now.run.out("data") / "sets").mkdir(exist_ok=True)
        (now.run.out("data") / name).write_text(content)
    now.run.keep("data", now.key(job), StageResult[Any](Written(), "made"), 1.0)
    assert retraining.asks(now)
    with pytest.raises(RefusedError, match="rows to train on"):
        retraining.agree(now)
    agreeing = Retraining(False, lambda found: None)
    agreeing.agree(now)
    assert not agreeing.asks(now) and not Retraining(True, refuse).asks(now)


Installed = Callable[[str], str | None]


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to install another TRL."""

    def install() -> None:
        real: Installed = keys.installed
        other = lambda name: "9.9" if name == "trl" else real(name)  # noqa: E731
        monkeypatch.setattr(keys, "installed", other)
        monkeypatch.setattr(made_from, "installed", other)

    return install


def test_an_upgraded_library_is_reported_and_discards_nothing(tmp_path: Path, upgrade: Callable[[], None]) -> None:
    before = trained(tmp_path).finished["train[dpo]"]
    upgrade()
    now = state_of(tmp_path)
    job = job_of(now, "train[dpo]")
    for step in ("base", "data"):
        finish(now, step)
    artifact, why = now.reusable_artifact(job)
    version = keys.installed("peft") and before.made_from and before.made_from["libraries"]["trl"]
    assert artifact is not None and why == f"reused; made with trl {version}, now 9.9"
    assert discarded(now) == []
    assert Retraining(True, refuse).again(now, job, artifact), "--retrain trains it again"
    assert not Retraining(False, refuse).again(now, job, artifact)


def test_a_later_version_of_the_stage_is_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path)
    monkeypatch.setattr(find_stage("dpo"), "VERSION", find_stage("dpo").VERSION + 1)
    now = state_of(tmp_path)
    assert reused(now) == list(STEPS)
    _, why = now.reusable_artifact(job_of(now, "train[dpo]"))
    assert "the stage" in why and discarded(now) == []


def old_key(state: ReleaseState, job: Job) -> str:
    """The key of a training as it was computed before records: of the settings that there were then."""
    settings = {name: getattr(state.settings(job), name) for name in made_from._OLD_SETTINGS}
    return keys.artifact_key(find_stage(job.stage), settings, keys.input_digests(job, state.finished))


def age(state: ReleaseState, step: str) -> None:
    """Make the training ``step`` one of before records: its key computed the old way, and nothing else said."""
    job, found = job_of(state, step), state.finished[step]
    old = old_key(state, job)
    kept = read_json(found.path / MANIFEST)
    del kept["made_from"]
    write_json(found.path / MANIFEST, {**kept, "key": old})


def aged(home: Path) -> ReleaseState:
    state = trained(home)
    for step in ("train[dpo]", "train[sft]"):
        age(state, step)
    return state


def test_a_training_of_before_is_not_repeated_because_keys_are_computed_otherwise(tmp_path: Path) -> None:
    aged(tmp_path)
    now = state_of(tmp_path)
    assert reused(now) == list(STEPS) and discarded(now) == []
    now = state_of(tmp_path, dpo=DPO.replace("logging_steps: 2", "logging_steps: 9"))
    assert reused(now) == list(STEPS), "what TRL was given is in training.json, and the old key proves it"
    now.record_trainings()
    found = now.run.find("train[dpo]")
    assert found is not None and found.made_from is not None and found.key == now.key(job_of(now, "train[dpo]"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dpo": DPO.replace("1e-3", "5e-5")}, "stages.dpo.args.learning_rate: 0.001 → 5e-05"),
        ({"seed": 4}, "seed: 3 → 4"),
    ],
)
def test_of_a_training_of_before_it_is_known_what_changed(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    aged(tmp_path)
    assert discarded(state_of(tmp_path, **changes))[0].why == why


def test_an_old_key_that_proves_nothing_is_asked_about(tmp_path: Path) -> None:
    state = aged(tmp_path)
    folder = state.finished["train[dpo]"].path
    write_json(folder / MANIFEST, {**read_json(folder / MANIFEST), "key": digest_of("unknown")})
    first = discarded(state_of(tmp_path))[0]
    assert first.step == "train[dpo]" and "did not record" in first.why


def test_an_interrupted_training_of_before_is_resumed(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    for step in STEPS[:2]:
        finish(state, step)
    job, folder = job_of(state, "train[dpo]"), checkpoint(state, "train[dpo]")
    old = old_key(state, job)
    (state.run.unfinished("train[dpo]") / "key").write_text(old)
    (state.run.unfinished("train[dpo]") / "made_from.json").unlink()
    now = state_of(tmp_path)
    assert discarded(now) == []
    now.record_trainings()
    reused(now)
    now.run.begin("train[dpo]", now.key(job), now.made_from(job))
    assert folder.is_dir() and now.run.kept() == []


def test_checkpoints_of_another_key_are_asked_about_kept_and_come_back(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    for step in STEPS[:2]:
        finish(state, step)
    checkpoint(state, "train[dpo]")
    other = state_of(tmp_path, dpo=DPO.replace("1e-3", "5e-5"))
    (found,) = discarded(other)
    assert (found.what, found.why) == ("checkpoints", "stages.dpo.args.learning_rate: 0.001 → 5e-05")
    reused(other)
    job = job_of(other, "train[dpo]")
    other.run.begin(job.id, other.key(job), other.made_from(job))
    assert not (other.run.scratch(job.id) / "checkpoints").exists()
    (kept,) = other.run.kept()
    assert (kept.id, kept.stored, kept.seconds) == ("dpo-1", None, LONG)
    assert discarded(other) == [], "it was agreed to when it began"
    state.run.begin(job.id, state.key(job), state.made_from(job))
    assert (state.run.scratch(job.id) / "checkpoints" / "checkpoint-5").is_dir() and state.run.kept() == []


def test_a_replaced_adapter_is_kept_and_used_again_when_the_recipe_is_as_before(tmp_path: Path) -> None:
    first = trained(tmp_path)
    digest = first.finished["train[dpo]"].manifest.digest
    second = state_of(tmp_path, dpo=DPO.replace("1e-3", "5e-5"))
    reused(second)
    finish(second, "train[dpo]", weights="other")
    (kept,) = second.run.kept()
    assert kept.stored is not None and kept.stored.manifest.digest == digest and kept.id == "dpo-1"
    assert kept.made_from["settings"]["args"]["learning_rate"] == 1e-3
    third = state_of(tmp_path)
    assert discarded(third) == []
    reused(third)
    artifact, why = third.reusable_artifact(job_of(third, "train[dpo]"))
    assert artifact is not None and artifact.path == kept.path and "dpo-1 is kept" in why


def test_restoring_swaps_and_discarding_removes(tmp_path: Path) -> None:
    trained(tmp_path)
    state = state_of(tmp_path, dpo=DPO.replace("1e-3", "5e-5"))
    reused(state)
    finish(state, "train[dpo]", weights="other")
    (kept,) = state.run.kept()
    state.run.restore(kept)
    now = state_of(tmp_path)
    reused(now)
    artifact, why = now.reusable_artifact(job_of(now, "train[dpo]"))
    assert artifact is not None and why == "reused" and artifact.path.parent == now.run.artifacts
    (swapped,) = now.run.kept()
    assert (swapped.path / "adapter" / "adapter_model.safetensors").read_text() == "other"
    now.run.discard(swapped)
    assert now.run.kept() == [] and [line["event"] for line in now.run.journal()] == ["restored", "discarded"]


def release_again(home: Path, **keywords: Any) -> None:
    """Release with another learning rate; the Hub is not there, so it ends where the release begins."""
    now = state_of(home, dpo=DPO.replace("1e-3", "5e-5"))
    release(now.recipe, home, now.target, home, Output("quiet"), **keywords)


def test_a_release_that_would_discard_a_training_stops_before_it_begins(tmp_path: Path) -> None:
    run = trained(tmp_path).run
    recipe = (run.path / "recipe.json").read_text()
    with pytest.raises(RefusedError, match=r"learning_rate: 0\.001 → 5e-05") as caught:
        release_again(tmp_path)
    assert caught.value.exit_code == 3
    assert run.journal() == [] and (run.path / "recipe.json").read_text() == recipe
    asked: list[str] = []
    with pytest.raises(RemoteError):
        release_again(tmp_path, consent=lambda found: asked.extend(item.step for item in found))
    assert asked == ["train[dpo]", "train[sft]"]
    assert [line["event"] for line in run.journal()] == ["begin", "stopped"]
    with pytest.raises(RemoteError):
        release_again(tmp_path, retrain=True)


def test_a_release_finishes_what_a_kill_interrupted_and_records_what_was_not(tmp_path: Path) -> None:
    run = aged(tmp_path).run
    run.out("train[sft]").parent.mkdir(parents=True)
    (run.artifacts / "train[sft]").rename(run.out("train[sft]"))
    with pytest.raises(RefusedError):
        release_again(tmp_path)
    for step in ("train[dpo]", "train[sft]"):
        assert read_json(run.artifacts / step / MANIFEST)["made_from"]["settings"]["seed"] == 3


@pytest.mark.parametrize(
    ("typed", "terminal", "yes", "code"),
    [("y\n", True, False, 0), ("n\n", True, False, 130), ("", False, False, 3), ("", True, True, 3)],
)
def test_the_question_is_put_at_a_terminal_only(
    tmp_path: Path, typed: str, terminal: bool, yes: bool, code: int
) -> None:
    """And ``-y`` confirms what is published, not that a training is replaced."""
    trained(tmp_path)
    found = discarded(state_of(tmp_path, dpo=DPO.replace("1e-3", "5e-5")))

    def ask() -> None:
        try:
            consent(found, yes)
        except HubkitError as error:
            sys.exit(error.exit_code)

    assert run_forked(ask, terminal=terminal, answer=typed.encode())[0] == code
