"""The frame of every page: templates, headers, links, and pages that say what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from hubkit import __version__
from hubkit.server.accounts import Actor
from hubkit.server.http import Refusal

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it a browser sends the form that logs out without saying where it comes from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept, Cookie",
}
_TITLES = {
    400: "This address cannot be read", 401: "Log in first", 403: "This is not open to you", 404: "Nothing here",
    405: "Not this way", 500: "The Hub failed", 507: "The Hub is full",
}  # fmt: skip
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def policy(frame: str | None = None) -> str:
    """The Content-Security-Policy of a page: no script at all; a frame only of the Space that is shown."""
    return (
        "default-src 'none'; img-src 'self' https:; style-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'; frame-src " + (frame or "'none'")
    )


def size(count: int) -> str:
    """Bytes as people read them: ``1.5 MB``."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count} bytes" if not unit else f"{value:.3g} {_UNITS[unit]}"


def number(count: int) -> str:
    """A large count as people read it: ``7.24 B``."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < 4:
        value, unit = value / 1000, unit + 1
    return str(count) if not unit else f"{value:.3g} {('K', 'M', 'B', 'T')[unit - 1]}"


def when(stamp: str) -> str:
    """A stamp of the database as a day: ``21 Nov 2026``."""
    moment = datetime.fromisoformat(stamp.replace("Z", "+00:00")).astimezone(UTC)
    return f"{moment.day} {moment:%b %Y}"


def seg(text: str) -> str:
    """Text as one part of an address."""
    return quote(text, safe="")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("hubkit.server.pages", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update(size=size, number=number, when=when, seg=seg, path=quote, query=urlencode)
    made.globals.update(version=__version__)
    return made


def page(
    template: str, values: Mapping[str, Any], *, actor: Actor | None, status: int = 200, frame: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:  # fmt: skip
    """A page from a template; ``frame`` is the one origin that it may show inside."""
    shown = (
        _environment()
        .get_template(f"{template}.html.jinja")
        .render({"user": actor.name if actor else None, "search": "", "section": "", "refresh": 0, **values})
    )
    # What was read by right of a login must not be left behind for the next person at this browser.
    cache = "private, no-store" if actor else "private, no-cache"
    more = {"Cache-Control": cache, "Content-Security-Policy": policy(frame), **_HEADERS, **(headers or {})}
    return HTMLResponse(shown, status, more)


def refused(request: Request, refusal: Refusal, actor: Actor | None) -> Response:
    """A refusal as JSON, or as a page when a browser asks for one."""
    path = request.scope["path"]
    wants = "text/html" in request.headers.get("accept", "")
    if not wants or refusal.status < 400 or path.startswith(("/api/", "/lfs/")):
        return refusal.response()
    status = refusal.status
    if refusal.code == "RepoNotFound":
        status = 404
    elif refusal.code == "GatedRepo":
        status = 403
    values = {"status": status, "title": _TITLES.get(status, "That did not work"), "message": _said(refusal)}
    kept = {name: value for name, value in refusal.headers.items() if name.startswith("X-")}
    code = {"X-Error-Code": refusal.code} if refusal.code else {}
    return page("error", values, actor=actor, status=status, headers=kept | code)


def _said(refusal: Refusal) -> str:
    if refusal.code == "RepoNotFound":
        return "There is no such repository, or it is private and you are not logged in as one who may see it."
    return refusal.message


@lru_cache(maxsize=2)
def static(name: str) -> bytes:
    """A file that every page needs: ``style.css`` or ``icon.svg``."""
    return (files("hubkit.server.pages") / name).read_bytes()
