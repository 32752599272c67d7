"""Move every branch to its verified commit, ``main`` last: a reader sees the old release or the new one, never a mix.

With ``layout: repos`` each variant is in a repo of its own; ``main`` of each is moved, that of the recipe's repo last.

A missing branch is created at the staged commit. On an existing branch, the files are copied on the server in one
commit whose parent is the head that was read before, so that two concurrent releases cannot mix. When the step is
interrupted, the next run moves the branches that are left. The staging branches are removed at the end, when
every branch has been read back; a later run finds the commits by their ids in the artifacts.

Where the release is only proposed (``pull_request`` in the recipe) no branch is moved: the decision on each pull
request is read, and a closed one ends the release.

Writes ``release.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from hubkit.cards.snippets.results import SnippetResults
from hubkit.core.errors import ConflictError
from hubkit.core.files import Manifest
from hubkit.core.findings import Finding
from hubkit.core.numbers import short_commit
from hubkit.core.trees import Tree, tree_of
from hubkit.hub.client import Hub, connect
from hubkit.publishing import proposals
from hubkit.publishing.attempts import left_at
from hubkit.publishing.compare_and_swap import branch_moved
from hubkit.publishing.edited_cards import refuse_if_edited
from hubkit.publishing.load_back import LoadBack
from hubkit.publishing.manifest import CARDS
from hubkit.publishing.ownership import Ownership, holds_release
from hubkit.publishing.promotion import promote
from hubkit.publishing.read_back import verify_listing
from hubkit.publishing.released import ReleasedBranch, ReleasedBranches, changed_since
from hubkit.publishing.staged import StagedCommit
from hubkit.recipe.models import Place, Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult

VERSION = 3
SHAPED_BY: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The repo, where each variant lives, in the order in which they move, and whether the release is only proposed.

    ``opened``: the files become everybody's to read (`gated: false`).
    """

    repo: str
    places: Mapping[str, Place]
    pull_request: bool
    opened: bool

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        places = {name: recipe.place(name) for name in recipe.publishing_order()}
        return cls(recipe.repo, places, recipe.pull_request, recipe.gated is False)


@dataclass(frozen=True)
class Inputs:
    """The staged commit of each variant, and that each was loaded back and its code blocks ran."""

    staged: Mapping[str, StagedCommit]
    loaded_back: Mapping[str, LoadBack]
    snippets: Mapping[str, SnippetResults]


Output = ReleasedBranches
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """No preflight check of its own: the publish step checks the rights."""
    return ()


def run(ctx: StageContext) -> StageResult[ReleasedBranches]:
    """Promote all the variants. ConflictError when someone else changed a branch; then nothing is overwritten."""
    hub, staged = connect(ctx.target), ctx.inputs.staged
    manifests = {name: item.bundle for name, item in staged.items()}
    proposed = ctx.settings.pull_request
    for name, item in staged.items():
        verify_listing(hub, item.repo, item.commit, manifests[name], others_allowed=proposed)
    if proposed:
        return _proposed(ctx, hub, staged)
    for name, item in staged.items():
        _refuse_if_moved(ctx, hub, ctx.settings.places[name], manifests[name])
        _refuse_if_edited(hub, ctx.settings.places[name].branch, item, manifests[name])
    order = [name for name in ctx.settings.places if name in staged]
    moved: dict[str, ReleasedBranch] = {}
    warnings: list[str] = []
    for index, name in enumerate(order):
        ctx.report(f"moving {name}", index / len(order))
        commit, (repo, branch) = staged[name].commit, ctx.settings.places[name]
        move = promote(
            hub,
            repo,
            branch,
            commit,
            manifests[name],
            title=f"Release {name} (staged as {commit[:12]})",
            expected_cards=staged[name].expected_card_digests,
            note=partial(ctx.note, repo=repo),
        )
        moved[name] = ReleasedBranch(
            commit=move.commit,
            staging_commit=commit,
            tree=manifests[name].digest,
            previous=move.previous,
            written=move.written,
            removed=move.removed,
            foreign=move.kept,
            replaced=move.replaced,
            repo=repo,
            branch=branch,
        )
        # Files that are kept were reported before training, by the check of the publish step.
        warnings += Ownership(replaced=move.replaced).sentences(f"The branch {branch!r} of {repo}")
    _read_back(hub, moved, manifests)
    ctx.note("all-promoted", repo=ctx.settings.repo)
    _sweep(hub, staged)
    if ctx.settings.opened:  # not before: until now the branches held what was published under other terms
        for repo in {item.repo: None for item in staged.values()}:
            hub.set_gated(repo, False)
    figure = ", ".join(f"{name} at {item.commit[:12]}" for name, item in moved.items())
    return _result(ctx, moved, figure, warnings)


def _result(
    ctx: StageContext, variants: Mapping[str, ReleasedBranch], figure: str, warnings: Iterable[str] = ()
) -> StageResult[ReleasedBranches]:
    facts = {"variants": {name: item.commit for name, item in variants.items()}}
    released = ReleasedBranches(repo=ctx.settings.repo, variants=variants)
    return StageResult(released, figure, tuple(warnings), facts)


def _proposed(ctx: StageContext, hub: Hub, staged: Mapping[str, StagedCommit]) -> StageResult[ReleasedBranches]:
    """The state of each pull request; there is nothing to move."""
    found, words = {}, []
    for name, item in staged.items():
        number, (repo, branch) = item.pull_request, ctx.settings.places[name]
        status = proposals.open_or_merged(hub, repo, branch, number).status if number else "up to date"
        words.append(f"{name}: pull request {number}, {status}" if number else f"{name}: up to date")
        found[name] = ReleasedBranch(
            commit=item.commit,
            staging_commit=item.commit,
            tree=item.tree,
            pull_request=number,
            status=status,
            repo=repo,
            branch=branch,
        )
    return _result(ctx, found, "; ".join(words))


def _refuse_if_moved(ctx: StageContext, hub: Hub, place: Place, manifest: Manifest) -> None:
    """ConflictError when the branch is neither where this run left it nor where it is about to go.

    Where it was left is known from the notes of earlier attempts. A commit whose answer or whose note was lost is
    recognized by its tree.
    """
    repo, branch = place
    left = left_at(ctx.earlier.notes, repo, branch)
    head = hub.head(repo, branch)
    if not left.last or head is None or head in left.heads:
        return
    tree = hub.tree(repo, head)
    if tree.keys() <= {".gitattributes"} or holds_release(tree, tree_of(manifest)):
        return  # a repo that was made anew, or what is to be published anyway
    for source in left.sources:
        held = hub.tree_if_there(repo, source)
        # Cards may have been edited: the publish step has merged them, and what it did not see is refused below.
        if held is not None and holds_release(tree, _but_cards(held)):
            return
    moved = branch_moved(repo, branch, left.last, head, since="since this run published it")
    raise ConflictError(
        moved.message,
        hint=f"Inspect it with `hubkit revisions list {repo}`. `hubkit release --fresh` replaces it with a new run.",
    )


def _but_cards(tree: Tree) -> Tree:
    return {path: entry for path, entry in tree.items() if path not in CARDS.values()}


def _refuse_if_edited(hub: Hub, branch: str, staged: StagedCommit, manifest: Manifest) -> None:
    """ConflictError when a card on the branch was edited since the publish step read it: the edit would be lost."""
    if head := hub.head(staged.repo, branch):
        tree = hub.tree(staged.repo, head)
        refuse_if_edited(staged.repo, branch, tree, tree_of(manifest), staged.expected_card_digests)


def _read_back(hub: Hub, moved: Mapping[str, ReleasedBranch], manifests: Mapping[str, Manifest]) -> None:
    """ConflictError unless every branch still holds what it was moved to."""
    heads = {repo: hub.refs(repo).branches for repo in {str(item.repo): None for item in moved.values()}}
    for name, item in moved.items():
        repo, branch = str(item.repo), str(item.branch)
        if heads[repo].get(branch) == item.commit:
            continue
        head = hub.head(repo, branch)
        if head is None or not holds_release(hub.tree(repo, head), tree_of(manifests[name])):
            raise ConflictError(
                f"All branches of {repo} were released; then someone else moved {branch!r} from "
                f"{short_commit(item.commit)} to {short_commit(head)}.",
                hint=f"Inspect it with `hubkit revisions list {repo}`, then run the same command again.",
            )


def _sweep(hub: Hub, staged: Mapping[str, StagedCommit]) -> None:
    """Remove the staging branches, but for one that another release has moved on."""
    heads = {repo: hub.refs(repo).branches for repo in {item.repo: None for item in staged.values()}}
    for item in staged.values():
        if heads[item.repo].get(item.branch) == item.commit:
            hub.delete_branch(item.repo, item.branch)


def outdated(ctx: StageContext, released: ReleasedBranches) -> str | None:
    """None while every branch still holds what was released."""
    return changed_since(connect(ctx.target), released, {name: item.bundle for name, item in ctx.inputs.staged.items()})
