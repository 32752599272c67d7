"""Repos as wholes: create, delete, move, settings, info, lists, duplicate."""

from __future__ import annotations

from collections import Counter
from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.core.names import repo_id_problem
from hubkit.server.accounts import namespace_problem
from hubkit.server.git import Git
from hubkit.server.http import Call, Refusal, Spec, whole
from hubkit.server.info import expanded, repo_info, siblings, summary
from hubkit.server.routes.common import (
    api,
    find_repo,
    forbidden,
    guarded,
    missing,
    need_commit,
    need_files,
    need_user,
    need_write,
    repo_type,
)
from hubkit.server.routes.spaces import begin, given_settings
from hubkit.server.safetensors import parameters
from hubkit.server.store import Repo, TakenError

_PRIVATE = {"public": False, "private": True, "protected": True}


def _visibility(value: dict[str, Any]) -> bool | None:
    given = value.get("visibility")
    if given is None:
        private = value.get("private")
        return private if isinstance(private, bool) else None
    if not isinstance(given, str) or given not in _PRIVATE:
        raise Refusal(400, f"{given!r} is not a visibility: public, private or protected.")
    return _PRIVATE[given]


def _new_id(call: Call, namespace: str, name: str) -> None:
    """400 for an impossible id, 403 when the caller may not create there."""
    guarded(repo_id_problem, f"{namespace}/{name}")
    guarded(namespace_problem, namespace)
    need_user(call)
    if not call.hub.accounts.may_write(call.actor, namespace):
        raise forbidden(call, namespace)


def _named(call: Call) -> tuple[str, str]:
    """Namespace and name of a ``{name, organization}`` body; ``name`` may hold both."""
    need_user(call)
    assert call.actor is not None
    name, namespace = call.text("name"), call.fields().get("organization")
    if "/" in name:
        namespace, _, name = name.partition("/")
    if namespace is not None and not isinstance(namespace, str):
        raise Refusal(400, "'organization' must be a string.")
    return namespace or call.actor.name, name


def create(call: Call) -> Response:
    """A new repo; 409 that tells its address when there is one."""
    namespace, name = _named(call)
    kind = repo_type(call.text("type", "model") + "s")
    known = call.hub.store.find(kind, f"{namespace}/{name}")
    try:
        _new_id(call, namespace, name)
    except Refusal as refusal:
        if refusal.status == 403 and known and call.hub.store.readable(known, call.actor):
            refusal.body["url"] = f"{call.base}/{known.web}"
        raise
    assert call.actor is not None
    sdk = call.fields().get("sdk")
    if kind == "space" and sdk not in ("gradio", "docker", "static", "streamlit"):
        raise Refusal(400, "A Space needs an 'sdk': gradio, docker or static.")
    settings = given_settings(call) if kind == "space" else []
    try:
        repo = call.hub.store.create(
            kind,
            namespace,
            name,
            actor=call.actor,
            private=_visibility(call.fields()),
            sdk=sdk if kind == "space" else None,
        )
    except TakenError:
        taken = call.hub.store.find(kind, f"{namespace}/{name}")
        shown = f"{call.base}/{taken.web}" if taken else call.base
        raise Refusal(409, f"You already created this {kind} repo", body={"url": shown}) from None
    if kind == "space":
        begin(call, repo, settings)
    return JSONResponse({"url": f"{call.base}/{repo.web}", "name": repo.id, "id": repo.uid[:24]})


def delete(call: Call) -> Response:
    """Remove a repo with everything in it."""
    namespace, name = _named(call)
    repo = call.hub.store.find(repo_type(call.text("type", "model") + "s"), f"{namespace}/{name}")
    if repo is None or not call.hub.store.readable(repo, call.actor):
        raise missing(call)
    need_write(call, repo)
    call.hub.store.delete(repo)
    call.hub.spaces.removed(repo)
    return JSONResponse({})


def move(call: Call) -> Response:
    """Give a repo another id; the old id goes on working."""
    kind = repo_type(call.text("type", "model") + "s")
    repo = call.hub.store.find(kind, call.text("fromRepo"))
    if repo is None or not call.hub.store.readable(repo, call.actor):
        raise missing(call)
    need_write(call, repo)
    target = call.text("toRepo")
    namespace, _, name = target.partition("/")
    _new_id(call, namespace, name)
    assert call.actor is not None
    try:
        moved = call.hub.store.move(repo, namespace, name, actor=call.actor)
    except TakenError:
        raise Refusal(409, f"A {kind} repository called {target} already exists") from None
    return JSONResponse({"url": f"{call.base}/{moved.web}"})


def settings(call: Call) -> Response:
    """Change visibility and gating."""
    repo = find_repo(call)
    need_write(call, repo)
    value = call.fields()
    gated = value.get("gated")
    if gated not in (None, False, "auto", "manual"):
        raise Refusal(400, "'gated' must be false, 'auto' or 'manual'.")
    text = None if gated is None else (gated or "")
    call.hub.store.settings(repo, private=_visibility(value), gated=text)
    return JSONResponse({"private": _visibility(value), "gated": gated})


def info(call: Call) -> Response:
    """One repo at a revision (``main`` without one)."""
    repo = find_repo(call)
    git = call.hub.store.git(repo)
    revision = call.params.get("rev")
    if revision is not None:
        need_files(call, repo)
    commit = need_commit(git, revision) if revision is not None else git.resolve("main")
    value = repo_info(repo, git, call.hub.store.path(repo), commit)
    value |= call.hub.spaces.info(repo) if repo.type == "space" else {}
    wanted = call.query.getlist("expand") + call.query.getlist("expand[]")
    if not wanted or "siblings" in wanted:
        value["siblings"] = siblings(git, commit, blobs=call.flag("blobs"))
    if commit and repo.type == "model" and (not wanted or "safetensors" in wanted):
        value |= weights(call, repo, git, commit)
    return JSONResponse(expanded(value, wanted) if wanted else value)


def weights(call: Call, repo: Repo, git: Git, commit: str) -> dict[str, Any]:
    """``safetensors`` of a model's info: the parameters of the weights at its root, an adapter's aside."""
    counts: Counter[str] = Counter()
    for entry in git.walk(commit, recursive=False) or ():
        large = entry.pointer and entry.path.endswith(".safetensors") and not entry.path.startswith("adapter")
        if entry.pointer and large and call.hub.objects.has(repo.uid, entry.pointer.oid):
            counts.update(parameters(call.hub.objects.path(entry.pointer.oid)))
    return {"safetensors": {"parameters": dict(counts), "total": counts.total()}} if counts else {}


def listing(call: Call) -> Response:
    """The repos of a type that the caller may see: search, author, filter, sort, pages."""
    kind = repo_type(call.params["kind"])
    search, author = call.query.get("search", "").lower(), call.query.get("author", "").lower()
    repos = [
        repo
        for repo in call.hub.store.all(kind)
        if search in repo.id.lower()
        and (not author or repo.namespace.lower() == author)
        and call.hub.store.readable(repo, call.actor)
    ]
    tags = set(call.query.getlist("filter"))
    found = [(repo, _value(call, repo)) for repo in repos]
    found = [(repo, value) for repo, value in found if tags <= set(value["tags"])]
    order = {"lastModified": "lastModified", "last_modified": "lastModified"}.get(
        call.query.get("sort", ""), "createdAt"
    )
    found.sort(key=lambda pair: (pair[1][order], pair[1]["id"]), reverse=call.query.get("direction") != "1")
    start, count = whole(call.query.get("cursor"), 0), call.limit(100, 1000)
    page = found[start : start + count]
    wanted = call.query.getlist("expand") + call.query.getlist("expand[]")
    full = call.flag("full") and not wanted
    if full or "siblings" in wanted:
        for repo, value in page:
            value["siblings"] = siblings(call.hub.store.git(repo), value["sha"])
    shown = [expanded(v, wanted) if wanted else (v if full else summary(v)) for _, v in page]
    more = start + count < len(found)
    return JSONResponse(shown, headers=call.next_page(cursor=str(start + count)) if more else None)


def _value(call: Call, repo: Repo) -> dict[str, Any]:
    git = call.hub.store.git(repo)
    value = repo_info(repo, git, call.hub.store.path(repo), git.resolve("main"))
    return value | (call.hub.spaces.info(repo) if repo.type == "space" else {})


def duplicate(call: Call) -> Response:
    """A copy of a repo's current files under another id, in one commit."""
    repo = find_repo(call)
    need_files(call, repo)
    namespace, _, name = call.text("repository").partition("/")
    _new_id(call, namespace, name)
    assert call.actor is not None
    store = call.hub.store
    settings = given_settings(call) if repo.type == "space" else []
    private = _visibility(call.fields())
    try:
        copy = store.create(
            repo.type, namespace, name, actor=call.actor,
            private=repo.private if private is None else private, sdk=repo.sdk,
        )  # fmt: skip
    except TakenError:
        taken = store.find(repo.type, f"{namespace}/{name}")
        shown = f"{call.base}/{taken.web}" if taken else call.base
        raise Refusal(
            409, f"A {repo.type} repository called {namespace}/{name} already exists", body={"url": shown}
        ) from None
    call.hub.copy_files(repo, copy, call.actor.name)
    if copy.type == "space":
        variables = call.hub.spaces.data.values(repo.uid, secret=False)
        begin(call, copy, [(False, key, value) for key, value in variables.items()] + settings)
    return JSONResponse({"url": f"{call.base}/{copy.web}"})


def own_repos(call: Call) -> Response:
    """The repos of the caller, or of an organisation that the caller belongs to, with the room they take."""
    need_user(call)
    assert call.actor is not None
    namespace = call.params.get("org", call.actor.name)
    if call.hub.accounts.role_in(call.actor, namespace) is None:
        raise Refusal(403, f"You are not a member of {namespace}.")
    repos = [
        repo
        for kind in ("model", "dataset", "space")
        for repo in call.hub.store.all(kind)
        if repo.namespace.lower() == namespace.lower()
    ]
    values = [(repo, _value(call, repo)) for repo in repos]
    total = sum(value["usedStorage"] for _, value in values) or 1
    items = [
        {
            "id": repo.id, "type": repo.type, "updatedAt": value["lastModified"], "storage": value["usedStorage"],
            "visibility": "private" if repo.private else "public", "storagePercent": 100 * value["usedStorage"] / total,
        }
        for repo, value in values
    ]  # fmt: skip
    return JSONResponse(items)


SPECS = [
    Spec("GET", "/api/settings/repositories", own_repos),
    Spec("GET", "/api/organizations/{org}/settings/repositories", own_repos),
    Spec("POST", "/api/repos/create", create, "json"),
    Spec("DELETE", "/api/repos/delete", delete, "json"),
    Spec("POST", "/api/repos/move", move, "json"),
    Spec("GET", "/api/{kind:kind}", listing),
    api("PUT", "/settings", settings, "json"),
    api("GET", "", info),
    api("GET", "/revision/{rev}", info),
    api("POST", "/duplicate", duplicate, "json"),
]
