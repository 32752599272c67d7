"""Change a branch so that it holds the old tree or the new one, whole, and everybody knows which.

Every change is one commit with the head that was read before as its parent. Whatever the Hub answers, or does not,
the outcome is read from the branch: its head and its tree, never the text of a message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hubkit.core.errors import ConflictError, HubkitError, RemoteError, UsageError
from hubkit.core.files import Digests, Manifest, digests, os_error
from hubkit.core.trees import Tree, TreeDiff, compare, short_list, tree_of
from hubkit.hub.client import Hub, RepoType
from hubkit.hub.transport import pause_before_retry, translated
from hubkit.hub.uploads import upload
from hubkit.publishing.bundle import CARDS, MANIFEST_PATH, Bundle, Provenance

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd


class Note(Protocol):
    """Told each point that was passed, with facts about it: the journal of a run."""

    def __call__(self, point: str, **facts: str) -> None:
        """``point`` was passed."""


Satisfied = Callable[[Tree], bool]
"""Whether a branch's tree is what was to be reached."""


def no_note(point: str, **facts: str) -> None:
    """Note nothing."""


def moved(repo: str, branch: str, before: str | None, now: str | None, *, since: str = "meanwhile") -> ConflictError:
    """The error of a branch that somebody else moved."""
    if now is None:
        return ConflictError(
            f"The branch {branch!r} of {repo} was removed {since}.", hint="Run the same command again."
        )
    was = f"from {before[:12]} " if before else ""
    return ConflictError(
        f"The branch {branch!r} of {repo} moved {was}to {now[:12]} {since}; nothing was written over it.",
        hint=f"See what is there (`hubkit revisions list {repo}`), then run the same command again.",
    )


def commit(
    hub: Hub,
    repo: str,
    branch: str,
    head: str,
    operations: Sequence[Any],
    satisfied: Satisfied,
    title: str,
    repo_type: RepoType = "model",
) -> str:
    """Bring ``branch`` from ``head`` to a tree that is ``satisfied``, in one commit, and return that commit.

    An answer that was lost is no failure: when the branch already holds what was wanted, its head is returned and
    nothing is sent twice. Raises ConflictError when somebody else moved the branch, or when it does not hold what was
    sent; RemoteError when the Hub cannot be reached or gave up.
    """
    attempt = 1
    while True:
        failure: HubkitError | None = None
        try:
            hub.tell(
                lambda: hub.api.create_commit(
                    repo,
                    operations,
                    commit_message=title,
                    revision=branch,
                    parent_commit=head,
                    repo_type=repo_type,
                ),
                repo=repo,
                revision=branch,
            )
        except HubkitError as error:
            failure = error
        wait = pause_before_retry(failure, attempt) if failure else None
        time.sleep(wait or 0.0)  # a busy Hub wants to hear nothing until then, not even a question
        now = _head_after(hub, repo, branch, failure, repo_type)
        if now is not None and now != head and satisfied(hub.tree(repo, now, repo_type)):
            return now
        if now != head:
            raise moved(repo, branch, head, now) from failure
        if failure is None:
            raise ConflictError(f"{repo} took the commit to {branch!r} and did not make it.", hint="Run it again.")
        if wait is None:
            raise failure
        attempt += 1


def _head_after(hub: Hub, repo: str, branch: str, failure: HubkitError | None, repo_type: RepoType) -> str | None:
    """The branch's head; the first failure is the one to tell when the Hub cannot be asked any more."""
    try:
        return hub.head(repo, branch, repo_type)
    except RemoteError:
        if failure is not None:
            raise failure from None
        raise


def initial_commit(hub: Hub, repo: str) -> str:
    """The commit that the Hub made together with the repo: where a branch begins that shares nothing with main."""
    history = hub.history(repo, "main")
    if not history:
        raise ConflictError(f"{repo} has no commit on its main branch.", hint="Remove the repo and run again.")
    return history[-1].id


def additions(bundle: Bundle, paths: Sequence[str]) -> list[CommitOperationAdd]:
    """Operations that add ``paths``. The client is given the known digests, so that it reads large files once."""
    from huggingface_hub import CommitOperationAdd

    found = []
    for path in paths:
        known = bundle.manifest.files[path]
        operation = CommitOperationAdd(path, bundle.files[path])
        if operation.upload_info.size != known.size:
            raise ConflictError(f"{bundle.files[path]} changed after it was made.", hint="Run with --fresh.")
        operation.upload_info.sha256 = bytes.fromhex(known.sha256)
        found.append(operation)
    return found


def stage(hub: Hub, repo: str, branch: str, bundle: Bundle, *, title: str, note: Note = no_note) -> str:
    """Make ``branch`` hold exactly ``bundle`` and return its commit; nothing is written when it does already.

    A new branch begins at the repo's first commit, so that no file of main leaks into it.
    """
    from huggingface_hub import CommitOperationDelete

    wanted = tree_of(bundle.manifest)
    head = hub.head(repo, branch) or hub.create_branch(repo, branch, initial_commit(hub, repo))
    difference = compare(hub.tree(repo, head), wanted)
    if not difference:
        return head
    note("staging-begun", branch=branch, commit=head)
    added = additions(bundle, [change.path for change in difference.changes if change.after])
    try:
        upload(hub, repo, branch, added)
    except UsageError as error:
        if hub.head(repo, branch) is None:
            raise moved(repo, branch, head, None) from error
        raise
    note("staging-uploaded", branch=branch)
    removed = [CommitOperationDelete(change.path) for change in difference.removed]
    done = commit(hub, repo, branch, head, [*added, *removed], lambda tree: not compare(tree, wanted), title)
    note("staging-committed", branch=branch, commit=done)
    return done


def verify(hub: Hub, repo: str, revision: str, manifest: Manifest, *, beside: bool = False) -> None:
    """ConflictError, naming the files, unless the Hub shows at ``revision`` every path, size and digest promised.

    ``beside``: files of other people may stand beside them.
    """
    wanted, tree = tree_of(manifest), hub.tree(repo, revision)
    found = compare(wanted, _part(tree, wanted) if beside else tree)
    if found:
        raise ConflictError(
            f"{repo} at {revision[:12]} does not hold what was sent: "
            + short_list([change.sentence for change in found.changes])
            + ".",
            hint="Nothing was promoted. Run the same command again; if it stays so, the Hub has changed the files.",
        )


def verify_bytes(hub: Hub, repo: str, revision: str, manifest: Manifest, cache: Path) -> Path:
    """Download every file of ``revision`` to ``cache`` and hash it; returns the folder with the files.

    A Hub lists the digests that it was told. Only this shows that it still holds the bytes. ConflictError names the
    files that came back otherwise.
    """
    folder = _download(hub, repo, revision, cache)
    wrong = []
    for path, promised in sorted(manifest.files.items()):
        local = folder / path
        if not local.is_file():
            wrong.append(f"{path} is missing")
        elif not _same(digests(local.resolve()), promised):
            wrong.append(f"{path} has other content")
    if wrong:
        raise _damaged(repo, revision, short_list(wrong))
    return folder


def _download(hub: Hub, repo: str, revision: str, cache: Path) -> Path:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        with translated(hub.endpoint, repo, revision):
            return Path(hub.api.snapshot_download(repo, revision=revision, cache_dir=cache))
    except UsageError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            raise _damaged(repo, revision, "a file that it lists is not there") from error
        raise
    except OSError as error:
        if error.errno is not None:
            raise os_error(error, cache) from error
        # The client compares the sizes and says so by an error that has no class of its own.
        raise _damaged(repo, revision, "a file came back with another size than it lists") from error


def _damaged(repo: str, revision: str, what: str) -> ConflictError:
    return ConflictError(
        f"{repo} at {revision[:12]} gives back other bytes than were sent: {what}.",
        hint="Nothing was promoted. The Hub's store is damaged, or something changes files on the way.",
    )


def _same(found: Digests, promised: Digests) -> bool:
    return (found.size, found.sha256) == (promised.size, promised.sha256)


@dataclass(frozen=True)
class Move:
    """What moving a branch came to. ``previous`` is None when the branch was new; ``written`` False: it stood so.

    ``foreign`` are files of other people on the branch; they were kept.
    """

    commit: str
    previous: str | None
    written: bool
    removed: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


def edited(tree: Tree, wanted: Tree, over: Mapping[str, str]) -> list[str]:
    """The cards on a branch (its ``tree``) that are neither those of ``wanted`` nor those that were read there.

    ``over`` are the digests of those that were read, by path.
    """
    return [
        path
        for path in CARDS.values()
        if path in tree
        and path in wanted
        and not tree[path].same(wanted[path])
        and over.get(path) not in {tree[path].sha256, tree[path].git} - {None}
    ]


def provenance_at(hub: Hub, repo: str, commit: str, tree: Tree, repo_type: RepoType = "model") -> Provenance | None:
    """What hubkit's manifest at ``commit`` says, whose ``tree`` is known; None when there is none of ours."""
    return Provenance.parse(hub.read_file(repo, MANIFEST_PATH, commit, repo_type) if MANIFEST_PATH in tree else None)


def refuse_if_edited(repo: str, branch: str, tree: Tree, wanted: Tree, over: Mapping[str, str]) -> None:
    """ConflictError when a card on the branch was edited since it was read (see :func:`edited`)."""
    if paths := edited(tree, wanted, over):
        raise ConflictError(
            f"{' and '.join(paths)} of the branch {branch!r} of {repo} was edited while it was released; nothing was "
            "written over it.",
            hint="Run the same command again: it keeps the edit.",
        )


def holds_release(tree: Tree, wanted: Tree, gone: frozenset[str] = frozenset()) -> bool:
    """Whether ``tree`` has all the files of ``wanted`` as they should be, and none of ``gone``."""
    return not compare(wanted, _part(tree, wanted)) and not gone & tree.keys()


def _part(tree: Tree, wanted: Tree) -> Tree:
    """Those files of ``tree`` that ``wanted`` names."""
    return {path: tree[path] for path in wanted if path in tree}


@dataclass(frozen=True)
class Plan:
    """What makes ``branch`` hold the tree of the commit ``source``, as read at one moment. Nothing is written yet.

    ``head`` is the branch's commit, the parent of what is to come; None: there is no such branch. ``wanted`` is the
    tree that it will hold, with the ``foreign`` files that stay.
    """

    branch: str
    source: str
    head: str | None
    wanted: Tree
    change: TreeDiff
    foreign: tuple[str, ...] = ()


def plan(
    hub: Hub, repo: str, branch: str, source: str, *, keep_foreign: bool = False, repo_type: RepoType = "model"
) -> Plan:
    """How ``branch`` comes to hold the tree of the commit ``source``: exactly, or with files of other people kept.

    Whose files those are is known only where hubkit put a manifest: with ``keep_foreign``, on the branch or at the
    source, files stay that neither has and that no manifest of the branch names.
    """
    head = hub.head(repo, branch, repo_type)
    wanted = hub.tree(repo, source, repo_type)
    if head is None:
        return Plan(branch, source, None, wanted, compare({}, wanted))
    tree = hub.tree(repo, head, repo_type)
    foreign: tuple[str, ...] = ()
    if keep_foreign and (MANIFEST_PATH in tree or MANIFEST_PATH in wanted):
        before = provenance_at(hub, repo, head, tree, repo_type)
        ours = before.paths if before else frozenset()
        places = {path[:end] for path in wanted for end, char in enumerate(path) if char == "/"}
        foreign = tuple(
            path
            for path in sorted(tree.keys() - wanted.keys() - ours)
            if path not in places and not any(path.startswith(f"{file}/") for file in wanted)
        )
    kept = {**wanted, **{path: tree[path] for path in foreign}}
    return Plan(branch, source, head, kept, compare(tree, kept), foreign)


def carry_out(hub: Hub, repo: str, plan: Plan, *, title: str, repo_type: RepoType = "model") -> str:
    """Do what ``plan`` says, in one commit on the head that it was made for, and return the branch's head.

    The files are copied on the server; a branch that is not there is made at the source. Nothing is written when the
    branch holds the tree already. ConflictError when it was moved since.
    """
    from huggingface_hub import CommitOperationCopy, CommitOperationDelete

    if plan.head is None:
        made = hub.create_branch(repo, plan.branch, plan.source, repo_type)
        if made != plan.source:  # somebody else made it at the same moment
            raise moved(repo, plan.branch, None, made)
        return made
    if not plan.change:
        return plan.head
    operations = [  # what goes comes first: a folder may take the place of a file
        *(CommitOperationDelete(item.path) for item in plan.change.removed),
        *(CommitOperationCopy(item.path, item.path, plan.source) for item in plan.change.changes if item.after),
    ]
    return commit(
        hub, repo, plan.branch, plan.head, operations, lambda tree: not compare(tree, plan.wanted), title, repo_type
    )


def restore(
    hub: Hub, repo: str, branch: str, source: str, *, head: str, title: str, repo_type: RepoType = "model"
) -> str:
    """Make ``branch`` hold exactly the tree of the commit ``source``, in one commit on ``head``; returns the new head.

    The files are copied on the server. Nothing is written when the branch holds that tree already. ConflictError when
    it does not, and is not at ``head`` any more.
    """
    planned = plan(hub, repo, branch, source, repo_type=repo_type)
    if planned.change and planned.head != head:
        raise moved(repo, branch, head, planned.head)
    return carry_out(hub, repo, planned, title=title, repo_type=repo_type)


def move(
    hub: Hub,
    repo: str,
    branch: str,
    source: str,
    manifest: Manifest,
    *,
    title: str,
    over: Mapping[str, str] | None = None,
    note: Note = no_note,
) -> Move:
    """Make ``branch`` hold the release that stands at the commit ``source``; ``manifest`` is its file list.

    A branch that is not there is made at ``source``. On one that is, the files are copied on the server in one commit:
    files of the release that the branch held before and that are gone are removed, and files of other people are
    kept. Nothing is written when it holds the release already. ConflictError when the branch moves meanwhile, or when
    a card on it is not as it was read (``over``: the digests that were read, by path; None: it does not matter).
    """
    from huggingface_hub import CommitOperationCopy, CommitOperationDelete

    wanted = tree_of(manifest)
    head = hub.head(repo, branch)
    if head is None:
        made = hub.create_branch(repo, branch, source)
        if made != source:  # somebody else made it at the same moment
            raise moved(repo, branch, None, made)
        note(f"branch-moved[{branch}]", branch=branch, commit=made, source=source)
        return Move(made, None, True)
    tree = hub.tree(repo, head)
    if over is not None:
        refuse_if_edited(repo, branch, tree, wanted, over)
    before = provenance_at(hub, repo, head, tree)
    ours = before.paths if before else frozenset()
    gone = frozenset(path for path in ours if path not in wanted and path in tree)
    foreign = tuple(sorted(tree.keys() - wanted.keys() - ours))
    if holds_release(tree, wanted, gone):
        note(f"branch-moved[{branch}]", branch=branch, commit=head, source=source)
        return Move(head, head, False, foreign=foreign)
    change = compare(tree, wanted)
    operations = [
        *(CommitOperationDelete(path) for path in sorted(gone)),
        *(CommitOperationCopy(item.path, item.path, source) for item in change.changes if item.after),
    ]
    note(f"branch-begun[{branch}]", branch=branch, commit=head, source=source)
    done = commit(hub, repo, branch, head, operations, lambda found: holds_release(found, wanted, gone), title)
    note(f"branch-moved[{branch}]", branch=branch, commit=done, source=source)
    return Move(done, head, True, tuple(sorted(gone)), foreign)
