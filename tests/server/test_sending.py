"""Sending files over a real connection: ranges, a client that leaves, a file that changes, a disk that is slow."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from hubkit.server.http import sending
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.files import send_file
from hubkit.server.http.middleware import MetricsMiddleware
from hubkit.server.http.protocol import PatientProtocol
from hubkit.server.http.request import Request
from hubkit.server.metrics import Metrics

CONTENT = random.Random(0).randbytes(10_500)
MIB = 2**20


class Ends(Metrics):
    """Metrics that say when a request has ended: its status, and the bytes of its body that were sent."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = asyncio.Queue[tuple[int, int]]()

    def end(self, method: str, path: str, status: int, seconds: float, sent: int) -> None:
        super().end(method, path, status, seconds, sent)
        self.queue.put_nowait((status, sent))

    async def next(self) -> tuple[int, int]:
        return await asyncio.wait_for(self.queue.get(), 20)


class Client:
    """One connection to a server of :func:`serving`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, method: str = "GET", path: str = "/me/model/resolve/main/f", **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        first, *lines = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).decode().strip().split("\r\n")
        return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines)

    async def body(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), 20)

    async def rest(self) -> int:
        """How many bytes come until the server hangs up."""
        count = 0
        while piece := await asyncio.wait_for(self.reader.read(MIB), 20):
            count += len(piece)
        return count


Connect = Callable[[], Coroutine[Any, Any, Client]]


@asynccontextmanager
async def serving(
    path: Path, sha256: str = ""
) -> AsyncIterator[tuple[Callable[[], Coroutine[Any, Any, Client]], Ends]]:
    """A server that sends one file as the Hub does; a function that connects to it, and its metrics."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = Response(b"ok")
        if scope["path"] != "/other":
            try:
                response = send_file(Request(scope, hub=cast(Any, None)), path, {"ETag": '"1"'}, sha256=sha256)
            except HTTPException as error:
                response = error.response()
        await response(scope, receive, send)

    metrics = Ends()
    config = uvicorn.Config(
        cast(Any, MetricsMiddleware(app, metrics)), lifespan="off", log_config=None, access_log=False
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: PatientProtocol(config, ServerState(), {}), "127.0.0.1", 0)
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])))
        return clients[-1]

    try:
        yield connect, metrics
    finally:
        for client in clients:
            client.writer.close()
        server.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A short file."""
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that does not fit into the buffers of a connection."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(64 * MIB)
    return tmp_path / "large"


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a short file is sent in many steps."""
    monkeypatch.setattr(sending, "_WINDOW", 1000)
    monkeypatch.setattr(sending, "_PIECE", 300)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was read of files: first byte, and how many."""
    seen: list[tuple[int, int]] = []
    read = os.pread

    def pread(handle: int, count: int, start: int) -> bytes:
        piece = read(handle, count, start)
        seen.append((start, len(piece)))
        return piece

    monkeypatch.setattr(os, "pread", pread)
    return seen


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("sha256", ["", hashlib.sha256(CONTENT).hexdigest()])
def test_each_part_of_a_file_on_one_connection(file: Path, sha256: str) -> None:
    size = len(CONTENT)
    asked = [
        ("GET", {}, 200, CONTENT), ("HEAD", {}, 200, b""),
        ("GET", {"Range": "bytes=0-0"}, 206, CONTENT[:1]), ("GET", {"Range": "bytes=999-1000"}, 206, CONTENT[999:1001]),
        ("GET", {"Range": "bytes=1000-"}, 206, CONTENT[1000:]), ("GET", {"Range": "bytes=-7"}, 206, CONTENT[-7:]),
        ("GET", {"Range": "bytes=500-99999"}, 206, CONTENT[500:]), ("HEAD", {"Range": "bytes=5-8"}, 206, b""),
        ("GET", {"Range": "bytes=20000-"}, 416, None), ("GET", {"If-None-Match": '"1"'}, 304, b""),
        ("GET", {"Range": "bytes=5-8", "If-Range": '"2"'}, 200, CONTENT), ("GET", {}, 200, CONTENT),
    ]  # fmt: skip

    async def scene() -> None:
        async with serving(file, sha256) as (connect, metrics):
            client = await connect()
            for method, headers, status, body in asked:
                client.ask(method, **headers)
                found, given = await client.head()
                assert found == status, headers
                length = 0 if method == "HEAD" or status == 304 else int(given["content-length"])
                content = await client.body(length)
                assert body is None or content == body, (method, headers)
                if method == "HEAD":
                    assert given["content-length"] == ("4" if headers else str(size))
                assert await metrics.next() == (status, length), "the metric is what was sent"
            client.ask()
            client.ask(Range="bytes=1-")  # before the first is answered
            for whole in (CONTENT, CONTENT[1:]):
                await client.head()
                assert await client.body(len(whole)) == whole

    asyncio.run(scene())


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_nothing_is_read_for_a_client_that_has_gone(large: Path, sha256: str, reads: list[tuple[int, int]]) -> None:
    async def scene() -> None:
        async with serving(large, sha256) as (connect, metrics):
            for _ in range(3):
                client = await connect()
                client.ask()
                await client.head()
                await client.body(1000)
                client.writer.transport.abort()
            for _ in range(3):
                status, sent = await metrics.next()
                assert status == 200 and sent < 24 * MIB, "what was not sent is not counted"

    asyncio.run(scene())
    assert sum(count for _, count in reads) < 3 * 24 * MIB


def test_a_file_that_becomes_shorter_breaks_its_connection_alone(large: Path) -> None:
    async def scene() -> None:
        async with serving(large) as (connect, metrics):
            client, other = await connect(), await connect()
            client.ask()
            await client.head()
            await client.body(1000)
            os.truncate(large, MIB)
            received = 1000 + await client.rest()
            _, sent = await metrics.next()
            assert sent <= received < 64 * MIB
            other.ask()
            _, headers = await other.head()
            assert len(await other.body(int(headers["content-length"]))) == MIB

    asyncio.run(scene())


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("place", [0, 5000, len(CONTENT) - 1])
def test_a_damaged_file_never_arrives_whole(file: Path, place: int) -> None:
    """The last piece is kept back; a part of the file, which is not compared, is sent."""
    damaged = bytearray(CONTENT)
    damaged[place] ^= 1
    file.write_bytes(damaged)

    async def scene() -> None:
        async with serving(file, hashlib.sha256(CONTENT).hexdigest()) as (connect, metrics):
            client = await connect()
            client.ask()
            await client.head()
            received = await client.rest()
            assert received == 10_000 and await metrics.next() == (200, received)
            client = await connect()
            client.ask(Range="bytes=10000-")
            await client.head()
            assert await client.body(500) == damaged[10_000:]

    asyncio.run(scene())


@pytest.mark.usefixtures("small_windows")
def test_the_event_loop_does_not_wait_for_the_disk(
    file: Path, reads: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread has read what the kernel is told to send, window by window; others are answered meanwhile."""
    answers, read, send = threading.Event(), os.pread, os.sendfile

    def slow(handle: int, count: int, start: int) -> bytes:
        assert threading.current_thread() is not threading.main_thread() and answers.wait(20)
        return read(handle, count, start)

    def sendfile(out: int, handle: int, start: int, count: int) -> int:
        covered = {place for first, length in reads for place in range(first, first + length)}
        assert count <= 1000 and covered.issuperset(range(start, start + count))
        return send(out, handle, start, count)

    monkeypatch.setattr(os, "pread", slow)
    monkeypatch.setattr(os, "sendfile", sendfile)

    async def scene() -> None:
        async with serving(file) as (connect, metrics):
            client, other = await connect(), await connect()
            client.ask()
            await client.head()
            for _ in range(20):
                other.ask("GET", "/other")
                await other.head()
                assert await other.body(2) == b"ok" and await metrics.next() == (200, 2)
            assert not reads
            answers.set()
            assert await client.body(len(CONTENT)) == CONTENT
            assert await metrics.next() == (200, len(CONTENT))

    asyncio.run(scene())
