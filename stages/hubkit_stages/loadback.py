"""Load the staged commit back from the Hub as any reader would, and prove that it is what was measured.

Once, from an empty cache, by repo id and commit: every file is downloaded and hashed. Then it is shown, in this order,
that

- the files are those whose stop rates were measured: their digests equal those of the artifacts that `stopping` loaded,
  so the gate is compared with rates of exactly these bytes, and nothing is generated again;
- the downloaded merged weights are ``base + scaling * B @ A`` of the base's commit and the downloaded adapter, rounded
  once (:mod:`hubkit.models.merging.proof`; a sample by seed, everything with ``--thorough``). The base is read from
  this machine's cache, after its files were hashed and compared with what the Hub lists;
- the downloaded tokenizer encodes conversations to the token ids that the trainer saw;
- both forms load by repo id and commit, and expect the next tokens that they expected before the upload, on a few of
  the conversations that were measured. A greedy answer that is expected token by token is the answer that is given.

Weights that were trained without an adapter are one form, and there is no merge to prove. Without a gate on the stop
rate no conversations were measured: the forms load, and no more is shown of them.

Writes ``loadback.json``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.findings import Finding
from hubkit.core.numbers import count, counted, share, short_commit
from hubkit.hub.client import Hub, connect
from hubkit.models.base import PinnedBase
from hubkit.models.chat import eos, trained
from hubkit.models.chat.form_agreement import LEAST, Agreement, KeptPredictions
from hubkit.models.chat.gate_verdicts import GateVerdict, GateVerdicts
from hubkit.models.chat.stop_rates import PUBLISHED, StopRates
from hubkit.models.load import PinnedRepo, load_adapter, load_model, load_tokenizer, memory_released
from hubkit.models.merging.companions import PATTERNS, fetch_base
from hubkit.models.merging.merged import MergedWeights
from hubkit.models.merging.proof import Proof, prove
from hubkit.publishing.load_back import LoadBack
from hubkit.publishing.read_back import verify_bytes, verify_held
from hubkit.publishing.staged import StagedCommit
from hubkit.recipe.artifact import ArtifactFolder
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.data.prepared import PreparedData

VERSION = 4
SHAPED_BY = ("torch", "transformers", "peft")

CONVERSATIONS = 8
"""How many of the measured conversations each form reads again."""
HINT = "Nothing was promoted. Run `hubkit release --fresh` to train and merge again."


@dataclass(frozen=True)
class Settings:
    """The variant."""

    variant: str

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        return cls(scope.published)


@dataclass(frozen=True)
class Inputs:
    """The staged commit, and what it was made from.

    ``stop_rates`` are those before the upload, and ``gates`` the verdicts on them; None where none were measured.
    """

    staged: StagedCommit
    base: PinnedBase
    data: PreparedData
    adapter: TrainedAdapter
    merged: MergedWeights
    stop_rates: StopRates | None
    gates: GateVerdicts | None


Output = LoadBack
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """No preflight check: everything here needs the upload."""
    return ()


def run(ctx: StageContext) -> StageResult[LoadBack]:
    """Prove what a reader gets from the Hub.

    ConflictError when bytes, tensors or predictions are wrong, RefusedError when a gate fails.
    """
    hub, staged = connect(ctx.target), ctx.inputs.staged
    cache = ctx.scratch / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    try:
        ctx.report("downloading every file", 0.05)
        folder = verify_bytes(hub, staged.repo, staged.commit, staged.bundle, cache)
        _refuse_unmeasured(ctx)
        proof = _prove(ctx, hub, folder) if ctx.inputs.adapter.form == "adapter" else None
        published = PinnedRepo(staged.repo, staged.commit, hub.endpoint, cache)
        _compare_tokenizer(ctx, published)
        reproduced = _reproduce(ctx, hub, published)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    found = LoadBack(
        commit=staged.commit,
        files=len(staged.bundle.files),
        bytes=staged.bundle.size,
        proof=proof,
        reproduced=reproduced,
    )
    found.save(ctx.out)  # a person who looks for the reason of a refusal finds the figures there
    rates, gates, variant = ctx.inputs.stop_rates, ctx.inputs.gates, ctx.settings.variant
    agreement = rates.agreement if rates else None
    _refuse_changed(variant, reproduced, agreement.allowed if agreement else LEAST)
    if rates and gates:
        _refuse_failed_gate(variant, gates.variants[variant], rates)
    numbers = f"{counted(found.files, 'file')} read back"
    if proof:
        numbers = f"{count(proof.numbers)} numbers of {counted(proof.tensors, 'tensor')} proved"
    shares = {form: item.same_next_token for form, item in reproduced.items()}
    same = ", ".join(f"{form} {share(equal)}" for form, equal in shares.items())
    return StageResult(
        found,
        f"{numbers}; next tokens as before the upload: {same}" if same else numbers,
        facts={
            "proved": proof.numbers if proof else None,
            "reproduced": {form: item.same_next_token for form, item in reproduced.items()},
        },
    )


def outdated(ctx: StageContext, loaded: LoadBack) -> str | None:
    """`--thorough` asks for more than was proved. There is nothing to prove without a merge."""
    if ctx.inputs.adapter.form == "weights":
        return None
    if ctx.options.thorough and not (loaded.proof and loaded.proof.thorough):
        return "only a sample of the merged weights was proved"
    return None


def _refuse_unmeasured(ctx: StageContext) -> None:
    """ConflictError when a published file is not the one whose stop rate was measured, by their digests."""
    published = ctx.inputs.staged.bundle.files
    parts: tuple[tuple[ArtifactFolder, str, str], ...] = (
        (ctx.inputs.merged, "model/", ""),
        (ctx.inputs.adapter, "adapter/", "adapter/"),
    )
    for artifact, folder, prefix in parts:
        for name, measured in artifact.contents.files.items():
            path = prefix + name.removeprefix(folder)
            if not name.startswith(folder) or path.endswith("README.md"):
                continue
            if path in published and published[path].sha256 != measured.sha256:
                raise ConflictError(
                    f"{ctx.settings.variant}: {path} on the Hub is not the file whose stop rate was measured.",
                    hint=HINT,
                )


def _prove(ctx: StageContext, hub: Hub, folder: Path) -> Proof:
    """Recompute the downloaded weights in ``folder`` from the base and the downloaded adapter."""
    base = ctx.inputs.base
    ctx.report(f"comparing {base.repo} on this machine with the Hub's", 0.4)
    there = fetch_base(ctx.target, base.repo, base.commit)
    verify_held(hub, base.repo, base.commit, there, PATTERNS)
    return prove(
        there,
        folder / "adapter",
        folder,
        dtype=ctx.inputs.merged.dtype,
        seed=int(ctx.inputs.staged.commit[:8], 16),
        thorough=ctx.options.thorough,
        hint=HINT,
        report=lambda words, done: ctx.report(words, 0.5 + 0.2 * (done or 0.0)),
    )


def _compare_tokenizer(ctx: StageContext, published: PinnedRepo) -> None:
    """ConflictError when the downloaded tokenizer is not the one that the model was trained with."""
    where, expected = f"{published.name}@{short_commit(published.revision)}", ctx.inputs.base.end_of_turn
    tokenizer = load_tokenizer(published)
    end = eos.find(tokenizer)
    if end.id != expected.id:
        raise ConflictError(
            f"{where}: the downloaded tokenizer ends a turn with {end.token!r}, expected {expected.token!r}.",
            hint="The merge wrote tokenizer files that differ from the base's. Run `hubkit release --fresh`.",
        )
    seen = ctx.inputs.adapter.seen()
    if seen and (different := trained.differences(tokenizer, seen)):
        raise ConflictError(
            f"{where}: the downloaded tokenizer encodes the training conversations differently: {different[0]}.",
            hint="The merge wrote tokenizer files that differ from the base's. Run `hubkit release --fresh`.",
        )


def _reproduce(ctx: StageContext, hub: Hub, published: PinnedRepo) -> dict[str, Agreement]:
    """Load each published form, one after the other in memory, and let it read some of the measured conversations."""
    rates = ctx.inputs.stop_rates
    kept = KeptPredictions.load(rates.folder, CONVERSATIONS) if rates else None
    dtype, base = ctx.inputs.merged.dtype, ctx.inputs.base

    def load(form: str) -> Any:
        if form == "merged":
            return load_model(published, dtype=dtype)
        return load_adapter(load_model(base.source(hub.endpoint), dtype=dtype), published, subfolder="adapter")

    found: dict[str, Agreement] = {}
    for place, form in enumerate(PUBLISHED if ctx.inputs.adapter.form == "adapter" else PUBLISHED[:1]):
        ctx.report(f"{form}: loading", 0.7 + 0.15 * place)
        with memory_released():
            model = load(form)
            if kept is not None:
                found[form] = kept.reproduced(form, model)
            del model
    return found


def _refuse_changed(variant: str, reproduced: Mapping[str, Agreement], allowed: float) -> None:
    """ConflictError when a form, loaded back, expects other tokens than it did before the upload.

    On one machine it expects the same; another device rounds otherwise, as far as two forms may differ.
    """
    for form, item in reproduced.items():
        if not 1 - item.same_next_token <= allowed:
            raise ConflictError(
                f"{variant}: the {form} form, loaded back from the Hub, is not the model that was measured: it chooses "
                f"another next token at {share(1 - item.same_next_token)} of {counted(item.positions, 'position')} "
                f"(at most {share(allowed)}).",
                hint=HINT,
            )


def _refuse_failed_gate(variant: str, gate: GateVerdict, rates: StopRates) -> None:
    """RefusedError when an enforced gate does not hold for the rates of the published files."""
    if gate.threshold is None:
        return
    low = [f"{form} {share(rate.rate)}" for form, rate in rates.published.items() if rate.rate < gate.threshold]
    if gate.enforced and low:
        raise RefusedError(
            f"{variant}: stop rate of the files on the Hub is too low: {', '.join(low)} "
            f"(required: {share(gate.threshold)}).",
            hint="Nothing was promoted. Train the repair stage longer, or set `gate: report` for the variant.",
        )
