"""Evidence with placeholder numbers: what the steps will measure, in its shape, before they have run.

With it a card is rendered and validated in preflight, so that a mistake in its words costs no GPU time. Nothing made
from it is ever published: ``hubkit_stages.card`` writes cards from artifacts only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hubkit.cards.evidence import Evidence, gguf_step, readers_step
from hubkit.cards.memory import placeholders
from hubkit.evals.results import Metric, Results, Settings, Subject, SuiteResult, TaskResult
from hubkit.models.chat.library import CHATML
from hubkit.models.gguf.made import GgufFiles
from hubkit.models.readers.made import ReadBy
from hubkit.recipe.benchmark_keys import BenchmarkCondition
from hubkit.recipe.models import Recipe, Training
from hubkit.recipe.names import ADOPT, MAIN
from hubkit.training.data import own_prompts

_COMMIT = "0" * 40
_SHARE = 0.5


def placeholder(recipe: Recipe) -> Evidence:
    """Evidence for the cards of every variant of ``recipe``. Each share is one half, each count is one."""
    form = {
        "stopped": 1, "prompts": 2, "rate": _SHARE, "low": 0.1, "high": 0.9, "mean_tokens": 1.0, "dtype": "float32",
        "examples": [], "answers": [{"prompt": "", "answer": "", "ended": "limit", "tokens": 1}],
    }  # fmt: skip
    end_of_turn = {"token": "<|im_end|>", "id": 1}
    alike = {"positions": 1, "same_next_token": _SHARE, "max_difference": 0.1}
    agreement = {
        "dtype": recipe.base.dtype, "wider": "float32", "conversations": 1, "forms": alike, "floor": alike,
        "no_floor": None,
    }  # fmt: skip
    files: dict[str, dict[str, Any]] = {
        "base": {
            "base.json": {
                "repo": recipe.base.repo, "commit": _COMMIT, "revision": recipe.base.revision, "parameters": 1,
                "dtype": recipe.base.dtype, "architecture": "AnyForCausalLM", "end_of_turn": end_of_turn,
                "licence": "unknown",
            }
        },
        "data": {"data.json": _data(recipe)},
    }  # fmt: skip
    for name in recipe.wanted_stages():
        files[f"train[{name}]"] = {"training.json": _training(recipe, name)}
    for name in recipe.variants:
        files |= placeholders(name)
        files[f"merge[{name}]"] = {
            "merge.json": {
                "dtype": recipe.base.dtype, "tensors": 1, "changed": 1, "parameters": 1, "bytes": 1, "seconds": 1.0,
            }
        }  # fmt: skip
        if recipe.readers:
            files[readers_step(name)] = {ReadBy.FILE: _readers()}
        if recipe.gguf_place(name) is not None:
            files[gguf_step(name)] = {GgufFiles.FILE: _gguf(recipe, name, form)}
    if recipe.evaluate.suites:
        for step in ("base-scores", *(f"evaluate[{name}]" for name in recipe.variants)):
            files[step] = {"results.json": _results(recipe)}
    if recipe.gates.stop_rate is not None:
        stop = {"max_new_tokens": recipe.gates.stop_rate.max_new_tokens, "prompts": 2, "end_of_turn": end_of_turn}
        files["base-stopping"] = {"stopping.json": {**stop, "forms": {"base": form}}}
        for name in recipe.variants:
            forms = {"merged": form, "adapter": form, "four-bit": form}
            whole: dict[str, Any] = {"forms": forms, "agreement": agreement}
            if recipe.published_form(name) == "weights":
                whole = {"forms": {"merged": form}}
            files[f"stopping[{name}]"] = {"stopping.json": {**stop, **whole}}
    if recipe.gates.are_set:
        files["gate"] = {"gates.json": _gates(recipe)}
    return Evidence(files, CHATML)


def _readers() -> dict[str, Any]:
    """``readers.json``, with a program that works and one that fails."""
    plain: dict[str, Any] = {"reader": "transformers-4", "versions": {"transformers": "4"}, "notes": []}
    works = {**plain, "form": "merged", "status": "works", "why": None, "conversations": 1}
    works |= {"answers": 1, "stopped": 1, "same": 1}
    fails = {**plain, "form": "adapter", "status": "fails", "why": "unknown", "conversations": 1}
    fails |= {"answers": None, "stopped": None, "same": None}
    return {"cells": [works, fails], "date": "2026-01-01", "machine": "unknown", "max_new_tokens": 1}


def _gguf(recipe: Recipe, name: str, form: dict[str, Any]) -> dict[str, Any]:
    """``gguf.json`` of the variant ``name``, with a file of each type, and measured."""
    plain = {"bytes": 1, "sha256": "0" * 64, "worst_tensor": "output.weight", "largest_error": 0.1}
    asked = recipe.gguf.benchmarks if recipe.gguf else ()
    benchmarks = [{"name": suite, "title": suite, "value": _SHARE, "stderr": 0.01} for suite in asked]
    rest = {"relative_error": 0.1, "stops": ["<|im_end|>"], "compared_texts": 1, "stop_rate": form}
    rest |= {"benchmarks": benchmarks}
    place = recipe.place(name)
    model = place.repo.partition("/")[2] + ("" if place.branch == MAIN else f"-{place.branch.replace('/', '-')}")
    types = recipe.gguf.types if recipe.gguf else ()
    return {
        "architecture": "llama",
        "files": [{"name": f"{model}-{kind.upper()}.gguf", "kind": kind, **plain, **rest} for kind in types],
        "ollama": ["Modelfile"] if recipe.gguf and recipe.gguf.ollama else [],
        "notes": [],
        "source": {},
        "max_new_tokens": recipe.answer_tokens,
        "llama_cpp": "unknown",
        "unmeasured": None,
    }


def _gates(recipe: Recipe) -> dict[str, Any]:
    verdicts = {}
    for name, variant in recipe.variants.items():
        forms = ("merged",) if recipe.published_form(name) == "weights" else ("merged", "adapter")
        enforced = variant.gate == "enforce"
        verdicts[name] = {
            "passed": enforced, "enforced": enforced, "threshold": _SHARE if recipe.gates.stop_rate else None,
            "rates": dict.fromkeys(forms if recipe.gates.stop_rate else (), _SHARE),
            "benchmarks": [_verdict(condition) for condition in recipe.gates.conditions()],
        }  # fmt: skip
    base = {"rate": _SHARE, "remark": None} if recipe.gates.stop_rate else None
    return {"base": base, "variants": verdicts}


def _verdict(condition: BenchmarkCondition) -> dict[str, Any]:
    return {
        **condition._asdict(), "result": "passed", "before": _SHARE, "after": _SHARE, "drop": 0.1, "stderr": 0.1,
        "p": _SHARE, "level": _SHARE, "n": 1, "changed": 1, "detectable": _SHARE, "note": None, "commit": None,
    }  # fmt: skip


def _data(recipe: Recipe) -> dict[str, Any]:
    sets = {
        name: {
            "rows": 1,
            "sources": [
                {
                    "repo": source.name, "commit": _COMMIT, "split": source.split, "mapping": source.mapping or "",
                    "local": source.repo is None,
                    "read": 1, "kept": 1, "dropped": {}, "licence": None,
                }
                for source in sources
            ],
        }
        for name, sources in recipe.data.items()
    }  # fmt: skip
    rate = recipe.gates.stop_rate
    asked = (rate.prompts_from or own_prompts.NAME) if rate is not None else ""
    return {"sets": sets, "prompts": {"set": asked, "rows": 1 if asked else 0}, "findings": []}


def _training(recipe: Recipe, name: str) -> dict[str, Any]:
    stage = recipe.stages[name]
    if stage.adopted is not None:
        return _adopted(name, stage)
    return {
        "stage": name, "uses": stage.uses or name, "method": (stage.uses or name).upper(), "rows": 1, "epochs": 1.0,
        "steps": 1, "seconds": 1.0, "tokens_per_second": 1.0, "peak_memory_bytes": 1, "device": "",
        "form": recipe.form(name), "quantization": stage.quantization, "lora": dict(stage.lora_keys),
        "args": dict(stage.args),
        "curve": [{"step": 1, "loss": 1.0}], "libraries": {},
    }  # fmt: skip


def _adopted(name: str, stage: Training) -> dict[str, Any]:
    reports = [
        {"file": Path(file).name, "sha256": "", "values": {"steps": 1}, "settings": {}} for file in stage.reports
    ]
    origin: dict[str, Any] = {
        "name": stage.adopted, "commit": None, "file": "", "base_name": None, "base_by": "config", "digests": {},
    }  # fmt: skip
    return {
        "stage": name, "form": "weights" if stage.weights else "adapter", "uses": ADOPT, "method": ADOPT,
        "quantization": stage.quantization, "lora": {"r": 1} if stage.adapter else {}, "args": {}, "libraries": {},
        "reported": {"trained_with": stage.trained_with, "files": reports}, "origin": origin,
    }  # fmt: skip


def _results(recipe: Recipe) -> Any:
    suites = {}
    for name in recipe.evaluate.suites:
        metric = Metric(value=_SHARE, stderr=0.1, n=1)
        task = TaskResult(name=name, version="", n_shot=0, n=1, metrics={"acc": metric})
        suites[name] = SuiteResult.of(name, name, "own", {name: task})
    return Results.of(
        suites=suites,
        subject=Subject(repo=recipe.base.repo, commit=_COMMIT, form="other"),
        settings=Settings(
            backend="hf",
            apply_chat_template=recipe.evaluate.apply_chat_template,
            limit=recipe.evaluate.limit,
            dtype=recipe.base.dtype,
            batch_size=None,
            device="",
        ),
        libraries={},
        seconds=1.0,
    ).model_dump(mode="json")
