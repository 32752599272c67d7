"""A proxy between a client and a Hub that lies: it forwards everything, and replaces the answers that a test chooses.

    proxy = LyingProxy("http://127.0.0.1:8750")
    proxy.listen(tell(number, LIES["flipped byte"]))     # one answer, counted from 0
    ...                                                  # the client's endpoint is proxy.url
    proxy.asked                                          # what was requested, and which lie was told to it

The Hub builds its addresses (LFS, Location, Link) from the Host of the request, which is the proxy's, so that all
traffic comes this way; an answer that names the Hub's own address is an error of the test.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})
_LOOP = "/sent-around-for-ever"
_ID = re.compile(r"(?<![0-9a-f])([0-9a-f]{64}|[0-9a-f]{40})(?![0-9a-f])")
_PAGE = b"<html><head><title>Sign in to the network</title></head><body>Please accept the terms of use.</body></html>"


@dataclass(frozen=True)
class Answer:
    """A response: ``cut`` means that the connection ends in the middle of the body that was announced."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    cut: bool = False

    @property
    def json(self) -> Any:
        """The body as JSON; None when it is none."""
        try:
            return json.loads(self.body) if self.is_json else None
        except ValueError:
            return None

    @property
    def is_json(self) -> bool:
        """Whether it says that it is JSON."""
        return any(name.lower() == "content-type" and "json" in value for name, value in self.headers)

    def saying(self, value: Any) -> Answer:
        """The same with ``value`` as its JSON body."""
        return replace(self, body=json.dumps(value).encode())


@dataclass(frozen=True)
class Asked:
    """A request: its number, its method and route (ids of commits and objects left out), and the lie told to it."""

    number: int
    route: str
    lie: str | None


@dataclass
class Situation:
    """What a liar knows: the request, and what it has heard before (by route, and last of all)."""

    method: str
    path: str
    origin: str
    forward: Callable[[], Answer]
    same_route: Answer | None
    last: Answer | None

    @property
    def writes(self) -> bool:
        """Whether the request may change the Hub."""
        reading = ("/paths-info/", "/preupload/", "/info/lfs/", "/validate-yaml")
        return self.method not in {"GET", "HEAD"} and not any(part in self.path for part in reading)


Lie = Callable[[Situation], Answer | None]
"""Makes the false answer; None where the lie is not possible (nothing was heard that could be repeated)."""


def _flipped_byte(at: Situation) -> Answer | None:
    true = at.forward()
    middle = len(true.body) // 2
    body = bytearray(true.body)
    if not body:
        return None
    body[middle] ^= 1
    return replace(true, body=bytes(body))


def _half(at: Situation) -> Answer | None:
    """Half of the answer in sound framing: half of each list, where there is one, and else half of the bytes."""
    true = at.forward()
    value = true.json
    if isinstance(value, list) and value:
        return true.saying(value[: len(value) // 2])
    if isinstance(value, dict) and any(isinstance(item, list) and item for item in value.values()):
        halved = {key: item[: len(item) // 2] if isinstance(item, list) else item for key, item in value.items()}
        return true.saying(halved)
    return replace(true, body=true.body[: len(true.body) // 2]) if true.body else None


def _cut_off(at: Situation) -> Answer | None:
    true = at.forward()
    return replace(true, cut=True) if true.body else None


def _page(at: Situation) -> Answer:
    return Answer(200, (("content-type", "text/html"),), _PAGE)


def _empty(at: Situation) -> Answer | None:
    """Nothing, in the form of the true answer: ``[]``, ``{}`` or no bytes."""
    true = at.forward()
    empty = b"[]" if isinstance(true.json, list) else b"{}" if isinstance(true.json, dict) else b""
    return replace(true, body=empty) if empty != true.body else None


def _wrong_form(at: Situation) -> Answer:
    """``{}`` for a list, ``[]`` for an object, ``null`` for bytes."""
    true = at.forward()
    form = b"{}" if isinstance(true.json, list) else b"[]" if isinstance(true.json, dict) else b"null"
    return Answer(200, (("content-type", "application/json"),), form)


def _from_memory(at: Situation) -> Answer | None:
    """The earlier answer to the same route; a write that was heard for the first time is said to have succeeded.

    Nothing is forwarded.
    """
    if at.same_route is not None:
        return at.same_route
    if not at.writes:
        return None
    made = {
        "success": True, "commitOid": "5" * 40, "commitUrl": f"{at.origin}/commit/{'5' * 40}", "hookOutput": "",
        "url": f"{at.origin}/them/it", "pullRequestUrl": f"{at.origin}/them/it/discussions/1",
    }  # fmt: skip
    return Answer(200, (("content-type", "application/json"),), json.dumps(made).encode())


def _of_another(at: Situation) -> Answer | None:
    """The answer before this one, whatever it was about."""
    at.forward()
    return at.last


def _not_there(at: Situation) -> Answer:
    code = "EntryNotFound" if "/resolve/" in at.path else "RepoNotFound"
    if re.search(r"/(tree|revision|commits|paths-info|commit)/", at.path):
        code = "RevisionNotFound"
    said = (("content-type", "application/json"), ("x-error-code", code), ("x-error-message", "Not found"))
    return Answer(404, said, b'{"error": "Not found"}')


def _bad_gateway(at: Situation) -> Answer:
    at.forward()
    return Answer(502, (("content-type", "text/html"),), b"<html><h1>502 Bad Gateway</h1></html>")


def _sent_around(at: Situation) -> Answer:
    return Answer(307, (("location", f"{at.origin}{_LOOP}"),), b"")


def _wrong_ids(at: Situation) -> Answer | None:
    """Each id of a commit, blob or object in the answer and its headers with another last digit."""
    true = at.forward()
    body = _ID.sub(_other_id, true.body.decode("latin-1")).encode("latin-1") if true.is_json else true.body
    headers = tuple((name, _ID.sub(_other_id, value)) for name, value in true.headers if name != "location")
    headers += tuple((name, value) for name, value in true.headers if name == "location")
    changed = replace(true, body=body, headers=headers)
    return changed if changed != true else None


def _other_id(match: re.Match[str]) -> str:
    return match[0][:-1] + format(15 - int(match[0][-1], 16), "x")


LIES: Mapping[str, Lie] = {
    "flipped byte": _flipped_byte,
    "half": _half,
    "cut off": _cut_off,
    "page": _page,
    "empty": _empty,
    "wrong form": _wrong_form,
    "from memory": _from_memory,
    "of another": _of_another,
    "not there": _not_there,
    "bad gateway": _bad_gateway,
    "sent around": _sent_around,
    "wrong ids": _wrong_ids,
}
"""The twelve lies.

Flipped byte: one bit of the middle byte. Half: in sound framing, so that only a digest or a count shows it. Cut off:
the connection ends in the middle. Page: a login page with 200. Empty and wrong form: ``[]``, ``{}``, ``null``. From
memory: an earlier answer, or a made-up success, and the request goes nowhere. Of another: the answer before. Not
there: 404 in the Hub's own words. Bad gateway: 502 after the Hub has done it. Sent around: redirects without end.
Wrong ids: well-formed, but about other commits and objects.
"""

Plan = Callable[[int, str], str | None]
"""Which lie, by name, is told to the request of this number and route; None: the truth."""


def truth(number: int, route: str) -> str | None:
    """A plan: no lie at all."""
    return None


def once(lie: str, route: str, occurrence: int) -> Plan:
    """A plan: ``lie`` is told to the request of ``route`` that comes after ``occurrence`` others of that route."""
    seen = 0

    def plan(number: int, asked: str) -> str | None:
        nonlocal seen
        if asked != route:
            return None
        seen += 1
        return lie if seen == occurrence + 1 else None

    return plan


def always(lie: str, route: str) -> Plan:
    """A plan: ``lie`` is told to every request of ``route``, for ever."""
    return lambda number, asked: lie if asked == route else None


def chaos(seed: int, share: float) -> Plan:
    """A plan: each answer is a lie with the probability ``share``, any of the twelve."""
    dice = random.Random(seed)
    names = list(LIES)
    return lambda number, asked: dice.choice(names) if dice.random() < share else None


@dataclass
class LyingProxy:
    """The proxy, listening on a port of this machine in threads of this process. Close it with :meth:`close`."""

    upstream: str
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _connections: threading.local = field(default_factory=threading.local, repr=False)

    def __post_init__(self) -> None:
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._hub = urlsplit(self.upstream)
        self.listen(truth)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def listen(self, plan: Plan) -> None:
        """Forget what was asked, and follow ``plan`` from now on."""
        with self._lock:
            self._plan = plan
            self.asked: list[Asked] = []
            self._heard: dict[str, Answer] = {}
            self._last: Answer | None = None

    def stop_lying(self) -> None:
        """Tell the truth from now on; what was asked is kept."""
        with self._lock:
            self._plan = truth

    @property
    def lied(self) -> bool:
        """Whether any lie was told."""
        return any(item.lie for item in self.asked)

    def answer(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """The answer to a request: the Hub's, or a lie."""
        if path == _LOOP:
            return Answer(307, (("location", f"{self.url}{_LOOP}"),), b"")
        route = route_of(method, path)
        with self._lock:
            number = len(self.asked)
            lie = self._plan(number, route)
            self.asked.append(Asked(number, route, lie))
            heard, last = self._heard.get(route), self._last
        forwarded: list[Answer] = []

        def forward() -> Answer:
            if not forwarded:
                forwarded.append(self._forward(method, path, headers, body))
            return forwarded[0]

        told = LIES[lie](Situation(method, path, self.url, forward, heard, last)) if lie else None
        if lie and told is None:
            with self._lock:
                self.asked[number] = Asked(number, route, None)
        if told is None:
            told = forward()
        with self._lock:
            if forwarded:
                self._heard[route] = self._last = forwarded[0]
        return told

    def _forward(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        connection = getattr(self._connections, "it", None)
        if connection is None:
            connection = self._connections.it = http.client.HTTPConnection(self._hub.hostname, self._hub.port)
        kept = {name: value for name, value in headers if name.lower() not in _HOP}
        for attempt in (1, 2):
            try:
                connection.request(method, path, body=body or None, headers={**kept, "Content-Length": str(len(body))})
                response = connection.getresponse()
                content = response.read()
                break
            except (http.client.RemoteDisconnected, ConnectionError):  # an idle connection that the Hub has closed
                connection.close()
                if attempt == 2:
                    raise
        found = tuple((name.lower(), value) for name, value in response.getheaders() if name.lower() not in _HOP)
        if method == "HEAD":
            found += (("content-length", response.headers.get("content-length", "0")),)
        answer = Answer(response.status, found, content)
        assert self._hub.netloc not in str(found), f"{method} {path} would lead past the proxy: {found}"
        assert not (answer.is_json and self._hub.netloc.encode() in content), f"{method} {path} leads past the proxy"
        return answer


def route_of(method: str, path: str) -> str:
    """Method and path, without the query and with ``{id}`` for ids of commits and objects, ``case`` for ``case-1``."""
    plain = re.sub(r"/lfs/[^/?]+/", "/lfs/{repo}/", path.partition("?")[0])
    plain = re.sub(r"/case-[0-9]+", "/case", plain)
    return f"{method} {_ID.sub('{id}', plain)}"


class _Handler(BaseHTTPRequestHandler):
    """Reads a request whole, and writes the proxy's answer in one piece."""

    proxy: LyingProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _handle(self) -> None:
        answer = self.proxy.answer(self.command, self.path, self.headers.items(), self._body())
        lines = [f"HTTP/1.1 {answer.status} {http.client.responses.get(answer.status, '')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        if not any(name == "content-length" for name, _ in answer.headers):
            lines.append(f"content-length: {len(answer.body)}")
        self.close_connection = self.close_connection or answer.cut
        body = b"" if self.command == "HEAD" else answer.body[: len(answer.body) // 2 if answer.cut else None]
        try:
            self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            self.wfile.flush()
        except ConnectionError:
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _handle

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


@contextmanager
def lying(upstream: str) -> Iterator[LyingProxy]:
    """A proxy in front of ``upstream``, closed at the end of the block."""
    proxy = LyingProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
