"""What a failed request means: the client's exceptions as ours, with a sentence, the next action and an exit code.

The server's message is shown and may choose the hint. It never decides the kind of error or its exit code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import TYPE_CHECKING

from hubkit.core.errors import ConflictError, HubkitError, RefusedError, RemoteError, UsageError
from hubkit.core.output import redact

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

AGAIN = "Run the same command again; finished steps are kept."


class TimedOut(RemoteError):
    """The Hub did not answer within the time allowed. It may have done what was asked."""


class MissingRevisionError(UsageError):
    """The repo has no such branch, tag or commit."""


class MissingFileError(UsageError):
    """The repo has no such file at that revision."""


class DamagedRepoError(ConflictError):
    """The embedded Hub found that what was asked for is damaged in its data folder, and did not send it."""


class Stalled(TimedOut):
    """An upload moved no byte for the time allowed. What is stored already is not sent again."""


class NotAnAnswer(RemoteError):
    """What came is no answer of the Hub's API, or contradicts another one: the Hub or a proxy is at fault."""


class Contradiction(NotAnAnswer):
    """Two answers of the Hub of which one must be false, or older than the other."""


def malformed(endpoint: str, what: str) -> NotAnAnswer:
    """The error of something that is not an answer of the Hub's API; ``what`` is wrong, without its full stop."""
    return NotAnAnswer(
        f"{endpoint} or a proxy sent something that is not an answer of the Hub API: {what}.", hint=_PROXY
    )


def contradiction(endpoint: str, what: str) -> Contradiction:
    """The error of two answers of which one must be false; ``what`` they say, without its full stop."""
    return Contradiction(f"{endpoint} or a proxy contradicts itself: {what}.", hint=_PROXY)


_PROXY = (
    "Run the same command again. If it fails again, check the address and whether the network requires a login, or"
    " changes what it passes on."
)


def unreachable(endpoint: str, error: BaseException) -> RemoteError:
    """The error of an address at which nobody answers."""
    return RemoteError(
        f"{endpoint} cannot be reached: {redact(str(error)) or type(error).__name__}.",
        hint="Check the address and the network, then run the same command again.",
    )


def origin_of(request: httpx2.Request) -> str:
    """``scheme://host:port`` of a request."""
    return f"{request.url.scheme}://{request.url.netloc.decode()}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what caused it, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


@contextmanager
def translated(endpoint: str, repo: str | None = None, revision: str | None = None) -> Iterator[None]:
    """Raise what a Hub's client raises in the block as a HubkitError about ``repo`` and ``revision``.

    Also for ``from_pretrained`` and ``load_dataset``, which wrap the client's exceptions in their own.
    """
    try:
        yield
    except HubkitError:
        raise
    except Exception as error:
        ours = explain(error, endpoint, repo, revision)
        if ours is None:
            raise
        raise ours from error


def explain(
    error: BaseException, endpoint: str, repo: str | None = None, revision: str | None = None
) -> HubkitError | None:
    """``error`` (or what caused it) as one of ours; None when it is not about a Hub."""
    import httpx2
    from huggingface_hub import errors as hub_errors

    for cause in causes(error):
        if isinstance(cause, HubkitError):
            return cause
        if isinstance(cause, JSONDecodeError):
            return malformed(endpoint, "it is not JSON (a login page?)")
        if isinstance(cause, httpx2.TooManyRedirects):
            return malformed(endpoint, "its redirects have no end")
        if isinstance(cause, httpx2.DecodingError):
            return malformed(endpoint, "its compression is damaged")
        if isinstance(cause, hub_errors.HfHubHTTPError):
            return _explain_answer(cause, endpoint, repo, revision)
        if isinstance(cause, hub_errors.OfflineModeIsEnabled):
            return RemoteError(
                f"HF_HUB_OFFLINE is set, so no request was sent to {endpoint}.",
                hint="Unset HF_HUB_OFFLINE and run the same command again.",
            )
        if isinstance(cause, hub_errors.HFValidationError):
            return UsageError(f"{redact(str(cause))}")
        if isinstance(cause, httpx2.TimeoutException):
            return TimedOut(f"{endpoint} did not answer in time.", hint="Run the same command again.")
        if isinstance(cause, httpx2.TransportError):
            return unreachable(endpoint, cause)
        if isinstance(cause, httpx2.InvalidURL):
            return UsageError(f"{endpoint} is not the address of a Hub: {cause}.")
    return None


def _explain_answer(error: HfHubHTTPError, endpoint: str, repo: str | None, revision: str | None) -> HubkitError:
    """One sentence for an answer that huggingface_hub turned into an exception."""
    from huggingface_hub import errors as hub_errors

    named = repo or getattr(error, "repo_id", None) or "the repo"
    if isinstance(error, hub_errors.GatedRepoError):
        return RefusedError(
            f"{named} is gated, and this token has no access to it.",
            hint=f"Request access at {endpoint}/{_folder(error)}{named}; a fine-grained token needs the right to read"
            " gated repos.",
        )
    if isinstance(error, hub_errors.DisabledRepoError):
        return RefusedError(f"{named} has been disabled on {endpoint}.")
    if isinstance(error, hub_errors.RepositoryNotFoundError) and not token_refused(error):
        return UsageError(
            f"There is no {named} on {endpoint}, or this token cannot see it.",
            hint="Check the name; a private repo needs a token that may read it.",
        )
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return MissingRevisionError(
            f"{named} has no revision {revision!r}." if revision else f"{named} has no such revision.",
            hint=f"`hubkit revisions list {named}` shows what it has.",
        )
    if isinstance(error, hub_errors.EntryNotFoundError):
        return MissingFileError(f"{named} has no such file{f' at {revision}' if revision else ''}.")
    return _explain_status(error.response.status_code, _server_words(error), endpoint, named)


def _explain_status(status: int, words: str, endpoint: str, named: str) -> HubkitError:
    """One sentence for the status of an answer and the server's message (``words``)."""
    reply = f" Its message: {words}." if words else ""
    if status == 401:
        return RefusedError(
            f"{endpoint} does not accept this token.{reply}",
            hint="It may have expired. Log in again with `hf auth login` (for the embedded Hub, give `--hub embedded`)"
            " and run the same command: finished steps are kept.",
        )
    if status == 402 or (status in {403, 413} and _about_room(words)):
        return RefusedError(f"{endpoint} requires a paid plan or more storage for {named}.{reply}", hint=_ROOM)
    if status == 403:
        return RefusedError(
            f"This token lacks permission for {named}.{reply}",
            hint="Use a token with write permission.",
        )
    if status == 412:
        return ConflictError(
            f"A branch of {named} was moved by someone else in the meantime.", hint="Run the command again."
        )
    if status == 409:
        return ConflictError(
            f"{endpoint} reports a conflict.{reply}", hint="Inspect the repo, then run the same command again."
        )
    if status == 507:
        return RemoteError(f"{endpoint} has no storage left.{reply}", hint="Run the same command again when it has.")
    if status == 520:
        return DamagedRepoError(
            f"{endpoint} cannot read {named}: its copy is damaged.",
            hint="On the machine of that Hub, `hubkit hub fsck` shows what is damaged; restore it or publish it again.",
        )
    if status in {408, 429} or status >= 500:
        return RemoteError(
            f"{endpoint} answered {status}{' (too many requests)' if status == 429 else ''}.{reply}",
            hint="Run the same command again in a while; finished steps are kept.",
        )
    if status in {400, 413, 422}:
        return RefusedError(f"{endpoint} refused this request for {named} (status {status}).{reply}")
    return HubkitError(
        f"{endpoint} answered {status} for {named}.{reply}",
        hint="Check the address: `hubkit doctor` shows whether it is a Hub.",
    )


_ROOM = (
    "Free storage there or upgrade the account (its billing settings), or change the recipe: a public repo has more"
    " storage than a private one, and a release needs no Space. Then run the same command again: no file is uploaded"
    " twice."
)


def _about_room(words: str) -> bool:
    """Whether a refusal is about room or money. It chooses the hint; the outcome is a refusal either way."""
    return any(word in words.lower() for word in ("storage", "quota", "billing", "upgrade", "paid plan", "pro plan"))


def token_refused(error: HfHubHTTPError) -> bool:
    """Whether a 401 is about the token: over https the client takes every 401 for a repo that is not there."""
    response = error.response
    sent = response.request.headers.get("authorization", "")
    return response.status_code == 401 and bool(sent) and response.headers.get("x-error-code") != "RepoNotFound"


def _folder(error: HfHubHTTPError) -> str:
    """The part of a page's address that stands before the repo's name."""
    return {"dataset": "datasets/", "space": "spaces/"}.get(str(getattr(error, "repo_type", "")), "")


def _server_words(error: HfHubHTTPError) -> str:
    """The server's own message on one line, shortened, without tokens."""
    return shortened(str(error.server_message or ""))


def shortened(words: str) -> str:
    """``words`` on one line, at most 300 characters, without tokens and without a stop at the end."""
    line = " ".join(redact(words).split()).rstrip(".")
    return line if len(line) <= 300 else line[:297] + "..."
