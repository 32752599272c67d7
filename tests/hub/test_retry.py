"""The retry policy by itself: what is retried, how often, and after how long."""

from collections.abc import Callable, Iterator

import httpx2
import pytest
import tenacity.nap
from huggingface_hub.errors import HfHubHTTPError

from hubkit.core.errors import ConflictError, HubkitError, RefusedError, RemoteError
from hubkit.hub.errors import Stalled, TimedOut, explain
from hubkit.hub.retry import policy_for, polled, requested_wait, retried, write_and_verify


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The seconds that were waited, in order; nobody waits them."""
    seconds: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", seconds.append)
    yield seconds


def status(code: int, **headers: str) -> HfHubHTTPError:
    """The client's exception for a response of that status."""
    request = httpx2.Request("GET", "http://hub.test/api/models/me/model")
    response = httpx2.Response(code, headers={key.replace("_", "-"): value for key, value in headers.items()})
    response.request = request
    return HfHubHTTPError(f"status {code}", response=response)


def failing(error: Callable[[], Exception]) -> tuple[list[int], Callable[[], int]]:
    """A list that grows with each call, and a call that always fails."""
    calls: list[int] = []

    def call() -> int:
        calls.append(1)
        raise error()

    return calls, call


@pytest.mark.parametrize(
    "error, attempts, expected",
    [
        (lambda: status(503), 4, [0.5, 1.0, 2.0]),
        (lambda: status(429, retry_after="7"), 4, [7.0, 7.0, 7.0]),
        (lambda: status(429, RateLimit='"api";r=0;t=4'), 4, [5.0, 5.0, 5.0]),
        (lambda: status(408), 4, [0.5, 1.0, 2.0]),
        (lambda: status(507), 1, []),
        (lambda: status(429, retry_after="3600"), 1, []),
        (lambda: status(404), 1, []),
        (lambda: status(403), 1, []),
        (lambda: httpx2.ConnectError("nobody"), 3, [0.2, 0.4]),
        (lambda: httpx2.ReadTimeout("late"), 1, []),
        (lambda: Stalled("no byte"), 3, [1.0, 2.0]),
        (lambda: TimedOut("no answer"), 1, []),
        (lambda: RefusedError("no"), 1, []),
        (lambda: ValueError("a bug"), 1, []),
    ],
)
def test_what_is_retried_and_how_often(
    waits: list[float], error: Callable[[], Exception], attempts: int, expected: list[float]
) -> None:
    calls, call = failing(error)
    with pytest.raises(type(error())):
        retried(call)
    assert len(calls) == attempts and len(waits) == len(expected)
    for waited, least in zip(waits, expected, strict=True):
        assert least <= waited <= least + min(least / 4, 1.0), "the random part is added, and never shortens a wait"


def test_the_cause_decides_whatever_it_is_wrapped_in() -> None:
    inner = status(503)
    outer = explain(inner, "http://hub.test", "me/model")
    assert isinstance(outer, RemoteError)
    try:
        raise outer from inner
    except RemoteError as error:
        assert policy_for(error) is not None


def test_an_interruption_is_never_retried(waits: list[float]) -> None:
    def call() -> None:
        try:
            raise status(503)
        except HfHubHTTPError:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        retried(call)
    assert waits == []


class Branch:
    """A branch whose writes fail as told; ``carried_out`` are the writes that reach it even so."""

    def __init__(self, failures: list[HubkitError | None], carried_out: set[int] | None = None) -> None:
        self.failures, self.carried_out = failures, carried_out or set()
        self.written, self.done, self.looks = 0, False, 0

    def write(self) -> None:
        number, self.written = self.written, self.written + 1
        failure = self.failures[min(number, len(self.failures) - 1)]
        self.done = self.done or failure is None or number in self.carried_out
        if failure is not None:
            raise failure

    def look(self, failure: HubkitError | None) -> str | None:
        self.looks += 1
        return "head" if self.done else None


def busy() -> RemoteError:
    error = RemoteError("busy")
    error.__cause__ = status(503)
    return error


def test_a_write_whose_answer_was_lost_is_not_sent_again(waits: list[float]) -> None:
    branch = Branch([busy()], carried_out={0})
    assert write_and_verify(branch.write, branch.look) == "head"
    assert branch.written == 1 and len(waits) == 1, "a busy Hub is left alone before it is asked"


def test_a_lost_answer_that_is_not_retried_is_looked_at_too(waits: list[float]) -> None:
    branch = Branch([TimedOut("no answer")], carried_out={0})
    assert write_and_verify(branch.write, branch.look) == "head"
    assert branch.written == 1 and waits == []


def test_a_write_that_did_not_come_about_is_sent_again(waits: list[float]) -> None:
    branch = Branch([busy(), busy(), None])
    assert write_and_verify(branch.write, branch.look) == "head" and branch.written == 3


def test_the_failure_is_raised_in_the_end(waits: list[float]) -> None:
    failure = busy()
    branch = Branch([failure])
    with pytest.raises(RemoteError) as caught:
        write_and_verify(branch.write, branch.look)
    assert caught.value is failure and branch.written == 4 and branch.looks == 4


def test_what_looking_raises_ends_it(waits: list[float]) -> None:
    branch, failure = Branch([busy()]), busy()

    def look(_: HubkitError | None) -> str | None:
        raise ConflictError("moved") from failure

    with pytest.raises(ConflictError):
        write_and_verify(branch.write, look)
    assert branch.written == 1

    def lost(cause: HubkitError | None) -> str | None:
        assert cause is not None
        raise cause

    branch = Branch([busy()])
    with pytest.raises(RemoteError):
        write_and_verify(branch.write, lost)
    assert branch.written == 1, "a Hub that cannot be asked any more gets no second write"


def test_a_good_answer_without_an_outcome_is_none(waits: list[float]) -> None:
    assert write_and_verify(lambda: None, lambda failure: None) is None


def test_polling_ends_with_what_came_about_or_with_none(waits: list[float]) -> None:
    states = iter([None, None, "up"])
    assert polled(lambda: next(states), every=1.0, timeout=60.0) == "up" and waits == [1.0, 1.0]
    assert polled(lambda: None, every=1.0, timeout=0.0) is None


def test_nonsense_in_a_header_is_ignored() -> None:
    assert requested_wait({"retry-after": "soon"}) is None
    assert requested_wait({}) is None
    assert requested_wait({"retry-after": "2", "RateLimit": '"api";r=0;t=9'}) == 10.0
