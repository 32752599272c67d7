"""The HTTP client under huggingface_hub: every request has time limits, and a token goes to its endpoint only.

huggingface_hub shares one HTTP client in a process, and several of its calls set no time limit at all
(``timeout=None`` in ``HfApi.repo_info`` and others, 2.4.0). The client that :func:`install` replaces it with
sets the limits on the request itself, so that they hold for every call, and for the calls that transformers and
datasets make.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import RefusedError, RemoteError, UsageError
from hubkit.core.numbers import seconds
from hubkit.core.output import hide
from hubkit.hub import private_api
from hubkit.hub.errors import AGAIN, Stalled, TimedOut, origin_of, unreachable
from hubkit.hub.retry import LONGEST_WAIT, requested_wait

if TYPE_CHECKING:
    import httpx2

DEFAULT_TIMEOUT = 30.0
"""Seconds without an answer after which a request is given up; ``HUBKIT_TIMEOUT`` sets another figure."""
_UPLOAD_FACTOR = 4
"""Longer for uploads: a Hub checks the digest of a large file before it answers."""
LOCAL_HOSTS = ("127.0.0.1", "localhost")
"""Hosts that are never reached through a proxy."""

_tokens: dict[str, dict[str, Callable[[], str] | None]] = {}
"""By endpoint: its tokens, and how each is renewed."""
_lock = threading.Lock()
_installed = False


def seconds_allowed() -> float:
    """The time limit of one request: ``HUBKIT_TIMEOUT``, else :data:`DEFAULT_TIMEOUT`."""
    try:
        return max(0.1, float(os.environ.get("HUBKIT_TIMEOUT", DEFAULT_TIMEOUT)))
    except ValueError:
        raise UsageError(
            f"HUBKIT_TIMEOUT is {os.environ['HUBKIT_TIMEOUT']!r}, not a number of seconds.",
            hint="Write HUBKIT_TIMEOUT=30, or leave it out.",
        ) from None


def _origin(url: str) -> str:
    import httpx2

    parsed = httpx2.URL(url)
    return f"{parsed.scheme}://{parsed.host}:{parsed.port or {'https': 443}.get(parsed.scheme, 80)}"


def install(endpoint: str, token: str | None, renew: Callable[[], str] | None = None) -> None:
    """Install the client with limits under huggingface_hub; ``token`` is sent to ``endpoint`` and nowhere else.

    ``renew`` gives the token that holds in its place now, for one that does not live long.
    """
    global _installed
    from huggingface_hub import set_client_factory

    with _lock:
        known = _tokens.setdefault(_origin(endpoint), {})
        if token:
            known[token] = renew
            hide(token)
        if not _installed:
            set_client_factory(_new_client)
            _installed = True


def uninstall() -> None:
    """Restore huggingface_hub's own client, for a process that continues without hubkit; forget all tokens."""
    global _installed

    with _lock:
        _tokens.clear()
        if _installed:
            private_api.restore_default_client()
            _installed = False


def _new_client() -> httpx2.Client:
    """A client as huggingface_hub's own (redirects followed, its hook kept), with limits and bound tokens.

    The hooks see every hop of a redirected request. A Hub on this machine is never asked through a proxy.
    """
    import httpx2

    class BoundedClient(httpx2.Client):
        """Raises our own errors for timeouts: huggingface_hub would retry httpx2's five times."""

        def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            try:
                return super().send(request, **options)
            except httpx2.WriteTimeout as error:
                raise Stalled(
                    f"{origin_of(request)} accepted no byte of an upload for {seconds(seconds_allowed())}.", hint=AGAIN
                ) from error
            except httpx2.TimeoutException as error:
                raise TimedOut(
                    f"{origin_of(request)} did not answer in time ({request.method} {request.url.path}).", hint=AGAIN
                ) from error
            except httpx2.ConnectError as error:
                if request.method == "PUT":  # bytes on their way: be patient
                    raise
                raise unreachable(origin_of(request), error) from error

    return BoundedClient(
        event_hooks={
            "request": [private_api.request_hook(), _limit, _bind_token],
            "response": [_refuse_other_host, _wait_in_seconds],
        },
        follow_redirects=True,
        mounts=dict.fromkeys(f"all://{host}" for host in LOCAL_HOSTS),
    )


def _limit(request: httpx2.Request) -> None:
    """Fill the request's time limits (seconds); a shorter one that the caller asked for stays.

    The limit for writing holds for each piece: an upload may take hours, as long as bytes move.
    """
    allowed = seconds_allowed()
    sends_files = request.method == "PUT" or "/commit/" in request.url.path
    ours = {
        "connect": min(10.0, allowed),
        "pool": allowed,
        "read": allowed * (_UPLOAD_FACTOR if sends_files else 1),
        "write": allowed,
    }
    asked = request.extensions.get("timeout") or {}
    limits = {name: min(limit, asked.get(name) or limit) for name, limit in ours.items()}
    request.extensions = {**request.extensions, "timeout": limits}


def _bind_token(request: httpx2.Request) -> None:
    """Take the token off a request that goes to another endpoint than the one it was issued for.

    One that is renewed as time goes by is sent in its newest form.
    """
    header = request.headers.get("authorization", "")
    if not header:
        return
    origin = _origin(str(request.url))
    scheme, _, token = header.partition(" ")
    with _lock:
        known = dict(_tokens.get(origin, {})) if scheme.lower() == "bearer" else {}
    if token not in known:
        del request.headers["authorization"]
    elif (renew := known[token]) is not None:
        newest = renew()
        with _lock:
            _tokens.setdefault(origin, {})[newest] = renew
        request.headers["authorization"] = f"Bearer {newest}"


def _refuse_other_host(response: httpx2.Response) -> None:
    """RefusedError when a Hub's API sends a request on to another host; the contents of files may come from one."""
    if not response.has_redirect_location:
        return
    request, there = response.request, response.request.url.join(response.headers["location"])
    if _origin(str(there)) == _origin(str(request.url)):
        return
    path = request.url.path
    if path.startswith(("/api/", "/oauth/")) or "/info/lfs/" in path or request.method not in {"GET", "HEAD", "PUT"}:
        named = f"{there.scheme}://{there.netloc.decode()}"
        raise RefusedError(
            f"{origin_of(request)} redirects this request to {named}, for which the token was not issued.",
            hint=f"If the Hub has moved, use its new address: --hub {named}.",
        )


def _wait_in_seconds(response: httpx2.Response) -> None:
    """Rewrite ``Retry-After`` as a number of seconds, the one form that huggingface_hub's own retries read.

    RemoteError when that is longer than :data:`LONGEST_WAIT`: huggingface_hub would wait for it.
    """
    if response.status_code not in {429, 503}:
        return
    wait = requested_wait(response.headers)
    if wait is None:
        return
    if wait > LONGEST_WAIT:
        raise RemoteError(
            f"{origin_of(response.request)} answered {response.status_code} and asks clients to wait {seconds(wait)}.",
            hint="Run the same command again after that; finished steps are kept.",
        )
    response.headers["retry-after"] = str(math.ceil(wait))
