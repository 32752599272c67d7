"""Spaces over HTTP: runtime, secrets and variables, pause and restart, logs."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TextIO

import psutil
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from hubkit.core.processes.logs import older
from hubkit.server.database import now
from hubkit.server.http import SMALL_LIMIT, Body, Call, Handler, Refusal, Spec
from hubkit.server.info import card_of
from hubkit.server.routes.common import find_repo, forbidden, need_user, need_write
from hubkit.server.spacebuild import NOT_RUN
from hubkit.server.store import Repo

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_VALUE_LIMIT = 65_536
_BUILDING = ("BUILDING", "RUNNING_BUILDING")
_BEFORE_OR_IN_A_RUN = (*_BUILDING, "APP_STARTING", "RUNNING_APP_STARTING", "RUNNING")
_POLL_SECONDS = 0.3
_ALIVE_SECONDS = 15.0
_MARK_SECONDS = 1.5
"""After so much silence an empty event is sent, once: huggingface_hub's ``fetch_space_logs`` reads the log there is up
to the first event that is a second younger than the answer, else it waits for five."""
"""Longer than the 5 s of silence after which a client that does not follow believes to have read everything."""


def _need_member(call: Call) -> Repo:
    """The Space of the address; 403 for who does not belong to its namespace."""
    repo = find_repo(call)
    need_user(call)
    if call.hub.accounts.role_in(call.actor, repo.namespace) is None:
        raise forbidden(call, repo.namespace)
    return repo


def _need_writer(call: Call) -> Repo:
    repo = find_repo(call)
    need_write(call, repo)
    return repo


def _shown(call: Call, repo: Repo) -> Response:
    return JSONResponse(call.hub.spaces.runtime(repo))


def runtime(call: Call) -> Response:
    """The stage of the Space, and what belongs to it."""
    return _shown(call, find_repo(call))


def checked(key: Any, value: Any) -> tuple[str, str]:
    """Name and value of a secret or variable; 400 when a process cannot be given them."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise Refusal(400, "A key has letters, digits and '_', and does not begin with a digit.")
    if not isinstance(value, str) or len(value) > _VALUE_LIMIT or "\0" in value:
        raise Refusal(400, f"The value of {key} must be a text of at most {_VALUE_LIMIT:,} characters without NUL.")
    return key, value


def given_settings(call: Call) -> list[tuple[bool, str, str]]:
    """The ``secrets`` and ``variables`` (lists of ``{key, value}``) of an order for a new Space: secret, key, value."""
    found = []
    for name in ("secrets", "variables"):
        given = call.fields().get(name) or []
        if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
            raise Refusal(400, f"'{name}' must be a list of objects.")
        for item in given:
            found.append((name == "secrets", *checked(item.get("key"), item.get("value"))))
    return found


def begin(call: Call, repo: Repo, settings: list[tuple[bool, str, str]]) -> None:
    """A new Space gets its settings, and is run."""
    for secret, key, value in settings:
        call.hub.spaces.data.put(repo.uid, key, value, secret=secret)
    call.hub.spaces.changed(repo)


def _settings(secret: bool) -> tuple[Handler, Handler, Handler]:
    """The handlers that show, add and remove secrets or variables. A change runs the Space anew."""

    def show(call: Call) -> Response:
        repo = _need_member(call) if secret else find_repo(call)
        return JSONResponse(call.hub.spaces.data.shown(repo.uid, secret=secret))

    def add(call: Call) -> Response:
        repo = _need_writer(call)
        key, value = checked(call.fields().get("key"), call.fields().get("value"))
        description = call.fields().get("description")
        said = description[:1000] if isinstance(description, str) else None
        call.hub.spaces.data.put(repo.uid, key, value, secret=secret, description=said)
        call.hub.spaces.changed(repo)
        return show(call)

    def remove(call: Call) -> Response:
        repo = _need_writer(call)
        call.hub.spaces.data.drop(repo.uid, call.text("key"), secret=secret)
        call.hub.spaces.changed(repo)
        return show(call)

    return show, add, remove


def pause(call: Call) -> Response:
    """End the app until a restart is asked for."""
    repo = _need_writer(call)
    _need_app(call, repo)
    call.hub.spaces.pause(repo)
    return _shown(call, repo)


def restart(call: Call) -> Response:
    """Run it anew; ``factory``: what its requirements asked for is installed again too."""
    repo = _need_writer(call)
    _need_app(call, repo)
    call.hub.spaces.restart(repo, factory=call.flag("factory"))
    return _shown(call, repo)


def _need_app(call: Call, repo: Repo) -> None:
    """400 for a Space that this Hub does not run anyhow."""
    git = call.hub.store.git(repo)
    head = git.target("refs/heads/main")
    sdk = card_of(git, call.hub.store.path(repo), head).get("sdk") if head else None
    if sdk in NOT_RUN:
        raise Refusal(400, f"This Hub does not run sdk: {sdk}.")


def hardware(call: Call) -> Response:
    """Only the machine that the Hub itself runs on can be had."""
    repo = _need_writer(call)
    if call.text("flavor") != "cpu-basic":
        raise Refusal(400, "This Hub runs Spaces on its own machine; the only hardware is 'cpu-basic'.")
    return _sleep(call, repo, "sleepTimeSeconds")


def sleep_time(call: Call) -> Response:
    """Remember a sleep time. It is told, and that is all: this Hub puts no Space to sleep."""
    return _sleep(call, _need_writer(call), "seconds")


def _sleep(call: Call, repo: Repo, name: str) -> Response:
    seconds = call.fields().get(name)
    if seconds is not None:
        if not isinstance(seconds, int) or not -1 <= seconds < 2**31:
            raise Refusal(400, f"{name!r} must be a number of seconds, or -1 for never.")
        call.hub.spaces.data.set_sleep_time(repo.uid, seconds)
    return _shown(call, repo)


def _refused(sentence: str) -> Handler:
    def handler(call: Call) -> Response:
        _need_writer(call)
        raise Refusal(400, sentence)

    return handler


def hardware_list(call: Call) -> Response:
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


def templates(call: Call) -> Response:
    """This Hub has no templates."""
    return JSONResponse({"templates": []})


def quota(call: Call) -> Response:
    """This Hub has no ZeroGPU."""
    need_user(call)
    return JSONResponse({"base": 0, "current": 0})


def logs(call: Call) -> Response:
    """The ``run`` or ``build`` log as server-sent events: what there is, then what comes, as long as more may come."""
    repo, which = _need_member(call), call.params["which"]
    if which not in ("run", "build"):
        raise Refusal(404, "There are two logs: run and build.")
    going = _BUILDING if which == "build" else _BEFORE_OR_IN_A_RUN
    spaces = call.hub.spaces

    def more() -> bool:
        return not spaces.closing and spaces.stage(repo) in going

    path = call.hub.folder.spaces / repo.uid / f"{which}.log"
    return StreamingResponse(
        _events(path, more), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )  # fmt: skip


async def _events(path: Path, more: Callable[[], bool]) -> AsyncIterator[str]:
    reader, silent, marked = _Reader(path), 0.0, False
    try:
        while True:
            going = more()  # asked before the log is read: what the app said last is not lost
            if lines := await run_in_threadpool(reader.read):
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


class _Reader:
    """Reads a log that grows, and that is replaced when it is full or a new run begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = [file for name in (older(path), path) if (file := _opened(name))]
        self._rest = ""

    def read(self) -> list[str]:
        """The whole lines that came since the last call."""
        if not self._files and (first := _opened(self._path)):
            self._files = [first]
        found = ""
        while self._files:
            found += self._files[0].read()
            if len(self._files) == 1:
                if _is_at(self._files[0], self._path) or not (following := _opened(self._path)):
                    break
                self._files.append(following)
                found += self._files[0].read()  # what was written just before it was replaced
            self._files.pop(0).close()
        *lines, self._rest = (self._rest + found).split("\n")
        return [line for line in lines if line.startswith("{")]

    def close(self) -> None:
        """Close what is open."""
        for file in self._files:
            file.close()


def _opened(path: Path) -> TextIO | None:
    try:
        return path.open(encoding="utf-8", errors="replace", newline="\n")
    except FileNotFoundError:
        return None


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return True


def _api(method: str, tail: str, handler: Handler, body: Body = "none") -> Spec:
    return Spec(
        method, "/api/spaces/{ns}/{name}" + tail, handler, body, fixed={"kind": "spaces"}, limit=SMALL_LIMIT
    )  # fmt: skip


def _three(tail: str, handlers: tuple[Handler, Handler, Handler]) -> list[Spec]:
    show, add, remove = handlers
    return [_api("GET", tail, show), _api("POST", tail, add, "json"), _api("DELETE", tail, remove, "json")]


SPECS = [
    Spec("GET", "/api/spaces/hardware", hardware_list),
    Spec("GET", "/api/spaces/templates", templates),
    Spec("GET", "/api/spaces/zero-gpu/quota", quota),
    _api("GET", "/runtime", runtime),
    *_three("/secrets", _settings(secret=True)),
    *_three("/variables", _settings(secret=False)),
    _api("POST", "/pause", pause),
    _api("POST", "/restart", restart),
    _api("POST", "/hardware", hardware, "json"),
    _api("POST", "/sleeptime", sleep_time, "json"),
    _api("POST", "/dev-mode", _refused("This Hub has no dev mode for Spaces."), "json"),
    _api("PUT", "/volumes", _refused("This Hub mounts no volumes into Spaces."), "json"),
    _api("DELETE", "/volumes", _refused("This Hub mounts no volumes into Spaces.")),
    _api("GET", "/logs/{which}", logs),
]
