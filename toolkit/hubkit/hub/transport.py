"""The wire to a Hub: every request bounded in time, tokens bound to their endpoint, made again when that is safe.

huggingface_hub shares one HTTP client in a process, and several of its calls ask for no time limit at all
(``timeout=None`` in ``HfApi.repo_info`` and others, 2.4.0). The client that :func:`install` puts in its place
sets the limits on the request itself, where they hold for every call, and for the calls that transformers and
datasets make.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.request import getproxies, proxy_bypass

from hubkit.core.errors import HubkitError, RefusedError, RemoteError, UsageError
from hubkit.core.output import hide
from hubkit.hub.answers import AGAIN, Stalled, TimedOut, chain, explain, origin_of, unreachable

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

DEFAULT_TIMEOUT = 30.0
"""Seconds without an answer after which a request is given up; ``HUBKIT_TIMEOUT`` sets another figure."""
_UPLOAD_FACTOR = 4
"""Longer for uploads: a Hub checks the digest of a large file before it answers."""
_LONGEST_WAIT = 60.0
"""Seconds that a ``Retry-After`` may ask for; with more, the command ends and says when to come back."""

_NO_ROOM = 507
"""The status of a full disk: it stays so."""

_HERE = ("127.0.0.1", "localhost")

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
    """Put the bounded client under huggingface_hub, and let ``token`` go to ``endpoint`` and nowhere else.

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
    """Give huggingface_hub its own client back, for a process that goes on without hubkit; forget all tokens."""
    global _installed
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    with _lock:
        _tokens.clear()
        if _installed:
            set_client_factory(default_client_factory)
            _installed = False


def _new_client() -> httpx2.Client:
    """A client as huggingface_hub's own (redirects followed, its hook kept), with limits and bound tokens.

    The hooks see every hop of a redirected request. A Hub on this machine is never asked through a proxy.
    """
    import httpx2
    from huggingface_hub.utils._http import hf_request_event_hook

    class BoundedClient(httpx2.Client):
        """Says in our own words what took too long: huggingface_hub would try httpx2's errors five times more."""

        def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            try:
                return super().send(request, **options)
            except httpx2.WriteTimeout as error:
                raise Stalled(
                    f"{origin_of(request)} took no byte of an upload for {seconds_allowed():g} s.", hint=AGAIN
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
            "request": [hf_request_event_hook, _limit, _bind_token],
            "response": [_refuse_other_host, _plain_wait],
        },
        follow_redirects=True,
        mounts=dict.fromkeys(f"all://{host}" for host in _HERE),
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
            f"{origin_of(request)} sends this request on to {named}, where its token does not belong.",
            hint=f"If the Hub has moved, name its new address: --hub {named}.",
        )


def _plain_wait(response: httpx2.Response) -> None:
    """Write how long a busy Hub wants to be left alone as plain seconds, which every reader of it understands.

    RemoteError when that is longer than anybody should wait here: huggingface_hub would.
    """
    if response.status_code not in {429, 503}:
        return
    wait = asked_wait(response.headers)
    if wait is None:
        return
    if wait > _LONGEST_WAIT:
        raise RemoteError(
            f"{origin_of(response.request)} answered {response.status_code} and wants to be left alone"
            f" for {wait:,.0f} s.",
            hint="Run the same command again after that; what was finished is kept.",
        )
    response.headers["retry-after"] = str(math.ceil(wait))


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Hub asks to be left alone: ``Retry-After`` or ``RateLimit``, the longer; None: it does not say.

    A date is taken by the Hub's own clock (its ``Date``), which need not be right. What makes no sense is not counted.
    """
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    waits: list[float] = []
    asked = headers.get("retry-after", "").strip()
    if asked.isascii() and asked.isdigit():
        waits.append(float(asked[:9]))
    elif (until := _moment(asked)) is not None:
        now = _moment(headers.get("date", "")) or datetime.now(UTC)
        waits.append(max(0.0, (until - now).total_seconds()))
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        waits.append(limit.reset_in_seconds + 1.0)
    return max(waits, default=None)


def _moment(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@contextmanager
def translated(endpoint: str, repo: str | None = None, revision: str | None = None) -> Iterator[None]:
    """Turn what a Hub's client raises in the block into a HubkitError about ``repo`` and ``revision``.

    Also for ``from_pretrained`` and ``load_dataset``, which wrap the client's exceptions in their own.
    """
    try:
        yield
    except HubkitError:
        raise
    except Exception as error:
        _raise(error, endpoint, repo, revision)


def _raise(error: Exception, endpoint: str, repo: str | None, revision: str | None) -> NoReturn:
    found = explain(error, endpoint, repo, revision)
    if found is None:
        raise error
    raise found from error


def pause_before_retry(error: BaseException, attempt: int) -> float | None:
    """Seconds to wait before the same request may be made again; None when it must not be.

    ``attempt`` counts from 1. An unreachable Hub gets three tries within a second (it may be starting), a busy
    one four, at least as far apart as it asks (:func:`asked_wait`), an upload that stalled three. One that does not
    answer gets no second chance: its limit has been waited for.
    """
    import httpx2
    from huggingface_hub import errors as hub_errors

    for cause in chain(error):
        if isinstance(cause, Stalled):
            return float(attempt) if attempt <= 2 else None
        if isinstance(cause, TimedOut | httpx2.TimeoutException | hub_errors.OfflineModeIsEnabled):
            return None
        if isinstance(cause, hub_errors.HfHubHTTPError):
            status = cause.response.status_code
            if attempt > 3 or status == _NO_ROOM or not (status in {408, 429} or status >= 500):
                return None
            wait = max(0.5 * 2.0 ** (attempt - 1), asked_wait(cause.response.headers) or 0.0)
            return wait if wait <= _LONGEST_WAIT else None
        if isinstance(cause, httpx2.TransportError):
            return 0.2 * attempt if attempt <= 2 else None
    return None


def retried(call: Callable[[], T]) -> T:
    """``call()``, made again when that is worth while. Only for what changes nothing on the Hub."""
    attempt = 1
    while True:
        try:
            return call()
        except Exception as error:
            wait = pause_before_retry(error, attempt)
            if wait is None:
                raise
        time.sleep(wait)
        attempt += 1


def reach(endpoint: str, seconds: float = 1.5) -> None:
    """RemoteError unless somebody listens at ``endpoint``, or its proxy passes a request on, within ``seconds``.

    Asked before anything is begun, so it is short and sends no token. A Hub that listens may take longer to answer.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise RemoteError(
            f"{endpoint} was not asked: HF_HUB_OFFLINE is set.", hint="Unset it and run the same command."
        )
    proxy = _proxy_for(endpoint)
    failed: list[Exception] = []

    def look() -> None:
        try:
            _look(endpoint, seconds, proxy)
        except Exception as error:
            failed.append(error)

    # In a thread: nothing bounds the time that a machine without a network looks for the address of a name.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds + 0.2)
    if thread.is_alive() or failed:
        cause = failed[0] if failed else TimeoutError(f"no answer within {seconds:g} s")
        raise unreachable(f"{endpoint} (through the proxy {proxy})" if proxy else endpoint, cause) from cause


def _proxy_for(endpoint: str) -> str | None:
    """``host:port`` of the proxy that a request to ``endpoint`` goes through (no password is shown)."""
    import httpx2

    url = httpx2.URL(endpoint)
    found = getproxies().get(url.scheme) or getproxies().get("all")
    if not found or url.host in _HERE or proxy_bypass(url.host):
        return None
    return httpx2.URL(found).netloc.decode()


def _look(endpoint: str, seconds: float, proxy: str | None) -> None:
    import httpx2

    if proxy:
        httpx2.head(endpoint, timeout=seconds)
    else:
        url = httpx2.URL(endpoint)
        socket.create_connection((url.host, url.port or {"https": 443}.get(url.scheme, 80)), seconds).close()
