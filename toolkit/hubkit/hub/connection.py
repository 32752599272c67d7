"""One Hub, the token that was issued for it, and the two ways to send a request: a read, or a write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Literal, TypeVar

from hubkit.core.errors import RemoteError
from hubkit.core.target import Target
from hubkit.hub.errors import translated
from hubkit.hub.retry import retried

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
RepoType = Literal["model", "dataset", "space"]
Visibility = Literal["public", "private"]


@dataclass(frozen=True)
class Connection:
    """A connection to one Hub. Created by :func:`hubkit.hub.client.connect`.

    ``api`` is huggingface_hub's client; only this package calls it.
    """

    target: Target
    api: HfApi

    @property
    def endpoint(self) -> str:
        """The Hub's address, without a slash at its end."""
        return self.target.endpoint

    def query(self, call: Callable[[], T], *, repo: str | None = None, revision: str | None = None) -> T:
        """The result of a ``call`` that changes nothing on the Hub; sent again as :mod:`hubkit.hub.retry` says."""
        with translated(self.endpoint, repo, revision):
            return retried(self._checked(call))

    def send(self, call: Callable[[], T], *, repo: str | None = None, revision: str | None = None) -> T:
        """The result of a ``call`` that writes; sent once."""
        with translated(self.endpoint, repo, revision):
            return self._checked(call)()

    def _checked(self, call: Callable[[], T]) -> Callable[[], T]:
        """``call``; RemoteError when the response is not JSON: a login page of the network, or no Hub at all."""

        def checked() -> T:
            try:
                return call()
            except JSONDecodeError as error:
                raise RemoteError(
                    f"{self.endpoint} is not a Hub: it returned non-JSON (a login page?).",
                    hint="Check the address and whether the network requires a login.",
                ) from error

        return checked
