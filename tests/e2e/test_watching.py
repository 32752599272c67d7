"""The training of the example release, watched: its DPO loses the end-of-turn token, and the probe sees it at once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from commands import hubkit_json
from tiny_release import Released

from hubkit.core.errors import RefusedError
from hubkit.core.target import Target
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run
from hubkit.recipe.loading import load_recipe
from hubkit.recipe.models import Probe
from hubkit.training import checkpoints
from hubkit_stages import dpo
from hubkit_stages.recipes import tiny

pytestmark = [pytest.mark.train, pytest.mark.timeout(1500)]


def test_the_curves_show_what_dpo_breaks_and_sft_mends(released: Released) -> None:
    found = {stage: released.artifact(f"train[{stage}]", "curves.json") for stage in ("dpo", "sft")}
    rates = {stage: {probe["step"]: probe["rate"] for probe in curves["probes"]} for stage, curves in found.items()}
    # Seconds may be too few for a probe at the second step; the last step is measured in any case.
    assert rates["dpo"].get(2, 1.0) >= 0.9 and rates["dpo"][found["dpo"]["steps"]] <= 0.1, rates
    assert rates["sft"].get(2, 0.0) <= 0.1 and rates["sft"][found["sft"]["steps"]] >= 0.9, rates
    for curves in found.values():
        steps = [point["step"] for point in curves["points"]]
        assert steps == sorted(set(steps)), "both trainings were interrupted: no point is there twice"
        assert steps[-1] == curves["steps"] == curves["probes"][-1]["step"]
    spent = sum(probe["seconds"] for probe in found["dpo"]["probes"][:-1])
    assert spent <= 0.12 * released.artifact("train[dpo]", "training.json")["seconds"]
    assert "stop rate while training" in (released.run / "artifacts" / "card[dpo-v0]" / "README.md").read_text()
    shown = hubkit_json("runs", "watch", home=released.home)
    assert [item["step"] for item in shown] == ["train[dpo]", "train[sft]"]
    assert {item["state"] for item in shown} == {"finished"}


def test_stop_below_ends_a_training_that_loses_its_end_of_turn_token(released: Released, tmp_path: Path) -> None:
    recipe = load_recipe(tiny.RECIPE)
    probe = Probe(every=5, max_new_tokens=32, stop_below=0.6, max_share=1.0)
    changed = recipe.stages["dpo"].model_copy(update={"probe": probe})
    recipe = recipe.model_copy(update={"stages": {**recipe.stages, "dpo": changed}})
    run = Run(tmp_path / "run")
    for step in ("base", "data"):
        shutil.copytree(released.run / "artifacts" / step, run.artifacts / step)
    (base,) = (released.home / "hf").rglob("models--hubkit--tiny-hermes/snapshots/*")
    found = {step: artifact for step in ("base", "data") if (artifact := run.find(step))}
    target = Target(released.url, tmp_path / "hf", embedded=True)
    state = ReleaseState(recipe, tiny.RECIPE.parent, target, run, expand(recipe), found)
    run.begin("train[dpo]", "k")
    job = next(job for job in state.jobs if job.id == "train[dpo]")
    ctx = state.context(job)
    ctx = replace(ctx, inputs=replace(ctx.inputs, base=replace(ctx.inputs.base, repo=str(base))))
    with pytest.raises(RefusedError, match=r"was ended after step \d+: its stop rate fell from") as ended:
        dpo.run(ctx)
    assert ended.value.exit_code == 3
    good = checkpoints.last_complete(run.scratch("train[dpo]") / "good")
    assert good is not None and f"Last good checkpoint: {good}." in ended.value.message
    assert (good / "adapter_model.safetensors").is_file()
