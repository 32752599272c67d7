"""Upload a variant's bundle to a staging branch, and verify what the Hub then shows against the manifest.

    staging/main   <- config.json, model.safetensors, adapter/..., README.md, .gitattributes, .hubkit/manifest.json

Nobody who loads the model sees a staging branch. It begins at the repo's first commit, is changed in one commit, and is
left alone when it holds the bundle already.

With ``pull_request`` in the recipe it is proposed to the repo's owner: the commit is that of a pull request, and no
branch is written (:mod:`hubkit.publishing.proposals`).

Edits of the branch's cards since the last release are kept (:mod:`hubkit.cards.edits`). If this release changes the
same section, nothing is published; ``hubkit release --overwrite-card`` replaces the edit.

With ``sign`` in the recipe the bundle and the statement of its provenance are signed. Signatures are random, so the
first ones are saved and used again while the files are the same: a step that runs again makes no second commit.

Writes ``published.json``, ``bundle.json`` (the manifest of the bundle) and ``written/`` (the files that were
written for it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hubkit.cards.card_files import WrittenCards
from hubkit.cards.kept_edits import edit_findings, kept_sentences, with_edits
from hubkit.cards.metadata import license_of
from hubkit.core.errors import HubkitError
from hubkit.core.findings import Finding
from hubkit.core.numbers import counted, short_commit, size
from hubkit.hub.client import Gated, Visibility, connect
from hubkit.models.base import PinnedBase
from hubkit.models.chat.gate_verdicts import GateVerdicts
from hubkit.models.chat.stop_rates import StopRates
from hubkit.models.gguf.made import FOLDER, GgufFiles
from hubkit.models.merging.merged import MergedWeights
from hubkit.publishing import proposals, signing
from hubkit.publishing.ahead import upload_weights
from hubkit.publishing.bundle import NEEDED, build
from hubkit.publishing.gguf_bundle import LIBRARIES as GGUF_LIBRARIES
from hubkit.publishing.gguf_bundle import gguf_facts, paths_of, refuse_unmeasured
from hubkit.publishing.manifest import CARDS
from hubkit.publishing.origin import answers_of, origin_of
from hubkit.publishing.place_findings import (
    branch_findings,
    foreign_findings,
    rights_findings,
    stale_gguf_findings,
    visibility_findings,
)
from hubkit.publishing.read_back import verify_listing
from hubkit.publishing.recipe_record import recipe_record
from hubkit.publishing.signing_once import SignedOnce
from hubkit.publishing.staged import WRITTEN, StagedCommit
from hubkit.publishing.staging import stage
from hubkit.publishing.still_staged import no_longer_staged
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Place, Recipe
from hubkit.recipe.names import MAIN, STAGING
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.data.prepared import PreparedData

VERSION = 8
SHAPED_BY: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """Where and how the variant is published, who signs it, and the recipe in its manifest (`made_from`).

    ``gguf`` is where its GGUF files are published, ``gguf_beside``: beside the weights (`place: folder`);
    ``gguf_paths`` are their paths there.
    """

    repo: str
    branch: str
    visibility: Visibility
    gated: Gated | None
    variant: str
    pull_request: bool
    signing_key: NamedFile | None
    keyless: bool
    made_from: Mapping[str, Any]
    gguf_beside: bool = field(default=False, metadata={"later": True})
    gguf: Place | None = field(default=None, metadata={"counts": False})
    gguf_paths: tuple[str, ...] = field(default=(), metadata={"counts": False})

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        key, place = recipe.sign.key if recipe.sign else None, recipe.place(scope.published)
        beside = paths_of(recipe.gguf, place) if recipe.gguf and recipe.gguf_place(scope.published) == place else ()
        return cls(
            repo=place.repo,
            branch=place.branch,
            visibility=recipe.visibility,
            gated=recipe.gated,
            variant=scope.published,
            pull_request=recipe.pull_request,
            signing_key=NamedFile.beside(scope.recipe_folder, key) if key else None,
            keyless=recipe.sign is not None and recipe.sign.keyless,
            made_from=recipe_record(recipe, scope),
            gguf_beside=recipe.gguf_place(scope.published) == place,
            gguf=recipe.gguf_place(scope.published),
            gguf_paths=tuple(f"{FOLDER}/{path}" for path in beside),
        )

    def signer(self) -> signing.Signer | None:
        """The signer; None when the release is not signed."""
        return signing.signer(self.signing_key.path if self.signing_key else None, keyless=self.keyless)


@dataclass(frozen=True)
class Inputs:
    """What the bundle is made of: the merged weights, the adapter, the cards; and where all of it comes from.

    ``stop_rates``, and the ``gates`` that they were compared with, are None where none were measured. ``gguf`` are the
    GGUF files, None where there are none; those with a place of their own are left to
    :mod:`hubkit_stages.publish_gguf`.
    """

    base: PinnedBase
    data: PreparedData
    adapter: TrainedAdapter
    adapters: Mapping[str, TrainedAdapter]
    merged: MergedWeights
    cards: WrittenCards
    stop_rates: StopRates | None
    gates: GateVerdicts | None
    gguf: GgufFiles | None = field(metadata={"later": True})


Output = StagedCommit
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """Who signs, the token's rights, who can see the repo, and whose files are on the branch already."""
    settings = ctx.settings
    try:
        settings.signer()
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)
    hub, repo, branch = connect(ctx.target), settings.repo, settings.branch
    problems = list(rights_findings(hub, repo, proposed=settings.pull_request))
    yield from problems
    if problems or not hub.repo_exists(repo):
        return
    yield from visibility_findings(hub, repo, settings.visibility)
    yield from branch_findings(hub, repo, branch)
    if not settings.pull_request:
        yield from stale_gguf_findings(hub, repo, branch, settings.gguf)
    if head := hub.head(repo, branch):
        yield from foreign_findings(hub, repo, branch, head, _needed(settings))
        if not ctx.options.overwrite_card:
            yield from edit_findings(hub, repo, branch, head)


def _needed(settings: Settings) -> tuple[str, ...]:
    """The paths that the bundle will have."""
    trained = settings.made_from["stages"].values()
    whole = any(stage.get("lora") == "none" or stage.get("weights") for stage in trained)
    return (*NEEDED["weights" if whole else "adapter"], *settings.gguf_paths)


def run(ctx: StageContext) -> StageResult[StagedCommit]:
    """Upload and verify. RefusedError before any upload when the screening or the repo's visibility forbids it."""
    settings, hub = ctx.settings, connect(ctx.target)
    repo, branch, variant = settings.repo, f"{STAGING}/{settings.branch}", settings.variant
    ctx.report("screening the bundle", 0.05)
    new = {path: text for name, path in CARDS.items() if (text := ctx.inputs.cards.text(name)) is not None}
    kept, over = with_edits(hub, repo, settings.branch, new, overwrite=ctx.options.overwrite_card)
    edited = {path: card.text for path, card in kept.items()}
    written = ctx.out / WRITTEN
    signer = settings.signer()
    signing_once = SignedOnce(ctx, signer) if signer else None
    state = signing_once.state if signing_once else None
    if gguf := _beside(ctx):
        refuse_unmeasured(gguf, ctx.inputs.merged)
    bundle = build(
        ctx.inputs.merged, ctx.inputs.adapter, ctx.inputs.cards, provenance(ctx), written, edited, state, gguf
    )
    if signing_once:
        bundle = signing_once.signed(bundle, repo)
    proposed = settings.pull_request
    if not proposed:  # a proposal is for a repo that is there, and preflight has seen who can see it
        hub.ensure_repo(repo, settings.visibility)
        if settings.gated and hub.set_gated(repo, settings.gated):  # before anything can be downloaded
            ctx.note("repo-gated", repo=repo, gated=settings.gated)

    content = f"{counted(len(bundle.files), 'file')}, {size(bundle.manifest.size)}"
    ctx.report(f"uploading {content}", 0.2)
    number: int | None = None
    foreign: list[str] = []
    if proposed:
        overwrite = ctx.options.overwrite_card
        proposal = proposals.propose(hub, repo, settings.branch, bundle, overwrite=overwrite, note=ctx.note)
        branch, commit, number = proposal.ref, proposal.commit, proposal.number
        foreign = proposal.ownership.sentences(f"The branch {MAIN!r} of {repo}")
    else:
        commit = stage(hub, repo, branch, bundle, title=f"Release {variant}", note=ctx.note)
    ctx.report("verifying what the Hub holds", 0.9)
    verify_listing(hub, repo, commit, bundle.manifest, others_allowed=proposed)
    ctx.note("staging-verified", branch=branch, commit=commit)
    staged = StagedCommit.write(
        bundle, ctx.out, repo=repo, branch=branch, commit=commit, pull_request=number, expected_card_digests=over
    )
    figure = f"{content} at {short_commit(commit)}"
    edits = kept_sentences(kept, repo, settings.branch)
    facts = {"commit": commit, "branch": branch}
    return StageResult(staged, figure + (f", pull request {number}" if number else ""), (*edits, *foreign), facts)


def _beside(ctx: StageContext) -> GgufFiles | None:
    """The GGUF files that are published beside the weights."""
    return ctx.inputs.gguf if ctx.settings.gguf_beside else None


AHEAD = ("adapter", "merged")
"""The inputs that :func:`ahead` reads."""


def ahead(ctx: StageContext) -> str:
    """Upload the weights while the models are still measured: no branch changes, and :func:`run` sends them no more."""
    settings = ctx.settings
    words = upload_weights(
        connect(ctx.target), settings.repo, settings.visibility, ctx.inputs.merged, ctx.inputs.adapter
    )
    ctx.note("uploaded-ahead", words=words)
    return words


def provenance(ctx: StageContext) -> dict[str, Any]:
    """Where the bundle comes from: see :func:`hubkit.publishing.origin.origin_of`."""
    settings, inputs = ctx.settings, ctx.inputs
    headline = inputs.cards.headline(settings.variant)
    verdict = inputs.gates.variants.get(settings.variant) if inputs.gates else None
    license_, license_name, license_link = license_of(inputs.cards.text("README.md") or "")
    gguf = _beside(ctx)
    return {
        **origin_of(
            repo=settings.repo,
            variant=settings.variant,
            branch=settings.branch,
            license_=license_,
            license_name=license_name,
            license_link=license_link,
            base=inputs.base,
            data=inputs.data,
            adapter=inputs.adapter,
            adapters=inputs.adapters,
            merged=inputs.merged,
            recipe=settings.made_from,
            libraries=GGUF_LIBRARIES if gguf else (),
        ),
        **({"stop_rates": dict(headline.stop_rates)} if headline.stop_rates else {}),
        **({"answers": answers_of(inputs.stop_rates, verdict)} if inputs.stop_rates else {}),
        **({"gguf": gguf_facts(gguf)} if gguf else {}),
        **({"average": headline.average} if headline.average is not None else {}),
    }


def outdated(ctx: StageContext, staged: StagedCommit) -> str | None:
    """None while the Hub still shows the staged commit as it was verified, and no card was edited since."""
    settings = ctx.settings
    return no_longer_staged(connect(ctx.target), staged, gated=settings.gated or None, proposed=settings.pull_request)
