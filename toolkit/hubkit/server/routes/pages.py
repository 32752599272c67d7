"""The pages: what a person sees who opens the Hub in a browser, at the addresses of huggingface.co."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode

from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import RedirectResponse, Response

from hubkit.server.accounts import OWNER, RESERVED
from hubkit.server.discussions import shown as discussion
from hubkit.server.http import Call, Handler, Refusal, Spec, whole
from hubkit.server.pages import rendering, side, site, views
from hubkit.server.pages.sessions import SESSION_SECONDS, cookie_name, own_address
from hubkit.server.pages.views import Seen
from hubkit.server.routes.repos import weights
from hubkit.server.routes.resolve import IMAGES
from hubkit.server.safetensors import parameters
from hubkit.server.store import RepoType

_PAGE = 30
_KINDS: dict[str, tuple[RepoType, ...]] = {
    "": ("model", "dataset", "space"), "models": ("model",), "datasets": ("dataset",), "spaces": ("space",),
}  # fmt: skip
_WAITING = frozenset(["BUILDING", "APP_STARTING", "RUNNING_BUILDING", "RUNNING_APP_STARTING"])
_IMAGE = re.compile(r"(?i).*(" + "|".join(re.escape(suffix) for suffix in IMAGES) + ")")


class _Account(Convertor[str]):
    """A namespace: any part of an address that is not a word of the Hub's own."""

    regex = f"(?!(?i:{'|'.join(sorted(RESERVED - {OWNER}))})(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("account", _Account())


# Lists ------------------------------------------------------------------------------------------------------


def listing(call: Call) -> Response:
    """All repos, or those of one type; ``search``, ``filter`` (a tag) and ``p`` narrow it down."""
    section = call.params["section"]
    return _list(call, "list", _KINDS[section], {"section": section})


def account(call: Call) -> Response:
    """The repos of a user or an organisation."""
    found = call.hub.accounts.find(call.params["ns"])
    if found is None:
        raise Refusal(404, f"There is no account called {call.params['ns']!r}.")
    return _list(call, "account", _KINDS[""], {"account": found, "section": ""}, namespace=found.name)


def _list(
    call: Call, template: str, kinds: tuple[RepoType, ...], values: Mapping[str, Any], *, namespace: str = ""
) -> Response:
    search, tags = call.query.get("search", "")[:200], call.query.getlist("filter")[:10]
    rows = views.repo_rows(call, kinds, search=search, tags=tuple(tags), namespace=namespace)
    number = whole(call.query.get("p"), 0, most=10**6)
    kept = [("search", search)] * bool(search) + [("filter", tag) for tag in tags]

    def to(page: int) -> str:
        return "?" + urlencode([*kept, ("p", str(page))])

    pages = {
        "total": len(rows), "previous": to(number - 1) if number else None,
        "next": to(number + 1) if (number + 1) * _PAGE < len(rows) else None,
    }  # fmt: skip
    shown = rows[number * _PAGE : (number + 1) * _PAGE]
    more = {**values, "rows": shown, "pages": pages, "search": search, "tags": tags, "several": len(kinds) > 1}
    return site.page(template, more, actor=call.actor)


# A repo -----------------------------------------------------------------------------------------------------


def _frame(seen: Seen, tab: str, link: views.Link) -> dict[str, Any]:
    """What every page of a repo has: its head, its tabs, the menu of revisions."""
    section = f"{seen.repo.type}s"
    return {
        "repo": seen.repo, "web": seen.web, "rev": seen.revision, "commit": seen.commit, "info": seen.info, "tab": tab,
        "chips": side.chips(seen.info), "revisions": views.revisions(seen, link), "section": section,
        "kind": views.kind_title(seen.repo.type), "discussions": len(seen.call.hub.discussions.listed(seen.repo)),
    }  # fmt: skip


def _at(seen: Seen, tail: str) -> Callable[[str, str], str]:
    """Links to the same tab of another revision."""
    return lambda name, _: f"{seen.web}/{tail}/{site.seg(name)}"


def card(call: Call) -> Response:
    """The first page of a repo: its card, and the app of a Space."""
    seen = views.see(call, call.query.get("revision", "main"), files=False)
    open_to = call.hub.store.open_to(seen.repo, call.actor)
    if not open_to:
        seen = views.see(call, files=False)

    def link(name: str, _: str) -> str:
        return seen.web if name == "main" else f"{seen.web}?{urlencode({'revision': name})}"

    found = rendering.card(seen.git, seen.path, seen.commit, seen.place) if seen.commit else None
    values = _frame(seen, "card", link) | {
        "card": found, "open": open_to, "groups": views.neighbours(seen), "space": None,
        "results": side.results(seen.info["cardData"] or {}), "parameters": {}, "total": 0,
        "endpoint": call.base,
    }  # fmt: skip
    if seen.commit and seen.repo.type == "model":
        counted = weights(call, seen.repo, seen.git, seen.commit).get("safetensors", {})
        values |= {"parameters": counted.get("parameters", {}), "total": counted.get("total", 0)}
    if seen.repo.type == "space":
        values["space"] = _space(seen)
        values["refresh"] = 3 if values["space"]["waiting"] else 0
        return site.page("space", values, actor=call.actor, frame=values["space"]["embed"])
    return site.page("card", values, actor=call.actor)


def _space(seen: Seen) -> dict[str, Any]:
    """The state of a Space; ``embed`` is where its app is reached when it can be shown."""
    spaces = seen.call.hub.spaces
    runtime = spaces.runtime(seen.repo)
    stage = str(runtime["stage"])
    embed = spaces.host(seen.repo) if stage == "RUNNING" else None
    which = "build" if "BUILD" in stage else "run"
    log = spaces.tail(seen.repo, which) if seen.member and not embed else []
    return {
        "stage": stage, "embed": embed, "waiting": stage in _WAITING, "error": runtime.get("errorMessage", ""),
        "which": which, "log": "".join(line if line.endswith("\n") else f"{line}\n" for line in log),
        "member": seen.member,
    }  # fmt: skip


def tree(call: Call) -> Response:
    """The files of a folder at a revision; at the root the card follows."""
    path = call.params.get("path", "").strip("/")
    seen = views.see(call, call.params.get("rev", "main"))
    commit = seen.need()
    rows = views.folder(seen, path)

    def link(name: str, target: str) -> str:
        entry = seen.git.entry(target, path) if path else None
        below = f"/{quote(path)}" if entry and entry.folder else ""
        return f"{seen.web}/tree/{site.seg(name)}{below}"

    found = rendering.card(seen.git, seen.path, commit, seen.place) if not path else None
    values = _frame(seen, "files", link) | {
        "path": path, "crumbs": views.crumbs(path), "rows": rows, "card": found,
        "last": views.commit_row(seen.git.commit(commit)), "total": sum(row["size"] for row in rows),
    }  # fmt: skip
    return site.page("tree", values, actor=call.actor)


def blob(call: Call) -> Response:
    """One file: its text, its picture, or what is known of it."""
    path = call.params["path"].strip("/")
    seen = views.see(call, call.params["rev"])
    entry = seen.git.entry(seen.need(), path)
    if entry is None:
        raise Refusal(404, f"There is no file {path!r} at {seen.revision!r}.", "EntryNotFound")
    if entry.folder:
        return RedirectResponse(f"{seen.web}/tree/{site.seg(seen.revision)}/{quote(path)}", 307)

    def link(name: str, target: str) -> str:
        other = seen.git.entry(target, path)
        if other and not other.folder:
            return f"{seen.web}/blob/{site.seg(name)}/{quote(path)}"
        return f"{seen.web}/tree/{site.seg(name)}"

    objects, counted = call.hub.objects, {}
    if entry.pointer and path.endswith(".safetensors") and objects.has(seen.repo.uid, entry.pointer.oid):
        counted = parameters(objects.path(entry.pointer.oid))
    values = _frame(seen, "files", link) | {
        "path": path, "crumbs": views.crumbs(path), "entry": entry, "parameters": counted,
        "total": sum(counted.values()), "image": bool(_IMAGE.fullmatch(path)),
        "code": rendering.code(seen.path, entry), "limit": rendering.CODE_LIMIT,
    }  # fmt: skip
    return site.page("blob", values, actor=call.actor)


def commits(call: Call) -> Response:
    """The history of a revision, page by page."""
    seen = views.see(call, call.params.get("rev", "main"))
    number = whole(call.query.get("p"), 0, most=10**6)
    history = seen.git.history(seen.need())
    found = list(islice(history, number * _PAGE, (number + 1) * _PAGE + 1))
    values = _frame(seen, "commits", _at(seen, "commits")) | {
        "rows": [views.commit_row(item) for item in found[:_PAGE]],
        "pages": {
            "previous": f"?p={number - 1}" if number else None,
            "next": f"?p={number + 1}" if len(found) > _PAGE else None,
        },
    }  # fmt: skip
    return site.page("commits", values, actor=call.actor)


def commit(call: Call) -> Response:
    """One commit: what it says and which paths it changed."""
    seen = views.see(call, call.params["rev"])
    item = seen.git.commit(seen.need())
    rows, total = views.changes(seen.git, item)
    values = _frame(seen, "commits", _at(seen, "commits")) | {
        "item": views.commit_row(item), "parents": [str(oid) for oid in item.parent_ids], "rows": rows, "total": total,
    }  # fmt: skip
    return site.page("commit", values, actor=call.actor)


def discussions(call: Call) -> Response:
    """The discussions and pull requests of a repo, newest first."""
    seen = views.see(call)
    rows = [discussion(seen.repo, row) for row in call.hub.discussions.listed(seen.repo)]
    values = _frame(seen, "community", _at(seen, "tree")) | {"rows": rows}
    return site.page("discussions", values, actor=call.actor)


def thread(call: Call) -> Response:
    """One discussion, as it was written: nothing in it is read as HTML."""
    seen = views.see(call)
    number = whole(call.params["num"], 0, most=10**9)
    row = call.hub.discussions.row(seen.repo, number)
    if row is None:
        raise Refusal(404, f"There is no discussion {number}.")
    ref = f"refs/pr/{number}"
    values = _frame(seen, "community", _at(seen, "tree")) | {
        "thread": discussion(seen.repo, row), "events": call.hub.discussions.events(seen.repo, number),
        "ref": ref if seen.git.target(ref) else None,
    }  # fmt: skip
    return site.page("thread", values, actor=call.actor)


# What belongs to no repo ------------------------------------------------------------------------------------


def static(call: Call) -> Response:
    """The stylesheet, or the picture in the browser's tab."""
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(site.static(call.params["file"]), media_type=call.params["media"], headers=headers)


def login(call: Call) -> Response:
    """Turn a key into a cookie, once. A link on a page does not do: it would log somebody in as somebody else."""
    request = call.request
    if request.method != "GET" or request.headers.get("sec-fetch-site", "none") != "none":
        raise Refusal(403, "Open this link by itself, not from a page: copy it into the address bar.")
    found = call.hub.sessions.redeem(call.query.get("key", ""))
    if found is None:
        raise Refusal(403, "This link was used or is older than a minute. Ask for a new one: hubkit hub open")
    answer = RedirectResponse(found[1], 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    answer.set_cookie(
        cookie_name(request), found[0], max_age=int(SESSION_SECONDS), httponly=True, samesite="strict", path="/"
    )
    return answer


def logout(call: Call) -> Response:
    """Forget the login of this browser. The edge has refused what other pages post."""
    call.hub.sessions.end(call.request)
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(cookie_name(call.request), httponly=True, samesite="strict", path="/")
    return answer


def _at_home(handler: Handler) -> Handler:
    """Send those who come by ``localhost`` to the address itself: ``localhost`` is the host of the Spaces."""

    def at_home(call: Call) -> Response:
        own = own_address(call.request)
        if own == call.base:
            return handler(call)
        query = call.request.url.query
        return RedirectResponse(f"{own}{call.request.scope['path']}" + (f"?{query}" if query else ""), 307)

    return at_home


def _page(path: str, handler: Handler, **fixed: str) -> Spec:
    return Spec("GET", path, _at_home(handler), fixed=fixed, cookie=True)


def _of_repos(tail: str, handler: Handler) -> list[Spec]:
    """A page of the repos of each type."""
    prefixes = {"datasets": "/datasets/{ns}/{name}", "spaces": "/spaces/{ns}/{name}", "models": "/{ns:account}/{name}"}
    return [_page(prefix + tail, handler, kind=kind) for kind, prefix in prefixes.items()]


SPECS = [
    *(_page(f"/{section}", listing, section=section) for section in _KINDS),
    Spec("GET", "/static/hubkit.css", static, fixed={"file": "style.css", "media": "text/css"}),
    Spec("GET", "/static/hubkit.svg", static, fixed={"file": "icon.svg", "media": "image/svg+xml"}),
    _page("/login", login),
    Spec("POST", "/logout", logout, "form", anonymous=True, limit=1024),
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
