"""Move every branch to its verified commit, ``main`` last: a reader sees the old release or the new one, never a mix.

A branch that is not there yet is made at the staged commit. On one that is, the files are copied on the server in one
commit whose parent is the head that was read before, so that two releases at once cannot mix. When the step is
interrupted, the next run goes on with the branches that are left. The staging branches are removed at the end, when
every branch has been read back; a later run finds the commits by their ids in the artifacts.

Where the release is only proposed (``pull_request`` in the recipe) no branch is moved: it is read what was decided on
the pull requests, and a closed one ends the release.

Makes: ``release.json`` {repo, variants: {V: {commit, previous, staging_commit, tree, written, removed, foreign,
replaced}}}; of a proposed one {commit, staging_commit, tree, pull_request, status}.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hubkit.core.errors import ConflictError
from hubkit.core.files import Manifest, write_json
from hubkit.core.findings import Finding
from hubkit.core.trees import Tree, tree_of
from hubkit.hub.client import Hub, connect
from hubkit.publishing import proposals
from hubkit.publishing.compare_and_swap import branch_moved
from hubkit.publishing.edited_cards import refuse_if_edited
from hubkit.publishing.manifest import CARDS
from hubkit.publishing.ownership import Ownership, holds_release
from hubkit.publishing.promotion import promote
from hubkit.publishing.read_back import verify_listing
from hubkit.recipe.stage import Artifact, Context

VERSION = 1
SHAPED_BY: tuple[str, ...] = ()


def check(ctx: Context) -> Iterable[Finding]:
    """Nothing of its own: the rights are those that publishing to the staging branch needs."""
    return ()


def run(ctx: Context) -> Artifact:
    """Promote all the variants. ConflictError when a branch was moved by somebody else; nothing is written over it."""
    hub, repo = connect(ctx.target), str(ctx.settings["repo"])
    staged = ctx.each("publish")
    manifests = {name: _manifest(artifact) for name, artifact in staged.items()}
    commits = {name: str(artifact.json("published.json")["commit"]) for name, artifact in staged.items()}
    proposed = bool(ctx.settings.get("pull_request"))
    for name, commit in commits.items():
        verify_listing(hub, repo, commit, manifests[name], others_allowed=proposed)
    if proposed:
        return _proposed(ctx, hub, repo, staged)
    for name in staged:
        _refuse_if_moved(ctx, hub, repo, name, manifests[name])
        _refuse_if_edited(hub, repo, name, staged[name], manifests[name])

    def note(point: str, **facts: str) -> None:
        ctx.run.log(point, step=ctx.step, repo=repo, **facts)

    order = [name for name in ctx.recipe.publishing_order() if name in staged]
    done: dict[str, dict[str, Any]] = {}
    warnings: list[str] = []
    for index, name in enumerate(order):
        ctx.report(f"moving {name}", index / len(order))
        move = promote(
            hub,
            repo,
            name,
            commits[name],
            manifests[name],
            title=f"Release {name} (staged as {commits[name][:12]})",
            over=_over(staged[name]),
            note=note,
        )
        done[name] = {
            "commit": move.commit,
            "previous": move.previous,
            "staging_commit": commits[name],
            "tree": manifests[name].digest,
            "written": move.written,
            "removed": list(move.removed),
            "foreign": list(move.kept),
            "replaced": list(move.replaced),
        }
        # Files that are kept were reported before training, by the check of the publish step.
        warnings += Ownership(replaced=move.replaced).sentences(f"The branch {name!r} of {repo}")
    _read_back(hub, repo, done, manifests)
    note("all-promoted")
    _sweep(hub, repo, staged)
    write_json(ctx.out / "release.json", {"repo": repo, "variants": done})
    shown = ", ".join(f"{name} at {said['commit'][:12]}" for name, said in done.items())
    return ctx.artifact(figure=shown, variants={name: said["commit"] for name, said in done.items()}, warnings=warnings)


def _proposed(ctx: Context, hub: Hub, repo: str, staged: dict[str, Artifact]) -> Artifact:
    """How each pull request stands; there is nothing to move."""
    done, words = {}, []
    for name, artifact in staged.items():
        said = artifact.json("published.json")
        number = said["pull_request"]
        status = proposals.standing(hub, repo, name, number).status if number else "there already"
        words.append(f"{name}: pull request {number}, {status}" if number else f"{name}: there already")
        done[name] = {
            "commit": said["commit"],
            "staging_commit": said["commit"],
            "tree": said["tree"],
            "pull_request": number,
            "status": status,
        }
    write_json(ctx.out / "release.json", {"repo": repo, "variants": done})
    return ctx.artifact(figure="; ".join(words), variants={name: said["commit"] for name, said in done.items()})


def _manifest(artifact: Artifact) -> Manifest:
    return Manifest.from_json(artifact.json("bundle.json"))


def _refuse_if_moved(ctx: Context, hub: Hub, repo: str, branch: str, manifest: Manifest) -> None:
    """ConflictError when the branch is not where this run left it, nor where it is about to go.

    Where it was left is in the journal. A commit whose answer, or whose line in the journal, was lost is known by its
    tree.
    """
    heads: set[str] = set()
    sources: set[str] = set()
    last = ""
    for line in ctx.run.journal():
        if line.get("repo") != repo:
            continue
        if line["event"] == f"branch-moved[{branch}]":
            heads, sources, last = {line["commit"]}, {line["source"]}, line["commit"]
        elif line["event"] == f"branch-begun[{branch}]":
            heads.add(line["commit"])
            sources.add(line["source"])
    head = hub.head(repo, branch)
    if not last or head is None or head in heads:
        return
    tree = hub.tree(repo, head)
    if tree.keys() <= {".gitattributes"} or holds_release(tree, tree_of(manifest)):
        return  # a repo that was made anew, or what is to be published anyway
    for source in sources:
        held = hub.tree_if_there(repo, source)
        # Cards may have been edited: the publish step has merged them, and what it did not see is refused below.
        if held is not None and holds_release(tree, _but_cards(held)):
            return
    moved = branch_moved(repo, branch, last, head, since="since this run published it")
    raise ConflictError(
        moved.message,
        hint=f"Look at it (`hubkit revisions list {repo}`). `hubkit release --fresh` publishes a new run over it.",
    )


def _but_cards(tree: Tree) -> Tree:
    return {path: entry for path, entry in tree.items() if path not in CARDS.values()}


def _over(staged: Artifact) -> dict[str, str]:
    """The digests of the cards that the publish step read on the branch, by path."""
    return dict(staged.json("published.json").get("over", {}))


def _refuse_if_edited(hub: Hub, repo: str, branch: str, staged: Artifact, manifest: Manifest) -> None:
    """ConflictError when a card on the branch was edited since the publish step read it: the edit would be lost."""
    if head := hub.head(repo, branch):
        refuse_if_edited(repo, branch, hub.tree(repo, head), tree_of(manifest), _over(staged))


def _read_back(hub: Hub, repo: str, done: dict[str, dict[str, Any]], manifests: dict[str, Manifest]) -> None:
    """ConflictError unless every branch still stands where it was put."""
    heads = hub.refs(repo).branches
    for name, said in done.items():
        head = heads.get(name)
        if head == said["commit"]:
            continue
        if head is None or not holds_release(hub.tree(repo, head), tree_of(manifests[name])):
            raise branch_moved(repo, name, said["commit"], head, since="after it was released")


def _sweep(hub: Hub, repo: str, staged: dict[str, Artifact]) -> None:
    """Remove the staging branches, but for one that another release has moved on."""
    heads = hub.refs(repo).branches
    for artifact in staged.values():
        said = artifact.json("published.json")
        if heads.get(said["branch"]) == said["commit"]:
            hub.delete_branch(repo, said["branch"])


def holds(ctx: Context, artifact: Artifact) -> str | None:
    """None while every branch still holds what was released."""
    hub, said = connect(ctx.target), artifact.json("release.json")
    repo = said["repo"]
    if not hub.repo_exists(repo):
        return f"{repo} is not there any more"
    heads = hub.refs(repo).branches
    staged = ctx.each("publish")
    for name, moved in said["variants"].items():
        if number := moved.get("pull_request"):
            now = hub.pull_request(repo, number).status
            if now != moved["status"]:
                return f"the pull request {number} of {repo} is {now}, and was {moved['status']}"
            continue
        head = heads.get(name)
        if head is None:
            return f"the branch {name!r} of {repo} is not there any more"
        if head != moved["commit"] and not holds_release(hub.tree(repo, head), tree_of(_manifest(staged[name]))):
            return f"the branch {name!r} of {repo} moved from {moved['commit'][:12]} to {head[:12]}"
    return None
