"""A Hub that means harm: what a real one answers, with a hostile word in every text; or nothing but hostile errors."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_NEEDED = re.compile(r"[0-9a-f]{7,64}|\d{4}-\d\d-\d\dT.*|https?://\S*|refs/\S+|")
"""Values without which a client gives up at once: ids, times, addresses, refs."""
_STRUCTURE = {"type", "rfilename", "path", "id", "modelId", "ref", "uploadMode", "sdk", "role"}
"""Keys whose values name what is asked for next."""


def poisoned(value: Any, word: str, *, names: bool, key: str = "") -> Any:
    """``value`` with ``word`` in each of its strings; in those that name things too when ``names``."""
    if isinstance(value, dict):
        return {name: poisoned(item, word, names=names, key=name) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, word, names=names, key=key) for item in value]
    if isinstance(value, str) and not _NEEDED.fullmatch(value) and (names or key not in _STRUCTURE):
        return value + word
    return value


@contextmanager
def hostile_hub(url: str, word: str) -> Iterator[dict[str, str]]:
    """A proxy of the Hub at ``url`` for the block: its addresses by manner.

    ``texts``: texts of answers are hostile; ``names``: names of files, branches and repos too; ``refuses``: each
    answer is an error of hostile words (status, reason, headers, body).
    """
    upstream = urlsplit(url)

    class Handler(BaseHTTPRequestHandler):
        manner = "texts"

        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length) if length else b""
            if self.manner == "refuses":
                self.refuse()
                return
            if self.path.endswith(("/logs/run", "/logs/build")):
                lines = "".join(f"data: {json.dumps({'timestamp': '2026', 'data': word + chr(10)})}\n\n" for _ in "ab")
                self.reply(200, {"content-type": "text/event-stream"}, lines.encode())
                return
            connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port)
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in {"host", "accept-encoding"}
            }
            connection.request(self.command, self.path, body or None, {**headers, "host": upstream.netloc})
            found = connection.getresponse()
            content = found.read()
            kept = {
                name.lower(): value.replace(url, self.server.url)  # type: ignore[attr-defined]
                for name, value in found.getheaders()
                if name.lower() not in {"content-length", "connection", "transfer-encoding"}
            }
            if "json" in kept.get("content-type", "") and "/resolve/" not in self.path:
                value = poisoned(json.loads(content or b"null"), word, names=self.manner == "names")
                content = json.dumps(value).encode()
            elif self.command == "HEAD":
                kept["content-length"] = found.getheader("content-length") or "0"
            kept["x-hf-warning"] = "seen; C1 \x9b31m and bell in a warning"
            self.reply(found.status, kept, content, reason="Fine \x9b32m")

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = answer

        def refuse(self) -> None:
            status = (403, 404, 401, 409, 400, 302, 418)[sum(self.path.encode()) % 7]  # a 5xx is asked again
            flat = word.replace("\r", " ").replace("\n", " ").encode("utf-8", "replace").decode("latin-1")
            flat = flat.translate(dict.fromkeys((0, 10, 13)))
            headers = {
                "x-error-message": flat,
                "x-error-code": flat,
                "x-hf-warning": f"t; {flat}",
                "location": "/\x9b31m",
            }
            page = f"<html><title>{word}</title><h1>{word}</h1>{word * 20}</html>"
            if sum(self.path.encode()) % 2:
                headers["content-type"], page = (
                    "application/json",
                    json.dumps({"error": word, "message": word, word: word}),
                )
            self.reply(status, headers, page.encode("utf-8", "replace"), reason=f"No {flat}")

        def reply(self, status: int, headers: dict[str, str], content: bytes, reason: str = "Fine") -> None:
            headers = {"content-length": str(len(content)), **headers, "connection": "close"}
            lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
            self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
            if self.command != "HEAD":
                self.wfile.write(content)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    servers = {}
    for manner in ("texts", "names", "refuses"):
        servers[manner] = ThreadingHTTPServer(("127.0.0.1", 0), type("Manner", (Handler,), {"manner": manner}))
        servers[manner].url = f"http://127.0.0.1:{servers[manner].server_port}"  # type: ignore[attr-defined]
        threading.Thread(target=servers[manner].serve_forever, daemon=True).start()
    try:
        yield {manner: server.url for manner, server in servers.items()}  # type: ignore[attr-defined]
    finally:
        for server in servers.values():
            server.shutdown()
            server.server_close()
