"""What others report of a training: each file as its program writes it, and nothing that names a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from adopting import AXOLOTL, TRAINER_STATE

from hubkit.core.errors import HubkitError
from hubkit.training.adoption.reports import read_report

RESULTS = {"epoch": 2.0, "train_loss": 1.5, "train_runtime": 61.5, "train_samples": 640, "train_steps_per_second": 1.2}
SUMMARY = {
    "_step": 41,
    "_runtime": 70.5,
    "_wandb": {"runtime": 70},
    "train/global_step": 40,
    "train/epoch": 2,
    "train/loss": 0.75,
    "train_loss": 1.25,
    "eval/loss": "NaN",
}
WANDB_CONFIG = """\
_wandb: {value: {python_version: 3.11.4}}
learning_rate: {desc: null, value: 0.0002}
output_dir: {desc: null, value: /home/someone/out}
lora_r: {value: 16}
optim: {value: adamw_torch}
"""
HISTORY = '"Step","lucky-run-7 - train/loss","lucky-run-7 - train/loss__MIN"\n1,2.5,2.5\n2,,\n10,1.25,1.25\n'


@pytest.mark.parametrize(
    ("name", "text", "values", "settings"),
    [
        (
            "trainer_state.json",
            json.dumps(TRAINER_STATE),
            {"steps": 40, "epochs": 2.0, "seconds": 62.5, "train_loss": 1.25, "first_loss": 1.75, "last_loss": 0.8125},
            {"train_batch_size": 2},
        ),
        (
            "train_results.json",
            json.dumps(RESULTS),
            {"epochs": 2.0, "rows": 640, "seconds": 61.5, "train_loss": 1.5},
            {},
        ),
        (
            "wandb-summary.json",
            json.dumps(SUMMARY),
            {"steps": 40, "epochs": 2, "seconds": 70.5, "train_loss": 1.25, "last_loss": 0.75},
            {},
        ),
        ("config.yaml", WANDB_CONFIG, {}, {"learning_rate": 0.0002, "lora_r": 16, "optim": "adamw_torch"}),
        ("wandb_export.csv", HISTORY, {"steps": 10, "first_loss": 2.5, "last_loss": 1.25}, {}),
        (
            "axolotl.yml",
            AXOLOTL,
            {},
            {
                "adapter": "lora", "lora_r": 4, "lora_alpha": 8, "learning_rate": 2e-4, "num_epochs": 2,
                "micro_batch_size": 2, "sample_packing": True,
            },
        ),
    ],
)  # fmt: skip
def test_each_kind_is_read(
    name: str, text: str, values: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)
    found = read_report(path)
    assert found["values"] == values and dict(sorted(found["settings"].items())) == dict(sorted(settings.items()))
    assert found["file"] == name and len(found["sha256"]) == 64
    assert "/home/someone" not in json.dumps(found) and "/data/models" not in json.dumps(found)


def test_a_loss_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    history = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.5}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 2, "log_history": history}))
    found = read_report(tmp_path / "trainer_state.json")
    assert found["values"] == {"steps": 2, "first_loss": 1.5, "last_loss": 1.5}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("training_args.bin", "x", "training_args.bin is a pickle, which is not read."),
        ("notes.txt", "x", "notes.txt is no report that hubkit knows."),
        ("a.json", "{", "a.json is not valid JSON"),
        ("a.json", "[1]", "a.json is no report that hubkit knows."),
        ("a.json", '{"a": 1}', "a.json is no report that hubkit knows."),
        ("a.yaml", "output_dir: /home/someone\n", "a.yaml reports nothing of a training."),
        ("a.csv", "a,b\n1,2\n", "a.csv has no columns for the step and the training loss."),
        ("a.csv", "Step,loss\n1,\n", "a.csv reports nothing of a training."),
    ],
)
def test_anything_else_is_refused_in_a_sentence(name: str, text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(HubkitError) as error:
        read_report(tmp_path / name)
    assert sentence in error.value.message and error.value.hint
