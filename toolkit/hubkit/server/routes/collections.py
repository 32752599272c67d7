"""Collections over HTTP: create, list, change and delete them, and their items."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.accounts.accounts import namespace_problem
from hubkit.server.http.access import forbidden, require_user, visible_collection, visible_repo
from hubkit.server.http.bodies import SMALL_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_int, require_valid
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route
from hubkit.server.repos.collections import (
    DESCRIPTION_LIMIT,
    NOTE_LIMIT,
    REPO_TYPES,
    THEMES,
    TITLE_LIMIT,
    Collection,
    Item,
    NoItemError,
    TakenError,
)
from hubkit.server.repos.info import repo_info, summary
from hubkit.server.repos.store import RepoType

_TYPES = (*REPO_TYPES, "paper", "collection")
_SHOWN = 4
"""Items of each collection in a list of collections."""


def _found(request: Request) -> Collection:
    """The collection that the path names."""
    slug = f"{request.path_params['ns']}/{request.path_params['slug']}"
    found = visible_collection(request, slug)
    if found is None:
        raise HTTPException(404 if request.actor else 401, "Collection not found")
    return found


def _writable(request: Request) -> Collection:
    found = _found(request)
    _require_write(request, found.namespace)
    return found


def _require_write(request: Request, namespace: str) -> None:
    actor = require_user(request)
    if not request.hub.permissions.may_collect(actor, namespace):
        raise forbidden(actor, namespace)


def _text(value: dict[str, Any], name: str, limit: int, *, least: int = 0) -> str | None:
    """A text of the body; None when it is not given."""
    text = value.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or not least <= len(text) <= limit:
        raise HTTPException(400, f"{name!r} must be a text of {least} to {limit} characters.")
    return text


def _flag(value: dict[str, Any], name: str) -> bool | None:
    given = value.get(name)
    if given is not None and not isinstance(given, bool):
        raise HTTPException(400, f"{name!r} must be true or false.")
    return given


def _position(value: dict[str, Any]) -> int | None:
    given = value.get("position")
    if given is not None and (not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < 10**6):
        raise HTTPException(400, "'position' must be a whole number from 0 on.")
    return given


def _json(request: Request, found: Collection, *, most: int | None = None) -> dict[str, Any]:
    """A collection as the API returns it: only with the items that the caller may see."""
    items: list[dict[str, Any]] = []
    for item in request.hub.collections.items(found):
        if (shown := _item(request, item)) is not None:
            items.append(shown | {"position": len(items)})
    owner = request.hub.accounts.find(found.namespace)
    value = {"description": found.description} if found.description else {}
    return value | {
        "slug": found.slug, "title": found.title,
        "owner": {"name": found.namespace, "fullname": owner.fullname if owner else found.namespace,
                  "type": owner.kind if owner else "user"},
        "items": items[:most], "numItems": len(items), "lastUpdated": found.updated, "gating": False,
        "position": found.position, "private": found.private, "theme": found.theme, "upvotes": 0,
        "isUpvotedByUser": False, "shareUrl": f"{request.origin}/collections/{found.slug}",
    }  # fmt: skip


def _item(request: Request, item: Item) -> dict[str, Any] | None:
    """An item as the API returns it; None for one that the caller may not see."""
    value: dict[str, Any] = {"_id": item.id, "type": item.type, "id": item.name}
    if item.repo is not None:
        repo = request.hub.store.by_uid(item.repo)
        if repo is None or not request.hub.permissions.may_see(request.actor, repo):
            return None
        value = summary(repo_info(repo, request.hub.head_facts(repo))) | value | {"id": repo.id}
    elif item.type == "collection":
        other = request.hub.collections.by_id(item.name)
        if other is None or not request.hub.permissions.may_see_collection(request.actor, other):
            return None
        value |= {"slug": other.slug, "title": other.title}
    if item.note:
        value["note"] = {"text": item.note}
    return value


def create(request: Request) -> Response:
    """A new collection; 409 with the slug of the one that has the title."""
    value = request.json_object()
    namespace = request.json_string("namespace", require_user(request).name)
    require_valid(namespace_problem, namespace)
    _require_write(request, namespace)
    title = _text(value, "title", TITLE_LIMIT, least=1)
    if title is None:
        raise HTTPException(400, "'title' is required.")
    description = _text(value, "description", DESCRIPTION_LIMIT)
    try:
        made = request.hub.collections.create(namespace, title, description, private=_flag(value, "private") or False)
    except TakenError as error:
        slug = error.args[0].slug
        raise HTTPException(409, f"{namespace} has a collection of that title.", body={"slug": slug}) from None
    return JSONResponse(_json(request, made))


def listing(request: Request) -> Response:
    """The collections that the caller may see: ``owner``, ``item`` (models/ns/name, papers/ID), pages."""
    query = request.query_params
    found = request.hub.collections.all(query.get("owner", ""))
    if item := query.get("item"):
        kind, _, name = item.partition("/")
        holding = {held.id for held in request.hub.collections.holding(kind.removesuffix("s"), name)}
        hidden = kind.removesuffix("s") in REPO_TYPES and not _visible(request, kind.removesuffix("s"), name)
        found = [] if hidden else [one for one in found if one.id in holding]
    found = [one for one in found if request.hub.permissions.may_see_collection(request.actor, one)]
    if query.get("sort") == "lastModified":
        found.sort(key=lambda one: one.updated, reverse=True)
    start, count = parse_int(query.get("cursor"), 0), request.page_size(20, 100)
    page = [_json(request, one, most=_SHOWN) for one in found[start : start + count]]
    for value in page:
        del value["position"]  # the client counts for itself
    more = start + count < len(found)
    return JSONResponse(page, headers=request.next_page(cursor=str(start + count)) if more else None)


def _visible(request: Request, kind: str, name: str) -> bool:
    kinds: dict[str, RepoType] = {"model": "model", "dataset": "dataset", "space": "space"}
    return visible_repo(request, kinds[kind], name) is not None


def info(request: Request) -> Response:
    """One collection with its items."""
    return JSONResponse(_json(request, _found(request)))


def change(request: Request) -> Response:
    """Change its title, description, theme, position or who can see it."""
    found, value = _writable(request), request.json_object()
    theme = value.get("theme")
    if theme is not None and theme not in THEMES:
        raise HTTPException(400, f"'theme' must be one of {', '.join(THEMES)}.")
    private = _flag(value, "private")
    changes = {
        "title": _text(value, "title", TITLE_LIMIT, least=1),
        "description": _text(value, "description", DESCRIPTION_LIMIT),
        "private": None if private is None else int(private),
        "theme": theme,
        "position": _position(value),
    }
    request.hub.collections.change(found, {key: item for key, item in changes.items() if item is not None})
    changed = request.hub.collections.by_id(found.id)
    return JSONResponse({"success": True, "data": _json(request, changed or found)})


def delete(request: Request) -> Response:
    """Delete a collection; its repos stay."""
    request.hub.collections.delete(_writable(request))
    return JSONResponse({"success": True})


def add_item(request: Request) -> Response:
    """Add a repo, a paper or a collection that the caller may see; 409 when it is an item already."""
    found, value = _writable(request), request.json_object()
    given = value.get("item")
    kind, name = (given.get("type"), given.get("id")) if isinstance(given, dict) else (None, None)
    if kind not in _TYPES or not isinstance(name, str):
        raise HTTPException(400, f"'item' needs an 'id' and a 'type': {', '.join(_TYPES)}.")
    note = _text(value, "note", NOTE_LIMIT)
    repo = visible_repo(request, kind, name) if kind in REPO_TYPES else None
    hidden = kind == "collection" and visible_collection(request, name) is None
    try:
        if hidden or (kind in REPO_TYPES and repo is None):
            raise NoItemError(name)
        request.hub.collections.add(found, str(kind), name, note, repo)
    except NoItemError:
        raise HTTPException(404, f"There is no {kind} {name!r} to add.") from None
    except TakenError:
        raise HTTPException(409, f"{name} is in the collection already.") from None
    return JSONResponse(_json(request, request.hub.collections.by_id(found.id) or found))


def _item_of(request: Request, found: Collection) -> Item:
    for item in request.hub.collections.items(found):
        if item.id == request.path_params["item"]:
            return item
    raise HTTPException(404, "The collection has no such item.")


def change_item(request: Request) -> Response:
    """Change the note or the position of an item."""
    found, value = _writable(request), request.json_object()
    item = _item_of(request, found)
    request.hub.collections.change_item(found, item, _text(value, "note", NOTE_LIMIT), _position(value))
    return JSONResponse({"success": True})


def remove_item(request: Request) -> Response:
    """Remove an item; the repo stays."""
    found = _writable(request)
    request.hub.collections.remove(found, _item_of(request, found))
    return JSONResponse({"success": True})


_ONE = "/api/collections/{ns}/{slug}"
ROUTES = [
    Route("POST", "/api/collections", create, "json", limit=SMALL_LIMIT),
    Route("GET", "/api/collections", listing),
    Route("GET", _ONE, info),
    Route("PATCH", _ONE, change, "json", limit=SMALL_LIMIT),
    Route("DELETE", _ONE, delete),
    Route("POST", f"{_ONE}/items", add_item, "json", limit=SMALL_LIMIT),
    Route("PATCH", f"{_ONE}/items/{{item}}", change_item, "json", limit=SMALL_LIMIT),
    Route("DELETE", f"{_ONE}/items/{{item}}", remove_item),
]
