"""Offer a variant to a repo of others: as a pull request that they decide on.

The Hub takes pull requests for ``main`` only, and makes no branch for those who may not write. So the variant ``main``
is proposed as a change of ``main``; each other variant as the exact tree of a branch, which a person who may write
makes from it (``hubkit revisions promote REPO refs/pr/3 dpo-v0``) in place of merging it.

A pull request of ours is known by its author and its title. It is gone on with, not opened a second time, whatever
interrupted the one who opened it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from hubkit.core.errors import ConflictError, HubkitError, RefusedError
from hubkit.core.trees import Tree, compare, short_list, tree_of
from hubkit.hub.access import DISCUSS
from hubkit.hub.client import Hub
from hubkit.hub.pull_requests import PullRequest, pull_url
from hubkit.hub.transport import pause_before_retry
from hubkit.hub.uploads import upload
from hubkit.publishing.branches import Note, additions, commit, holds_release, no_note, provenance_at
from hubkit.publishing.bundle import MANIFEST_PATH, SIGNATURE_PATH, Bundle
from hubkit.recipe.models import MAIN


@dataclass(frozen=True)
class Proposal:
    """Where a variant stands: ``commit`` at ``ref``, the pull request ``number``.

    ``number`` is None when the branch ``ref`` holds the variant already, so that there is nothing to propose.
    """

    commit: str
    ref: str
    number: int | None


def problem(hub: Hub, repo: str) -> str | None:
    """Why this token can propose nothing to ``repo``, without a stop at the end; None when nothing speaks against."""
    account = hub.whoami() if not hub.target.trusted else None
    if account is None:
        return f"a pull request is opened by a person, and there is no token of one for {hub.endpoint}"
    if not hub.repo_exists(repo):
        return f"{repo} is not there, or cannot be seen by {account.name}; a pull request needs a repo"
    return account.lacks(DISCUSS, repo, "model")


def title_of(variant: str) -> str:
    """The title by which a pull request of ours is known."""
    return f"Release {variant}"


def propose(
    hub: Hub, repo: str, variant: str, bundle: Bundle, *, overwrite: bool = False, note: Note = no_note
) -> Proposal:
    """Have a pull request hold ``bundle``, and return its commit; nothing is written when one does already.

    RefusedError when the Hub does not let this token propose, ConflictError when somebody else changed the pull
    request (``overwrite``: they may lose that) or moves it meanwhile, RemoteError when the Hub cannot be reached.
    """
    wanted = tree_of(bundle.manifest)
    heads = hub.refs(repo).branches
    if variant in heads and holds_release(hub.tree(repo, heads[variant]), wanted):
        return Proposal(heads[variant], variant, None)
    goal = _goal(hub, repo, variant, heads.get(MAIN), wanted)
    opened = _ours(hub, repo, variant)
    attempt = 1
    while opened is None:
        failure = _open(hub, repo, variant, heads.get(MAIN), bundle, goal)
        opened = _ours(hub, repo, variant)
        if opened is not None:
            note("pull-request-opened", number=str(opened.number))
        elif failure is None:
            raise ConflictError(f"{repo} took the pull request and does not show it.", hint="Run it again.")
        else:
            wait = pause_before_retry(failure, attempt)
            if wait is None:
                raise failure
            time.sleep(wait)
            attempt += 1
    return Proposal(_bring(hub, repo, variant, opened, bundle, goal, overwrite), opened.ref, opened.number)


@dataclass(frozen=True)
class Goal:
    """What a pull request is to hold: the files of ``wanted``; of others it keeps those in ``kept``."""

    wanted: Tree
    kept: frozenset[str]

    def removals(self, tree: Tree) -> list[str]:
        """What must go from ``tree``."""
        return sorted(tree.keys() - self.wanted.keys() - self.kept)

    def missing(self, tree: Tree) -> list[str]:
        """What ``tree`` lacks, or holds otherwise."""
        return [item.path for item in compare(tree, self.wanted).changes if item.after]

    def reached(self, tree: Tree) -> bool:
        """Whether there is nothing left to do."""
        return not self.removals(tree) and not self.missing(tree)


def _goal(hub: Hub, repo: str, variant: str, main: str | None, wanted: Tree) -> Goal:
    """For ``main`` the files of other people stay; any other variant is the tree of a branch of its own."""
    if variant != MAIN or main is None:
        return Goal(wanted, frozenset())
    tree = hub.tree(repo, main)
    before = provenance_at(hub, repo, main, tree)
    return Goal(wanted, frozenset(tree.keys() - wanted.keys() - (before.paths if before else frozenset())))


def _ours(hub: Hub, repo: str, variant: str) -> PullRequest | None:
    account = hub.whoami()
    found = hub.pull_requests(repo, account.name) if account else []
    return next((item for item in found if item.waits and item.title == title_of(variant)), None)


def _open(hub: Hub, repo: str, variant: str, main: str | None, bundle: Bundle, goal: Goal) -> HubkitError | None:
    """Try once; returns why it did not work, as far as the answer tells."""
    from huggingface_hub import CommitOperationDelete

    if main is None:
        raise ConflictError(f"{repo} has no branch {MAIN!r} to propose a change of.", hint="Ask its owner.")
    tree = hub.tree(repo, main)
    added = additions(bundle, goal.missing(tree))
    try:
        upload(hub, repo, MAIN, added, create_pr=True)
        removed = [CommitOperationDelete(path) for path in goal.removals(tree)]
        hub.open_pull_request(repo, main, [*added, *removed], title_of(variant), _text(repo, variant))
    except HubkitError as error:
        return error
    return None


def _text(repo: str, variant: str) -> str:
    if variant == MAIN:
        return "The card says what this is and how it was measured. Made with hubkit."
    return (
        f"The card says what this is and how it was measured. It is not to be merged into `{MAIN}`: it holds the files"
        f" of a branch of its own. `hubkit revisions promote {repo} refs/pr/N {variant}`, with the number of this pull"
        " request, makes that branch, and then this can be closed. Made with hubkit."
    )


def _bring(hub: Hub, repo: str, variant: str, opened: PullRequest, bundle: Bundle, goal: Goal, overwrite: bool) -> str:
    """Bring an open pull request to ``goal`` in one commit, and return its head."""
    from huggingface_hub import CommitOperationDelete

    head = hub.pull_head(repo, opened.ref)
    if head is None:
        raise ConflictError(f"The pull request {opened.number} of {repo} has no commits.", hint="Close it, run again.")
    tree = hub.tree(repo, head)
    if goal.reached(tree):
        return head
    if not overwrite and (paths := _changed_by_others(hub, repo, head, tree, goal)):
        raise ConflictError(
            f"Somebody changed {short_list(paths)} in the pull request {opened.number} of {repo}, and this would"
            " write over it.",
            hint=f"See {pull_url(hub.endpoint, repo, opened.number)}. Bring the change into the recipe, then propose"
            " over it: hubkit release --pr --overwrite-card.",
        )
    added = additions(bundle, goal.missing(tree))
    upload(hub, repo, opened.ref, added)
    removed = [CommitOperationDelete(path) for path in goal.removals(tree)]
    return commit(hub, repo, opened.ref, head, [*added, *removed], goal.reached, title_of(variant))


def _changed_by_others(hub: Hub, repo: str, head: str, tree: Tree, goal: Goal) -> list[str]:
    """What of a pull request is not as the manifest in it promises, and would be lost on the way to ``goal``."""
    found = provenance_at(hub, repo, head, tree)
    promised = found.promised if found else {}
    ours = {MANIFEST_PATH, SIGNATURE_PATH}
    lost = {*goal.missing(tree), *goal.removals(tree)} - ours
    return sorted(
        path
        for path in lost
        if (path in tree) != (path in promised) or (path in tree and not promised[path].same(tree[path]))
    )


def standing(hub: Hub, repo: str, variant: str, number: int) -> PullRequest:
    """The pull request, waiting or merged. RefusedError when somebody closed it: that is a decision, and it holds."""
    found = hub.pull_request(repo, number)
    if not found.waits and found.status != "merged" and not _taken(hub, repo, variant, found):
        raise RefusedError(
            f"The pull request {number} of {repo} for {variant} was closed: {pull_url(hub.endpoint, repo, number)}.",
            hint="`hubkit release --fresh --pr` proposes it anew.",
        )
    return found


def _taken(hub: Hub, repo: str, variant: str, found: PullRequest) -> bool:
    """Whether the branch of the variant holds what was proposed: made from it, as its text asks, and then closed."""
    head, proposed = hub.head(repo, variant), hub.pull_head(repo, found.ref)
    if head is None or proposed is None:
        return False
    return holds_release(hub.tree(repo, head), hub.tree(repo, proposed))
