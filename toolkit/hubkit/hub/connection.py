"""One Hub, the token that was issued for it, and the two ways to send a request: a read, or a write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from hubkit.core.errors import UsageError
from hubkit.core.target import Target
from hubkit.core.trees import Entry
from hubkit.hub.errors import contradiction, explain, malformed, shortened, translated
from hubkit.hub.retry import agreed, retried

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
RepoType = Literal["model", "dataset", "space"]
Visibility = Literal["public", "private"]
Gated = Literal["auto", "manual", False]
"""Who may read the files of a repo: whoever asks, whoever is accepted, or (False) everybody who sees it."""


@dataclass(frozen=True)
class Connection:
    """A connection to one Hub. Created by :func:`hubkit.hub.client.connect`.

    ``api`` is huggingface_hub's client; only this package calls it.
    """

    target: Target
    api: HfApi
    _trees: dict[tuple[str, str, str], dict[str, Entry]] = field(default_factory=dict, repr=False, compare=False)
    """Trees that two routes of the Hub agreed about, by kind of repo, repo and commit: a commit never changes."""
    _infos: dict[tuple[str, str, str], dict[str, Entry]] = field(default_factory=dict, repr=False, compare=False)
    """Files of commits as the second route lists them, until they are compared."""

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

    def twice(self, read: Callable[[], T], what: str) -> T:
        """What ``read`` returns two times alike: for lists of which nothing else shows that they are whole."""

        def both() -> T:
            first = read()
            if read() != first:
                raise contradiction(self.endpoint, f"asked twice for {what}, it answered two things")
            return first

        return agreed(both)

    def requested(self, method: str, path: str, **options: Any) -> Any:
        """The JSON with which the Hub answers one request. Use it in what :meth:`query` or :meth:`send` calls."""
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        headers = build_hf_headers(
            token=self.target.token or False,
            library_name=self.api.library_name,
            library_version=self.api.library_version,
            headers=options.pop("headers", None),
        )
        response = get_session().request(method, f"{self.endpoint}/{path}", headers=headers, **options)
        hf_raise_for_status(response)
        return response.json()

    def _checked(self, call: Callable[[], T]) -> Callable[[], T]:
        """``call``; RemoteError for a response that is not what the Hub's API promises.

        A login page of the network is not JSON. Of JSON with other keys or types huggingface_hub raises whatever
        reading it happens to raise.
        """

        def checked() -> T:
            try:
                return call()
            except UnicodeEncodeError as error:  # about what is sent: a name from the command line, or from an answer
                words = ascii(error.object[max(0, error.start - 20) : error.end + 20])
                raise UsageError(f"{words} is not UTF-8, so it cannot be sent to {self.endpoint}.") from error
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                if explain(error, self.endpoint) is not None:
                    raise
                words = shortened(f"{type(error).__name__}: {error}")
                raise malformed(self.endpoint, f"reading it failed ({words})") from error

        return checked
