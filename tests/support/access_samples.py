"""Who asks a Hub: tokens of every kind, a CI service on loopback, and an address that only listens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from releases import admin

from hubkit.server.process import Running

READ, WRITE, DISCUSS = "repo.content.read", "repo.write", "discussion.write"


def scope(kind: str, name: str, *rights: str) -> dict[str, Any]:
    """One entry of a fine-grained token's ``scoped``."""
    return {"entity": {"type": kind, "name": name}, "permissions": list(rights)}


def fine_grained(hub: Running, user: str, *scopes: dict[str, Any], everywhere: tuple[str, ...] = ()) -> str:
    """A fine-grained token of ``user``."""
    grants = {"global": list(everywhere), "scoped": list(scopes)}
    return str(admin(hub, "POST", "tokens", {"user": user, "fineGrained": grants})["token"])


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An address that answers 404 to everything, and the headers of every request that came (with its ``:path``)."""
    heard: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            heard.append({**{k.lower(): v for k, v in self.headers.items()}, ":path": f"{self.command} {self.path}"})
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            heard[-1][":body"] = body.decode("utf-8", "replace")
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            pass

    with _served(Handler) as url:
        yield url, heard


@contextmanager
def _served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def deaf() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(50)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


class Issuer:
    """What GitHub Actions is to its jobs: it signs who they are. ``asked`` are the audiences that were asked for."""

    KEY, SECRET = "issuer-key", "request-" + "s3cr3t" * 4

    def __init__(self, claims: dict[str, Any]) -> None:
        self.claims, self.asked, self.wrong = claims, [], 0
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator[dict[str, str]]:
        """Serve; yields the variables of a job that may show who it is."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                audience = parse_qs(urlsplit(self.path).query).get("audience", [""])[0]
                right = self.headers.get("authorization") == f"Bearer {issuer.SECRET}"
                issuer.asked.append(audience)
                issuer.wrong += not right
                body = json.dumps({"value": issuer.sign(audience)} if right else {}).encode()
                self.send_response(200 if right else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with _served(Handler) as self.url:
            yield {
                "GITHUB_ACTIONS": "true",
                "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/token?api-version=2",
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self.SECRET,
            }

    def sign(self, audience: str) -> str:
        """An identity for one Hub."""
        said = {"aud": audience, "exp": time.time() + 300, **self.claims}
        head = ".".join(_part(json.dumps(item).encode()) for item in ({"alg": "HS256", "typ": "JWT"}, said))
        return f"{head}.{_part(hmac.new(self.KEY.encode(), head.encode(), hashlib.sha256).digest())}"


def _part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
