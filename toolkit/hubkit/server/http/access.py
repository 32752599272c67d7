"""The repo that a request is about, and the errors for callers without the right: :mod:`hubkit.server.permissions`.

Each ``require_*`` function returns what the handler needs, or raises the HTTPException that clients expect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hubkit.core.names import repo_id_problem
from hubkit.server.accounts.accounts import Actor, namespace_problem
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import require_valid
from hubkit.server.http.request import Request
from hubkit.server.repos.collections import Collection
from hubkit.server.repos.store import REPO_TYPES, Repo, RepoType


def repo_type(plural: str) -> RepoType:
    """``models`` to ``model``; 404 for repo types that this Hub does not have."""
    for kind in REPO_TYPES:
        if plural == f"{kind}s":
            return kind
    raise HTTPException(404, f"This Hub has models, datasets, Spaces and kernels, but no {plural}.", "RepoNotFound")


def repo_not_found(request: Request) -> HTTPException:
    """The error for a repo that does not exist or that the caller may not know of: the same for both."""
    return HTTPException(404 if request.actor else 401, "Repository not found", "RepoNotFound")


def visible_repo(request: Request, kind: RepoType, repo_id: str) -> Repo | None:
    """A repo by type and id, when the caller may know that it exists; an id from before a move works too."""
    repo = request.hub.store.find(kind, repo_id)
    return repo if repo and request.hub.permissions.may_see(request.actor, repo) else None


def visible_collection(request: Request, slug: str) -> Collection | None:
    """A collection by its slug, when the caller may know that it exists."""
    found = request.hub.collections.find(slug)
    return found if found and request.hub.permissions.may_see_collection(request.actor, found) else None


def find_repo(request: Request) -> Repo:
    """The repo that the path names; RepoNotFound when there is none that the caller may know of."""
    params = request.path_params
    repo = visible_repo(request, repo_type(params["kind"]), f"{params['ns']}/{params['name']}")
    if repo is None:
        raise repo_not_found(request)
    return repo


def find_again(request: Request, repo: Repo) -> Repo:
    """``repo`` after a wait, in which the token of the caller may have been revoked or the repo have become another's:
    both are looked up again; the caller looks at the rights. Errors as at first.
    """
    if (before := request.actor) is not None:
        request.actor = request.hub.accounts.numbered(before.number)
        if request.actor is None or request.actor.digest != before.digest:
            raise HTTPException(401, "Invalid credentials in Authorization header")
    found = find_repo(request)
    if found.uid != repo.uid:
        raise repo_not_found(request)
    return found


@contextmanager
def locked(request: Request, repo: Repo, require: Callable[[Request, Repo], object]) -> Iterator[None]:
    """The lock of a repo, once it is free: then ``require`` asks again for the right to do what it is needed for."""
    with request.hub.store.lock(repo):
        require(request, find_again(request, repo))
        yield


def require_user(request: Request) -> Actor:
    """The caller; 401 without a token."""
    if request.actor is None:
        raise HTTPException(401, "Invalid username or password.")
    return request.actor


def require_person(request: Request) -> Actor:
    """The caller, if its token stands for a user; 403 for a trusted publisher's, which stands for a repo."""
    actor = require_user(request)
    if actor.publisher is not None:
        raise HTTPException(403, "This token stands for one repo that it publishes to, not for a user.")
    return actor


def require_owner(request: Request) -> Actor:
    """The caller, if it is the owner of this Hub; else 401 or 403."""
    actor = require_user(request)
    if not request.hub.permissions.is_owner(actor):
        raise HTTPException(403, "Only the owner of this Hub may do this.")
    return actor


def require_watch(request: Request) -> Actor:
    """The caller, if it may read the metrics of this Hub; else 401 or 403."""
    actor = require_user(request)
    if not request.hub.permissions.may_watch(actor):
        raise HTTPException(403, "Only an administrator of this Hub may read its metrics.")
    return actor


def require_member(request: Request, namespace: str) -> Actor:
    """The caller, if it belongs to the namespace; else 401 or 403."""
    actor = require_user(request)
    if not request.hub.permissions.is_member(actor, namespace):
        raise HTTPException(403, f"You are not a member of {namespace}.")
    return actor


def require_inspect(request: Request, repo: Repo) -> Actor:
    """The caller, if it may read the logs and the names of the secrets of a Space; else 401 or 403."""
    actor = require_user(request)
    if not request.hub.permissions.may_inspect(actor, repo):
        raise HTTPException(
            403, f"Only members of {repo.namespace} may read this, with a token that may read {repo.id}."
        )
    return actor


def require_read(request: Request, repo: Repo) -> None:
    """403 GatedRepo when the caller may see the repo but not its files."""
    if not request.hub.permissions.may_read(request.actor, repo):
        raise HTTPException(
            403 if request.actor else 401,
            f"Access to {repo.type} {repo.id} is restricted and you are not in the authorized list.",
            "GatedRepo",
        )


def find_readable_repo(request: Request) -> Repo:
    """The repo that the path names, whose files the caller may read."""
    repo = find_repo(request)
    require_read(request, repo)
    return repo


def require_write(request: Request, repo: Repo) -> Actor:
    """The caller, if it may change the repo; else 401 or 403."""
    actor = require_user(request)
    if not request.hub.permissions.may_write(actor, repo):
        raise forbidden(actor, repo.namespace)
    return actor


def require_manage(request: Request, repo: Repo) -> Actor:
    """The caller, if it may delete or move the repo or change who can see it; else 401 or 403."""
    actor = require_write(request, repo)
    if not request.hub.permissions.may_manage(actor, repo):
        raise forbidden(actor, repo.namespace)
    return actor


def require_discuss(request: Request, repo: Repo) -> Actor:
    """The caller, if it may write discussions of the repo; else 401 or 403."""
    actor = require_user(request)
    require_read(request, repo)
    if not request.hub.permissions.may_discuss(actor, repo):
        raise forbidden(actor, repo.namespace)
    return actor


def require_propose(request: Request, repo: Repo) -> Actor:
    """The caller, if it may open pull requests in the repo; else 401 or 403.

    Whoever may not read a gated repo may not propose to it either: what is proposed is compared with its files.
    """
    actor = require_user(request)
    require_read(request, repo)
    if not request.hub.permissions.may_propose(actor, repo):
        raise forbidden(actor, repo.namespace)
    return actor


def require_create(request: Request, namespace: str, name: str) -> Actor:
    """The caller, if it may create ``namespace/name``; 400 for an invalid id, else 401 or 403."""
    require_valid(repo_id_problem, f"{namespace}/{name}")
    require_valid(namespace_problem, namespace)
    actor = require_user(request)
    if not request.hub.permissions.may_create(actor, namespace):
        raise forbidden(actor, namespace)
    return actor


def forbidden(actor: Actor, namespace: str) -> HTTPException:
    """403 with the reason why the caller may not write."""
    if actor.publisher is not None:
        return HTTPException(403, "You don't have the required permissions: this token publishes to one repo alone.")
    if actor.role == "read":
        return HTTPException(403, "You don't have the required permissions: this token is read-only.")
    if actor.fine_grained is not None:
        return HTTPException(403, "You don't have the required permissions: this fine-grained token lacks the right.")
    return HTTPException(403, f"You don't have the rights to write in the namespace {namespace!r}.")
