"""Revisions, refs and commit messages that a client sent, and the errors that clients expect for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hubkit.core.names import ref_problem
from hubkit.server.http.exceptions import HTTPException, revision_not_found
from hubkit.server.repos.git import MAIN, Git, MovedError, NameTakenError

_MESSAGE_LIMIT = 65536


def require_commit(git: Git, revision: str) -> str:
    """The commit of a revision; 404 RevisionNotFound."""
    commit = git.resolve(revision)
    if commit is None:
        raise revision_not_found(revision)
    return commit


def branch_ref(revision: str) -> str:
    """The full name of the ref that a commit to ``revision`` moves; 404 for what cannot be one."""
    if revision.startswith(("refs/pr/", "refs/heads/")) and not ref_problem(revision.split("/", 2)[2]):
        return revision
    if ref_problem(revision):
        raise revision_not_found(revision)
    return f"refs/heads/{revision}"


def require_branch(git: Git, revision: str) -> tuple[str, str]:
    """The ref that a commit to ``revision`` moves, and the commit it is at; 404 RevisionNotFound."""
    ref = branch_ref(revision)
    head = git.head() if ref == MAIN else git.target(ref)
    if head is None:
        raise revision_not_found(revision)
    return ref, head


def move_ref(git: Git, ref: str, new: str, old: str) -> None:
    """Move a ref from commit ``old`` to ``new``; 412 when it was moved in the meantime."""
    try:
        git.move(ref, new, old)
    except MovedError:
        raise branch_moved() from None


@contextmanager
def creating(ref: str) -> Iterator[None]:
    """409 when the ref that is created inside the block exists, or when another one is in its way."""
    try:
        yield
    except MovedError:
        raise HTTPException(409, f"Reference {ref} already exists") from None
    except NameTakenError as error:
        raise HTTPException(409, str(error)) from None


def branch_moved() -> HTTPException:
    """412: the branch is not at the commit where the client believes it to be."""
    return HTTPException(412, "The branch was updated since you opened this page. Please refresh and try again.")


def valid_message(text: str) -> str:
    """``text`` when git can keep it as a commit message; else 400."""
    if "\0" in text or len(text) > _MESSAGE_LIMIT:
        raise HTTPException(400, "The commit message is too long or contains a NUL character.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise HTTPException(400, "The commit message is not Unicode text.") from None
    return text
