"""The retry policy: what is sent to a Hub again, how often, and after how long. Carried out by tenacity.

    failure                                 attempts   wait before attempt 2, 3, 4 (seconds)
    the Hub cannot be reached               3          0.2, 0.4
    status 408, 429, 5xx but 507, 520       4          0.5, 1, 2, or what the Hub asks for when that is longer
    an upload of which no byte moves        3          1, 2
    no answer of the Hub's API (a page)     3          0.2, 0.4
    no answer within the time limit         1          its whole time limit was waited for already
    anything else                           1          the answer would be the same

Each wait gets a random part on top (up to a quarter of it, at most 1 s), so that clients that failed together do not
come back together. A Hub that asks (``Retry-After``, ``RateLimit``) for more than a minute is not waited for.

:func:`retried` is for reads. A write may have been carried out although its response was lost, so
:func:`write_and_verify` checks the Hub after every failure, before it writes again. :func:`polled` waits for a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
)

from hubkit.core.errors import HubkitError
from hubkit.hub.errors import Contradiction, NotAnAnswer, Stalled, TimedOut, causes

T = TypeVar("T")

LONGEST_WAIT = 60.0
"""Seconds that a Hub may ask a client to stay away; with more, the command ends and says when to come back."""
_JITTER_SHARE, _JITTER_MOST = 0.25, 1.0
_FOR_GOOD = frozenset([507, 520])
"""The disk of the Hub is full; the repo is damaged."""


@dataclass(frozen=True)
class Policy:
    """How one kind of failure is retried: ``attempts`` in all, ``wait`` seconds before the second.

    Later waits are ``factor`` times the one before, or ``step`` longer, and never shorter than ``at_least``.
    """

    attempts: int
    wait: float
    factor: float = 1.0
    step: float = 0.0
    at_least: float = 0.0

    def before(self, attempt: int) -> float:
        """Seconds to wait after the failed ``attempt`` (counted from 1), without the random part."""
        return max(self.wait * self.factor ** (attempt - 1) + self.step * (attempt - 1), self.at_least)


def policy_for(error: BaseException) -> Policy | None:
    """The policy for ``error``, by its cause; None when the same request must not be sent again."""
    import httpx2
    from huggingface_hub import errors as hub_errors

    for cause in causes(error):
        if isinstance(cause, Stalled):
            return Policy(3, wait=1.0, step=1.0)
        if isinstance(cause, NotAnAnswer | JSONDecodeError | httpx2.DecodingError):
            return Policy(3, wait=0.2, step=0.2)
        if isinstance(cause, TimedOut | httpx2.TimeoutException | hub_errors.OfflineModeIsEnabled):
            return None
        if isinstance(cause, hub_errors.HfHubHTTPError):
            status = cause.response.status_code
            if status in _FOR_GOOD or not (status in {408, 429} or status >= 500):
                return None
            asked = requested_wait(cause.response.headers) or 0.0
            return Policy(4, wait=0.5, factor=2.0, at_least=asked) if asked <= LONGEST_WAIT else None
        if isinstance(cause, httpx2.TransportError):
            return Policy(3, wait=0.2, step=0.2)
    return None


def retried(call: Callable[[], T]) -> T:
    """What ``call`` returns, called again as the policy says. Only for a call that changes nothing on the Hub."""
    return _retrying(lambda error: True)(call)


def agreed(call: Callable[[], T]) -> T:
    """What ``call`` returns, called again while the answers that it compares contradict each other."""
    return _retrying(lambda error: isinstance(error, Contradiction))(call)


def write_and_verify(write: Callable[[], object], verify: Callable[[HubkitError | None], T | None]) -> T | None:
    """Retry ``write`` until ``verify`` confirms its effect on the Hub.

    Returns what ``verify`` returned, or None if the write succeeded without effect. ``verify`` is called with the
    failure of the write, or with None after a success; it returns None when it finds no effect. After a failure the
    wait comes first, so that a busy Hub gets no request before it is over. Raises the failure when the write must not
    be repeated. An error raised by ``verify`` ends the retries.
    """
    failure: HubkitError | None = None
    write_failed = False

    def attempt() -> T | None:
        nonlocal failure, write_failed
        write_failed = False
        if failure is not None and (outcome := verify(failure)) is not None:
            return outcome
        try:
            write()
        except HubkitError as error:
            failure, write_failed = error, True
            raise
        return verify(None)

    try:
        return _retrying(lambda error: write_failed)(attempt)
    except HubkitError as error:
        if not write_failed or (outcome := verify(error)) is None:
            raise
        return outcome


def polled(check: Callable[[], T | None], *, every: float, timeout: float) -> T | None:
    """What ``check`` returns, called ``every`` so many seconds until that is not None; None after ``timeout``."""
    waiting = Retrying(
        retry=retry_if_result(lambda outcome: outcome is None),
        stop=stop_after_delay(timeout),
        wait=wait_fixed(every),
        retry_error_callback=lambda state: None,
    )
    return waiting(check)


def _retrying(eligible: Callable[[BaseException], bool]) -> Retrying:
    return Retrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, Exception) and eligible(error) and bool(policy_for(error))
        ),
        stop=_enough,
        wait=_pause,
        reraise=True,
    )


def _failure(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None
    return error


def _enough(state: RetryCallState) -> bool:
    policy = policy_for(_failure(state))
    return policy is None or state.attempt_number >= policy.attempts


def _pause(state: RetryCallState) -> float:
    from random import uniform

    policy = policy_for(_failure(state))
    wait = policy.before(state.attempt_number) if policy else 0.0
    return wait + uniform(0.0, min(wait * _JITTER_SHARE, _JITTER_MOST))


def requested_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Hub asks a client to stay away: the longer of ``Retry-After`` and ``RateLimit``; None: unknown.

    A date is read by the Hub's own clock (its ``Date``), which need not be right. What makes no sense is ignored.
    """
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    waits: list[float] = []
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        waits.append(float(value[:9]))
    elif (until := _date(value)) is not None:
        now = _date(headers.get("date", "")) or datetime.now(UTC)
        waits.append(max(0.0, (until - now).total_seconds()))
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        waits.append(limit.reset_in_seconds + 1.0)
    return max(waits, default=None)


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
