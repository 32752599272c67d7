"""Upload a bundle to a staging branch, in one commit."""

from __future__ import annotations

from collections.abc import Sequence

from hubkit.core.errors import ConflictError, UsageError
from hubkit.core.trees import compare, tree_of
from hubkit.hub.client import Hub
from hubkit.hub.commits import Addition, Deletion, addition
from hubkit.hub.uploads import upload
from hubkit.publishing.bundle import Bundle
from hubkit.publishing.compare_and_swap import branch_moved, commit
from hubkit.publishing.notes import Note, no_note


def stage(hub: Hub, repo: str, branch: str, bundle: Bundle, *, title: str, note: Note = no_note) -> str:
    """Bring ``branch`` to exactly the files of ``bundle`` and return its head; nothing is written when it has them.

    A new branch begins at the repo's first commit, so that no file of main gets into it.
    """
    wanted = tree_of(bundle.manifest)
    head = hub.head(repo, branch) or hub.create_branch(repo, branch, initial_commit(hub, repo))
    difference = compare(hub.tree(repo, head), wanted)
    if not difference:
        return head
    note("staging-begun", branch=branch, commit=head)
    added = additions(bundle, [change.path for change in difference.changes if change.after])
    try:
        written = upload(hub, repo, branch, added)
    except UsageError as error:
        if hub.head(repo, branch) is None:
            raise branch_moved(repo, branch, head, None) from error
        raise
    note("staging-uploaded", branch=branch)
    removed = [Deletion(change.path) for change in difference.removed]
    staged = commit(hub, repo, branch, head, [*removed, *written], lambda tree: not compare(tree, wanted), title)
    note("staging-committed", branch=branch, commit=staged)
    return staged


def additions(bundle: Bundle, paths: Sequence[str]) -> list[Addition]:
    """Operations that add ``paths`` of ``bundle``."""
    return [
        addition(path, bundle.files[path], bundle.manifest.files[path], in_lfs=bundle.in_lfs(path)) for path in paths
    ]


def initial_commit(hub: Hub, repo: str) -> str:
    """The commit that the Hub created together with the repo."""
    history = hub.history(repo, "main")
    if not history:
        raise ConflictError(f"{repo} has no commit on its main branch.", hint="Remove the repo and run again.")
    return history[-1].id
