"""One Hub, the token that was issued for it, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Literal, TypeVar

from hubkit.core.errors import RemoteError
from hubkit.core.target import Target
from hubkit.hub.transport import retried, translated

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
RepoType = Literal["model", "dataset", "space"]
Visibility = Literal["public", "private"]


@dataclass(frozen=True)
class Connection:
    """A connection to one Hub. Made by :func:`hubkit.hub.client.connect`."""

    target: Target
    api: HfApi

    @property
    def endpoint(self) -> str:
        """The Hub's address, without a slash at its end."""
        return self.target.endpoint

    def ask(self, call: Callable[[], T], *, repo: str | None = None, revision: str | None = None) -> T:
        """The answer to a question that changes nothing on the Hub; asked again when the Hub is busy."""
        with translated(self.endpoint, repo, revision):
            return retried(self._heard(call))

    def tell(self, call: Callable[[], T], *, repo: str | None = None, revision: str | None = None) -> T:
        """The answer to a request that writes: made once."""
        with translated(self.endpoint, repo, revision):
            return self._heard(call)()

    def _heard(self, call: Callable[[], T]) -> Callable[[], T]:
        """``call``; RemoteError when what answers speaks no JSON: a proxy's page, or no Hub at all."""

        def heard() -> T:
            try:
                return call()
            except JSONDecodeError as error:
                raise RemoteError(
                    f"{self.endpoint} did not answer as a Hub does.",
                    hint="Is it the address of a Hub, and no login page of the network in its place?",
                ) from error

        return heard
