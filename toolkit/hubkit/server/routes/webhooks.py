"""The webhooks of a user: create, list, change, enable, delete."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hubkit.server.accounts.accounts import Actor
from hubkit.server.hooks.webhooks import Settings, Webhook, is_local
from hubkit.server.http.access import require_person
from hubkit.server.http.bodies import SMALL_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route

_ELSEWHERE = "webhooks; This Hub delivers webhooks to http:// addresses of its own machine only."


def _require_settings(request: Request) -> Actor:
    """The caller, if its token may read and change the settings of its account; else 401 or 403."""
    actor = require_person(request)
    if actor.role != "write" or actor.limits is not None:
        raise HTTPException(403, "Webhooks need a write token without limits.")
    return actor


def _find(request: Request) -> Webhook:
    actor = _require_settings(request)
    webhook = request.hub.webhooks.find(actor.account, request.path_params["webhook"])
    if webhook is None:
        raise HTTPException(404, "Webhook not found.")
    return webhook


def _answer(webhook: Webhook) -> Response:
    headers = None if is_local(webhook.url) else {"X-HF-Warning": _ELSEWHERE}
    return JSONResponse({"webhook": _shown(webhook)}, headers=headers)


def _shown(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id, "url": webhook.url, "domains": list(webhook.domains), "secret": webhook.secret,
        "watched": [{"type": kind, "name": name} for kind, name in webhook.watched], "disabled": webhook.disabled,
        "createdAt": webhook.created,
    }  # fmt: skip


def listing(request: Request) -> Response:
    """The webhooks of the caller."""
    return JSONResponse([_shown(webhook) for webhook in request.hub.webhooks.of(_require_settings(request).account)])


def create(request: Request) -> Response:
    """``{url, watched, domains?, secret?}``: a new webhook."""
    actor = _require_settings(request)
    _refuse_jobs(request)
    return _answer(request.hub.webhooks.create(actor.account, Settings.of(request.json_object())))


def show(request: Request) -> Response:
    """One webhook."""
    return _answer(_find(request))


def update(request: Request) -> Response:
    """Change a webhook; what the body leaves out stays."""
    webhook = _find(request)
    _refuse_jobs(request)
    return _answer(request.hub.webhooks.change(webhook, Settings.of(request.json_object(), webhook)))


def enable(request: Request) -> Response:
    """Deliver to a webhook again."""
    return _answer(request.hub.webhooks.set_disabled(_find(request), False))


def disable(request: Request) -> Response:
    """Deliver nothing to a webhook until it is enabled; what waits is dropped."""
    return _answer(request.hub.webhooks.set_disabled(_find(request), True))


def delete(request: Request) -> Response:
    """Delete a webhook."""
    request.hub.webhooks.delete(_find(request))
    return JSONResponse({})


def _refuse_jobs(request: Request) -> None:
    if request.json_object().get("jobSourceId") is not None:
        raise HTTPException(501, "This Hub runs no jobs: give the webhook a url.")


ROUTES = [
    Route("GET", "/api/settings/webhooks", listing),
    Route("POST", "/api/settings/webhooks", create, "json", limit=SMALL_LIMIT),
    Route("GET", "/api/settings/webhooks/{webhook}", show),
    Route("POST", "/api/settings/webhooks/{webhook}", update, "json", limit=SMALL_LIMIT),
    Route("DELETE", "/api/settings/webhooks/{webhook}", delete),
    Route("POST", "/api/settings/webhooks/{webhook}/enable", enable),
    Route("POST", "/api/settings/webhooks/{webhook}/disable", disable),
]
