"""A training of more than a minute, really replaced and really restored, by the commands that a person types."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import hubkit, hubkit_json

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

STEPS = 1500
"""Of DPO: about two minutes of one core."""


def test_a_long_training_is_kept_when_it_is_replaced_and_used_again_when_restored(tmp_path: Path, home: Path) -> None:
    recipe = tmp_path / "hubkit.yaml"
    made = hubkit("init", "--from", "tiny", home=home, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    text = recipe.read_text(encoding="utf-8")
    text = re.sub(r"\nspace:\n(?:  .*\n)+", "\n", text).replace("suites: [tiny_facts]", "suites: []")
    first = text.replace("max_steps: 100", f"max_steps: {STEPS}")
    assert first != text
    recipe.write_text(first, encoding="utf-8")
    released = hubkit("release", str(recipe), home=home, cwd=tmp_path)
    assert released.returncode == 0, released.stderr
    (run,) = hubkit_json("runs", "list", home=home)
    steps = {item["step"]: item for item in hubkit_json("runs", "show", run["id"], home=home)["steps"]}
    assert steps["train[dpo]"]["seconds"] > 60, "raise STEPS: the training must count as dear"
    weights = _adapter(Path(run["path"]), "train[dpo]")

    # What cannot change the weights trains nothing again, and is not asked about.
    recipe.write_text(first.replace("logging_steps: 10", "logging_steps: 50"), encoding="utf-8")
    again = hubkit("release", str(recipe), home=home, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert _adapter(Path(run["path"]), "train[dpo]") == weights

    # What can is refused, and nothing is lost; with --retrain the old adapter is kept.
    recipe.write_text(first.replace("beta: 0.1", "beta: 0.2").replace(f"{STEPS}", "20"), encoding="utf-8")
    refused = hubkit("release", str(recipe), home=home, cwd=tmp_path)
    assert refused.returncode != 0 and "--retrain" in refused.stderr and "train[dpo]" in refused.stderr
    assert _adapter(Path(run["path"]), "train[dpo]") == weights
    retrained = hubkit("release", str(recipe), "--retrain", home=home, cwd=tmp_path)
    assert retrained.returncode == 0, retrained.stderr
    assert _adapter(Path(run["path"]), "train[dpo]") != weights
    (about,) = hubkit_json("runs", "list", home=home)
    kept = {item["step"]: item["id"] for item in about["replaced"]}
    assert "train[dpo]" in kept

    # Restored, and the recipe as it was: nothing is trained, and the old weights are published again.
    restored = hubkit("runs", "restore", run["id"], kept["train[dpo]"], home=home)
    assert restored.returncode == 0, restored.stderr
    recipe.write_text(first, encoding="utf-8")
    last = hubkit("release", str(recipe), home=home, cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert _adapter(Path(run["path"]), "train[dpo]") == weights


def _adapter(run: Path, step: str) -> bytes:
    return (run / "artifacts" / step / "adapter" / "adapter_model.safetensors").read_bytes()
