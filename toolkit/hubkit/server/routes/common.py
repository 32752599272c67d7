"""Finding the repo, the revision and the rights that a call is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from hubkit.server.git import Git
from hubkit.server.http import JSON_LIMIT, Body, Call, Handler, Refusal, Spec
from hubkit.server.store import Repo, RepoType

MISSING = "Repository not found"


def repo_type(plural: str) -> RepoType:
    """``models`` to ``model``."""
    if plural not in {"models", "datasets", "spaces"}:
        raise Refusal(404, f"This Hub holds models, datasets and spaces, not {plural}.", "RepoNotFound")
    return cast(RepoType, plural[:-1])


def missing(call: Call) -> Refusal:
    """The answer for a repo that is not there or may not be known: the same for both."""
    return Refusal(404 if call.actor else 401, MISSING, "RepoNotFound")


def find_repo(call: Call) -> Repo:
    """The repo of the address, when the caller may know of it."""
    params = call.params
    repo = call.hub.store.find(repo_type(params["kind"]), f"{params['ns']}/{params['name']}")
    if repo is None or not call.hub.store.readable(repo, call.actor):
        raise missing(call)
    return repo


def need_files(call: Call, repo: Repo) -> None:
    """403 GatedRepo when the caller may see the repo but not its files."""
    if not call.hub.store.open_to(repo, call.actor):
        raise Refusal(
            403 if call.actor else 401,
            f"Access to {repo.type} {repo.id} is restricted and you are not in the authorized list.",
            "GatedRepo",
        )


def need_user(call: Call) -> None:
    """401 without a token."""
    if call.actor is None:
        raise Refusal(401, "Invalid username or password.")


def need_write(call: Call, repo: Repo) -> None:
    """401 without a token, 403 without the right to change this repo."""
    need_user(call)
    if not call.hub.accounts.may_write(call.actor, repo.namespace, (repo.type, repo.id)):
        raise forbidden(call, repo.namespace)


def forbidden(call: Call, namespace: str) -> Refusal:
    """403 that says which right is missing."""
    if call.actor is not None and call.actor.role == "read":
        return Refusal(403, "You don't have the required permissions: this token is read-only.")
    if call.actor is not None and call.actor.grants is not None:
        return Refusal(403, "You don't have the required permissions: this fine-grained token lacks the right.")
    return Refusal(403, f"You don't have the rights to write in the namespace {namespace!r}.")


def need_commit(git: Git, revision: str) -> str:
    """The commit of a revision; 404 RevisionNotFound."""
    commit = git.resolve(revision)
    if commit is None:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def api(
    method: str, tail: str, handler: Handler, body: Body = "none", *, anonymous: bool = False, limit: int = JSON_LIMIT,
    before: Callable[[Call], None] | None = None,
) -> Spec:  # fmt: skip
    """A line for ``/api/<models|datasets|spaces>/ns/name`` + ``tail``."""
    path = "/api/{kind:kind}/{ns}/{name}" + tail
    return Spec(method, path, handler, body, anonymous=anonymous, limit=limit, before=before)


def web(
    method: str, tail: str, handler: Handler, body: Body = "none", *, anonymous: bool = False, way: str = "",
    cookie: bool = False,
) -> list[Spec]:  # fmt: skip
    """Lines for the pages of the three types: ``/ns/name``, ``/datasets/ns/name``, ``/spaces/ns/name`` + ``tail``."""
    return [
        Spec(
            method, f"{prefix}/{{ns}}/{{name}}{tail}", handler, body,
            anonymous=anonymous, fixed={"kind": kind, "way": way}, cookie=cookie,
        )
        for kind, prefix in (("datasets", "/datasets"), ("spaces", "/spaces"), ("models", ""))
    ]  # fmt: skip


def guarded(check: Callable[[str], str | None], value: str, status: int = 400) -> str:
    """``value`` when ``check`` has nothing against it; else ``status`` with what it says."""
    if problem := check(value):
        raise Refusal(status, f"{value[:100]!r} cannot be used: {problem}.")
    return value
