"""Any request to any route: no 500, and nothing outside the data folder changes (S2, S7, S10)."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, urlsplit

import pytest
from filled_hub import ANN, BY_XET, LARGE, fill
from forked_hubs import ForkedHubs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from real_git import needs_git, push_body
from soak_figures import record
from writing_load import Caller
from xet_wire import Wire, whole, xorb

from hubkit.server import process
from hubkit.server.app import ROUTES
from hubkit.server.fsck import fsck
from hubkit.server.http.routing import Route
from hubkit.server.process import Running

pytestmark = [needs_git, pytest.mark.fault("S2")]
Record = Callable[[str, object], None]
LEFT_OUT = {"set_faults", "make_snapshot", "collect_garbage", "logs", "restart"}
"""Handlers that play faults, copy the whole folder, last for minutes or start programs when the request is right."""
HOSTILE = """
.. %2e%2e %2e%2e%2f%2e%2e%2fetc%2fpasswd %252e%252e%252f %00 a%00b %ff %c0%ae %e2%80%ae %0d%0aX:%20y ; ' " < -1 0 1e9
99999999999999999999 refs%2Fheads%2Fmain refs%2Fpr%2F0 refs%2Fpr%2F1 HEAD @ @%7B0%7D main~1 a%2F..%2Fb .git con
x.lock %20
"""
KEYS = """
name type organization private sdk url watched domains secret title description namespace item note id position theme
user status requestId rejectionReason objects operation transfers hash_algo oid size path cursor limit force ref branch
startingPoint tag message comment content files gitIgnore sample paths expand key value seconds flavor fromRepo toRepo
visibility gated role label fineGrained global scoped entity permissions lives members fullname repo claims next token
pullRequest emptyBranch repository days dryRun event secrets variables grant_type subject_token
"""
SEGMENT = re.compile(r"\{(\w+)(?::\w+)?\}")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, forked_hubs: ForkedHubs) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("any")
    hub = forked_hubs.start(place / "hub")
    fill(hub, place / "home")
    yield hub
    process.stop(hub.data)


class Known:
    """What exists on the Hub, by the names of the parameters of routes; and bodies that are right."""

    def __init__(self, hub: Running) -> None:
        import hashlib

        call = Caller()
        call.hub = hub
        wire = Wire(hub.url, hub.token, "me/by-xet")
        (item,) = [one for one in call("GET", "/api/models/me/by-xet/tree/main") if one["path"] == "w.bin"]
        file = wire.get(f"/v1/reconstructions/{item['xetHash']}").json()["fetch_info"]
        data = urlsplit(next(iter(file.values()))[0]["url"])
        oid, head = hashlib.sha256(LARGE).hexdigest(), call("GET", "/api/models/me/model")["sha"]
        (collection,) = call("GET", "/api/collections?owner=me")
        (hook,) = call("GET", "/api/settings/webhooks")
        lock = call("GET", "/me/model.git/info/lfs/locks")["locks"][0]["id"]
        self.xet, self.query = wire.headers["Authorization"], data.query
        self.params: dict[str, list[str]] = {
            "kind": ["models", "models", "datasets", "spaces"], "ns": ["me", "me", "team"],
            "name": ["model", "model", "by-xet", "gated", "page"],
            "rev": ["main", "dev", "v1", "refs%2Fpr%2F1", head], "branch": ["dev", "new"], "tag": ["v1"],
            "num": ["1", "2", "3"], "uid": [data.path.split("/")[4]], "hash": [item["xetHash"], "0" * 64],
            "oid": [oid, "f" * 64], "address": [wire.url.rpartition("/")[2]], "account": ["ann", "team", "hubkit"],
            "first": ["0"], "slug": [collection["slug"].partition("/")[2]], "item": [collection["items"][0]["_id"]],
            "webhook": [hook["id"]], "lock": [lock], "which": ["run"], "path": ["README.md", "docs", "docs/guide.md"],
            "org": ["team"], "status": ["pending", "accepted"], "prefix": ["default"], "user": ["ann"],
        }  # fmt: skip
        self.bodies = [
            xorb(BY_XET), whole(BY_XET), b"0000", b"0014command=ls-refs\n0000",
            push_body((None, head, "refs/heads/x")), push_body((head, None, "refs/heads/dev"), pack=b"PACK"),
            json.dumps({"operation": "upload", "objects": [{"oid": oid, "size": len(LARGE)}]}).encode(),
            b'{"key": "header", "value": {"summary": "s"}}\n{"key": "file", "value": {"path": "a", "content": "b"}}',
        ]  # fmt: skip
        call.close()


SCALAR = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12)
    | st.sampled_from(["me/model", "model", "me", "ann", "main", "http://127.0.0.1:9/x", "../x", "a\0b", "\ud800"])
)  # fmt: skip
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5),
    max_leaves=12,
)


@st.composite
def requests(draw: st.DrawFn, known: Known) -> tuple[Route, bytes]:
    """A request to a route: what the route names is what exists, or anything; so are its query, headers and body."""
    routes = [one for one in ROUTES if isinstance(one, Route) and one.name not in LEFT_OUT]
    name = draw(st.sampled_from(sorted({one.name for one in routes})))
    route = draw(st.sampled_from([one for one in routes if one.name == name]))
    wild = st.sampled_from(HOSTILE.split()) | st.binary(max_size=9).map(quote_from_bytes)

    def part(match: re.Match[str]) -> str:
        valid = st.sampled_from(known.params.get(match[1], ["x"]))
        return draw(valid if draw(st.integers(0, 9)) else wild)

    path = SEGMENT.sub(part, route.path)
    names = st.sampled_from(
        [*KEYS.split(), "recursive", "expand", "p", "create_pr", "service", "sort", "diff", "search"]
    )
    query = draw(st.sampled_from(["", known.query]))
    for name in draw(st.lists(names, max_size=2)):
        query += f"&{name}={draw(wild | st.sampled_from(['1', 'main', 'git-upload-pack', 'git-receive-pack']))}"
    body = draw(st.one_of(
        VALUE.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
        st.dictionaries(st.sampled_from(KEYS.split()), VALUE, max_size=6).map(lambda value: json.dumps(value).encode()),
        st.sampled_from(known.bodies), st.binary(max_size=60),
        st.tuples(st.sampled_from(known.bodies), st.integers(0, 400), st.binary(min_size=1, max_size=3)).map(
            lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + len(cut[2]) :]
        ),
    ))  # fmt: skip
    token = known.xet if "{address}" in route.path else f"Bearer {draw(st.sampled_from([TOKEN, TOKEN, TOKEN, ANN]))}"
    end = route.path.rpartition("/")[2]
    media = f"application/x-{end}-request" if end.startswith("git-") else draw(st.sampled_from(TYPES))
    lines = [f"{min(route.methods or ['GET'])} {path}?{query} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: {token}"]
    lines += [f"Content-Type: {media}", f"Content-Length: {len(body)}", "Connection: close"]
    if draw(st.booleans()):
        spans = ["bytes=0-9", "bytes=-1", "bytes=99999999999-", "bytes=5-2", "bytes=a-b", "bytes=0-1,3-4", "x"]
        lines.append(f"Range: {draw(st.sampled_from(spans))}")
    return route, "\r\n".join(lines).encode() + b"\r\n\r\n" + body


TOKEN = "OWNER"
TYPES = ["application/json", "application/json", "application/x-www-form-urlencoded", "text/plain"]


def status_of(hub: Running, request: bytes) -> int:
    """The status that the Hub answers."""
    with socket.create_connection(("127.0.0.1", urlsplit(hub.url).port or 0), timeout=30) as connection:
        connection.sendall(request.replace(b"Bearer OWNER", f"Bearer {hub.token}".encode()))
        head = b""
        while b"\r\n" not in head and (more := connection.recv(4096)):
            head += more
    assert head.startswith(b"HTTP/1.1 "), (request, head)
    return int(head.split()[1])


def outside(hub: Running) -> set[Any]:
    """Every file beside the data folder, and what lies in it at the top."""
    place = hub.data.parent
    return {path for path in place.rglob("*") if hub.data not in path.parents} | set(hub.data.iterdir())


@pytest.mark.parametrize("examples", [250, pytest.param(20_000, marks=pytest.mark.soak)])
def test_no_request_is_a_500_or_leaves_the_folder(filled: Running, examples: int, record_property: Record) -> None:
    known, before, statuses, reached = Known(filled), outside(filled), dict[int, int](), set[str]()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=[Phase.generate, Phase.shrink])  # fmt: skip
    @given(asked=requests(known))
    def attempt(asked: tuple[Route, bytes]) -> None:
        route, request = asked
        status = status_of(filled, request)
        assert status not in {500, 520}, (route.path, request, log_of(filled.data))
        statuses[status] = statuses.get(status, 0) + 1
        if status < 400:
            reached.add(route.name)

    attempt()
    assert outside(filled) == before
    assert fsck(filled.data) == [] and not list((filled.data / "tmp").iterdir())
    assert len(reached) > 10, "many of them were right"
    figure = f"{sum(statuses.values()):,} requests to any route: {dict(sorted(statuses.items()))}"
    record_property("figure", figure)
    if examples > 250:
        record("the embedded Hub, any request", f"{figure}; none a 500, nothing outside its folder")


def log_of(data: Path) -> str:
    """The last words of the Hub's log."""
    return (data / "log" / "hub.log").read_text()[-3000:]
