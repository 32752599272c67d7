"""Repos: create, delete, move, duplicate, settings, info, lists."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.http.access import (
    find_readable_repo,
    find_repo,
    repo_not_found,
    repo_type,
    require_create,
    require_manage,
    require_member,
    require_person,
    require_read,
    require_user,
    visible_repo,
)
from hubkit.server.http.bodies import SMALL_LIMIT, TEXT_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_int
from hubkit.server.http.request import Request
from hubkit.server.http.revisions import require_commit
from hubkit.server.http.routing import Route, api_route
from hubkit.server.repos import searching
from hubkit.server.repos.facts import Facts
from hubkit.server.repos.git import Git
from hubkit.server.repos.info import liked, only_fields, repo_info, safetensors_info, siblings, summary
from hubkit.server.repos.store import REPO_TYPES, Repo, RepoExistsError, RepoType
from hubkit.server.spaces.data import Setting, settings_of

_PRIVATE = {"public": False, "private": True, "protected": True}


def _visibility(value: dict[str, Any]) -> bool | None:
    given = value.get("visibility")
    if given is None:
        private = value.get("private")
        return private if isinstance(private, bool) else None
    if not isinstance(given, str) or given not in _PRIVATE:
        raise HTTPException(400, f"{given!r} is not a visibility: public, private or protected.")
    return _PRIVATE[given]


def _named_repo(request: Request) -> tuple[RepoType, str, str]:
    """Type, namespace and name of a ``{type, name, organization}`` body; ``name`` may hold both."""
    actor = require_user(request)
    name, namespace = request.json_string("name"), request.json_object().get("organization")
    if "/" in name:
        namespace, _, name = name.partition("/")
    if namespace is not None and not isinstance(namespace, str):
        raise HTTPException(400, "'organization' must be a string.")
    return repo_type(request.json_string("type", "model") + "s"), namespace or actor.name, name


def _url_of(request: Request, kind: RepoType, repo_id: str) -> str:
    """The address of a repo that exists."""
    repo = request.hub.store.find(kind, repo_id)
    return f"{request.origin}/{repo.web}" if repo else request.origin


def create(request: Request) -> Response:
    """A new repo; 409 with its address when it exists."""
    kind, namespace, name = _named_repo(request)
    repo_id = f"{namespace}/{name}"
    try:
        actor = require_create(request, namespace, name)
    except HTTPException as error:
        if error.status_code == 403 and visible_repo(request, kind, repo_id):
            error.body["url"] = _url_of(request, kind, repo_id)
        raise
    sdk = request.json_object().get("sdk") if kind == "space" else None
    if kind == "space" and sdk not in ("gradio", "docker", "static", "streamlit"):
        raise HTTPException(400, "A Space needs an 'sdk': gradio, docker or static.")
    space_settings = settings_of(request.json_object()) if kind == "space" else []
    private = _visibility(request.json_object())
    try:
        repo = request.hub.store.create(
            kind, namespace, name, actor=actor, private=private, sdk=sdk,
            complete=lambda new: request.hub.spaces.set(new, space_settings),
        )  # fmt: skip
    except RepoExistsError:
        body = {"url": _url_of(request, kind, repo_id)}
        raise HTTPException(409, f"You already created this {kind} repo", body=body) from None
    request.hub.spaces.changed(repo)
    request.hub.events.repo(repo, "create", request.origin)
    return JSONResponse({"url": f"{request.origin}/{repo.web}", "name": repo.id, "id": repo.uid[:24]})


def delete(request: Request) -> Response:
    """Delete a repo with everything in it."""
    kind, namespace, name = _named_repo(request)
    repo = visible_repo(request, kind, f"{namespace}/{name}")
    if repo is None:
        raise repo_not_found(request)
    require_manage(request, repo)
    request.hub.store.delete(repo)
    request.hub.spaces.removed(repo)
    request.hub.events.repo(repo, "delete", request.origin)
    return JSONResponse({})


def move(request: Request) -> Response:
    """Give a repo another id; the old id keeps working."""
    kind = repo_type(request.json_string("type", "model") + "s")
    repo = visible_repo(request, kind, request.json_string("fromRepo"))
    if repo is None:
        raise repo_not_found(request)
    require_manage(request, repo)
    target = request.json_string("toRepo")
    namespace, _, name = target.partition("/")
    actor = require_create(request, namespace, name)
    try:
        moved = request.hub.store.move(repo, namespace, name, actor=actor)
    except RepoExistsError:
        raise HTTPException(409, f"A {kind} repository called {target} already exists") from None
    request.hub.events.repo(moved, "move", request.origin, old=repo)
    return JSONResponse({"url": f"{request.origin}/{moved.web}"})


def settings(request: Request) -> Response:
    """Change visibility and gating."""
    repo = find_repo(request)
    require_manage(request, repo)
    value = request.json_object()
    gated = value.get("gated")
    if gated not in (None, False, "auto", "manual"):
        raise HTTPException(400, "'gated' must be false, 'auto' or 'manual'.")
    text = None if gated is None else (gated or "")
    request.hub.store.change_settings(repo, private=_visibility(value), gated=text)
    request.hub.events.repo(find_repo(request), "update", request.origin, scope="repo.config")
    return JSONResponse({"private": _visibility(value), "gated": gated})


def info(request: Request) -> Response:
    """One repo at a revision (``main`` without one)."""
    repo = find_repo(request)
    git = request.hub.store.git(repo)
    revision = request.path_params.get("rev")
    if revision is not None:
        require_read(request, repo)
    commit = require_commit(git, revision) if revision is not None else git.head()
    expand = request.expand()
    _require_expand(repo.type, expand)
    value = repo_info(repo, request.hub.facts.at(repo, git, commit)) | liked(request.hub.likes.count(repo))
    may_read = request.hub.permissions.may_read(request.actor, repo)
    value |= _of_space(request, repo)
    if not expand or "siblings" in expand:
        blobs = may_read and request.flag("blobs")
        value["siblings"] = siblings(git, commit) if blobs else _names(request, repo, git, commit)
    if repo.type == "model" and (not expand or "safetensors" in expand):
        value |= safetensors_info(git, commit, repo.uid, request.hub.lfs)
    return JSONResponse(only_fields(value, expand) if expand else value)


def listing(request: Request) -> Response:
    """The repos of a type that the caller may see: search, author, filter, sort, pages."""
    params, kind, expand = request.query_params, repo_type(request.path_params["kind"]), request.expand()
    query, likes = searching.Query.of(params.getlist), request.hub.likes.counts()
    _require_expand(kind, expand)
    repos = [
        repo
        for repo in request.hub.store.all(kind)
        if query.names(repo.namespace, repo.id) and request.hub.permissions.may_see(request.actor, repo)
    ]
    start, count = parse_int(params.get("cursor"), 0), request.page_size(100, 1000)
    sort, ascending = params.get("sort"), params.get("direction") == "1"
    total = len(repos)
    if short := query.by_name_alone and searching.by_creation(sort):  # then only the page's repos are looked at
        repos.sort(key=lambda repo: (repo.created, repo.id), reverse=not ascending)
        repos = repos[start : start + count]
    infos = [
        (repo, info)
        for repo, facts in request.hub.facts_of(repos)
        if query.fits(info := _info(request, repo, facts, likes.get(repo.uid, 0)), partial(_parameters, request, repo))
    ]
    searching.ordered(infos, sort, ascending=ascending, info_of=lambda pair: pair[1])
    if not short:
        total, infos = len(infos), infos[start : start + count]
    full = request.flag("full") and not expand
    if full or "siblings" in expand:
        for repo, info in infos:
            info["siblings"] = _names(request, repo, request.hub.store.git(repo), info["sha"]) if info["sha"] else []
    items = [only_fields(info, expand) if expand else info if full else summary(info) for _, info in infos]
    more = start + count < total
    return JSONResponse(items, headers=request.next_page(cursor=str(start + count)) if more else None)


def _names(request: Request, repo: Repo, git: Git, commit: str) -> list[dict[str, Any]]:
    return [{"rfilename": path} for path in request.hub.facts.files(repo, git, commit)]


def _info(request: Request, repo: Repo, facts: Facts | None, likes: int = 0) -> dict[str, Any]:
    return repo_info(repo, facts) | _of_space(request, repo) | liked(likes)


def _parameters(request: Request, repo: Repo) -> int:
    """How many parameters the weights of a model have; 0 of a damaged one."""
    facts = request.hub.head_facts(repo)
    if facts is None:
        return 0
    found = safetensors_info(request.hub.store.git(repo), facts.commit, repo.uid, request.hub.lfs)
    return int(found.get("safetensors", {}).get("total", 0))


def _require_expand(kind: RepoType, expand: list[str]) -> None:
    if problem := searching.expand_problem(kind, expand):
        raise HTTPException(400, problem)


def _of_space(request: Request, repo: Repo) -> dict[str, Any]:
    """What the info of a Space has besides; of a gated one the state of its app belongs to its files."""
    if repo.type != "space" or not request.hub.permissions.may_read(request.actor, repo):
        return {}
    return request.hub.spaces.info(repo)


def duplicate(request: Request) -> Response:
    """A copy of a repo's current files under another id, in one commit."""
    repo = find_readable_repo(request)
    namespace, _, name = request.json_string("repository").partition("/")
    actor = require_create(request, namespace, name)
    hub, space_settings = request.hub, settings_of(request.json_object()) if repo.type == "space" else []
    if repo.type == "space":
        variables = hub.spaces.data.values(repo.uid, secret=False)
        space_settings = [Setting(key, value, secret=False) for key, value in variables.items()] + space_settings
    visibility = _visibility(request.json_object())
    private = repo.private if visibility is None else visibility
    try:
        copy = hub.store.create(
            repo.type, namespace, name, actor=actor, private=private, sdk=repo.sdk,
            fill=lambda git, head: hub.copy_files(repo, git, head, actor.name),
            complete=lambda new: hub.spaces.set(new, space_settings),
        )  # fmt: skip
    except RepoExistsError:
        body = {"url": _url_of(request, repo.type, f"{namespace}/{name}")}
        message = f"A {repo.type} repository called {namespace}/{name} already exists"
        raise HTTPException(409, message, body=body) from None
    hub.spaces.changed(copy)
    hub.events.repo(copy, "create", request.origin)
    return JSONResponse({"url": f"{request.origin}/{copy.web}"})


def own_repos(request: Request) -> Response:
    """The repos of the caller, or of an organization that the caller belongs to, with their sizes.

    Those that the caller's token may see; what it may not see counts in no sum either.
    """
    namespace = request.path_params.get("org") or require_person(request).name
    actor = require_member(request, namespace)
    repos = [
        repo
        for kind in REPO_TYPES
        for repo in request.hub.store.all(kind)
        if repo.namespace.lower() == namespace.lower() and request.hub.permissions.may_see(actor, repo)
    ]
    values = [(repo, _info(request, repo, facts)) for repo, facts in request.hub.facts_of(repos)]
    total = sum(value["usedStorage"] for _, value in values) or 1
    items = [
        {
            "id": repo.id, "type": repo.type, "updatedAt": value["lastModified"], "storage": value["usedStorage"],
            "visibility": "private" if repo.private else "public", "storagePercent": 100 * value["usedStorage"] / total,
        }
        for repo, value in values
    ]  # fmt: skip
    return JSONResponse(items)


ROUTES = [
    Route("GET", "/api/settings/repositories", own_repos),
    Route("GET", "/api/organizations/{org}/settings/repositories", own_repos),
    Route("POST", "/api/repos/create", create, "json", limit=TEXT_LIMIT),
    Route("DELETE", "/api/repos/delete", delete, "json", limit=SMALL_LIMIT),
    Route("POST", "/api/repos/move", move, "json", limit=SMALL_LIMIT),
    Route("GET", "/api/{kind:kind}", listing),
    api_route("PUT", "/settings", settings, "json", limit=SMALL_LIMIT),
    api_route("GET", "", info),
    api_route("GET", "/revision/{rev}", info),
    api_route("POST", "/duplicate", duplicate, "json", limit=TEXT_LIMIT),
]
