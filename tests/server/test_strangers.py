"""Who else is on this machine: other programs, other web pages, connections that say nothing."""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import uvicorn
from huggingface_hub.utils import httpx
from uvicorn.server import ServerState

from hubkit.server import process
from hubkit.server.http.protocol import PatientProtocol, connections_allowed
from hubkit.server.process import Running
from hubkit.server.storage.folder import Folder


@contextmanager
def impostor(hub: Running) -> Iterator[int]:
    """A program that answers as the Hub does: it passes every question on."""

    class Relay(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = urllib.request.urlopen(hub.url + self.path).read()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    worker = threading.Thread(target=server.serve_forever, daemon=True)
    worker.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        worker.join()


def test_a_program_that_answers_like_the_hub_is_not_taken_for_it(hub: Running) -> None:
    said = httpx.get(f"{hub.url}/api/hubkit/status").json()
    assert set(said) == {"version", "pid", "faults", "spaces"}
    one, two = (httpx.get(f"{hub.url}/api/hubkit/status?nonce={digit * 32}").json()["proof"] for digit in "ab")
    assert one != two and process.status(hub.data) == hub
    state = Folder(hub.data).state
    kept = state.read_text()
    with impostor(hub) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/api/hubkit/status").json() == said
        state.write_text(json.dumps(json.loads(kept) | {"port": port, "url": f"http://127.0.0.1:{port}"}))
        assert process.status(hub.data) is None
    state.write_text(kept)
    assert process.status(hub.data) == hub


def test_stop_never_signals_the_process_that_an_old_state_names(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "hub")
    process.start(folder.root, port=0)
    process.stop(folder.root)
    state = json.loads(folder.state.read_text())
    with subprocess.Popen(["sleep", "100"]) as bystander:
        folder.state.write_text(json.dumps(state | {"pid": bystander.pid}))
        busy = sqlite3.connect(folder.database, isolation_level=None)
        busy.execute("BEGIN EXCLUSIVE")  # the server comes as far as its database, and waits there
        with subprocess.Popen([sys.executable, "-m", "hubkit.server", "--data", folder.root, "--port", "0"]) as server:
            deadline = time.monotonic() + 20
            while json.loads(folder.state.read_text())["pid"] != server.pid:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.005)
            assert process.stop(folder.root) and server.wait(10) != 0
        busy.close()
        assert bystander.poll() is None
        bystander.kill()


def test_nothing_in_the_data_folder_is_imported(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    for name in ("uvicorn", "json", "hubkit"):
        (tmp_path / "hub" / f"{name}.py").write_text("open('imported', 'w')")
    try:
        process.start(tmp_path / "hub", port=0)
        assert not (tmp_path / "hub" / "imported").exists()
    finally:
        process.stop(tmp_path / "hub")


SEC = "Sec-Fetch-"


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("GET", {"Origin": "http://evil.example"}, 403),
        ("GET", {"Origin": "null"}, 403),
        ("GET", {"Origin": "http://127.0.0.1:1"}, 403),
        ("GET", {"Origin": "http://localhost:{port}"}, 403),
        ("GET", {"Origin": "https://127.0.0.1:{port}"}, 403),
        ("GET", {"Origin": "http://127.0.0.1:{port}", SEC + "Site": "same-origin"}, 200),
        ("GET", {SEC + "Site": "none", SEC + "Mode": "navigate", SEC + "Dest": "document"}, 200),
        ("GET", {SEC + "Site": "cross-site", SEC + "Mode": "navigate", SEC + "Dest": "document"}, 200),
        ("GET", {SEC + "Site": "cross-site", SEC + "Mode": "navigate", SEC + "Dest": "iframe"}, 403),
        ("GET", {SEC + "Site": "cross-site", SEC + "Mode": "no-cors", SEC + "Dest": "image"}, 403),
        ("GET", {SEC + "Site": "same-site", SEC + "Mode": "no-cors"}, 403),
        ("GET", {SEC + "Site": "same-site", SEC + "Mode": "cors"}, 403),
        ("POST", {SEC + "Site": "cross-site", SEC + "Mode": "navigate", SEC + "Dest": "document"}, 403),
        ("POST", {"Origin": "http://evil.example", "Content-Type": "text/plain"}, 403),
    ],
)
def test_requests_of_other_pages_are_refused(
    raw: httpx.Client, method: str, headers: dict[str, str], status: int
) -> None:
    sent = {key: value.replace("{port}", str(raw.base_url.port)) for key, value in headers.items()}
    assert raw.request(method, "/api/hubkit/status", headers=sent).status_code == status


def test_a_connection_that_sends_no_whole_head_is_hung_up_on() -> None:
    class Hasty(PatientProtocol):
        HEAD_SECONDS = 0.2

    async def app(scope: object, receive: object, send: object) -> None:
        await asyncio.sleep(0.5)  # an answer may take longer than a head
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]

    async def scene() -> None:
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_keep_alive=10)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Hasty(config, ServerState(), {}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for said in (b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\nA"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            with pytest.raises(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
                raise ConnectionResetError
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in await asyncio.wait_for(reader.readuntil(b"ok"), 5)
        writer.write(b"GET /")  # the second head of a connection has no more time than the first
        with pytest.raises(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
            raise ConnectionResetError
        writer.close()
        server.close()

    asyncio.run(scene())


def test_it_has_room_for_many_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))  # the server starts with what its starter has
    try:
        running = process.start(tmp_path / "hub", port=0)
        assert psutil.Process(running.pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
        assert connections_allowed() == max(16, min(4000, hard // 2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        process.stop(tmp_path / "hub")
