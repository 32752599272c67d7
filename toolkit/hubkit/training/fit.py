"""Does the adapter of a training stage fit the base? Found from the base's config.json alone, without its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.findings import Finding
from hubkit.core.numbers import count, counted, size
from hubkit.models import meta
from hubkit.models.base_files import read_base
from hubkit.models.facts import AdapterFacts, ModelFacts
from hubkit.models.merging.support import TIED_ACTION, merge_problem, merge_way
from hubkit.recipe.mistakes import did_you_mean
from hubkit.recipe.stage import CheckContext
from hubkit.training.arguments import effective
from hubkit.training.contract import Settings
from hubkit.training.rehearsal import Method

_SHOWN = 8
"""Names of layers that a message lists."""


@dataclass(frozen=True)
class _Stage:
    settings: Settings
    method: Method
    model: ModelFacts

    @property
    def where(self) -> str:
        return f"stages.{self.settings.name}"

    def error(self, key: str, problem: str, advice: str = "Fix the recipe.") -> Finding:
        return Finding("error", f"{self.where}.{key}: {_sentence(problem)}", advice, exit_code=2)

    def warning(self, key: str, problem: str) -> Finding:
        return Finding("warning", f"{self.where}.{key}: {_sentence(problem)}")


def check(ctx: CheckContext[Settings], method: Method) -> Iterator[Finding]:
    """What of the stage's ``lora`` and ``args`` does not fit the base.

    Nothing when the base cannot be read: its own step reports it.
    """
    try:
        files = read_base(ctx.target, ctx.base) if ctx.base is not None else None
    except HubkitError:
        return
    if files is not None and files.config is not None:
        yield from findings(ctx.settings, method, files.config)


def findings(settings: Settings, method: Method, config: bytes) -> Iterator[Finding]:
    """What of ``settings`` does not fit the base of this config.json, or makes an adapter that cannot be merged.

    Nothing when no model can be built from it: the base's own step reports it.
    """
    try:
        stage = _Stage(settings, method, meta.facts_of(config))
    except HubkitError:
        return
    yield from _lengths(stage)
    yield from _experts(stage)
    if settings.begins_adapter:
        try:
            adapter = meta.adapter_of(config, json.dumps(dict(settings.lora_keys), sort_keys=True))
        except RefusedError as error:
            yield _refused(stage, error)
        except meta.UnknownError as error:
            yield stage.warning("lora", f"not compared with the base before training; {error.message}")
        else:
            yield from _adapter(stage, adapter)
            if not any(item.module == stage.model.output_embeddings for item in adapter.targets):
                yield from merge_findings(settings.name, stage.model, adapter)


def merge_findings(name: str, model: ModelFacts, adapter: AdapterFacts) -> Iterator[Finding]:
    """What the merge will say of the adapter that the stage ``name`` starts on ``model``."""
    if model.quantization:
        return  # a fault of the base, which is reported as that
    if problem := merge_problem(adapter.settings, model, adapter):
        advice = TIED_ACTION if "tied embeddings" in problem else "Train without this option."
        text = f"stages.{name}.lora: such an adapter cannot be merged: {problem}."
        yield Finding("error", text, advice, exit_code=2)
    elif merge_way(adapter.settings, adapter) == "peft":
        held = size(4 * model.count)
        text = f"stages.{name}.lora: PEFT itself merges such an adapter, with the whole base in memory ({held})."
        yield Finding("warning", text)


def _lengths(stage: _Stage) -> Iterator[Finding]:
    longest, length = stage.model.positions, effective(stage.method, stage.settings.args, "max_length")
    if longest is not None and isinstance(length, int) and length > longest:
        given = "" if "max_length" in stage.settings.args else " (TRL's default)"
        problem = f"{count(length)} tokens{given} are more than the {count(longest)} positions of the base"
        yield stage.warning("args.max_length", problem)


def _experts(stage: _Stage) -> Iterator[Finding]:
    if stage.settings.args.get("router_aux_loss_coef") and not stage.model.balances_experts:
        problem = f"{stage.model.architecture} is no mixture of experts, so it has no such loss"
        yield stage.error("args.router_aux_loss_coef", problem, "Remove it.")


def _refused(stage: _Stage, error: RefusedError) -> Finding:
    """What PEFT refuses, with the names that the base has where the targets are the reason."""
    lora, words = stage.settings.lora_keys, error.message
    targets = lora.get("target_modules")
    if "not found in the base model" not in words or targets is None:
        key = next((name for name in lora if name in words), None)
        return stage.error(f"lora.{key}" if key else "lora", words.rstrip("."))
    named = [targets] if isinstance(targets, str) else [str(item) for item in targets]
    meant = did_you_mean(named[0], _layers(stage.model)) if named else ""
    only = f" in layers_to_transform {lora['layers_to_transform']}" if lora.get("layers_to_transform") else ""
    listed = ", ".join(repr(item) for item in named[:_SHOWN])
    problem = f"nothing in {stage.model.architecture} matches {listed}{only}{meant}"
    return stage.error("lora.target_modules", problem, f"Its layers are {_listed(_layers(stage.model))}.")


def _adapter(stage: _Stage, adapter: AdapterFacts) -> Iterator[Finding]:
    if adapter.trainable == 0:
        yield stage.error("lora", "this config trains no parameter of the base")
    for item in adapter.unmatched:
        key, _, name = item.partition(": ")
        meant = did_you_mean(name, _layers(stage.model))
        problem = f"{name!r} matches nothing in {stage.model.architecture}{meant}"
        yield stage.warning(f"lora.{key}", problem)
    head = stage.model.output_embeddings
    literal = stage.settings.lora_keys.get("target_modules") or ()
    if "lm_head" not in literal and any(item.module == head for item in adapter.targets):
        problem = f"TRL's trainers do not train an adapter on {head}, the output embeddings"
        yield stage.error("lora.target_modules", problem, "Leave it out.")
    over = [item for item in adapter.targets if item.kind != "parameter" and item.rank > min(item.shape)]
    if over:
        target = over[0]
        problem = f"rank {target.rank} is more than {target.module} has ({' x '.join(map(str, target.shape))})"
        more = f", and {counted(len(over) - 1, 'other layer')}" if len(over) > 1 else ""
        yield stage.warning("lora.r", f"{problem}{more}")
    for words in adapter.warnings:
        if "Conv1D" not in words and "tie_word_embeddings" not in words:  # PEFT corrects the one; the merge judges both
            yield stage.warning("lora", words)


def _sentence(problem: str) -> str:
    return problem if problem.endswith("?") else f"{problem}."


def _layers(model: ModelFacts) -> list[str]:
    """The last names of layers that an adapter can sit on, each once, in the order of the model."""
    kinds = ("Linear", "Conv1D", "Embedding")
    return list(
        dict.fromkeys(name.rpartition(".")[2] for name, module in model.modules.items() if module.kind.endswith(kinds))
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")
