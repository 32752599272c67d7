"""Artifacts of steps that did not run, complete from the few keys that a test cares about; and running one stage."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubkit.core.files import Manifest
from hubkit.pipeline.runs import Run
from hubkit.recipe.artifact import StoredArtifact
from hubkit.recipe.stage import Context

END_OF_TURN = {"token": "<|im_end|>", "id": 2, "suffix_ids": []}
SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "base.json": {
        "repo": "them/base", "commit": "b" * 40, "revision": "main", "dtype": "bfloat16", "parameters": 1000,
        "architecture": "MistralForCausalLM", "vocab_size": 1024, "end_of_turn": END_OF_TURN,
        "eos_token": "<|im_end|>", "pad_token": "<|pad|>", "own_pad_token": "<|pad|>", "chat_template": "base",
        "chat_template_sha256": "0" * 64, "chat_template_is_own": True, "control_tokens": [], "licence": "apache-2.0",
    },
    "training.json": {"stage": "sft"},
    "data.json": {"sets": {}, "prompts": {"set": "repair", "rows": 4}},
    "merge.json": {
        "dtype": "bfloat16", "tensors": 1, "changed": 1, "parameters": 1000, "bytes": 4096, "seconds": 1.0,
        "targets": {}, "finite": [],
    },
    "stopping.json": {
        "max_new_tokens": 64, "prompts": 256, "end_of_turn": {"token": "<|im_end|>", "id": 2}, "forms": {},
        "skipped": {},
    },
    "gates.json": {"base": {"rate": 1.0, "remark": None}, "variants": {}},
    "loadback.json": {
        "commit": "c" * 40, "files": 1, "bytes": 1, "stopping": {}, "top1_agreement": 1.0,
        "compared": {
            "dtype": "float32", "conversations": 1, "positions": 1, "top1_agreement": 1.0, "max_difference": 0.0,
        },
    },
}  # fmt: skip
"""What a typed artifact needs, by file name."""
FACTS = {"base": "base.json", "data": "data.json", "train": "training.json", "merge": "merge.json"}
"""The file with the facts of what a step makes, where tests make it without any."""


def sample(name: str, **keys: Any) -> dict[str, Any]:
    """The JSON file ``name`` of an artifact, complete, with ``keys`` in place of the sample's."""
    return {**SAMPLES.get(name, {}), **keys}


def measured_rate(rate: float, prompts: int = 256) -> dict[str, Any]:
    """A measured stop rate."""
    return {
        "stopped": round(rate * prompts), "prompts": prompts, "rate": rate, "low": rate, "high": rate,
        "mean_tokens": 4.0, "dtype": "float32", "examples": [],
    }  # fmt: skip


class Kept(StoredArtifact):
    """A stored artifact whose JSON files a test may read."""

    def json(self, name: str) -> Any:
        """The JSON file ``name``."""
        return json.loads((self.path / name).read_text(encoding="utf-8"))


def kept(found: StoredArtifact | None) -> Kept:
    """``found``, which is there."""
    assert found is not None
    return Kept(found.path, found.key, found.manifest, found.summary, found.seconds)


def stored(folder: Path) -> Kept:
    """The files of ``folder`` as an artifact."""
    return Kept(folder, "key", Manifest.of(folder), {}, 0.0)


def perform(stage: Any, ctx: Context[Any, Any], run: Run, step: str, key: str = "k") -> Kept:
    """Run ``stage`` as ``step`` and keep what it makes, as a worker does. The step must have begun under ``key``."""
    began = time.monotonic()
    result = stage.run(ctx)
    return kept(run.keep(step, key, result, round(time.monotonic() - began, 3)))
