"""The step gguf of a small release: its inputs as artifacts in a folder, and what a stage is given of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kept import measured_rate, sample, stored

from hubkit.core.files import write_json
from hubkit.core.target import Target
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Context, silent

RECIPE = """
repo: me/tiny
visibility: private
license: apache-2.0
base: {repo: me/base}
data: {preferences: [{repo: me/pairs}]}
stages: {dpo: {data: preferences}, sft: {data: preferences, continues: dpo}}
variants: {dpo-v0: {stage: dpo, gate: report}, main: {stage: sft}}
gates: {stop_rate: {prompts_from: preferences, prompts: 4, max_new_tokens: 8, at_least: 0.95}}
gguf: {types: [f16, q8_0], variants: [main, dpo-v0]}
card: {title: Tiny, summary: A test.}
"""
WORDS: Sequence[Mapping[str, Any]] = [
    {"messages": [{"role": "user", "content": f"word {number}"}]} for number in range(6)
]


def context(
    folder: Path, asked: Recipe, step: str, known: Mapping[str, Path], report: Any = silent
) -> Context[Any, Any]:
    """What the stage of ``step`` is given; ``known`` are the artifacts that are there, by job."""
    run = Run(folder / "run")
    run.begin(step, "k")
    state = ReleaseState(
        asked, folder, Target("http://127.0.0.1:9", folder / "home"), run, expand(asked),
        {name: stored(path) for name, path in known.items()},
    )  # fmt: skip
    return state.context(next(job for job in state.jobs if job.id == step), report)


def step_of(
    folder: Path,
    model: Path,
    asked: Recipe,
    *,
    variant: str = "main",
    end: str = "<|im_end|>",
    rows: Sequence[Mapping[str, Any]] = WORDS,
    report: Any = silent,
) -> Context[Any, Any]:
    """The step gguf of ``variant``, whose merged weights are a copy of ``model`` and end at ``end``."""
    from hubkit.models.load import load_tokenizer

    (number,) = load_tokenizer(model).convert_tokens_to_ids([end])
    told = {"end_of_turn": {"token": end, "id": number, "suffix_ids": []}, "repo": "me/base"}
    write_json(folder / "base" / "base.json", sample("base.json", **told))
    write_json(folder / "data" / "data.json", sample("data.json"))
    (folder / "data" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(folder / "merge" / "merge.json", sample("merge.json"))
    if not (folder / "merge" / "model").exists():
        shutil.copytree(model, folder / "merge" / "model")
    names = {"base": "base", "data": "data", f"merge[{variant}]": "merge"}
    return context(folder, asked, f"gguf[{variant}]", {job: folder / name for job, name in names.items()}, report)


def gate_of(folder: Path, asked: Recipe, files: Mapping[str, Path]) -> Context[Any, Any]:
    """The gate of a release whose base and weights always stop; ``files`` are the artifacts of the step gguf."""
    base = folder / "rates-base"
    write_json(base / "stopping.json", sample("stopping.json", forms={"base": measured_rate(1.0)}))
    known = {"base-stopping": base, **{f"gguf[{name}]": path for name, path in files.items()}}
    for name in asked.variants:
        forms = {form: measured_rate(1.0) for form in ("merged", "adapter")}
        known[f"stopping[{name}]"] = folder / f"rates-{name}"
        write_json(known[f"stopping[{name}]"] / "stopping.json", sample("stopping.json", forms=forms))
    return context(folder, asked, "gate", known)


def files_with(folder: Path, rates: Mapping[str, float | None]) -> Path:
    """An artifact of the step gguf, without its files: their types and stop rates (None: not measured)."""
    files = [
        {
            "name": f"tiny-{kind.upper()}.gguf", "kind": kind, "bytes": 1, "sha256": "0" * 64, "worst_tensor": "x",
            "largest_error": 0.0, "relative_error": 0.0, "stops": ["<|im_end|>"],
            "stop_rate": None if rate is None else measured_rate(rate),
        }
        for kind, rate in rates.items()
    ]  # fmt: skip
    told = {"architecture": "llama", "files": files, "ollama": [], "notes": [], "source": {}}
    why = "llama-cpp-python was not installed" if None in rates.values() else None
    write_json(folder / "gguf.json", {**told, "unmeasured": why})
    return folder
