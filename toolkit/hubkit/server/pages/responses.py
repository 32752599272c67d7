"""Responses with pages: templates, headers, links, and the pages of errors."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from hubkit import __version__
from hubkit.core import numbers
from hubkit.server.accounts.accounts import Actor
from hubkit.server.http.exceptions import DAMAGED, HTTPException
from hubkit.server.http.middleware import public_address
from hubkit.server.pages.visible import visible

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it a browser sends the form that logs out without its origin.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept, Cookie",
}
_TITLES = {
    400: "Invalid URL", 401: "Log in first", 403: "Access denied", 404: "Not found",
    405: "Method not allowed", 500: "The Hub failed", 507: "The Hub is full", DAMAGED: "This repository is damaged",
}  # fmt: skip
_REPO_NOT_FOUND = (
    "This repository does not exist, or it is private and you are not logged in as a member of its namespace."
)


def policy(frame: str | None = None, *, pictures: bool = True) -> str:
    """The Content-Security-Policy of a page: of scripts only our own, by its digest; frames only of the Space on it.

    ``pictures``: those of other hosts may be shown, as cards do.
    """
    digest = base64.b64encode(hashlib.sha256(static_file("copy.js")).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; require-trusted-types-for 'script'; trusted-types 'none'; "
        f"img-src 'self'{' https:' if pictures else ''}; style-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'; frame-src " + (frame or "'none'")
    )


def when(stamp: str) -> str:
    """A time of the database as a day: ``21 Nov 2026``."""
    moment = datetime.fromisoformat(stamp.replace("Z", "+00:00")).astimezone(UTC)
    return f"{moment.day} {moment:%b %Y}"


def path_segment(text: str) -> str:
    """Text as one part of an address."""
    return quote(text, safe="")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hubkit.server.pages", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        size=numbers.size, count=numbers.count, parameters=numbers.parameters, when=when, seg=path_segment, path=quote,
        query=urlencode, visible=visible,
    )  # fmt: skip
    script = Markup(static_file("copy.js").decode())  # its digest is in the policy of each page
    environment.globals.update(version=__version__, script=script, local=public_address() is None)
    return environment


def page(
    template: str, values: Mapping[str, Any], *, actor: Actor | None, status: int = 200, frame: str | None = None,
    headers: Mapping[str, str] | None = None, pictures: bool = True,
) -> Response:  # fmt: skip
    """A page from a template; ``frame`` is the one origin that it may show inside, ``pictures`` as :func:`policy`."""
    text = (
        _environment()
        .get_template(f"{template}.html.jinja")
        .render({"user": actor.name if actor else None, "search": "", "section": "", "refresh": 0, **values})
    )
    # A page that only a logged-in person may read must not stay in the cache for the next person at this browser.
    cache = "private, no-store" if actor else "private, no-cache"
    all_headers = {"Cache-Control": cache, "Content-Security-Policy": policy(frame, pictures=pictures)}
    all_headers |= {**_HEADERS, **(headers or {})}
    return HTMLResponse(text, status, all_headers)


def error_response(request: Request, error: HTTPException) -> Response:
    """An error as JSON, or as a page when a browser asks for one."""
    accepts_html = "text/html" in request.headers.get("accept", "")
    if not accepts_html or error.status_code < 400 or request.scope["path"].startswith(("/api/", "/lfs/")):
        return error.response()
    status = {"RepoNotFound": 404, "GatedRepo": 403}.get(error.code or "", error.status_code)
    message = _REPO_NOT_FOUND if error.code == "RepoNotFound" else error.detail
    values = {"status": status, "title": _TITLES.get(status, "This did not work"), "message": message}
    headers = {name: value for name, value in error.headers.items() if name.startswith("X-") or name == "Connection"}
    headers |= {"X-Error-Code": error.code} if error.code else {}
    return page("error", values, actor=getattr(request.state, "actor", None), status=status, headers=headers)


@lru_cache(maxsize=3)
def static_file(name: str) -> bytes:
    """The content of a file that every page needs: ``style.css``, ``icon.svg`` or ``copy.js``."""
    return (files("hubkit.server.pages") / "static" / name).read_bytes()
