"""Load the staged commit back from the Hub as any reader would, and check it against the gates again.

From an empty cache, by repo id and commit: every byte is hashed, the merged weights and the adapter on its base are
loaded, the stop rate of both is measured again on the same prompts, and their logits are compared with each other. The
downloaded tokenizer must encode conversations to the token ids that the trainer saw.

Writes ``loadback.json``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.findings import Finding
from hubkit.core.numbers import share, short, short_commit
from hubkit.hub.client import Hub, connect
from hubkit.models.base import PinnedBase
from hubkit.models.chat import eos, stop_rate, trained
from hubkit.models.chat.gate_verdicts import GateVerdict, GateVerdicts
from hubkit.models.chat.stop_rates import MeasuredRate, StopRates
from hubkit.models.load import PinnedRepo, load_adapter, load_model, load_tokenizer, release_memory
from hubkit.models.merging.merged import MergedWeights
from hubkit.publishing.load_back import ComparedForms, LoadBack
from hubkit.publishing.read_back import verify_bytes
from hubkit.publishing.staged import StagedCommit
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.data.prepared import PreparedData

VERSION = 3
SHAPED_BY = ("torch", "transformers", "peft")

CONVERSATIONS = 64
"""How many conversations the two forms are compared on; of the first ``FULL`` all the logits are."""
FULL = 8
MOST_TOKENS = 256
FLOAT32_PARAMETERS = 1_000_000_000
"""Up to this many parameters both forms are compared in float32, which leaves only the rounding of the merge."""
LEAST_AGREEMENT = 0.995
"""Of the most likely next tokens, for weights merged in 16 bits. Rounding alone leaves more: the releases of the
example recipe show 99.89 to 100 %."""
MOST_DIFFERENCE = 1e-4
"""Of any logit, for weights merged in float32."""


@dataclass(frozen=True)
class Settings:
    """The variant, and how its stop rate is measured."""

    variant: str
    prompts: int
    max_new_tokens: int
    batch_size: int

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        rate = recipe.gates.stop_rate
        return cls(scope.published, rate.prompts, rate.max_new_tokens, rate.batch_size)


@dataclass(frozen=True)
class Inputs:
    """The staged commit, and what it was made from. ``stop_rates`` are those before the upload."""

    staged: StagedCommit
    base: PinnedBase
    data: PreparedData
    adapter: TrainedAdapter
    merged: MergedWeights
    stop_rates: StopRates
    gates: GateVerdicts


Output = LoadBack
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """No preflight check: everything here needs the upload."""
    return ()


def run(ctx: StageContext) -> StageResult[LoadBack]:
    """Measure what a reader gets from the Hub.

    ConflictError when bytes or logits are wrong, RefusedError when a gate fails.
    """
    hub, staged = connect(ctx.target), ctx.inputs.staged
    cache = ctx.scratch / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    try:
        ctx.report("downloading every file", 0.05)
        manifest = staged.bundle
        verify_bytes(hub, staged.repo, staged.commit, manifest, cache)
        forms, compared = _measure(ctx, hub, staged.repo, staged.commit, cache)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    came_back = LoadBack(
        commit=staged.commit,
        files=len(manifest.files),
        bytes=manifest.size,
        stopping={name: MeasuredRate.of(rate) for name, rate in forms.items()},
        compared=compared.kept(),
        top1_agreement=compared.agreement,
    )
    came_back.save(ctx.out)  # a person who looks for the reason of a refusal finds the figures there
    _refuse_failed_gate(ctx.settings.variant, ctx.inputs.gates.variants[ctx.settings.variant], forms)
    compared.refuse_if_broken(ctx.inputs.merged.dtype)
    shown = ", ".join(f"{name} {share(rate.rate)}" for name, rate in forms.items())
    return StageResult(
        came_back,
        f"stop rate: {shown}; top-1 agreement {share(compared.agreement)}",
        facts={"top1_agreement": compared.agreement},
    )


def _measure(
    ctx: StageContext, hub: Hub, repo: str, commit: str, cache: Path
) -> tuple[dict[str, stop_rate.StopRate], Comparison]:
    """Both forms, one after the other in memory: their stop rates, and how well their logits agree."""
    base, settings = ctx.inputs.base, ctx.settings
    published, dtype = PinnedRepo(repo, commit, hub.endpoint, cache), ctx.inputs.merged.dtype
    prompts = ctx.inputs.data.held_out(settings.prompts)

    def rate(model: Any, form: str, start: float) -> stop_rate.StopRate:
        return stop_rate.measure(
            model,
            tokenizer,
            prompts,
            end,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            report=lambda words, share: ctx.report(f"{form}: {words}", start + 0.4 * (share or 0.0)),
        )

    tokenizer = load_tokenizer(published)
    end = eos.find(tokenizer)
    if end.id != base.end_of_turn.id:
        raise ConflictError(
            f"{repo}@{short_commit(commit)}: the downloaded tokenizer ends a turn with {end.token!r}, "
            f"expected {base.end_of_turn.token!r}.",
            hint="The merge wrote tokenizer files that differ from the base's. Run `hubkit release --fresh`.",
        )
    seen = ctx.inputs.adapter.seen()
    if seen and (different := trained.differences(tokenizer, seen)):
        raise ConflictError(
            f"{repo}@{short_commit(commit)}: the downloaded tokenizer encodes the training conversations differently: "
            f"{different[0]}.",
            hint="The merge wrote tokenizer files that differ from the base's. Run `hubkit release --fresh`.",
        )
    model = load_model(published, dtype=dtype)
    wide = sum(item.numel() for item in model.parameters()) <= FLOAT32_PARAMETERS
    merged = rate(model, "merged", 0.1)
    texts = _conversations(tokenizer, prompts, merged)
    before = _outputs(model.float() if wide else model, texts)
    del model
    release_memory()
    model = load_adapter(load_model(base.source(hub.endpoint), dtype=dtype), published, subfolder="adapter")
    adapter = rate(model, "adapter", 0.5)
    compared = Comparison.of(before, _outputs(model.float() if wide else model, texts))
    return {"merged": merged, "adapter": adapter}, compared


def _conversations(tokenizer: Any, prompts: Sequence[Mapping[str, Any]], merged: stop_rate.StopRate) -> list[list[int]]:
    """Token ids of the first prompts, each with the merged model's own answer after it."""
    found = []
    for row, answer in list(zip(prompts, merged.answers, strict=True))[:CONVERSATIONS]:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        found.append([*ids, *answer.ids][-MOST_TOKENS:])
    return found


@dataclass(frozen=True)
class Outputs:
    """A model's predictions after each token of the conversations.

    ``best``: of each conversation the most likely next tokens, shape (tokens,); ``full``: of the first ``FULL`` the
    logits in float32, shape (tokens, vocabulary).
    """

    best: list[Any]
    full: list[Any]
    dtype: str


def _outputs(model: Any, texts: Sequence[Sequence[int]]) -> Outputs:
    import torch

    model.eval()
    best, full = [], []
    with torch.inference_mode():
        for index, ids in enumerate(texts):
            logits = model(input_ids=torch.tensor([list(ids)], device=model.device)).logits[0]
            best.append(logits.argmax(-1).cpu())
            if index < FULL:
                full.append(logits.float().cpu())
    return Outputs(best, full, str(next(iter(model.parameters())).dtype).removeprefix("torch."))


@dataclass(frozen=True)
class Comparison:
    """How far two forms of a model agree: share of equal most likely tokens, greatest difference of a logit."""

    dtype: str
    conversations: int
    positions: int
    agreement: float
    max_difference: float

    @classmethod
    def of(cls, one: Outputs, other: Outputs) -> Comparison:
        """Compare the outputs of two models on the same conversations."""
        positions = sum(len(item) for item in one.best)
        equal = sum(int((a == b).sum()) for a, b in zip(one.best, other.best, strict=True))
        most = max((float((a - b).abs().max()) for a, b in zip(one.full, other.full, strict=True)), default=0.0)
        return cls(one.dtype, len(one.best), positions, equal / positions if positions else 0.0, most)

    def kept(self) -> ComparedForms:
        """The figures, as they are kept."""
        return ComparedForms(self.dtype, self.conversations, self.positions, self.agreement, self.max_difference)

    def refuse_if_broken(self, merged_dtype: str) -> None:
        """ConflictError when the merged weights are not the adapter on its base, allowing for rounding."""
        if merged_dtype == "float32":
            wrong = not self.max_difference <= MOST_DIFFERENCE
            problem = f"their logits differ by {short(self.max_difference)} (at most {short(MOST_DIFFERENCE)})"
        else:
            wrong = not self.agreement >= LEAST_AGREEMENT
            problem = f"they agree on {share(self.agreement)} of the next tokens (at least {share(LEAST_AGREEMENT)})"
        if wrong:
            raise ConflictError(
                f"The merged weights and the adapter on its base are not the same model: {problem}.",
                hint="Nothing was promoted. Run `hubkit release --fresh` to train and merge again.",
            )


def _refuse_failed_gate(variant: str, gate: GateVerdict, forms: Mapping[str, stop_rate.StopRate]) -> None:
    low = [f"{name} {share(rate.rate)}" for name, rate in forms.items() if rate.rate < gate.threshold]
    if gate.enforced and low:
        raise RefusedError(
            f"{variant}: stop rate after loading back from the Hub is too low: {', '.join(low)} "
            f"(required: {share(gate.threshold)}).",
            hint="Nothing was promoted. It passed before the upload: compare stopping.json with loadback.json.",
        )
