"""Merge a variant's adapter into the base: the weights and other root files of the variant's branch.

Weights that were trained without an adapter are written in the dtype of the release.

    base: {repo: teknium/OpenHermes-2.5-Mistral-7B, dtype: bfloat16}      # dtype: of the merged weights

The weights are screened here, so that no model is measured that cannot be published. The tokenizer, the template
and the two configs must agree on where an answer ends, and encode conversations to the token ids that the trainer saw.

Writes ``model/`` (weights, configs, tokenizer, chat template) and ``merge.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hubkit.checks.screening import architecture, screen
from hubkit.core.bounded_json import SETTINGS, JsonError, load_json
from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.findings import Finding
from hubkit.core.numbers import count, counted, size
from hubkit.models import meta
from hubkit.models.base import PinnedBase
from hubkit.models.base_files import read_base
from hubkit.models.chat import agreement, trained
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.load import load_tokenizer
from hubkit.models.merging.adapter import read_adapter
from hubkit.models.merging.casting import cast_weights
from hubkit.models.merging.companions import fetch_base, model_config, read_settings
from hubkit.models.merging.merge import MergeReport, merge_all
from hubkit.models.merging.merged import MergedWeights
from hubkit.models.merging.proof import prove
from hubkit.models.merging.support import unmergeable
from hubkit.models.tensors import INDEX
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import BaseRepo, CheckContext, Context, Scope, StageResult
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.fit import merge_findings

VERSION = 6
SHAPED_BY = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class Settings:
    """The base, the dtype of the merged weights, and PEFT's keys of each training stage that led to the adapter.

    No keys of a stage that leaves weights.
    """

    base: str
    revision: str
    provided: bool
    dtype: Literal["bfloat16", "float16", "float32"]
    lora: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        chain = recipe.chain(recipe.variants[scope.published].stage)
        return cls(
            base=recipe.base.repo,
            revision=recipe.base.revision,
            provided=recipe.provide is not None,
            dtype=recipe.base.dtype,
            lora={
                name: recipe.stages[name].lora_keys
                for name in chain
                if recipe.form(name) == "adapter" and recipe.stages[name].adopted is None
            },
        )


@dataclass(frozen=True)
class Inputs:
    """The base, and the variant's adapter."""

    base: PinnedBase
    adapter: TrainedAdapter


Output = MergedWeights


def check(ctx: CheckContext[Settings]) -> Iterator[Finding]:
    """Whether the adapters of the recipe can be merged, and whether the base's files allow it."""
    settings, sound = ctx.settings, bool(ctx.settings.lora)
    for name, lora in settings.lora.items():
        if problem := unmergeable({"peft_type": "LORA", **lora}):
            text = f"stages.{name}.lora: such an adapter cannot be merged: {problem}."
            yield Finding("error", text, "Train without this option.", exit_code=2)
            sound = False
    try:
        files = read_base(ctx.target, BaseRepo(settings.base, settings.revision, settings.provided))
        if files is None:
            return
        read = load_json(files.config or b"{}", SETTINGS)
        model_config({key: read[key] for key in read if key != "auto_map"}, settings.dtype, None)
    except HubkitError as error:
        yield Finding("error", f"base: {error.message}", error.hint, error.exit_code)
    except JsonError as error:
        yield Finding("error", f"base: config.json of {settings.base} {error}.")
    else:
        if files.config and sound and settings.lora:
            yield from _fits(*next(iter(settings.lora.items())), files.config)


def _fits(stage: str, lora: Mapping[str, Any], config: bytes) -> Iterator[Finding]:
    """Whether the adapter that ``stage`` starts can be merged into the base of this config.json.

    Nothing when the base or the adapter cannot be built: the checks of their own steps report it.
    """
    try:
        model, adapter = meta.facts_of(config), meta.adapter_of(config, json.dumps(dict(lora), sort_keys=True))
    except HubkitError:
        return
    yield from merge_findings(stage, model, adapter)


def run(ctx: Context[Settings, Inputs]) -> StageResult[MergedWeights]:
    """Write ``model/`` and ``merge.json``."""
    return run_together([ctx])[0]


def run_together(ctxs: Sequence[Context[Settings, Inputs]]) -> list[StageResult[MergedWeights]]:
    """:func:`run` for several variants of a release: the base is read once for all of them."""
    first, base = ctxs[0], ctxs[0].inputs.base
    for ctx in ctxs:
        _refuse_other_base(ctx.inputs.adapter, base)
    first.report(f"fetching {base.repo}", None)
    folder = fetch_base(first.target, base.repo, base.commit)
    reports = {ctx.out: report for ctx, report in _written(ctxs, folder)}
    return [_compared(ctx, reports[ctx.out], folder) for ctx in ctxs]


def _written(
    ctxs: Sequence[Context[Settings, Inputs]], folder: Path
) -> Iterator[tuple[Context[Settings, Inputs], MergeReport]]:
    """Write the models of ``ctxs``; the base is in ``folder``."""
    first, base = ctxs[0], ctxs[0].inputs.base
    options: dict[str, Any] = {
        "dtype": first.settings.dtype,
        "chat_template": base.template,
        "end_of_turn": base.end_of_turn,
        "pad_token": base.pad_token,
        "report": first.report,
    }
    merged = [ctx for ctx in ctxs if ctx.inputs.adapter.form == "adapter"]
    if merged:
        places = [(ctx.inputs.adapter.weights, ctx.out / "model") for ctx in merged]
        yield from zip(merged, merge_all(folder, places, **options), strict=True)
    for ctx in ctxs:
        if ctx.inputs.adapter.form == "weights":
            yield ctx, cast_weights(ctx.inputs.adapter.weights, folder, ctx.out / "model", **options)


def _compared(ctx: Context[Settings, Inputs], report: MergeReport, folder: Path) -> StageResult[MergedWeights]:
    """The merged model of ``ctx``: proved from the base in ``folder``, compared with the training and its own config.

    What PEFT merged is not proved here: it was compared with the adapter on its base, and the load-back proves it.
    """
    base, model = ctx.inputs.base, ctx.out / "model"
    if report.way == "streamed":
        ctx.report("proving a sample of the merge", None)
        prove(folder, ctx.inputs.adapter.weights, model, dtype=report.dtype, hint="Run `hubkit release --fresh`.")
    ctx.report("comparing the template with the configs and the training", None)
    compared = compare_with_training(model, base.end_of_turn, ctx.inputs.adapter)
    ctx.report("comparing the tensors with config.json", None)
    weights = {name: model / name for name in (*report.files, "config.json", INDEX) if (model / name).is_file()}
    if problems := screen(weights, finite=report.files):
        listed = "\n".join(f"  {problem.sentence}" for problem in problems[:20])
        raise RefusedError(
            f"The merged model must not be published:\n{listed}", hint="Fix the base, or choose another one."
        )
    merged = MergedWeights.of(report, ctx.out, fits=architecture.is_available(), compared_texts=compared)
    tensors = f"{count(report.changed)} of {counted(report.tensors, 'tensor')} changed"
    return StageResult(
        merged,
        f"{tensors}, {size(report.bytes)} in {report.dtype}",
        facts={"changed": report.changed, "bytes": report.bytes},
        digests={f"model/{name}": item for name, item in report.files.items()},
    )


def _refuse_other_base(adapter: TrainedAdapter, base: PinnedBase) -> None:
    """RefusedError when the adapter's config (of weights, their training) names another base, or another commit."""
    if adapter.form == "weights":
        trained_on = (adapter.base.repo, adapter.base.commit) if adapter.base else (None, None)
    else:
        settings = read_adapter(adapter.weights).settings
        trained_on = settings.get("base_model_name_or_path"), settings.get("revision")
    if trained_on != (base.repo, base.commit):
        what = "weights were" if adapter.form == "weights" else "adapter was"
        raise RefusedError(
            f"The {what} trained on {trained_on[0]} at {trained_on[1]}, not on {base.repo} at {base.commit}.",
            hint="Train it again: run `hubkit release --fresh`.",
        )


def compare_with_training(model: Path, end_of_turn: EndOfTurn, adapter: TrainedAdapter) -> int:
    """Number of training texts compared (0 if none were saved). Raises RefusedError on the first difference.

    The texts are encoded by the tokenizer in ``model``, whose files must also agree on ``end_of_turn``.
    """
    tokenizer = load_tokenizer(model)
    found = agreement.agree(
        tokenizer.chat_template,
        agreement.Tokens.of(tokenizer),
        read_settings(model, "config.json"),
        read_settings(model, "generation_config.json"),
    )
    agreement.refuse(found.findings, "The merged model's files do not agree: ")
    if found.end_of_turn is None or found.end_of_turn.id != end_of_turn.id:
        raise RefusedError(
            f"The merged model's end-of-turn token is {found.end_of_turn and found.end_of_turn.token!r}, "
            f"expected {end_of_turn.token!r}.",
            hint="Run `hubkit release --fresh`.",
        )
    seen = adapter.seen()
    if seen is None:
        return 0
    if different := trained.differences(tokenizer, seen):
        raise RefusedError(
            "The merged model's tokenizer and template encode the training conversations to different token ids: "
            f"{different[0]}.",
            hint="The base's files or a library changed. Run `hubkit release --fresh`.",
        )
    return trained.text_count(seen)
