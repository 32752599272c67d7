"""Propose a variant to somebody else's repo: as a pull request that its owner merges or closes.

The Hub accepts pull requests for ``main`` only, and creates no branch for those who may not write. So the variant
``main`` is proposed as a change of ``main``; each other variant as the exact tree of a branch, which a person who may
write creates from it (``hubkit revisions promote REPO refs/pr/3 dpo-v0``) instead of merging it.

Our pull request is recognized by its author and its title. After an interruption it is updated, and no second one is
opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from hubkit.core.errors import ConflictError, RefusedError, UsageError
from hubkit.core.fine_grained import DISCUSS
from hubkit.core.trees import Tree, compare, short_list, tree_of
from hubkit.hub.client import Hub
from hubkit.hub.commits import Deletion
from hubkit.hub.errors import contradiction
from hubkit.hub.pull_requests import PULL_REFS, PullRequest, pull_url
from hubkit.hub.retry import agreed, write_and_verify
from hubkit.hub.uploads import upload
from hubkit.publishing.bundle import Bundle
from hubkit.publishing.compare_and_swap import commit
from hubkit.publishing.manifest import OUR_OWN, provenance_at
from hubkit.publishing.notes import Note, no_note
from hubkit.publishing.ownership import Ownership, decide, holds_release
from hubkit.publishing.staging import additions
from hubkit.recipe.names import MAIN

_UNLISTED = 10
"""Pull requests that a list leaves out and that are read one by one."""


@dataclass(frozen=True)
class Proposal:
    """A proposed variant: ``commit`` at ``ref``, the ref of the pull request ``number``.

    ``number`` is None when the branch ``ref`` holds the variant already, so that there is nothing to propose.
    ``ownership``: which foreign files the pull request keeps and which it overwrites.
    """

    commit: str
    ref: str
    number: int | None
    ownership: Ownership = field(default_factory=Ownership)


def problem(hub: Hub, repo: str) -> str | None:
    """Why this token can propose nothing to ``repo``, without a full stop; None when it can."""
    account = hub.whoami() if not hub.target.trusted else None
    if account is None:
        return f"opening a pull request needs a user token; none is set for {hub.endpoint}"
    if not hub.repo_exists(repo):
        return f"{repo} does not exist, or {account.name} has no access to it"
    return account.lacks(DISCUSS, repo, "model")


def title_of(variant: str) -> str:
    """The title by which our pull request is recognized."""
    return f"Release {variant}"


def propose(
    hub: Hub, repo: str, variant: str, bundle: Bundle, *, overwrite: bool = False, note: Note = no_note
) -> Proposal:
    """Bring a pull request to ``bundle``; nothing is written when it holds it already.

    RefusedError when the Hub does not let this token propose, ConflictError when somebody else changed the pull
    request (unless ``overwrite``) or moves it in the meantime, RemoteError when the Hub cannot be reached.
    """
    wanted = tree_of(bundle.manifest)
    head = hub.head(repo, variant)
    if head is not None and holds_release(hub.tree(repo, head), wanted):
        return Proposal(head, variant, None)
    main = head if variant == MAIN else hub.head(repo, MAIN)
    goal = _goal(hub, repo, variant, main, wanted)
    opened = _ours(hub, repo, variant)
    if opened is None:
        numbers: list[int] = []
        opened = write_and_verify(
            lambda: numbers.append(_open(hub, repo, variant, main, bundle, goal)),
            lambda failure: _opened(hub, repo, variant, numbers),
        )
        if opened is None:
            raise contradiction(
                hub.endpoint, f"it answered that the pull request to {repo} was opened, and shows that it was not"
            )
        note("pull-request-opened", number=str(opened.number))
    proposed = _update(hub, repo, variant, opened, bundle, goal, overwrite)
    return Proposal(proposed, opened.ref, opened.number, goal.ownership)


@dataclass(frozen=True)
class Goal:
    """What a pull request is to hold: the files of ``wanted``, and the foreign files in ``stay``."""

    wanted: Tree
    stay: frozenset[str]
    ownership: Ownership

    def removals(self, tree: Tree) -> list[str]:
        """What must be removed from ``tree``."""
        return sorted(tree.keys() - self.wanted.keys() - self.stay)

    def missing(self, tree: Tree) -> list[str]:
        """What ``tree`` lacks, or holds with other content."""
        return [item.path for item in compare(tree, self.wanted).changes if item.after]

    def reached(self, tree: Tree) -> bool:
        """Whether there is nothing left to do."""
        return not self.removals(tree) and not self.missing(tree)


def _goal(hub: Hub, repo: str, variant: str, main: str | None, wanted: Tree) -> Goal:
    """For ``main`` the foreign files stay; any other variant is the complete tree of a separate branch."""
    if variant != MAIN or main is None:
        return Goal(wanted, frozenset(), Ownership())
    tree = hub.tree(repo, main)
    provenance = provenance_at(hub, repo, main, tree)
    ownership = decide(tree, wanted, provenance.paths if provenance else ())
    return Goal(wanted, frozenset(ownership.outcome(tree, wanted).keys() - wanted.keys()), ownership)


def _ours(hub: Hub, repo: str, variant: str) -> PullRequest | None:
    """Our open pull request for the variant. The newest ones that the list leaves out are read one by one.

    A list that came shortened must not lead to a second pull request.
    """
    account = hub.whoami()
    if account is None:
        return None

    def is_ours(item: PullRequest) -> bool:
        return item.is_open and item.title == title_of(variant) and item.author == account.name

    listed = {item.number: item for item in hub.pull_requests(repo, account.name)}
    if (found := next(filter(is_ours, listed.values()), None)) is not None:
        return found
    numbers = {int(ref.removeprefix(PULL_REFS)) for ref in hub.pull_request_heads(repo)}
    newest = sorted(numbers - listed.keys(), reverse=True)[:_UNLISTED]
    return next(filter(is_ours, (hub.pull_request(repo, number) for number in newest)), None)


def _opened(hub: Hub, repo: str, variant: str, numbers: Sequence[int]) -> PullRequest | None:
    """The pull request that was opened, by the number that was answered or by the list; None when there is none."""
    if numbers:
        with suppress(UsageError):
            found = hub.pull_request(repo, numbers[-1])
            if found.is_open and found.title == title_of(variant):
                return found
    return _ours(hub, repo, variant)


def _open(hub: Hub, repo: str, variant: str, main: str | None, bundle: Bundle, goal: Goal) -> int:
    if main is None:
        raise ConflictError(
            f"{repo} has no {MAIN} branch, so no pull request can be opened.", hint="Ask the repo owner to create it."
        )
    tree = hub.tree(repo, main)
    added = additions(bundle, goal.missing(tree))
    written = upload(hub, repo, MAIN, added, create_pr=True)
    operations = [*map(Deletion, goal.removals(tree)), *written]
    return hub.open_pull_request(repo, operations, parent=main, title=title_of(variant), text=_text(repo, variant))


def _text(repo: str, variant: str) -> str:
    if variant == MAIN:
        return "The card describes the model and how it was measured. Created with hubkit."
    return (
        "The card describes the model and how it was measured.\n\n"
        f"Do not merge this into `{MAIN}`. It contains the files of a separate branch. To create the branch, run"
        f" `hubkit revisions promote {repo} refs/pr/N {variant}` (N is the number of this pull request), then close"
        " this pull request. Created with hubkit."
    )


def _update(hub: Hub, repo: str, variant: str, opened: PullRequest, bundle: Bundle, goal: Goal, overwrite: bool) -> str:
    """Bring an open pull request to ``goal`` in one commit; returns its head."""
    head = hub.head(repo, opened.ref)
    if head is None:
        raise ConflictError(f"Pull request {opened.number} of {repo} has no commits.", hint="Close it and run again.")
    tree = hub.tree(repo, head)
    if goal.reached(tree):
        return head
    if not overwrite and (paths := _changed_by_others(hub, repo, head, tree, goal)):
        raise ConflictError(
            f"Somebody changed {short_list(paths)} in pull request {opened.number} of {repo}; this release would"
            " overwrite the change.",
            hint=f"See {pull_url(hub.endpoint, repo, opened.number)}. Move the change into the recipe, then run"
            " `hubkit release --pr --overwrite-card`.",
        )
    added = additions(bundle, goal.missing(tree))
    written = upload(hub, repo, opened.ref, added)
    operations = [*map(Deletion, goal.removals(tree)), *written]
    return commit(hub, repo, opened.ref, head, operations, goal.reached, title_of(variant))


def _changed_by_others(hub: Hub, repo: str, head: str, tree: Tree, goal: Goal) -> list[str]:
    """The files of a pull request that differ from the manifest in it, and would be overwritten or removed."""
    provenance = provenance_at(hub, repo, head, tree)
    promised = provenance.promised if provenance else {}
    lost = {*goal.missing(tree), *goal.removals(tree)} - OUR_OWN
    return sorted(
        path
        for path in lost
        if (path in tree) != (path in promised) or (path in tree and not promised[path].same(tree[path]))
    )


def open_or_merged(hub: Hub, repo: str, variant: str, number: int) -> PullRequest:
    """The pull request, open or merged. RefusedError when somebody closed it: that is the owner's decision."""

    def read() -> PullRequest:
        one = hub.pull_request(repo, number)
        listed = {item.number: item.status for item in hub.pull_requests(repo, one.author)}
        if listed.get(number) != one.status:
            raise contradiction(
                hub.endpoint, f"pull request {number} of {repo} is {one.status}, and {listed.get(number, 'not listed')}"
            )
        return one

    request = agreed(read)
    if not request.is_open and request.status != "merged" and not _branch_has_variant(hub, repo, variant, request):
        raise RefusedError(
            f"Pull request {number} of {repo} for {variant} was closed: {pull_url(hub.endpoint, repo, number)}.",
            hint="`hubkit release --fresh --pr` proposes it again.",
        )
    return request


def _branch_has_variant(hub: Hub, repo: str, variant: str, request: PullRequest) -> bool:
    """Whether the variant's branch holds the proposed files: somebody created it and closed the pull request."""
    head, proposed = hub.head(repo, variant), hub.head(repo, request.ref)
    if head is None or proposed is None:
        return False
    return holds_release(hub.tree(repo, head), hub.tree(repo, proposed))
