"""The pages for browsers, at the addresses of huggingface.co."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode

from starlette.responses import RedirectResponse, Response

from hubkit.server.accounts.sessions import SESSION_SECONDS, cookie_name, own_address
from hubkit.server.http.access import visible_collection
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.files import IMAGES
from hubkit.server.http.parsing import parse_int
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Handler, Route
from hubkit.server.pages import card_facts, changes, rendering, tensors, views
from hubkit.server.pages.markup import Place
from hubkit.server.pages.responses import page, path_segment, static_file
from hubkit.server.pages.views import RepoView
from hubkit.server.repos.discussions import summary
from hubkit.server.repos.info import safetensors_info
from hubkit.server.repos.store import RepoType

_PAGE = 30
_KINDS: dict[str, tuple[RepoType, ...]] = {
    "": ("model", "dataset", "space"), "models": ("model",), "datasets": ("dataset",), "spaces": ("space",),
}  # fmt: skip
_WAITING = frozenset(["BUILDING", "APP_STARTING", "RUNNING_BUILDING", "RUNNING_APP_STARTING"])
_IMAGE = re.compile(r"(?i).*(" + "|".join(re.escape(suffix) for suffix in IMAGES) + ")")


# Lists ------------------------------------------------------------------------------------------------------


def listing(request: Request) -> Response:
    """All repos, or those of one type; ``search``, ``filter`` (a tag) and ``p`` narrow it down."""
    section = request.path_params["section"]
    return _list(request, "list", _KINDS[section], {"section": section})


def account(request: Request) -> Response:
    """The repos of a user or an organization."""
    owner = request.hub.accounts.find(request.path_params["ns"])
    if owner is None:
        raise HTTPException(404, f"There is no account called {request.path_params['ns']!r}.")
    values = {"account": owner, "section": "", "collections": views.collections_of(request, owner.name)}
    return _list(request, "account", _KINDS[""], values, namespace=owner.name)


def collection(request: Request) -> Response:
    """The items of a collection, with their notes."""
    found = visible_collection(request, f"{request.path_params['ns']}/{request.path_params['slug']}")
    if found is None:
        raise HTTPException(404, "This collection does not exist, or it is private.")
    rows = views.collection_rows(request, found)
    return page("collection", {"collection": found, "rows": rows}, actor=request.actor)


def _list(
    request: Request, template: str, kinds: tuple[RepoType, ...], values: Mapping[str, Any], *, namespace: str = ""
) -> Response:
    search, tags = request.query_params.get("search", "")[:200], request.query_params.getlist("filter")[:10]
    rows = views.repo_rows(request, kinds, search=search, tags=tuple(tags), namespace=namespace)
    number = parse_int(request.query_params.get("p"), 0, most=10**6)
    query = [("search", search)] * bool(search) + [("filter", tag) for tag in tags]

    def to(page: int) -> str:
        return "?" + urlencode([*query, ("p", str(page))])

    pages = {
        "total": len(rows), "previous": to(number - 1) if number else None,
        "next": to(number + 1) if (number + 1) * _PAGE < len(rows) else None,
    }  # fmt: skip
    page_rows = rows[number * _PAGE : (number + 1) * _PAGE]
    all_values = {
        **values,
        "rows": page_rows,
        "pages": pages,
        "search": search,
        "tags": tags,
        "several": len(kinds) > 1,
    }
    return page(template, all_values, actor=request.actor)


# A repo -----------------------------------------------------------------------------------------------------


def _frame(view: RepoView, tab: str, link: views.Link) -> dict[str, Any]:
    """What every page of a repo has: its head, its tabs, the menu of revisions."""
    section = f"{view.repo.type}s"
    return {
        "repo": view.repo, "web": view.web, "rev": view.revision, "commit": view.commit, "info": view.info, "tab": tab,
        "chips": card_facts.chips(view.info), "revisions": views.revisions(view, link), "section": section,
        "kind": views.kind_title(view.repo.type), "ways": views.ways_to_use(view) if tab in {"card", "files"} else [],
        "discussions": len(view.request.hub.discussions.listed(view.repo)),
    }  # fmt: skip


def _at(view: RepoView, tail: str) -> Callable[[str, str], str]:
    """Links to the same tab of another revision."""
    return lambda name, _: f"{view.web}/{tail}/{path_segment(name)}"


def card(request: Request) -> Response:
    """The first page of a repo: its card, and the app of a Space."""
    view = views.open_repo(request, request.query_params.get("revision", "main"), files=False)
    if not view.open:
        view = views.open_repo(request, files=False)

    def link(name: str, _: str) -> str:
        return view.web if name == "main" else f"{view.web}?{urlencode({'revision': name})}"

    rendered = rendering.card(view.git, view.path, view.commit, view.place)
    values = _frame(view, "card", link) | {
        "card": rendered, "open": view.open, "groups": views.related_repos(view), "space": None,
        "results": card_facts.results(view.info["cardData"] or {}), "parameters": {}, "total": 0,
        "newer": None, "gate": None, "weights": None, "origin": "",
    }  # fmt: skip
    if view.repo.type == "model":
        front = view.info["cardData"] or {}
        values["newer"] = card_facts.newer(front, partial(views.address, request))
        values["gate"] = card_facts.gate(front) if view.repo.gated else None
        values["origin"] = request.origin
        counted = safetensors_info(view.git, view.commit, view.repo.uid, request.hub.lfs).get("safetensors", {})
        values |= {"parameters": counted.get("parameters", {}), "total": counted.get("total", 0)}
        values["weights"] = views.weights_of(view) if view.open else None
    if view.repo.type == "space":
        values["space"] = _space(view)
        values["refresh"] = 3 if values["space"]["waiting"] else 0
        return page("space", values, actor=request.actor, frame=values["space"]["embed"])
    return page("card", values, actor=request.actor)


def _space(view: RepoView) -> dict[str, Any]:
    """The state of a Space; ``embed`` is the address of its app while it runs."""
    spaces = view.request.hub.spaces
    runtime = spaces.runtime(view.repo)
    stage = str(runtime["stage"])
    embed = spaces.host(view.repo) if stage == "RUNNING" and view.open else None
    which = "build" if "BUILD" in stage else "run"
    log = spaces.tail(view.repo, which) if view.member and not embed else []
    return {
        "stage": stage, "embed": embed, "waiting": stage in _WAITING,
        "error": runtime.get("errorMessage", "") if view.open else "",
        "which": which, "log": "".join(line if line.endswith("\n") else f"{line}\n" for line in log),
        "member": view.member, "warning": spaces.warning(view.repo),
    }  # fmt: skip


def tree(request: Request) -> Response:
    """The files of a folder at a revision; at the root the card follows."""
    path = request.path_params.get("path", "").strip("/")
    view = views.open_repo(request, request.path_params.get("rev", "main"))
    rows = views.folder(view, path)

    def link(name: str, target: str) -> str:
        entry = view.git.entry(target, path) if path else None
        below = f"/{quote(path)}" if entry and entry.folder else ""
        return f"{view.web}/tree/{path_segment(name)}{below}"

    rendered = rendering.card(view.git, view.path, view.commit, view.place) if not path else None
    values = _frame(view, "files", link) | {
        "path": path, "crumbs": views.crumbs(path), "rows": rows, "card": rendered,
        "last": views.commit_row(view.git.commit(view.commit)), "total": sum(row["size"] for row in rows),
    }  # fmt: skip
    return page("tree", values, actor=request.actor)


def blob(request: Request) -> Response:
    """One file: its text, its picture, or its size and digest."""
    path = request.path_params["path"].strip("/")
    view = views.open_repo(request, request.path_params["rev"])
    entry = view.git.entry(view.commit, path)
    if entry is None:
        raise HTTPException(404, f"There is no file {path!r} at {view.revision!r}.", "EntryNotFound")
    if entry.folder:
        return RedirectResponse(f"{view.web}/tree/{path_segment(view.revision)}/{quote(path)}", 307)

    def link(name: str, target: str) -> str:
        other = view.git.entry(target, path)
        if other and not other.folder:
            return f"{view.web}/blob/{path_segment(name)}/{quote(path)}"
        return f"{view.web}/tree/{path_segment(name)}"

    name, number = request.query_params.get("tensor", "")[:200], _number(request)
    found = tensors.shown(view, entry, name, number)
    values = _frame(view, "files", link) | {
        "path": path, "crumbs": views.crumbs(path), "entry": entry, "image": bool(_IMAGE.fullmatch(path)),
        "code": rendering.code(view.path, entry), "limit": rendering.CODE_LIMIT, "tensors": found, "tensor": name,
        "first": number * tensors.ROWS,
        "pages": _pages(number, (number + 1) * tensors.ROWS < (found.matching if found else 0), tensor=name),
    }  # fmt: skip
    return page("blob", values, actor=request.actor)


def commits(request: Request) -> Response:
    """The history of a revision, page by page."""
    view = views.open_repo(request, request.path_params.get("rev", "main"))
    number = _number(request)
    history = view.git.history(view.commit)
    items = list(islice(history, number * _PAGE, (number + 1) * _PAGE + 1))
    values = _frame(view, "commits", _at(view, "commits")) | {
        "rows": [views.commit_row(item) for item in items[:_PAGE]],
        "pages": _pages(number, len(items) > _PAGE),
    }  # fmt: skip
    return page("commits", values, actor=request.actor)


def commit(request: Request) -> Response:
    """One commit: its message and what it changed."""
    view = views.open_repo(request, request.path_params["rev"])
    item = view.git.commit(view.commit)
    rows, total = changes.of_commit(view, item.parents[0] if item.parents else None, item.id)
    values = _frame(view, "commits", _at(view, "commits")) | {
        "item": views.commit_row(item), "parents": list(item.parents), "rows": rows, "total": total,
    }  # fmt: skip
    return page("commit", values, actor=request.actor)


def discussions(request: Request) -> Response:
    """The discussions and pull requests of a repo, newest first."""
    view = views.open_repo(request)
    rows = [summary(view.repo, row) for row in request.hub.discussions.listed(view.repo)]
    values = _frame(view, "community", _at(view, "tree")) | {"rows": rows}
    return page("discussions", values, actor=request.actor)


def thread(request: Request) -> Response:
    """One discussion: its comments as Markdown, as safely as cards, and without pictures from elsewhere."""
    view = views.open_repo(request)
    number = parse_int(request.path_params["num"], 0, most=10**9)
    row = request.hub.discussions.row(view.repo, number)
    if row is None:
        raise HTTPException(404, f"There is no discussion {number}.")
    events, place = request.hub.discussions.events(view.repo, number), _number(request)
    shown = events[place * _PAGE : (place + 1) * _PAGE]
    texts = {event["id"]: event["data"]["latest"]["raw"] for event in shown if event["type"] == "comment"}
    accounts = views.mentioned(request, texts.values())
    rendered = rendering.comments([*texts.values()], Place(view.web, view.revision, "comment-"), accounts)
    values = _frame(view, "community", _at(view, "tree")) | _request_for(view, row) | {
        "thread": summary(view.repo, row), "events": shown, "comments": dict(zip(texts, rendered, strict=True)),
        "pages": _pages(place, len(events) > (place + 1) * _PAGE),
    }  # fmt: skip
    return page("thread", values, actor=request.actor, pictures=False)


def _request_for(view: RepoView, row: sqlite3.Row) -> dict[str, Any]:
    """What a pull request would change: its files against the commit that it and its base have in common."""
    ref = f"refs/pr/{row['num']}"
    head = view.git.target(ref) if row["pull"] else None
    base = view.git.target(row["base"]) if head else None
    if head is None or base is None:
        return {"ref": head and ref, "rows": [], "total": 0}
    fork = view.git.merge_base(base, head)
    rows, total = changes.of_commit(view, fork, head) if fork != head else ([], 0)
    return {"ref": ref, "head": head, "rows": rows, "total": total}


def _number(request: Request) -> int:
    return parse_int(request.query_params.get("p"), 0, most=10**6)


def _pages(number: int, more: bool, **query: str) -> dict[str, str | None]:
    """Links to the pages before and after one."""
    kept = {name: value for name, value in query.items() if value}

    def to(page: int) -> str:
        return "?" + urlencode({**kept, "p": page})

    return {"previous": to(number - 1) if number else None, "next": to(number + 1) if more else None}


# What belongs to no repo ------------------------------------------------------------------------------------


def static(request: Request) -> Response:
    """The stylesheet, or the picture in the browser's tab."""
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(static_file(request.path_params["file"]), media_type=request.path_params["media"], headers=headers)


def login(request: Request) -> Response:
    """Turn a key into a cookie, once. Refused from a link on a page: it could log a person in as somebody else."""
    request = request
    if request.method != "GET" or request.headers.get("sec-fetch-site", "none") != "none":
        raise HTTPException(403, "Open this link by itself, not from a page: copy it into the address bar.")
    session = request.hub.sessions.redeem(request.query_params.get("key", ""))
    if session is None:
        raise HTTPException(403, "This link was used or is older than a minute. Ask for a new one: hubkit hub open")
    response = RedirectResponse(session[1], 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    response.set_cookie(
        cookie_name(request), session[0], max_age=int(SESSION_SECONDS), httponly=True, samesite="strict", path="/",
        secure=request.scope.get("scheme") == "https",
    )  # fmt: skip
    return response


def logout(request: Request) -> Response:
    """End the login of this browser. Middleware has refused what other pages post."""
    request.hub.sessions.end(request)
    response = RedirectResponse("/", 303)
    response.delete_cookie(cookie_name(request), httponly=True, samesite="strict", path="/")
    return response


def _at_own_address(handler: Handler) -> Handler:
    """Redirect from ``localhost`` to the address of the Hub: ``localhost`` is the host of the Spaces."""

    def at_own_address(request: Request) -> Response:
        own = own_address(request)
        if own == request.origin:
            return handler(request)
        query = request.url.query
        return RedirectResponse(f"{own}{request.scope['path']}" + (f"?{query}" if query else ""), 307)

    return at_own_address


def _page(path: str, handler: Handler, **params: str) -> Route:
    return Route("GET", path, _at_own_address(handler), path_params=params, cookie=True)


def _of_repos(tail: str, handler: Handler) -> list[Route]:
    """A page of the repos of each type."""
    prefixes = {"datasets": "/datasets/{ns}/{name}", "spaces": "/spaces/{ns}/{name}", "models": "/{ns:account}/{name}"}
    return [_page(prefix + tail, handler, kind=kind) for kind, prefix in prefixes.items()]


ROUTES = [
    *(_page(f"/{section}", listing, section=section) for section in _KINDS),
    Route("GET", "/static/hubkit.css", static, path_params={"file": "style.css", "media": "text/css"}),
    Route("GET", "/static/hubkit.svg", static, path_params={"file": "icon.svg", "media": "image/svg+xml"}),
    _page("/login", login),
    Route("POST", "/logout", logout, "form", anonymous=True, limit=1024),
    _page("/collections/{ns}/{slug}", collection),
    *_of_repos("", card),
    *_of_repos("/tree/{rev}", tree),
    *_of_repos("/tree/{rev}/{path:path}", tree),
    *_of_repos("/blob/{rev}/{path:path}", blob),
    *_of_repos("/commits/{rev}", commits),
    *_of_repos("/commit/{rev}", commit),
    *_of_repos("/discussions", discussions),
    *_of_repos("/discussions/{num}", thread),
    _page("/{ns:account}", account),
]
