"""Upload a variant's GGUF files to the staging branch of their place, verify what the Hub then shows, load it back.

    staging/gguf   <- my-model-F16.gguf, my-model-Q8_0.gguf, Modelfile, ..., README.md, .hubkit/manifest.json

The place is a branch of the variant's repo, or a repo of its own (`gguf.place` in the recipe). With ``place: folder``
the files are part of the variant's own bundle (:mod:`hubkit_stages.publish`) and this step is not made.

It is published as a variant is: one commit on a staging branch that nobody reads, or a pull request; edits of the card
are kept; the bundle is signed where the recipe signs. Then every file is downloaded to an empty cache and hashed, and
with llama-cpp-python installed each is loaded from there, answers some of the measured prompts and stops.

Writes ``published.json``, ``bundle.json`` (the manifest of the bundle), ``written/`` (the files that were written for
it) and ``loaded.json`` (what llama.cpp loaded).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from hubkit.cards.card_files import WrittenCards
from hubkit.cards.kept_edits import edit_findings, kept_sentences, with_edits
from hubkit.cards.metadata import license_of
from hubkit.core.files import write_json
from hubkit.core.findings import Finding
from hubkit.core.numbers import counted, short_commit, size
from hubkit.hub.client import Gated, Hub, Visibility, connect
from hubkit.models.base import PinnedBase
from hubkit.models.gguf.made import GgufFiles
from hubkit.models.merging.merged import MergedWeights
from hubkit.publishing import proposals, signing
from hubkit.publishing.bundle import Bundle
from hubkit.publishing.gguf_bundle import CARD, build_gguf, gguf_origin_of, paths_of
from hubkit.publishing.gguf_load_back import PROMPTS, LoadedGguf, load_gguf_back
from hubkit.publishing.place_findings import branch_findings, foreign_findings, rights_findings, visibility_findings
from hubkit.publishing.read_back import verify_bytes, verify_listing
from hubkit.publishing.signing_once import SignedOnce
from hubkit.publishing.staged import WRITTEN, StagedCommit
from hubkit.publishing.staging import stage
from hubkit.publishing.still_staged import no_longer_staged
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Place, Recipe
from hubkit.recipe.names import MAIN, STAGING
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.data.prepared import PreparedData

VERSION = 1
SHAPED_BY: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """Where the files are published and the weights are, how, and who signs.

    ``own_repo``: the repo is no variant's, so that nothing else asks for its rights and who can see it. ``paths`` are
    the files that the place will have, as far as the recipe tells.
    """

    place: Place
    weights: Place
    own_repo: bool
    visibility: Visibility
    gated: Gated | None
    variant: str
    pull_request: bool
    signing_key: NamedFile | None
    keyless: bool
    paths: tuple[str, ...] = field(default=(), metadata={"counts": False})

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        place, weights = recipe.gguf_place(scope.published), recipe.place(scope.published)
        if place is None or recipe.gguf is None:
            raise ValueError(f"the recipe asks for no GGUF files of {scope.published}")
        key = recipe.sign.key if recipe.sign else None
        return cls(
            place=place,
            weights=weights,
            own_repo=place.repo not in recipe.variant_repos(),
            visibility=recipe.visibility,
            gated=recipe.gated or None,
            variant=scope.published,
            pull_request=recipe.pull_request,
            signing_key=NamedFile.beside(scope.recipe_folder, key) if key else None,
            keyless=recipe.sign is not None and recipe.sign.keyless,
            paths=paths_of(recipe.gguf, weights),
        )

    def signer(self) -> signing.Signer | None:
        """The signer; None when the release is not signed."""
        return signing.signer(self.signing_key.path if self.signing_key else None, keyless=self.keyless)


@dataclass(frozen=True)
class Inputs:
    """The files, the weights that they were written from, the cards, and what is asked when they are loaded back."""

    base: PinnedBase
    data: PreparedData
    merged: MergedWeights
    gguf: GgufFiles
    cards: WrittenCards


Output = StagedCommit
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """The token's rights and who can see a repo of its own; what is on the branch already."""
    settings, hub = ctx.settings, connect(ctx.target)
    repo, branch = settings.place
    if settings.own_repo:
        problems = list(rights_findings(hub, repo, proposed=settings.pull_request))
        yield from problems
        if problems:
            return
    if not hub.repo_exists(repo):
        return
    if settings.own_repo:
        yield from visibility_findings(hub, repo, settings.visibility)
    yield from branch_findings(hub, repo, branch)
    if head := hub.head(repo, branch):
        yield from foreign_findings(hub, repo, branch, head, settings.paths)
        if not ctx.options.overwrite_card:
            yield from edit_findings(hub, repo, branch, head)


def run(ctx: StageContext) -> StageResult[StagedCommit]:
    """Upload, verify and load back.

    RefusedError before any upload when the screening forbids it; ConflictError when the Hub holds or returns other
    bytes, or llama.cpp does not run them as it did when they were measured.
    """
    settings, hub = ctx.settings, connect(ctx.target)
    repo, branch = settings.place
    ctx.report("screening the bundle", 0.02)
    card = ctx.inputs.cards.text(CARD)
    new = {"README.md": card} if card is not None else {}
    kept, read = with_edits(hub, repo, branch, new, overwrite=ctx.options.overwrite_card)
    bundle = _bundle(ctx, {path: item.text for path, item in kept.items()})
    content = f"{counted(len(bundle.files), 'file')}, {size(bundle.manifest.size)}"
    ctx.report(f"uploading {content}", 0.1)
    ref, commit, number, foreign = _propose(ctx, hub, bundle) if settings.pull_request else _stage(ctx, hub, bundle)
    ctx.report("verifying what the Hub holds", 0.5)
    verify_listing(hub, repo, commit, bundle.manifest, others_allowed=settings.pull_request)
    ctx.note("staging-verified", branch=ref, commit=commit)
    loaded = _load_back(ctx, hub, bundle, commit)
    write_json(ctx.out / "loaded.json", [asdict(item) for item in loaded])
    staged = StagedCommit.write(
        bundle, ctx.out, repo=repo, branch=ref, commit=commit, pull_request=number, expected_card_digests=read
    )
    figure = f"{content} at {short_commit(commit)}" + (f", pull request {number}" if number else "")
    by_llama_cpp = f", loaded by llama.cpp {loaded[0].llama_cpp}" if loaded else ", llama.cpp not installed: not loaded"
    return StageResult(
        staged,
        figure + by_llama_cpp,
        (*kept_sentences(kept, repo, branch), *foreign),
        {"commit": commit, "branch": ref, "loaded": [asdict(item) for item in loaded]},
    )


def _bundle(ctx: StageContext, edited: dict[str, str]) -> Bundle:
    """The bundle, signed where the recipe signs."""
    settings, inputs = ctx.settings, ctx.inputs
    origin = gguf_origin_of(
        place=settings.place,
        variant=settings.variant,
        weights=settings.weights,
        license_=license_of(inputs.cards.text(CARD) or ""),
        base=inputs.base,
        data=inputs.data,
        merged=inputs.merged,
        gguf=inputs.gguf,
    )
    signer = settings.signer()
    once = SignedOnce(ctx, signer) if signer else None
    state = once.state if once else None
    bundle = build_gguf(inputs.gguf, inputs.merged, inputs.cards, origin, ctx.out / WRITTEN, edited, state)
    return once.signed(bundle, settings.place.repo) if once else bundle


def _stage(ctx: StageContext, hub: Hub, bundle: Bundle) -> tuple[str, str, int | None, list[str]]:
    """Upload to the staging branch: its name and its commit."""
    settings = ctx.settings
    repo, branch = settings.place
    hub.ensure_repo(repo, settings.visibility)
    if settings.gated and hub.set_gated(repo, settings.gated):  # before anything can be downloaded
        ctx.note("repo-gated", repo=repo, gated=settings.gated)
    ref = f"{STAGING}/{branch}"
    return ref, stage(hub, repo, ref, bundle, title=f"Release {_called(settings)}", note=ctx.note), None, []


def _propose(ctx: StageContext, hub: Hub, bundle: Bundle) -> tuple[str, str, int | None, list[str]]:
    """Propose the place to the repo's owner: the ref, the commit and the number of the pull request, and foreign
    files."""
    repo, branch = ctx.settings.place
    overwrite = ctx.options.overwrite_card
    made = proposals.propose(hub, repo, branch, bundle, overwrite=overwrite, note=ctx.note)
    return made.ref, made.commit, made.number, made.ownership.sentences(f"The branch {MAIN!r} of {repo}")


def _called(settings: Settings) -> str:
    return f"{settings.variant} as GGUF"


def _load_back(ctx: StageContext, hub: Hub, bundle: Bundle, commit: str) -> tuple[LoadedGguf, ...]:
    """Download every file from the Hub, hash it, and load the GGUF files where llama.cpp is installed."""
    base, repo, cache = ctx.inputs.base, ctx.settings.place.repo, ctx.scratch / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    try:
        ctx.report("downloading every file", 0.55)
        folder = verify_bytes(hub, repo, commit, bundle.manifest, cache)
        return load_gguf_back(
            ctx.inputs.gguf,
            folder,
            ctx.inputs.data.held_out(PROMPTS),
            base.end_of_turn,
            threads=1 if base.is_small else None,
            report=lambda words, done: ctx.report(words, 0.7 + 0.3 * done),
        )
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def outdated(ctx: StageContext, staged: StagedCommit) -> str | None:
    """None while the Hub still shows the staged commit as it was verified, and the card was not edited since."""
    settings = ctx.settings
    return no_longer_staged(connect(ctx.target), staged, gated=settings.gated, proposed=settings.pull_request)
