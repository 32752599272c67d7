"""HTTP errors as the Hub's clients understand them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import starlette.exceptions
from starlette.responses import JSONResponse, Response

DAMAGED = 520


class HTTPException(starlette.exceptions.HTTPException):
    """Starlette's HTTPException with ``code``, the ``X-Error-Code`` by which clients choose the error they raise."""

    def __init__(
        self, status_code: int, detail: str, code: str | None = None, *,
        headers: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(status_code, detail)
        self.code = code
        self.headers: dict[str, str] = dict(headers or {})
        self.body = dict(body or {})

    def response(self) -> Response:
        """The JSON response: ``{"error": detail}`` and ``body``, with the headers that clients read."""
        printable = "".join(char if " " <= char <= "~" else "?" for char in self.detail)
        headers = {"X-Error-Message": printable[:500].strip(), **self.headers}
        if self.code:
            headers["X-Error-Code"] = self.code
        if self.status_code == 401:
            headers.setdefault("WWW-Authenticate", 'Basic realm="Hub"')
        return JSONResponse({"error": self.detail, **self.body}, status_code=self.status_code, headers=headers)


def repo_damaged(name: str) -> HTTPException:
    """520 RepoDamaged: the repo of this name, or an object of it, cannot be read from the data folder.

    Not 500, which clients try again: that cannot help.
    """
    return HTTPException(
        DAMAGED, f"{name} is damaged in the Hub's data folder. See what is damaged: hubkit hub fsck", "RepoDamaged"
    )


def revision_not_found(revision: str) -> HTTPException:
    """404 RevisionNotFound."""
    return HTTPException(404, f"Invalid rev id: {revision}", "RevisionNotFound")
