"""Spaces over HTTP: runtime, secrets and variables, pause and restart, logs."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from hubkit.server.http.access import find_readable_repo, find_repo, require_inspect, require_user, require_write
from hubkit.server.http.bodies import TEXT_LIMIT
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Body, Handler, Route
from hubkit.server.repos.facts import card_of
from hubkit.server.repos.store import Repo
from hubkit.server.spaces.build import NOT_RUN
from hubkit.server.spaces.data import Setting
from hubkit.server.spaces.logs import LogReader
from hubkit.server.storage.database import now

_BUILDING = ("BUILDING", "RUNNING_BUILDING")
_BEFORE_OR_IN_A_RUN = (*_BUILDING, "APP_STARTING", "RUNNING_APP_STARTING", "RUNNING")
_POLL_SECONDS = 0.3
_ALIVE_SECONDS = 15.0
_MARK_SECONDS = 1.5
"""Seconds without a line after which one empty event is sent: huggingface_hub's ``fetch_space_logs`` stops reading at
the first event that is a second younger than the response, and else only after 5 s of silence."""


def _find_as_member(request: Request) -> Repo:
    """The Space that the path names; 403 for those who may not read its logs."""
    repo = find_repo(request)
    require_inspect(request, repo)
    return repo


def _find_as_writer(request: Request) -> Repo:
    repo = find_repo(request)
    require_write(request, repo)
    return repo


def _runtime_response(request: Request, repo: Repo) -> Response:
    return JSONResponse(request.hub.spaces.runtime(repo))


def runtime(request: Request) -> Response:
    """The runtime of the Space: its stage, hardware, commit."""
    return _runtime_response(request, find_readable_repo(request))


def _settings(secret: bool) -> tuple[Handler, Handler, Handler]:
    """The handlers that list, add and remove secrets or variables. A change builds and starts the Space again."""

    def list_settings(request: Request) -> Response:
        repo = _find_as_member(request) if secret else find_readable_repo(request)
        return JSONResponse(request.hub.spaces.data.listed(repo.uid, secret=secret))

    def add(request: Request) -> Response:
        repo = _find_as_writer(request)
        request.hub.spaces.data.put(repo.uid, Setting.of(request.json_object(), secret=secret))
        request.hub.spaces.changed(repo)
        return list_settings(request)

    def remove(request: Request) -> Response:
        repo = _find_as_writer(request)
        request.hub.spaces.data.drop(repo.uid, request.json_string("key"), secret=secret)
        request.hub.spaces.changed(repo)
        return list_settings(request)

    return list_settings, add, remove


def pause(request: Request) -> Response:
    """Stop the app until a restart is requested."""
    repo = _find_as_writer(request)
    _require_app(request, repo)
    request.hub.spaces.pause(repo)
    return _runtime_response(request, repo)


def restart(request: Request) -> Response:
    """Build and start the Space again; ``factory``: reinstall its requirements too."""
    repo = _find_as_writer(request)
    _require_app(request, repo)
    request.hub.spaces.restart(repo, factory=request.flag("factory"))
    return _runtime_response(request, repo)


def _require_app(request: Request, repo: Repo) -> None:
    """400 for a Space of a kind that this Hub does not run."""
    git = request.hub.store.git(repo)
    head = git.target("refs/heads/main")
    sdk = card_of(git, head).get("sdk") if head else None
    if sdk in NOT_RUN:
        raise HTTPException(400, f"This Hub does not run sdk: {sdk}.")


def hardware(request: Request) -> Response:
    """Accept ``cpu-basic``, the machine of the Hub; 400 for anything else."""
    repo = _find_as_writer(request)
    if request.json_string("flavor") != "cpu-basic":
        raise HTTPException(400, "This Hub runs Spaces on its own machine; the only hardware is 'cpu-basic'.")
    return _sleep(request, repo, "sleepTimeSeconds")


def sleep_time(request: Request) -> Response:
    """Store a sleep time, which the runtime then reports. This Hub never suspends a Space."""
    return _sleep(request, _find_as_writer(request), "seconds")


def _sleep(request: Request, repo: Repo, name: str) -> Response:
    seconds = request.json_object().get(name)
    if seconds is not None:
        if not isinstance(seconds, int) or not -1 <= seconds < 2**31:
            raise HTTPException(400, f"{name!r} must be a number of seconds, or -1 for never.")
        request.hub.spaces.data.set_sleep_time(repo.uid, seconds)
    return _runtime_response(request, repo)


def _not_supported(message: str) -> Handler:
    def handler(request: Request) -> Response:
        _find_as_writer(request)
        raise HTTPException(400, message)

    return handler


def hardware_list(request: Request) -> Response:
    """One flavor: this machine."""
    memory = psutil.virtual_memory().total / 1e9
    return JSONResponse(
        [
            {
                "name": "cpu-basic", "prettyName": "The machine of this Hub", "cpu": f"{os.cpu_count() or 1} vCPU",
                "ram": f"{memory:.0f} GB", "accelerator": None, "unitCostMicroUSD": 0, "unitCostUSD": 0.0,
                "unitLabel": "minute",
            }
        ]
    )  # fmt: skip


def templates(request: Request) -> Response:
    """This Hub has no templates."""
    return JSONResponse({"templates": []})


def quota(request: Request) -> Response:
    """This Hub has no ZeroGPU."""
    require_user(request)
    return JSONResponse({"base": 0, "current": 0})


def logs(request: Request) -> Response:
    """The ``run`` or ``build`` log as server-sent events.

    The response ends when no more lines can come, or when the caller may read them no longer: it may last for days.
    """
    repo, which = find_repo(request), request.path_params["which"]
    actor, hub = require_inspect(request, repo), request.hub
    if which not in ("run", "build"):
        raise HTTPException(404, "Unknown log; available: run, build.")
    going = _BUILDING if which == "build" else _BEFORE_OR_IN_A_RUN
    spaces = hub.spaces

    def may_read() -> bool:
        current, caller = hub.store.by_uid(repo.uid), hub.accounts.numbered(actor.number)
        return current is not None and hub.permissions.may_inspect(caller, current)

    def more() -> bool:
        return not spaces.closing and spaces.stage(repo) in going

    path = hub.folder.spaces / repo.uid / f"{which}.log"
    return StreamingResponse(
        _events(path, more, may_read), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )  # fmt: skip


async def _events(path: Path, more: Callable[[], bool], may_read: Callable[[], bool]) -> AsyncIterator[str]:
    reader, silent, marked = LogReader(path), 0.0, False

    def read() -> list[str] | None:
        return reader.read() if may_read() else None

    try:
        while True:
            going = more()  # before the log is read, so that the last lines of the app are not lost
            lines = await run_in_threadpool(read)
            if lines is None:
                return
            if lines:
                silent = 0.0
                yield "".join(f"data: {line}\n\n" for line in lines)
            elif not going:
                return
            else:
                if silent >= _MARK_SECONDS and not marked:
                    marked = True
                    yield f"data: {json.dumps({'timestamp': now(), 'data': ''})}\n\n"
                if silent >= _ALIVE_SECONDS:
                    silent = 0.0
                    yield "data:\n\n"
                await asyncio.sleep(_POLL_SECONDS)
                silent += _POLL_SECONDS
    finally:
        reader.close()


def _api(method: str, tail: str, handler: Handler, body: Body = "none") -> Route:
    limit = 0 if body == "none" else TEXT_LIMIT
    return Route(
        method, "/api/spaces/{ns}/{name}" + tail, handler, body, path_params={"kind": "spaces"}, limit=limit
    )  # fmt: skip


def _three(tail: str, handlers: tuple[Handler, Handler, Handler]) -> list[Route]:
    show, add, remove = handlers
    return [_api("GET", tail, show), _api("POST", tail, add, "json"), _api("DELETE", tail, remove, "json")]


ROUTES = [
    Route("GET", "/api/spaces/hardware", hardware_list),
    Route("GET", "/api/spaces/templates", templates),
    Route("GET", "/api/spaces/zero-gpu/quota", quota),
    _api("GET", "/runtime", runtime),
    *_three("/secrets", _settings(secret=True)),
    *_three("/variables", _settings(secret=False)),
    _api("POST", "/pause", pause),
    _api("POST", "/restart", restart),
    _api("POST", "/hardware", hardware, "json"),
    _api("POST", "/sleeptime", sleep_time, "json"),
    _api("POST", "/dev-mode", _not_supported("This Hub has no dev mode for Spaces."), "json"),
    _api("PUT", "/volumes", _not_supported("This Hub mounts no volumes into Spaces."), "json"),
    _api("DELETE", "/volumes", _not_supported("This Hub mounts no volumes into Spaces.")),
    _api("GET", "/logs/{which}", logs),
]
