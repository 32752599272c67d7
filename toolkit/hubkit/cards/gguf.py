"""What the cards say of a variant's GGUF files: what each measured, where they are, and how programs load them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubkit.cards.escape import clean
from hubkit.cards.evidence import Evidence, benchmarks_step, card_step, gguf_step, merge_step
from hubkit.cards.measured import wrap
from hubkit.cards.memory import MEMORY_FILE
from hubkit.evals.results import RESULTS_FILE
from hubkit.models.gguf.made import FOLDER, GgufFiles
from hubkit.recipe.gguf import example_type
from hubkit.recipe.models import Recipe

MODELFILE = "Modelfile"
NOT_RUN = "hubkit did not execute this block"
"""On a card whose block for llama-cpp-python is not run, as that is not installed."""
CONTEXT_FILE = "llama-cpp.json"
"""In the artifact of the cards: the context in tokens with which the example loads a file."""
_CONTEXT = 4096
"""Tokens; the whole context of many models takes more memory than their weights."""


def has_gguf_card(recipe: Recipe, variant: str) -> bool:
    """Whether the GGUF files of ``variant`` have a place, and a card, of their own."""
    return recipe.gguf_place(variant) is not None and recipe.gguf is not None and recipe.gguf.place != "folder"


def gguf_context(recipe: Recipe, variant: str, evidence: Evidence) -> dict[str, Any] | None:
    """The template variable ``gguf``; None where there are no such files.

    Keys: ``own`` (they have a repo of their own), ``direct`` (one that every program can download from), ``folder``
    ('gguf/' beside the weights, or ''), ``repo branch`` (where they are), ``files`` (as in ``gguf.json``; ``type`` is
    the kind as programs write it, ``path`` where it is on the branch, ``scores`` the averages of the ``suites``, which
    are titles), ``weights`` (the weights to compare with: ``bytes`` and ``scores``), ``example`` (the file that the
    commands name), ``compared`` (those whose token ids are transformers'), ``modelfile`` (the path of Ollama's, or ''),
    ``ollama_name``, ``stops`` (texts that end an answer; ``several_stops``), ``notes``, ``max_new_tokens``,
    ``llama_cpp`` (the version that measured, or ''), ``unmeasured`` (why no stop rate was, or ''), ``not_run`` (that
    the Python block was not, or ''), ``failed`` (measured files that the gate refuses; ``all_failed``), ``result`` (the
    gate's verdict, or '') and ``context`` (see :data:`CONTEXT_FILE`).
    """
    place = recipe.gguf_place(variant)
    found = evidence.wrapped().get(gguf_step(variant), {}).get(GgufFiles.FILE)
    if place is None or recipe.gguf is None or found is None:
        return None
    suites = {item["name"]: item["title"] for made in found["files"] for item in made.get("benchmarks") or ()}
    folder = f"{FOLDER}/" if recipe.gguf.place == "folder" else ""
    files = [_file(item, folder, suites) for item in found["files"]]
    verdicts = _verdicts(evidence, variant)
    refused = {item["file"] for item in verdicts if not item["passed"]}
    failed = [item for item in files if item["stop_rate"] and item["name"] in refused]
    named = example_type([item["kind"] for item in files])
    stops = list(dict.fromkeys(text for item in files for text in item["stops"]))
    return {
        "own": recipe.gguf.place == "repo",
        "direct": recipe.gguf.place == "repo" and recipe.visibility == "public" and not recipe.gated,
        "folder": folder,
        "repo": place.repo,
        "branch": place.branch,
        "files": files,
        "suites": list(suites.values()),
        "weights": _weights(variant, evidence, suites),
        "example": next(item for item in files if item["kind"] == named),
        "compared": [item for item in files if item["compared_texts"] is not None],
        "modelfile": folder + MODELFILE if MODELFILE in found["ollama"] else "",
        "ollama_name": clean(recipe.place(variant).repo.rpartition("/")[2].lower()),
        "stops": stops,
        "several_stops": len(stops) > 1,
        "notes": found["notes"],
        "max_new_tokens": found["max_new_tokens"],
        "llama_cpp": found["llama_cpp"] or "",
        "unmeasured": found["unmeasured"] or "",
        "not_run": "" if found["llama_cpp"] else NOT_RUN,
        "failed": failed,
        "all_failed": len(failed) == len(files),
        "result": _result(recipe, variant, verdicts),
        "context": _context(variant, evidence),
    }


def _file(item: Mapping[str, Any], folder: str, suites: Mapping[str, str]) -> dict[str, Any]:
    scores = {score["name"]: score for score in item.get("benchmarks") or ()}
    path = folder + item["name"]
    return {**item, "type": item["kind"].upper(), "path": path, "scores": [scores.get(name) for name in suites]}


def _weights(variant: str, evidence: Evidence, suites: Mapping[str, str]) -> dict[str, Any]:
    """What was measured of the weights that the files were written from."""
    files = evidence.wrapped()
    merge = files.get(merge_step(variant), {}).get("merge.json") or {}
    results = files.get(benchmarks_step(variant), {}).get(RESULTS_FILE) or {}
    averages = {name: suite["average"] for name, suite in (results.get("suites") or {}).items()}
    scores = [found if (found := averages.get(name)) and found["value"] is not None else None for name in suites]
    return {"bytes": merge.get("bytes"), "scores": scores}


def _verdicts(evidence: Evidence, variant: str) -> Sequence[Mapping[str, Any]]:
    """The gate's verdict on each file, as ``gates.json`` has it; none before there was a gate."""
    gates = evidence.get("gate", "gates.json") or {}
    verdict: Mapping[str, Any] = (gates.get("variants") or {}).get(variant) or {}
    return verdict.get("gguf") or ()


def _result(recipe: Recipe, variant: str, verdicts: Sequence[Mapping[str, Any]]) -> str:
    if not verdicts:
        return ""
    if all(item["passed"] for item in verdicts):
        return "passed"
    known = any(item["rate"] is not None for item in verdicts if not item["passed"])
    word = "failed" if known else "not measured"
    return word if recipe.gguf_gate(variant) == "enforce" else f"{word} (reported)"


def _context(variant: str, evidence: Evidence) -> Any:
    """The context of the example: the model's own, or less where that is large. Kept as a file of the card's step."""
    step = card_step(variant)
    own = (evidence.get(step, MEMORY_FILE) or {}).get("context")
    plain = {"n_ctx": min(int(own), _CONTEXT) if own else _CONTEXT}
    evidence.derived.setdefault(step, {})[CONTEXT_FILE] = plain
    return wrap(plain, step, CONTEXT_FILE)["n_ctx"]
