"""What only the embedded Hub offers: tokens that may only read, and a browser session for its owner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hubkit.core.errors import UsageError
from hubkit.core.output import hide
from hubkit.hub.auth import AuthCalls

T = TypeVar("T")


class EmbeddedCalls(AuthCalls):
    """The requests that no other Hub knows, as methods of a connection."""

    def reading_token(self, label: str) -> str:
        """A new token of the embedded Hub that may only read. Only its owner gets one; no other Hub issues any."""
        wanted = {"user": self._owner(), "role": "read", "label": label}
        issued = self._own("POST", "tokens", wanted, lambda answer: str(answer["token"]))
        hide(issued)
        return issued

    def tokens(self, label: str) -> list[str]:
        """The ids of the tokens of that label that the embedded Hub issued to its owner."""
        owner = self._owner()

        def read(accounts: Any) -> list[str]:
            mine = [token for known in accounts if known["name"] == owner for token in known.get("tokens", ())]
            return [str(token["id"]) for token in mine if token["label"] == label]

        return self._own("GET", "accounts", None, read)

    def revoke_tokens(self, ids: Sequence[str]) -> None:
        """Revoke these tokens of the embedded Hub's owner."""
        for token in ids:
            self._own("DELETE", f"tokens/{self._owner()}/{token}", None, lambda answer: None)

    def _owner(self) -> str:
        account = self.whoami()
        if account is None or not self.target.embedded:
            raise UsageError(f"{self.endpoint} issues no tokens to hubkit.", hint="Create one on its settings page.")
        return account.name

    def page_session(self, path: str) -> str:
        """An address of the embedded Hub that opens ``path`` in a browser as its owner, once and soon."""
        return self._own("POST", "session", {"next": path}, lambda answer: str(answer["url"]))

    def _own(self, method: str, path: str, value: Any, read: Callable[[Any], T]) -> T:
        """What ``read`` finds in the response to a request that no other Hub knows."""
        from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

        headers = {"authorization": f"Bearer {self.target.token}"}

        def send() -> T:
            response = get_session().request(method, f"{self.endpoint}/api/hubkit/{path}", headers=headers, json=value)
            hf_raise_for_status(response)
            return read(response.json())

        return self.send(send)
