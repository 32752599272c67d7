"""What others report of a training: trainer_state.json, train_results.json, exports of Weights & Biases, axolotl YAML.

Nothing of it was measured by hubkit, so it is kept apart from what was, and each report keeps the name and the digest
of its file. Only the figures and settings that are listed here are read: the rest may name files of a machine.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hubkit.core.bounded_json import LARGE, JsonError, load_json
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.files import digests
from hubkit.core.numbers import counted
from hubkit.core.yaml_text import parse_yaml

_MOST = 32 * 1024 * 1024
"""Bytes of a report; a trainer_state.json of 100,000 steps has 15 MB."""
_LONGEST = 120
"""Characters of a setting's value."""
_SETTINGS = (
    "adapter", "adam_beta1", "adam_beta2", "attn_implementation", "beta", "bf16", "cutoff_len", "finetuning_type",
    "flash_attention", "fp16", "gradient_accumulation_steps", "gradient_checkpointing", "learning_rate", "load_in_4bit",
    "load_in_8bit", "lora_alpha", "lora_dropout", "lora_r", "lora_rank", "lora_target_linear", "lr_scheduler",
    "lr_scheduler_type", "max_grad_norm", "max_length", "max_seq_length", "max_steps", "micro_batch_size",
    "neftune_noise_alpha", "num_epochs", "num_train_epochs", "optim", "optimizer", "packing",
    "per_device_train_batch_size", "pref_beta", "rl", "sample_packing", "seed", "sequence_len", "stage", "template",
    "train_batch_size", "train_on_inputs", "warmup_ratio", "warmup_steps", "weight_decay",
)  # fmt: skip
"""Settings of a training that are read, by the names that the trainers give them."""

Report = dict[str, Any]


def read_report(path: Path) -> Report:
    """What ``path`` reports: ``file``, ``sha256``, ``kind``, ``values``, ``settings`` and ``curve``.

    UsageError when there is no such file or it is of no known kind; RefusedError when it cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", hint="Name a file that reports the training.")
    if path.suffix in {".bin", ".pt", ".pkl", ".pth"}:
        raise RefusedError(
            f"{path.name} is a pickle, which is not read.", hint="Name the trainer_state.json of the same training."
        )
    if (size := path.stat().st_size) > _MOST:
        raise RefusedError(f"{path.name} has {counted(size, 'byte')}; at most {counted(_MOST, 'byte')} are read.")
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{path.name} is no report that hubkit knows.", hint=_KNOWN)
    found = read(path)
    if not found.get("values") and not found.get("settings"):
        raise UsageError(f"{path.name} reports nothing of a training.", hint=_KNOWN)
    return {"file": path.name, "sha256": digests(path).sha256, "values": {}, "settings": {}, "curve": [], **found}


_KNOWN = (
    "Known are trainer_state.json, train_results.json, exports of Weights & Biases (CSV, config.yaml, summary JSON) "
    "and axolotl's YAML."
)


def _json(path: Path) -> Report:
    try:
        value = load_json(path.read_bytes(), LARGE)
    except JsonError as error:
        raise RefusedError(f"{path.name} {error}.", hint="Copy it again from where it was trained.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path.name} is no report that hubkit knows.", hint=_KNOWN)
    if isinstance(value.get("log_history"), list):
        return _trainer_state(value)
    if any(key.startswith("_wandb") or key in {"_step", "_runtime"} for key in value):
        return {"kind": "Weights & Biases summary", "values": _summary(value)}
    if "train_loss" in value or "train_runtime" in value or "eval_loss" in value:
        return {"kind": "train results", "values": _results(value)}
    raise UsageError(f"{path.name} is no report that hubkit knows.", hint=_KNOWN)


def _trainer_state(value: Mapping[str, Any]) -> Report:
    """transformers' TrainerState: the log of a Trainer, TRL's trainers among them."""
    history = [point for point in value["log_history"] if isinstance(point, dict)]
    curve = [
        {"step": step, "loss": loss}
        for point in history
        if (loss := _number(point.get("loss"))) is not None and (step := _number(point.get("step"))) is not None
    ]
    end = next((point for point in reversed(history) if "train_runtime" in point), {})
    evaluated = next((point for point in reversed(history) if "eval_loss" in point), {})
    values = {
        "steps": _number(value.get("global_step")),
        "epochs": _number(value.get("epoch")),
        "seconds": _number(end.get("train_runtime")),
        "train_loss": _number(end.get("train_loss")),
        "first_loss": curve[0]["loss"] if curve else None,
        "last_loss": curve[-1]["loss"] if curve else None,
        "eval_loss": _number(evaluated.get("eval_loss")),
    }
    settings = {"train_batch_size": _number(value.get("train_batch_size"))}
    return {"kind": "trainer state", "values": _known(values), "settings": _known(settings), "curve": curve}


def _results(value: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' train_results.json, eval_results.json and all_results.json."""
    return _known(
        {
            "epochs": _number(value.get("epoch")),
            "rows": _number(value.get("train_samples")),
            "seconds": _number(value.get("train_runtime")),
            "train_loss": _number(value.get("train_loss")),
            "eval_loss": _number(value.get("eval_loss")),
        }
    )


def _summary(value: Mapping[str, Any]) -> dict[str, Any]:
    """wandb-summary.json: the last value of each metric."""
    return _known(
        {
            "steps": _first(value, "train/global_step", "_step"),
            "epochs": _first(value, "train/epoch", "epoch"),
            "seconds": _first(value, "train_runtime", "train/train_runtime", "_runtime"),
            "train_loss": _first(value, "train_loss", "train/train_loss"),
            "last_loss": _first(value, "train/loss", "loss"),
            "eval_loss": _first(value, "eval/loss", "eval_loss"),
        }
    )


def _yaml(path: Path) -> Report:
    """axolotl's or LLaMA-Factory's settings, or config.yaml of Weights & Biases (``key: {value: ...}``)."""
    value = parse_yaml(path.read_text(encoding="utf-8", errors="replace"), path.name)[0]
    if not isinstance(value, dict):
        raise UsageError(f"{path.name} is no report that hubkit knows.", hint=_KNOWN)
    boxed = any(key == "_wandb" or key == "wandb_version" for key in value)
    plain = {key: item["value"] if isinstance(item, dict) and "value" in item else item for key, item in value.items()}
    settings = {key: plain[key] for key in _SETTINGS if key in plain and _is_setting(plain[key])}
    return {"kind": "Weights & Biases config" if boxed else "settings", "settings": settings}


def _csv(path: Path) -> Report:
    """The history of a run as Weights & Biases exports it: a column for the step, columns ``run - train/loss``."""
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig", errors="replace"))))
    columns = [name for name in (rows[0] if rows else ()) if isinstance(name, str)]
    loss = next((name for name in columns if name.rpartition(" - ")[2] in {"train/loss", "loss"}), None)
    step = next(
        (name for name in columns if name.rpartition(" - ")[2] in {"train/global_step", "Step", "_step", "step"}), None
    )
    if loss is None or step is None:
        raise UsageError(f"{path.name} has no columns for the step and the training loss.", hint=_KNOWN)
    points = [(_text_number(row.get(step)), _text_number(row.get(loss))) for row in rows]
    curve = [{"step": at, "loss": value} for at, value in points if at is not None and value is not None]
    if not curve:
        return {}
    values = {"steps": curve[-1]["step"], "first_loss": curve[0]["loss"], "last_loss": curve[-1]["loss"]}
    return {"kind": "Weights & Biases history", "values": values, "curve": curve}


_READERS: Mapping[str, Callable[[Path], Report]] = {".json": _json, ".yaml": _yaml, ".yml": _yaml, ".csv": _csv}


def _number(value: Any) -> int | float | None:
    """``value`` when it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def _text_number(value: str | None) -> int | float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return _number(int(number) if number.is_integer() else number) if math.isfinite(number) else None


def _first(value: Mapping[str, Any], *keys: str) -> int | float | None:
    return next((number for key in keys if (number := _number(value.get(key))) is not None), None)


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _is_setting(value: Any) -> bool:
    """A number, a yes or no, or a word that is no path."""
    if isinstance(value, str):
        return 0 < len(value) <= _LONGEST and "/" not in value and "\\" not in value and "~" not in value
    return isinstance(value, bool) or _number(value) is not None
