"""Move every branch to its verified commit, ``main`` last: a branch shows the old release or the new one, never a mix.

With ``layout: repos`` each variant is in a repo of its own; ``main`` of each is moved, that of the recipe's repo last.
GGUF files on a branch or in a repo of their own move before every variant: who reads ``main`` finds them there.

A missing branch is created at the staged commit. On an existing branch, the files are copied on the server in one
commit whose parent is the head that was read before, so that two concurrent releases cannot mix. When the step is
interrupted, some branches are at the new release and some at the old one, until the next run moves those that are
left. The staging branches are removed at the end, when every branch has been read back, with those that interrupted
attempts moved branches to; a later run finds the commits by their ids in the artifacts.

Where the release is only proposed (``pull_request`` in the recipe) no branch is moved: the decision on each pull
request is read, and a closed one ends the release.

Writes ``release.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from hubkit.recipe.names import STAGING
from hubkit.recipe.stage import CheckContext, Context, Noted, Scope, StageResult

VERSION = 3
SHAPED_BY: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The repo, where each variant lives, in the order in which they move, and whether the release is only proposed.

    ``gguf``: where the GGUF files of a variant live, if not with its weights. ``opened``: the files become everybody's
    to read (`gated: false`).
    """

    repo: str
    places: Mapping[str, Place]
    gguf: Mapping[str, Place] = field(metadata={"later": True})
    pull_request: bool
    opened: bool

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        places = {name: recipe.place(name) for name in recipe.publishing_order()}
        gguf = {name: place for name in places if (place := recipe.gguf_place(name)) not in (None, places[name])}
        return cls(recipe.repo, places, gguf, recipe.pull_request, recipe.gated is False)


@dataclass(frozen=True)
class Inputs:
    """The staged commit of each variant, and that each was loaded back and its code blocks ran.

    ``gguf`` are the staged commits of GGUF files, by variant; they were loaded back where they were staged.
    """

    staged: Mapping[str, StagedCommit]
    loaded_back: Mapping[str, LoadBack]
    snippets: Mapping[str, SnippetResults]
    gguf: Mapping[str, StagedCommit] = field(metadata={"later": True})


@dataclass(frozen=True)
class Move:
    """One branch to be moved to the commit that was staged for it; ``gguf``: it holds the GGUF files of ``variant``."""

    variant: str
    place: Place
    staged: StagedCommit
    bundle: Manifest
    gguf: bool

    @property
    def called(self) -> str:
        """'main', or 'main as GGUF'."""
        return f"{self.variant} as GGUF" if self.gguf else self.variant


Output = ReleasedBranches
StageContext = Context[Settings, Inputs]


def check(ctx: CheckContext[Settings]) -> Iterable[Finding]:
    """No preflight check of its own: the publish step checks the rights."""
    return ()


def _moves(ctx: StageContext) -> list[Move]:
    """The branches in the order in which they move: those of GGUF files, then the variants, ``main`` last."""
    found = []
    for is_gguf, places, staged in (
        (True, ctx.settings.gguf, ctx.inputs.gguf),
        (False, ctx.settings.places, ctx.inputs.staged),
    ):
        here = [(name, place, staged[name]) for name, place in places.items() if name in staged]
        found += [Move(name, place, item, item.bundle, is_gguf) for name, place, item in here]
    return found


def run(ctx: StageContext) -> StageResult[ReleasedBranches]:
    """Promote all the variants. ConflictError when someone else changed a branch; then nothing is overwritten."""
    hub, moves = connect(ctx.target), _moves(ctx)
    proposed = ctx.settings.pull_request
    for move in moves:
        verify_listing(hub, move.staged.repo, move.staged.commit, move.bundle, others_allowed=proposed)
    if proposed:
        return _proposed(ctx, hub, moves)
    for move in moves:
        _refuse_if_moved(ctx, hub, move.place, move.bundle)
        _refuse_if_edited(hub, move)
    moved: list[tuple[Move, ReleasedBranch]] = []
    warnings: list[str] = []
    for index, move in enumerate(moves):
        ctx.report(f"moving {move.called}", index / len(moves))
        released = _moved(ctx, hub, move)
        moved.append((move, released))
        # Files that are kept were reported before training, by the check of the publish step.
        where = f"The branch {move.place.branch!r} of {move.place.repo}"
        warnings += Ownership(replaced=released.replaced).sentences(where)
    _read_back(hub, moved)
    ctx.note("all-promoted", repo=ctx.settings.repo)
    _sweep(hub, [move.staged for move in moves], ctx.earlier.notes)
    if ctx.settings.opened:  # not before: until now the branches held what was published under other terms
        for repo in {move.place.repo: None for move in moves}:
            hub.set_gated(repo, False)
    figure = ", ".join(f"{move.called} at {item.commit[:12]}" for move, item in moved)
    return _result(ctx, moved, figure, warnings)


def _moved(ctx: StageContext, hub: Hub, move: Move) -> ReleasedBranch:
    """Move one branch."""
    commit, (repo, branch) = move.staged.commit, move.place
    done = promote(
        hub,
        repo,
        branch,
        commit,
        move.bundle,
        title=f"Release {move.called} (staged as {commit[:12]})",
        expected_cards=move.staged.expected_card_digests,
        note=partial(ctx.note, repo=repo),
    )
    return ReleasedBranch(
        commit=done.commit,
        staging_commit=commit,
        tree=move.bundle.digest,
        previous=done.previous,
        written=done.written,
        removed=done.removed,
        foreign=done.kept,
        replaced=done.replaced,
        repo=repo,
        branch=branch,
    )


def _result(
    ctx: StageContext, moved: Iterable[tuple[Move, ReleasedBranch]], figure: str, warnings: Iterable[str] = ()
) -> StageResult[ReleasedBranches]:
    variants = {move.variant: item for move, item in moved if not move.gguf}
    gguf = {move.variant: item for move, item in moved if move.gguf}
    facts = {
        "variants": {name: item.commit for name, item in variants.items()},
        **({"gguf": {name: item.commit for name, item in gguf.items()}} if gguf else {}),
    }
    return StageResult(ReleasedBranches(ctx.settings.repo, variants, gguf), figure, tuple(warnings), facts)


def _proposed(ctx: StageContext, hub: Hub, moves: Iterable[Move]) -> StageResult[ReleasedBranches]:
    """The state of each pull request; there is nothing to move."""
    found, words = [], []
    for move in moves:
        number, (repo, branch), item = move.staged.pull_request, move.place, move.staged
        status = proposals.open_or_merged(hub, repo, branch, number).status if number else "up to date"
        words.append(f"{move.called}: pull request {number}, {status}" if number else f"{move.called}: up to date")
        released = ReleasedBranch(
            commit=item.commit,
            staging_commit=item.commit,
            tree=item.tree,
            pull_request=number,
            status=status,
            repo=repo,
            branch=branch,
        )
        found.append((move, released))
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


def _refuse_if_edited(hub: Hub, move: Move) -> None:
    """ConflictError when a card on the branch was edited since the publish step read it: the edit would be lost."""
    repo, branch = move.place
    if head := hub.head(repo, branch):
        tree = hub.tree(repo, head)
        refuse_if_edited(repo, branch, tree, tree_of(move.bundle), move.staged.expected_card_digests)


def _read_back(hub: Hub, moved: Sequence[tuple[Move, ReleasedBranch]]) -> None:
    """ConflictError unless every branch still holds what it was moved to."""
    heads = {repo: hub.refs(repo).branches for repo in {move.place.repo: None for move, _ in moved}}
    for move, item in moved:
        repo, branch = move.place
        if heads[repo].get(branch) == item.commit:
            continue
        head = hub.head(repo, branch)
        if head is None or not holds_release(hub.tree(repo, head), tree_of(move.bundle)):
            raise ConflictError(
                f"All branches of {repo} were released; then someone else moved {branch!r} from "
                f"{short_commit(item.commit)} to {short_commit(head)}.",
                hint=f"Inspect it with `hubkit revisions list {repo}`, then run the same command again.",
            )


def _sweep(hub: Hub, staged: Iterable[StagedCommit], notes: Iterable[Noted]) -> None:
    """Remove the staging branches, but for one that another release has moved on.

    An earlier attempt that was interrupted may have left one of a place that the recipe does not name any more.
    """
    ours = {(item.repo, item.branch, item.commit) for item in staged}
    for note in notes:
        if {"repo", "branch", "source"} <= note.facts.keys():  # of a move
            facts = note.facts
            ours.add((str(facts["repo"]), f"{STAGING}/{facts['branch']}", str(facts["source"])))
    now = {item.repo for item in staged}
    for repo in sorted({repo for repo, _, _ in ours}):
        if repo in now or hub.repo_exists(repo):
            heads = hub.refs(repo).branches
            for _, branch, commit in sorted(item for item in ours if item[0] == repo):
                if heads.get(branch) == commit:
                    hub.delete_branch(repo, branch)


def outdated(ctx: StageContext, released: ReleasedBranches) -> str | None:
    """None while every branch still holds what was released."""
    staged, gguf = ctx.inputs.staged, ctx.inputs.gguf
    bundles = {name: item.bundle for name, item in staged.items()}
    return changed_since(connect(ctx.target), released, bundles, {name: item.bundle for name, item in gguf.items()})
