"""The request that a handler gets: Starlette's, with the Hub, the caller and the body that was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import starlette.requests
from starlette.datastructures import FormData
from starlette.requests import empty_receive
from starlette.types import Receive, Scope

from hubkit.server.accounts.accounts import Actor
from hubkit.server.http.bodies import SpooledBody
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_int
from hubkit.server.hub import Hub


class Request(starlette.requests.Request):
    """A request whose body was read. ``actor`` is the caller, None without a token."""

    def __init__(self, scope: Scope, receive: Receive = empty_receive, *, hub: Hub, actor: Actor | None = None) -> None:
        super().__init__(scope, receive)
        self.hub, self.actor = hub, actor
        self.json_body: Any = None
        self.form_data = FormData()
        self.spooled: SpooledBody | None = None
        self.body_limit: int | None = None
        """Bytes that the body may have when the URL limits it; None: the route's limit holds."""
        self.at_end: list[Callable[[], None]] = []
        """What to call when the request has ended, however it ended."""

    @property
    def path_params(self) -> dict[str, str]:
        """The parameters of the path, percent escapes decoded, and those that the route fixes."""
        params: dict[str, str] = self.scope.get("path_params", {})
        return params

    @property
    def origin(self) -> str:
        """``http://host:port`` as the client knows this server (the Host header has been checked)."""
        return f"{self.scope.get('scheme', 'http')}://{self.headers['host']}"

    def flag(self, name: str) -> bool:
        """Whether a query parameter or form field is ``1`` or ``true``."""
        value = self.query_params.get(name, self.form_data.get(name, ""))
        return str(value).lower() in {"1", "true"}

    def json_object(self) -> dict[str, Any]:
        """The body, which must be a JSON object; otherwise HTTPException 400."""
        if not isinstance(self.json_body, dict):
            raise HTTPException(400, "The body must be a JSON object.")
        return self.json_body

    def json_string(self, name: str, default: str | None = None) -> str:
        """A string of the JSON body; 400 when it is missing (without ``default``) or not a string."""
        value = self.json_object().get(name, default)
        if not isinstance(value, str):
            raise HTTPException(400, f"{name!r} must be a string.")
        return value

    def expand(self) -> list[str]:
        """The fields that the query asks for with ``expand`` or ``expand[]``."""
        return self.query_params.getlist("expand") + self.query_params.getlist("expand[]")

    def page_size(self, default: int, most: int) -> int:
        """The ``limit`` of the query, between 1 and ``most``."""
        return parse_int(self.query_params.get("limit"), default, least=1, most=most)

    def next_page(self, **changes: str) -> dict[str, str]:
        """The ``Link`` header to the next page: this address with ``changes`` in its query."""
        pairs = [(key, value) for key, value in self.query_params.multi_items() if key not in changes]
        path = self.scope["raw_path"].decode("ascii")
        return {"Link": f'<{self.origin}{path}?{urlencode([*pairs, *changes.items()])}>; rel="next"'}
