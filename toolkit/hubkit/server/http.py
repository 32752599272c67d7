"""What every route shares: the call it gets, the refusals it raises, bounded reading of bodies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from hubkit.server.accounts import Actor
    from hubkit.server.app import Hub

SMALL_LIMIT = 2**20
"""For bodies that anybody may send: a parsed body takes many times the memory of its bytes."""
JSON_LIMIT = 8 * 2**20
COMMIT_LIMIT = 2**30
IDLE_SECONDS = 60.0
_BATCH = 2**20
# Half a character, written as an escape, is text that neither git nor a database can keep.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Refusal(Exception):
    """An answer that is not the wanted one. ``code`` becomes ``X-Error-Code``, which clients decide by."""

    def __init__(
        self, status: int, message: str, code: str | None = None, *,
        headers: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers, self.body = dict(headers or {}), dict(body or {})

    def response(self) -> Response:
        """The refusal as an HTTP answer."""
        text = "".join(char if " " <= char <= "~" else "?" for char in self.message)[:500].strip()
        headers = {"X-Error-Message": text, **self.headers}
        if self.code:
            headers["X-Error-Code"] = self.code
        if self.status == 401:
            headers.setdefault("WWW-Authenticate", 'Basic realm="Hub"')
        return JSONResponse({"error": self.message, **self.body}, status_code=self.status, headers=headers)


@dataclass(frozen=True)
class Spooled:
    """A body on disk: where, how long, its sha256."""

    path: Path
    size: int
    sha256: str


@dataclass
class Call:
    """One request, read and authenticated."""

    hub: Hub
    request: Request
    params: Mapping[str, str]
    actor: Actor | None
    value: Any = None
    form: FormData = field(default_factory=FormData)
    spooled: Spooled | None = None
    most: int | None = None
    """Bytes that the body may have, when the address says so; else the route's limit holds."""

    @property
    def query(self) -> QueryParams:
        """The query of the address."""
        return self.request.query_params

    @property
    def base(self) -> str:
        """``http://host:port`` as the client knows this server (the Host header has been checked)."""
        return f"http://{self.request.headers['host']}"

    def flag(self, name: str) -> bool:
        """Whether a query or form switch is on."""
        value = self.query.get(name, self.form.get(name, ""))
        return str(value).lower() in {"1", "true"}

    def fields(self) -> dict[str, Any]:
        """The JSON object of the body; 400 when it is something else."""
        if not isinstance(self.value, dict):
            raise Refusal(400, "The body must be a JSON object.")
        return self.value

    def text(self, name: str, default: str | None = None) -> str:
        """A string of the JSON body; 400 when it is missing (without ``default``) or not a string."""
        found = self.fields().get(name, default)
        if not isinstance(found, str):
            raise Refusal(400, f"{name!r} must be a string.")
        return found

    def next_page(self, **changes: str) -> dict[str, str]:
        """The ``Link`` header to the next page: this address with ``changes`` in its query."""
        pairs = [(key, value) for key, value in self.query.multi_items() if key not in changes]
        path = self.request.scope["raw_path"].decode("ascii")
        return {"Link": f'<{self.base}{path}?{urlencode([*pairs, *changes.items()])}>; rel="next"'}

    def limit(self, default: int, most: int) -> int:
        """The ``limit`` of the query, between 1 and ``most``."""
        return whole(self.query.get("limit"), default, least=1, most=most)


Handler = Callable[[Call], Response]
Body = Literal["none", "json", "form", "file"]


@dataclass(frozen=True)
class Spec:
    """One line of the route table. ``fixed`` are path parameters that the address does not spell out."""

    method: str
    path: str
    handler: Handler
    body: Body = "none"
    anonymous: bool = False
    fixed: Mapping[str, str] = field(default_factory=dict)
    limit: int = JSON_LIMIT
    before: Callable[[Call], None] | None = None
    """Refuses what can be refused before the body is read."""
    cookie: bool = False
    """Whether a browser's login counts here, for GET and HEAD."""


def whole(text: str | None, default: int, *, least: int = 0, most: int = 2**31) -> int:
    """``text`` as a number within bounds; ``default`` when absent, 400 when it is none."""
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise Refusal(400, f"{text[:40]!r} is not a number.")
    return max(least, min(most, int(text)))


def decoded(params: Mapping[str, str]) -> dict[str, str]:
    """Path parameters with their percent escapes undone, once; 400 when they are not UTF-8."""
    try:
        found = {key: unquote(value, errors="strict") for key, value in params.items()}
    except UnicodeDecodeError:
        raise Refusal(400, "The address is not UTF-8.") from None
    if any("\0" in value for value in found.values()):
        raise Refusal(400, "The address holds a NUL character.")
    return found


def parsed(body: bytes) -> Any:
    """``body`` as JSON; 400 for anything else, nesting without end included."""
    try:
        text = body.decode("utf-8")
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        raise Refusal(400, "The JSON is nested too deeply.") from None
    except ValueError as error:
        raise Refusal(400, f"The body is not valid JSON: {error}.") from None


async def chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body piece by piece: 413 beyond ``limit`` bytes, 408 when the client falls silent."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "Compressed bodies are not accepted.", headers={"Connection": "close"})
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise Refusal(413, f"The body may have {limit:,} bytes at most.", headers={"Connection": "close"})
    stream, total = request.stream(), 0
    while True:
        try:
            piece = await asyncio.wait_for(anext(stream), IDLE_SECONDS)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refusal(408, "The body stopped arriving.", headers={"Connection": "close"}) from None
        except ClientDisconnect:
            raise Refusal(400, "The client went away.") from None
        total += len(piece)
        if total > limit:
            raise Refusal(413, f"The body may have {limit:,} bytes at most.", headers={"Connection": "close"})
        yield piece


async def read_all(request: Request, limit: int) -> bytes:
    """The whole body in memory."""
    return b"".join([piece async for piece in chunks(request, limit)])


async def read_to_disk(request: Request, folder: Path, limit: int) -> Spooled:
    """The body in a new file below ``folder``, flushed to disk, with its sha256."""
    digest, size, waiting = hashlib.sha256(), 0, bytearray()
    handle, name = tempfile.mkstemp(dir=folder)

    def store(piece: bytes) -> None:
        digest.update(piece)
        file.write(piece)

    def finish() -> None:
        file.flush()
        os.fsync(file.fileno())

    with os.fdopen(handle, "wb") as file:
        try:
            async for piece in chunks(request, limit):
                waiting += piece
                size += len(piece)
                if len(waiting) >= _BATCH:
                    await run_in_threadpool(store, bytes(waiting))
                    waiting.clear()
            await run_in_threadpool(store, bytes(waiting))
            await run_in_threadpool(finish)
        except OSError as error:
            Path(name).unlink(missing_ok=True)
            # 507 and not 503: clients would try again at once what cannot work until there is room.
            raise Refusal(507, f"The Hub cannot store the body: {error.strerror}.") from error
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    return Spooled(Path(name), size, digest.hexdigest())
