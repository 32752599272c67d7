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

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hubkit.cards.card_files import WrittenCards
from hubkit.cards.edits import MergedCard, keep_edits
from hubkit.cards.metadata import read_block
from hubkit.cards.snippets.blocks import without_front_matter
from hubkit.cards.validate import validate
from hubkit.core.bounded_yaml import YamlError
from hubkit.core.errors import ConflictError, HubkitError, RefusedError, UsageError
from hubkit.core.files import write_atomic
from hubkit.core.findings import Finding
from hubkit.core.numbers import counted, short_commit, size
from hubkit.core.trees import Entry, Tree, compare, tree_of
from hubkit.hub.client import Gated, Hub, Visibility, connect
from hubkit.hub.refs import refuse_if_in_the_way
from hubkit.models.base import PinnedBase
from hubkit.models.chat.gate_verdicts import GateVerdicts
from hubkit.models.chat.stop_rates import StopRates
from hubkit.models.merging.merged import MergedWeights
from hubkit.publishing import proposals, signing
from hubkit.publishing.ahead import upload_weights
from hubkit.publishing.bundle import NEEDED, Bundle, build
from hubkit.publishing.edited_cards import edited_cards
from hubkit.publishing.manifest import CARDS, GENERATED, MANIFEST_PATH, SIGNATURE_PATH, Provenance, provenance_at
from hubkit.publishing.origin import answers_of, origin_of
from hubkit.publishing.ownership import decide, holds_release
from hubkit.publishing.provenance import PROVENANCE_PATH
from hubkit.publishing.read_back import verify_listing
from hubkit.publishing.recipe_record import recipe_record
from hubkit.publishing.staged import WRITTEN, StagedCommit
from hubkit.publishing.staging import stage
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Recipe
from hubkit.recipe.names import MAIN, STAGING
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.data.prepared import PreparedData

VERSION = 8
SHAPED_BY: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """Where and how the variant is published, who signs it, and the recipe in its manifest (`made_from`)."""

    repo: str
    branch: str
    visibility: Visibility
    gated: Gated | None
    variant: str
    pull_request: bool
    signing_key: NamedFile | None
    keyless: bool
    made_from: Mapping[str, Any]

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        key, place = recipe.sign.key if recipe.sign else None, recipe.place(scope.published)
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
        )

    def signer(self) -> signing.Signer | None:
        """The signer; None when the release is not signed."""
        return signing.signer(self.signing_key.path if self.signing_key else None, keyless=self.keyless)


@dataclass(frozen=True)
class Inputs:
    """What the bundle is made of: the merged weights, the adapter, the cards; and where all of it comes from.

    ``stop_rates``, and the ``gates`` that they were compared with, are None where none were measured.
    """

    base: PinnedBase
    data: PreparedData
    adapter: TrainedAdapter
    adapters: Mapping[str, TrainedAdapter]
    merged: MergedWeights
    cards: WrittenCards
    stop_rates: StopRates | None
    gates: GateVerdicts | None


Output = StagedCommit
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """Who signs, the token's rights, who can see the repo, and whose files are on the branch already."""
    settings = ctx.settings
    try:
        settings.signer()
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)
    hub, repo = connect(ctx.target), settings.repo
    if settings.pull_request:
        if problem := proposals.problem(hub, repo):
            yield Finding(
                "error",
                f"Cannot open a pull request for {repo}: {problem}.",
                "Log in with a token that may open discussions in it, or change `repo` in the recipe.",
            )
            return
    elif problem := hub.writing_problem(repo):
        yield Finding(
            "error",
            f"Cannot publish to {repo}: {problem}.",
            "Log in with a token that may write to it, change `repo` in the recipe, or propose the release to the"
            " repo's owner with --pr.",
        )
        return
    if not hub.repo_exists(repo):
        return
    found = hub.visibility(repo)
    if found != settings.visibility:
        yield Finding(
            "error",
            f"{repo} is {found}, but the recipe says {settings.visibility}.",
            f"Change it on {hub.endpoint}, or write `visibility: {found}` in the recipe.",
        )
    branch, branches = settings.branch, hub.refs(repo).branches
    for name in (branch, f"{STAGING}/{branch}"):
        try:
            refuse_if_in_the_way(repo, name, branches)
        except UsageError as error:
            yield Finding("error", error.message, error.hint, error.exit_code)
    if head := hub.head(repo, branch):
        tree = hub.tree(repo, head)
        yield from _foreign(repo, branch, tree, provenance_at(hub, repo, head, tree), _needed(settings))
        overwrites = ctx.options.overwrite_card
        for path, before, now in _on_branch(hub, repo, head, tree):
            if not overwrites:
                yield from _edits(f"{path} of the branch {branch!r} of {repo}", before, now)


def _edits(card: str, before: str | None, now: str) -> Iterator[Finding]:
    """What is known of a card on the branch, before this release's own is written."""
    hint = "Move the text elsewhere, or replace it with `hubkit release --overwrite-card`."
    if before is None:
        if without_front_matter(now).strip():
            yield Finding("error", f"{card} was not written by hubkit and would be overwritten.", hint, 4)
        return
    found = keep_edits(before, now, before)
    if found.conflicts:
        yield Finding("error", f"{card} has an edit that cannot be merged: {found.conflicts[0].where}.", hint, 4)
    elif found.kept:
        yield Finding(
            "warning",
            f"{card} was edited on the Hub: {', '.join(found.kept)}. "
            "The edit is kept. If this release changes the same section, it stops before publishing.",
        )


def _needed(settings: Settings) -> tuple[str, ...]:
    """The paths that the bundle will have."""
    trained = settings.made_from["stages"].values()
    whole = any(stage.get("lora") == "none" or stage.get("weights") for stage in trained)
    return NEEDED["weights" if whole else "adapter"]


def _foreign(repo: str, branch: str, tree: Tree, ours: Provenance | None, needed: tuple[str, ...]) -> Iterator[Finding]:
    """Files of other people on the branch, as far as can be known before the bundle is built. Cards: :func:`_edits`."""
    others = {path: entry for path, entry in tree.items() if path not in CARDS.values()}
    ownership = decide(others, dict.fromkeys([*needed, MANIFEST_PATH]), ours.paths if ours else ())
    for sentence in ownership.sentences(f"The branch {branch!r} of {repo}"):
        yield Finding("warning", sentence)


def _on_branch(hub: Hub, repo: str, head: str, tree: Tree) -> Iterator[tuple[str, str | None, str]]:
    """(path, text as it was generated last time or None, text now) of each card on the branch at ``head``."""
    for name, path in CARDS.items():
        if path not in tree:
            continue
        if tree[path].size > _LARGEST_CARD:
            raise ConflictError(f"{path} of {repo} has {size(tree[path].size)}, too much for a card.")
        now = (hub.read_file(repo, path, head, listed=tree[path]) or b"").decode(errors="replace")
        generated = tree.get(f"{GENERATED}/{name}")
        before = hub.read_file(repo, f"{GENERATED}/{name}", head, listed=generated) if generated else None
        if before is None and _unchanged(hub, repo, head, path, tree):
            yield path, now, now
        else:
            yield path, before.decode(errors="replace") if before is not None else None, now


def _unchanged(hub: Hub, repo: str, head: str, path: str, tree: Tree) -> bool:
    """Whether ``path`` equals the digest in the branch's manifest; for releases that kept no copy of their cards."""
    found = provenance_at(hub, repo, head, tree)
    promised = found.promised.get(path) if found else None
    return promised is not None and tree[path].same(promised)


def _kept(ctx: StageContext, hub: Hub, repo: str) -> tuple[dict[str, MergedCard], dict[str, str]]:
    """The cards that a person edited on the branch, merged; and what was read there, a digest by path.

    ConflictError when an edit would be lost, RefusedError when the Hub would reject the card with it.
    """
    branch, head = ctx.settings.branch, None
    if hub.repo_exists(repo):
        head = hub.head(repo, branch)
    if head is None:
        return {}, {}
    tree = hub.tree(repo, head)
    over = {path: _digest(tree[path]) for path in CARDS.values() if path in tree}
    overwrite = ctx.options.overwrite_card
    names = {path: name for name, path in CARDS.items()}
    found: dict[str, MergedCard] = {}
    for path, before, now in _on_branch(hub, repo, head, tree):
        new = ctx.inputs.cards.text(names[path])
        if new is None:
            continue
        made = keep_edits(before, now, new)
        if made.conflicts and not overwrite:
            shown = "\n".join(
                f"  {item.where}\n" + "\n".join(f"    {line}" for line in item.edit) for item in made.conflicts
            )
            raise ConflictError(
                f"{path} on the branch {branch!r} of {repo} was edited on the Hub in a section that this release also"
                f" changes:\n{shown}",
                hint="Move the edit into the recipe, or outside the marked section on the Hub, and run again."
                " `hubkit release --overwrite-card` replaces it.",
            )
        known = validate(new) if made.kept else []
        if made.kept and (problems := [item for item in validate(made.text) if item not in known]):
            if overwrite:
                continue
            raise RefusedError(
                f"{path} on the branch {branch!r} of {repo} would be rejected by the Hub with the edit made there: "
                f"{' '.join(item.message for item in problems)}",
                hint="Fix it on the Hub, or replace it with `hubkit release --overwrite-card`.",
            )
        if made.kept or made.conflicts:
            found[path] = made
    return found, over


def _digest(entry: Entry) -> str:
    return entry.sha256 or entry.git or ""


def run(ctx: StageContext) -> StageResult[StagedCommit]:
    """Upload and verify. RefusedError before any upload when the screening or the repo's visibility forbids it."""
    settings, hub = ctx.settings, connect(ctx.target)
    repo, branch, variant = settings.repo, f"{STAGING}/{settings.branch}", settings.variant
    ctx.report("screening the bundle", 0.05)
    kept, over = _kept(ctx, hub, repo)
    edited = {path: card.text for path, card in kept.items()}
    written = ctx.out / WRITTEN
    signer = settings.signer()
    state = partial(_stated, ctx, signer) if signer else None
    bundle = build(ctx.inputs.merged, ctx.inputs.adapter, ctx.inputs.cards, provenance(ctx), written, edited, state)
    if signer:
        bundle = _signed(ctx, signer, bundle)
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
    edits = tuple(
        f"{path} of the branch {settings.branch!r} of {repo} keeps what was edited on the Hub: {', '.join(card.kept)}."
        for path, card in kept.items()
        if card.kept
    )
    facts = {"commit": commit, "branch": branch}
    return StageResult(staged, figure + (f", pull request {number}" if number else ""), (*edits, *foreign), facts)


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


def _signed(ctx: StageContext, signer: signing.Signer, bundle: Bundle) -> Bundle:
    """``bundle`` with its signature. One that was made of the same files is used again."""
    ctx.report("signing", 0.1)
    digests = {path: item.sha256 for path, item in bundle.manifest.files.items()}
    content = _once(
        ctx,
        SIGNATURE_PATH,
        lambda kept: signer.is_signature_of(kept, digests),
        lambda: signer.sign(ctx.settings.repo, digests),
    )
    ctx.note("signed")
    return bundle.with_signature(content, ctx.out / WRITTEN)


def _stated(ctx: StageContext, signer: signing.Signer, statement: bytes) -> bytes:
    """The signed ``statement`` of the provenance. One that was signed before is used again."""
    return _once(ctx, PROVENANCE_PATH, lambda kept: signer.has_stated(kept, statement), lambda: signer.state(statement))


def _once(ctx: StageContext, path: str, fits: Callable[[bytes], bool], sign: Callable[[], bytes]) -> bytes:
    """What was signed for ``path`` in an earlier attempt, if it ``fits``, else what ``sign`` makes; it is kept."""
    kept, before = ctx.scratch / path.rpartition("/")[2], ctx.earlier.artifact
    for place in (kept, *([before / WRITTEN / path] if before else [])):
        if place.is_file() and fits(content := place.read_bytes()):
            break
    else:
        content = sign()
    write_atomic(kept, content)
    return content


def provenance(ctx: StageContext) -> dict[str, Any]:
    """Where the bundle comes from: see :func:`hubkit.publishing.origin.origin_of`."""
    settings, inputs = ctx.settings, ctx.inputs
    headline = inputs.cards.headline(settings.variant)
    verdict = inputs.gates.variants.get(settings.variant) if inputs.gates else None
    license_, license_name, license_link = _license(inputs.cards.text("README.md") or "")
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
        ),
        **({"stop_rates": dict(headline.stop_rates)} if headline.stop_rates else {}),
        **({"answers": answers_of(inputs.stop_rates, verdict)} if inputs.stop_rates else {}),
        **({"average": headline.average} if headline.average is not None else {}),
    }


def _license(card: str) -> tuple[str | None, str | None, str | None]:
    """The license, its name and its link in the metadata of ``card``; what is not readable the screening refuses."""
    try:
        front = read_block(card) or {}
    except YamlError:
        front = {}
    name, title, link = (front.get(key) for key in ("license", "license_name", "license_link"))
    return (
        name if isinstance(name, str) else None,
        title if isinstance(title, str) else None,
        link if isinstance(link, str) else None,
    )


_LARGEST_CARD = 2**20


def outdated(ctx: StageContext, staged: StagedCommit) -> str | None:
    """None while the Hub still shows the staged commit as it was verified, and no card was edited since."""
    hub = connect(ctx.target)
    if not hub.repo_exists(staged.repo):
        return f"{staged.repo} no longer exists"
    tree = hub.tree_if_there(staged.repo, staged.commit)
    if tree is None:
        return f"the staged commit {staged.commit[:12]} no longer exists"
    wanted = tree_of(staged.bundle)
    proposed = ctx.settings.pull_request
    if not holds_release(tree, wanted) if proposed else compare(wanted, tree):
        return f"the staged commit {staged.commit[:12]} holds other files"
    gated = ctx.settings.gated
    if not proposed and gated and hub.gated(staged.repo) != gated:
        return f"access to {staged.repo} is no longer restricted as the recipe says (gated: {gated})"
    if proposed:  # what was edited since is for the owner to see who merges
        return None if staged.pull_request else _no_longer_there(hub, staged.repo, staged.branch, wanted)
    branch = staged.branch.removeprefix(f"{STAGING}/")
    head = hub.head(staged.repo, branch)
    if head is not None and edited_cards(hub.tree(staged.repo, head), tree, staged.expected_card_digests):
        return f"a card on the branch {branch!r} was edited since it was read"
    return None


def _no_longer_there(hub: Hub, repo: str, branch: str, wanted: Tree) -> str | None:
    """Why a release that its branch held already, so that nothing was proposed, is to be proposed now."""
    head = hub.head(repo, branch)
    if head is not None and holds_release(hub.tree(repo, head), wanted):
        return None
    return f"the branch {branch!r} of {repo} no longer holds the release"
