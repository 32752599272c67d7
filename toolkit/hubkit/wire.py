"""The wire to a Hub: every request bounded in time, tokens bound to their endpoint, errors in one sentence.

huggingface_hub shares one HTTP client in a process, and several of its calls ask for no time limit at all
(``timeout=None`` in ``HfApi.repo_info`` and others, 2.4.0). The client that :func:`install` puts in its place
sets the limits on the request itself, where they hold for every call, and for the calls that transformers and
datasets make.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hubkit.errors import ConflictError, HubkitError, RefusedError, RemoteError, UsageError
from hubkit.output import hide, redact

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

DEFAULT_TIMEOUT = 30.0
"""Seconds without an answer after which a request is given up; ``HUBKIT_TIMEOUT`` sets another figure."""
_UPLOAD_FACTOR = 4
"""Longer for uploads: a Hub checks the digest of a large file before it answers."""
_LONGEST_WAIT = 60.0
"""Seconds that a ``Retry-After`` may ask for; with more, the command ends and says when to come back."""

_tokens: dict[str, set[str]] = {}
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


def install(endpoint: str, token: str | None) -> None:
    """Put the bounded client under huggingface_hub, and let ``token`` go to ``endpoint`` and nowhere else."""
    global _installed
    from huggingface_hub import set_client_factory

    with _lock:
        known = _tokens.setdefault(_origin(endpoint), set())
        if token:
            known.add(token)
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
    """A client as huggingface_hub's own (redirects followed, its hook kept), with limits and bound tokens."""
    import httpx2
    from huggingface_hub.utils._http import hf_request_event_hook

    class BoundedClient(httpx2.Client):
        """Sets the time limit on each request and lets a token travel to its own endpoint only."""

        def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            _limit(request)
            _bind_token(request)
            try:
                return super().send(request, **options)
            # Not httpx2's exceptions: huggingface_hub would try five times more before it gives up.
            except httpx2.TimeoutException as error:
                raise TimedOut(
                    f"{_origin_of(request)} did not answer in time ({request.method} {request.url.path}).",
                    hint="Run the same command again; what was finished is kept.",
                ) from error
            except httpx2.ConnectError as error:
                if request.method == "PUT":  # bytes on their way: be patient
                    raise
                raise _unreachable(_origin_of(request), error) from error

    return BoundedClient(event_hooks={"request": [hf_request_event_hook]}, follow_redirects=True)


def _origin_of(request: httpx2.Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc.decode()}"


def _unreachable(endpoint: str, error: BaseException) -> RemoteError:
    return RemoteError(
        f"{endpoint} cannot be reached: {redact(str(error)) or type(error).__name__}.",
        hint="Check the address and the network, then run the same command again.",
    )


class TimedOut(RemoteError):
    """The Hub did not answer within the time allowed. It may have done what was asked."""


def _limit(request: httpx2.Request) -> None:
    """Fill the request's time limits (seconds); a shorter one that the caller asked for stays."""
    allowed = seconds_allowed()
    sends_files = request.method == "PUT" or "/commit/" in request.url.path
    ours = {
        "connect": min(10.0, allowed),
        "pool": allowed,
        "read": allowed * (_UPLOAD_FACTOR if sends_files else 1),
        "write": allowed * (2 if sends_files else 1),
    }
    asked = request.extensions.get("timeout") or {}
    limits = {name: min(limit, asked.get(name) or limit) for name, limit in ours.items()}
    request.extensions = {**request.extensions, "timeout": limits}


def _bind_token(request: httpx2.Request) -> None:
    """Take the token off a request that goes to another endpoint than the one it was issued for."""
    header = request.headers.get("authorization", "")
    if not header.lower().startswith("bearer "):
        return
    with _lock:
        if header[7:] not in _tokens.get(_origin(str(request.url)), set()):
            del request.headers["authorization"]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what caused it, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def explain(
    error: BaseException, endpoint: str, repo: str | None = None, revision: str | None = None
) -> HubkitError | None:
    """``error`` (or what caused it) as one of ours; None when it is not about a Hub."""
    import httpx2
    from huggingface_hub import errors as hub_errors

    for cause in _chain(error):
        if isinstance(cause, HubkitError):
            return cause
        if isinstance(cause, hub_errors.HfHubHTTPError):
            return _explain_answer(cause, endpoint, repo, revision)
        if isinstance(cause, hub_errors.OfflineModeIsEnabled):
            return RemoteError(
                f"{endpoint} was not asked: HF_HUB_OFFLINE is set.", hint="Unset it and run the same command."
            )
        if isinstance(cause, hub_errors.HFValidationError):
            return UsageError(f"{redact(str(cause))}")
        if isinstance(cause, httpx2.TimeoutException):
            return TimedOut(f"{endpoint} did not answer in time.", hint="Run the same command again.")
        if isinstance(cause, httpx2.TransportError):
            return _unreachable(endpoint, cause)
        if isinstance(cause, httpx2.InvalidURL):
            return UsageError(f"{endpoint} is not the address of a Hub: {cause}.")
    return None


def _explain_answer(error: Any, endpoint: str, repo: str | None, revision: str | None) -> HubkitError:
    """One sentence for an answer that huggingface_hub turned into an exception."""
    from huggingface_hub import errors as hub_errors

    status: int = error.response.status_code
    named = repo or _repo_in(error) or "the repo"
    if isinstance(error, hub_errors.GatedRepoError):
        return RefusedError(
            f"{named} is gated, and this token has no access to it.",
            hint=f"Ask for it at {endpoint}/{named}.",
        )
    if isinstance(error, hub_errors.DisabledRepoError):
        return RefusedError(f"{named} has been disabled on {endpoint}.")
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return UsageError(
            f"There is no {named} on {endpoint}, or this token cannot see it.",
            hint="Check the name; a private repo needs a token that may read it.",
        )
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return UsageError(
            f"{named} has no revision {revision!r}." if revision else f"{named} has no such revision.",
            hint=f"`hubkit revisions list {named}` shows what it has.",
        )
    if isinstance(error, hub_errors.EntryNotFoundError):
        return UsageError(f"{named} has no such file{f' at {revision}' if revision else ''}.")
    said = f" It says: {told}." if (told := _server_words(error)) else ""
    if status == 401:
        return RefusedError(
            f"{endpoint} does not accept this token.{said}",
            hint="Log in again (`hf auth login`; `hubkit hub token` for the embedded Hub) and run the command.",
        )
    if status == 402:
        return RefusedError(f"{endpoint} wants a paid plan or more quota for this.{said}")
    if status == 403:
        return RefusedError(
            f"This token may not do that with {named}.{said}",
            hint="Use a token with the right to write to it.",
        )
    if status == 412:
        return ConflictError(
            f"A branch of {named} was moved by somebody else in the meantime.", hint="Run the command again."
        )
    if status == 409:
        return ConflictError(f"{endpoint} reports a conflict.{said}")
    if status == 408 or status == 429 or status >= 500:
        return RemoteError(
            f"{endpoint} answered {status}{' (too many requests)' if status == 429 else ''}.{said}",
            hint="Run the same command again in a while; what was finished is kept.",
        )
    if status in {400, 413, 422}:
        return RefusedError(f"{endpoint} refuses this for {named} (status {status}).{said}")
    return HubkitError(f"{endpoint} answered {status} for {named}.{said}")


def _repo_in(error: Any) -> str | None:
    return getattr(error, "repo_id", None)


def _server_words(error: Any) -> str:
    """The server's own words, on one line, cut short, without tokens."""
    words = " ".join(redact(str(error.server_message or "")).split()).rstrip(".")
    return words if len(words) <= 300 else words[:297] + "..."


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
    one four, at least as far apart as its ``Retry-After`` or rate-limit header asks. One that does not answer
    gets no second chance: its limit has been waited for.
    """
    import httpx2
    from huggingface_hub import errors as hub_errors
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    for cause in _chain(error):
        if isinstance(cause, TimedOut | httpx2.TimeoutException | hub_errors.OfflineModeIsEnabled):
            return None
        if isinstance(cause, hub_errors.HfHubHTTPError):
            response = cause.response
            if attempt > 3 or not (response.status_code in {408, 429} or response.status_code >= 500):
                return None
            wait = 0.5 * 2.0 ** (attempt - 1)
            asked = response.headers.get("retry-after", "").strip()
            if asked.isdigit():
                wait = float(asked)
            elif (limit := parse_ratelimit_headers(response.headers)) and limit.remaining == 0:
                wait = limit.reset_in_seconds + 1.0
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
