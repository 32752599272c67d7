"""Services of the real Hub that this one does not have: 501, with the reason where clients show it.

501 and not 404: a client that reads 404 believes that the name was wrong. And not 503, which it would try again.
"""

from __future__ import annotations

from starlette.responses import Response

from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route

_REASONS = {
    "/api/jobs": "This Hub runs no jobs: run the command on a machine of your own.",
    "/api/scheduled-jobs": "This Hub runs no jobs: use cron or systemd timers.",
    "/api/buckets": "This Hub has no buckets: keep the files in a dataset repo.",
    "/api/inference": "This Hub runs no inference: load the model with transformers, or deploy a Space.",
    "/api/inference-proxy": "This Hub runs no inference: load the model with transformers, or deploy a Space.",
    "/api/tasks": "This Hub runs no inference and keeps no list of tasks.",
    "/api/papers": "This Hub has no pages of papers.",
    "/api/daily_papers": "This Hub has no pages of papers.",
    "/api/spaces/semantic-search": "This Hub searches Spaces by name only: use list_spaces(search=...).",
    "/uploads": "This Hub keeps no attachments: commit the picture to the repo and link to it.",
    "/oauth/device": "This Hub has no login by device: create a token with hubkit hub token add.",
}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}


def _unavailable(path: str, reason: str) -> Route:
    """A route that answers every method with 501."""

    def unavailable(request: Request) -> Response:
        raise HTTPException(501, reason, headers={"Connection": "close"})

    route = Route("GET", path, unavailable)
    route.methods = _METHODS
    return route


ROUTES = [
    *(_unavailable(path + tail, reason) for path, reason in _REASONS.items() for tail in ("", "/{rest:path}")),
    _unavailable("/buckets/{ns}/{name}/resolve/{rest:path}", _REASONS["/api/buckets"]),
    _unavailable("/api/datasets/{ns}/{name}/leaderboard", "This Hub ranks no models: read the results on their cards."),
    _unavailable("/api/collections/{ns}/{slug}/resource-group", "This Hub has no resource groups: use organizations."),
]
