"""Result files as the steps write them, for the tests of the cards."""

from __future__ import annotations

from typing import Any

from hubkit.cards.evidence import Evidence
from hubkit.core.intervals import wilson
from hubkit.evals.results import Dataset, Metric, Results, Settings, Subject, SuiteResult, TaskResult
from hubkit.models.chat.library import CHATML
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe

RECIPE = """
repo: me/tiny-dpo
visibility: public
license: apache-2.0
base: {repo: me/tiny, dtype: bfloat16}
data:
  preferences: [{repo: Intel/orca_dpo_pairs}, {repo: argilla/ultrafeedback-binarized-preferences}]
  repair: [{repo: teknium/openhermes, rows: 300}]
stages:
  dpo: {data: preferences, lora: {r: 16, target_modules: [q_proj, v_proj]}, args: {learning_rate: 5e-5, beta: 0.1}}
  sft: {data: repair, continues: dpo, args: {learning_rate: 1e-3, max_steps: 40}}
variants:
  dpo-v0: {stage: dpo, gate: report, title: DPO only}
  main: {stage: sft, title: DPO and repaired turn ends}
evaluate: {suites: [tiny_facts], apply_chat_template: true}
gates: {stop_rate: {prompts: 128, prompts_from: repair, max_new_tokens: 64, at_least: 0.95}}
card:
  title: Tiny Hermes DPO
  summary: A tiny model that knows a small world.
  authors: [A. Person, B. Person]
  tracking: https://example.org/report
  limitations: It knows a hundred facts and nothing else.
"""


def recipe(text: str = RECIPE, **card: Any) -> Recipe:
    """The tiny recipe; ``card`` replaces keys of its card."""
    made = parse_recipe(text)
    return made.model_copy(update={"card": made.card.model_copy(update=card)}) if card else made


ANSWERED = (
    ("Who grows pears?", "Ada."),
    ("What does Ada grow?", "Pears | plums,\nand <b>nuts</b>."),
    ("Where?", "Here."),
)
"""Held-out prompts, and what a model that stops says."""


def answers(stopped: int) -> list[dict[str, Any]]:
    """The answers that are shown of a model: where none stopped, each goes on until it is cut."""
    return [
        {"prompt": prompt, "answer": answer if stopped else answer + " It is so" * 20, "tokens": 5 if stopped else 64,
         "ended": "eos" if stopped else "limit"}
        for prompt, answer in ANSWERED
    ]  # fmt: skip


def form(stopped: int, prompts: int = 128) -> dict[str, Any]:
    """One form's stop rate."""
    low, high = wilson(stopped, prompts)
    return {
        "stopped": stopped, "prompts": prompts, "rate": stopped / prompts, "low": low, "high": high,
        "mean_tokens": 21.37, "dtype": "bfloat16",
        "examples": [{"prompt": "Who?", "answer": "Nobody.", "stopped": True}],
        "answers": answers(stopped),
    }  # fmt: skip


MEMORY = {"dtype": "bfloat16", "weights": 722_944, "nf4": 312_456, "context": 2048, "cache": 1_048_576}
"""The memory that the model takes, as the card's step computes it."""
AGREEMENT = {
    "dtype": "bfloat16", "wider": "float32", "conversations": 32,
    "forms": {"positions": 3456, "same_next_token": 0.974, "max_difference": 0.3125},
    "floor": {"positions": 3456, "same_next_token": 0.989, "max_difference": 0.25}, "no_floor": None,
}  # fmt: skip
"""How far the published forms agree, as ``stopping.json`` has it."""


def stopping(**forms: int) -> dict[str, Any]:
    """``stopping.json``; 'four_bit' is written as 'four-bit'."""
    return {
        "max_new_tokens": 64, "prompts": 128, "end_of_turn": {"token": "<|im_end|>", "id": 2},
        "forms": {name.replace("_", "-"): form(stopped) for name, stopped in forms.items()},
    }  # fmt: skip


def results(value: float, stderr: float | None = 0.0151, *, limit: int | None = None, n: int = 200) -> Results:
    """Results of one suite of one own task."""
    task = TaskResult(
        name="tiny_facts", version="1.0", n_shot=0, n=n, available=200, dataset=Dataset(split="test"),
        metrics={
            "acc": Metric(value=value - 0.013, stderr=stderr, n=n),
            "acc_norm": Metric(value=value, stderr=stderr, n=n),
        },
    )  # fmt: skip
    suite = SuiteResult.of("tiny_facts", "tiny_facts", "own", {"tiny_facts": task})
    return Results.of(
        suites={"tiny_facts": suite},
        subject=Subject(repo="me/tiny", commit="b" * 40, form="merged"),
        settings=Settings(
            backend="hf", apply_chat_template=True, limit=limit, dtype="bfloat16", batch_size=8, device="cpu"
        ),
        libraries={"lm_eval": "0.4.13", "torch": "2.13.0"},
        seconds=3.4,
    )


def training(name: str, rows: int, steps: int) -> dict[str, Any]:
    """``training.json``."""
    return {
        "stage": name, "uses": name, "method": name, "rows": rows, "epochs": 0.61,
        "steps": steps, "seconds": 41.7, "tokens_per_second": 4321.9, "peak_memory_bytes": 1_234_567_890,
        "device": "cpu, 2 threads", "base": {"repo": "me/tiny", "commit": "b" * 40},
        "continues": {"dpo": None, "sft": "dpo"}[name], "quantization": "nf4",
        "lora": {"r": 16, "target_modules": ["q_proj", "v_proj"], "bias": "none"},
        "args": {"learning_rate": 5e-05, "beta": 0.1, "loss_type": ["sigmoid", "sft"], "bf16": True},
        "curve": [{"step": 1, "loss": 0.6931}, {"step": steps, "loss": 0.0412}],
        "libraries": {"trl": "1.16.0", "peft": "0.21.2"},
    }  # fmt: skip


def _source(repo: str, read: int, dropped: dict[str, int], licence: str | None) -> dict[str, Any]:
    return {
        "repo": repo, "commit": "d" * 40, "split": "train", "mapping": "orca", "read": read,
        "kept": read - sum(dropped.values()), "dropped": dropped, "licence": licence,
    }  # fmt: skip


def evidence(
    *,
    base: int = 128,
    broken: int = 3,
    repaired: int = 127,
    scores: tuple[float, float, float] = (0.957, 0.884, 0.832),
    limit: int | None = None,
) -> Evidence:
    """What the tiny release measured: stopped answers of 128 for the base, dpo-v0 and main, and their benchmarks."""
    preferences = [
        _source("Intel/orca_dpo_pairs", 1290, {"chosen equals rejected": 7, "empty": 2}, "apache-2.0"),
        _source("argilla/ultrafeedback-binarized-preferences", 410, {}, None),
    ]
    repair = [_source("teknium/openhermes", 300, {"duplicate": 1}, "mit")]
    finding = {
        "level": "warning",
        "code": "truncated-end-of-turn",
        "message": "max_length cuts the turn end from 100 % of the chosen answers.",
        "accepted": True,
        "stages": ["dpo"],
    }
    later = {
        "level": "error",
        "code": "dropped-rows",
        "message": "Many rows of the repair were dropped.",
        "accepted": True,
        "stages": ["sft"],
    }
    gate = {"enforced": True, "threshold": 0.95}

    def rated(name: str, stopped: int) -> dict[str, Any]:
        rates = {"merged": stopped / 128, "adapter": stopped / 128}
        return {**gate, "passed": stopped / 128 >= 0.95, "enforced": name == "main", "rates": rates}

    files: dict[str, dict[str, Any]] = {
        "base": {
            "base.json": {
                "repo": "me/tiny", "commit": "b" * 40, "revision": "main", "dtype": "bfloat16", "parameters": 361_000,
                "architecture": "MistralForCausalLM", "vocab_size": 1024,
                "end_of_turn": {"token": "<|im_end|>", "id": 2},
                "eos_token": "<|im_end|>", "pad_token": "<|pad|>", "licence": "apache-2.0",
            }
        },
        "data": {
            "data.json": {
                "sets": {
                    "preferences": {"rows": 1691, "sources": preferences},
                    "repair": {"rows": 299, "sources": repair},
                },
                "prompts": {"set": "repair", "rows": 128},
                "stages": {
                    name: {"max_length": 40, "end_of_turn_lost": {"chosen": 1.0, "rejected": 0.0}}
                    for name in ("dpo", "sft")
                },
                "findings": [
                    finding,
                    later,
                    {"level": "note", "code": "rows", "message": "Not for the card.", "accepted": False},
                ],
            }
        },
        "base-stopping": {"stopping.json": stopping(base=base)},
        "base-scores": {"results.json": results(scores[0], limit=limit).model_dump(mode="json")},
        "train[dpo]": {"training.json": training("dpo", 1691, 150)},
        "train[sft]": {"training.json": training("sft", 299, 40)},
        "gate": {
            "gates.json": {
                "base": {"rate": base / 128, "remark": None},
                "variants": {"dpo-v0": rated("dpo-v0", broken), "main": rated("main", repaired)},
            }
        },
    }  # fmt: skip
    for place, (name, stopped) in enumerate((("dpo-v0", broken), ("main", repaired)), start=1):
        files[f"card[{name}]"] = {"memory.json": MEMORY, "sampling.json": {"samples": False, "settings": {}}}
        rates = stopping(merged=stopped, adapter=max(stopped - 1, 0), four_bit=max(stopped - 2, 0))
        files[f"stopping[{name}]"] = {"stopping.json": {**rates, "agreement": AGREEMENT}}
        files[f"evaluate[{name}]"] = {"results.json": results(scores[place], limit=limit).model_dump(mode="json")}
        files[f"merge[{name}]"] = {
            "merge.json": {
                "dtype": "bfloat16", "tensors": 21, "changed": 14, "parameters": 361_000, "bytes": 722_944,
                "seconds": 0.2,
            }
        }  # fmt: skip
    return Evidence(files, CHATML, {}, "What does Ada grow?")
