"""Bodies made to cost much: what each route takes, what parsing them costs, and who waits meanwhile (S7)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx

from hubkit.server import app
from hubkit.server.http import routing
from hubkit.server.http.bodies import BATCH_LIMIT, COMMIT_LIMIT, TEXT_LIMIT, BodyMemory
from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.parsing import parse_json
from hubkit.server.process import Running
from hubkit.server.routes.lfs import MOST_BYTES
from hubkit.server.xet import shards, xorbs

Record = Callable[[str, object], None]
LARGE = {
    "/lfs/{uid}/{oid}": MOST_BYTES, "/api/{kind:kind}/{ns}/{name}/commit/{rev}": COMMIT_LIMIT,
    "/api/xet/{address}/v1/xorbs/default/{hash}": xorbs.BODY_LIMIT, "/api/xet/{address}/v1/shards": shards.BODY_LIMIT,
}  # fmt: skip
BATCH = "/me/model.git/info/lfs/objects/batch"


@pytest.mark.fault("S7")
def test_every_route_states_how_much_it_takes() -> None:
    taking = [route for route in app.ROUTES if route.body != "none"]
    assert len(taking) > 30
    packs = {route.path for route in taking if route.path.endswith("-pack")}
    for route in taking:
        most = COMMIT_LIMIT if route.path in packs else LARGE.get(route.path, TEXT_LIMIT)
        assert 0 < route.limit <= most, route.path
        assert route.body == "file" or route.path not in packs | LARGE.keys(), "large bodies go to disk"
    for wrong in ({"body": "json"}, {"body": "file"}, {"limit": 1}):
        with pytest.raises(ValueError, match="has a limit"):
            routing.Route("POST", "/x", lambda _: None, **wrong)  # type: ignore[arg-type, return-value]


def nested(size: int) -> bytes:
    return b"[" + b"[]," * (size // 3 - 1) + b"[]]"


COSTLY = {
    "empty lists": nested(BATCH_LIMIT - 8),
    "numbers": b"[" + b"1," * (BATCH_LIMIT // 2 - 2) + b"1]",
    "texts": b"[" + b'"",' * (BATCH_LIMIT // 3 - 2) + b'""]',
    "escaped texts": b"[" + b'"\\n",' * (BATCH_LIMIT // 5 - 2) + b'""]',
    "depth": b"[" * (BATCH_LIMIT // 2) + b"]" * (BATCH_LIMIT // 2),
    "a text without end": b'"' + b'\\"' * (BATCH_LIMIT // 2 - 1),
    "an object of a name": b'{"a":' * (BATCH_LIMIT // 5),
    "digits": b"9" * BATCH_LIMIT,
    "a large number": b"[1e999]",
    "not a number": b"[NaN]",
    "bytes": b"\xff" * BATCH_LIMIT,
}

WITHIN = [b"[" + b"[]," * 9_000 + b"[]]", b"[" + b'"\\n\\ud83d\\ude00",' * 9_000 + b"1]", b"[" * 100 + b"]" * 100]


@pytest.mark.parametrize("body", COSTLY.values(), ids=COSTLY)
@pytest.mark.fault("S7")
def test_what_a_body_would_cost_is_known_before_it_is_parsed(body: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(HTTPException) as refused:
        parse_json(body)
    assert refused.value.status_code == 400 and time.process_time() - begun < 5


def test_what_clients_send_is_parsed_as_before() -> None:
    names = [{"oid": f"{number:064x}", "size": number} for number in range(1000)]
    tree: Any = 1
    for _ in range(99):
        tree = [tree]
    for value in (names, tree, {'a"\\': ["\\", '"', "é", "[{:,", 1.5, -1, None, True, {}]}, "x" * 10_000, {}):
        assert parse_json(json.dumps(value).encode()) == value
        assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.fault("S7")
def test_bodies_of_all_callers_together_are_bounded() -> None:
    async def send(memory: BodyMemory, size: int, go_on: asyncio.Event) -> int:
        with memory.reserve() as grow:
            for arrived in range(0, size + 1, 2**15):
                try:
                    grow(arrived)
                except HTTPException as error:
                    assert error.headers["Retry-After"] == "1"
                    return error.status_code
            await go_on.wait()
        return 200

    async def play() -> None:
        memory, go_on = BodyMemory(2**20), asyncio.Event()
        sent = [asyncio.create_task(send(memory, size, go_on)) for size in [2**18] * 6 + [2**16] * 20]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go_on.set()
        assert [await task for task in sent] == [200] * 5 + [503] + [200] * 20, "small ones are never refused"
        assert await send(memory, 2**20, go_on) == 200, "what ended is free again"

    asyncio.run(play())


@pytest.mark.fault("S7")
def test_anybodys_batches_cost_little_and_hold_up_nobody(
    api: HfApi, hub: Running, raw: httpx.Client, record_property: Record
) -> None:
    api.create_repo("me/model")
    server = psutil.Process(hub.pid)
    client = httpx.Client(base_url=hub.url, timeout=60)
    assert client.post(BATCH, content=nested(8 * 2**20)).status_code == 413
    largest = {"operation": "download", "objects": [{"oid": f"{number:064x}", "size": 1} for number in range(1000)]}
    assert client.post(BATCH, json=largest).status_code == 200, "ten times what git-lfs sends, four times the client's"

    def send(body: bytes) -> int:
        return httpx.post(f"{hub.url}{BATCH}", content=body, timeout=60).status_code

    with ThreadPoolExecutor(20) as pool:  # as many threads as there will be, so that their memory is not counted
        list(pool.map(send, [b"[]"] * 40))
        before, begun = server.memory_info().rss, sum(server.cpu_times()[:2])
        answers = list(pool.map(send, [body for body in COSTLY.values() for _ in range(20)]))
    spent, grown = sum(server.cpu_times()[:2]) - begun, server.memory_info().rss - before
    assert set(answers) == {400}
    assert grown < 48 * 2**20 and spent / len(answers) < 0.1
    record_property("figure", f"memory kept after 20 at once of each of {len(COSTLY)}: {grown / 2**20:.0f} MiB")
    record_property("figure", f"processor time of a batch made to cost: {1000 * spent / len(answers):.0f} ms")
    assert raw.get("/api/whoami-v2").status_code == 200


@pytest.mark.fault("S7")
def test_who_has_a_token_is_served_while_others_hold_their_bodies(api: HfApi, hub: Running, raw: httpx.Client) -> None:
    api.create_repo("me/model")
    release, held = threading.Event(), threading.Semaphore(0)

    def slow() -> Iterator[bytes]:
        yield b'{"content": "' + b"x" * (TEXT_LIMIT - 100)
        held.release()
        release.wait(30)
        yield b'"}'

    def hold(_: int) -> int:
        return httpx.post(f"{hub.url}/api/validate-yaml", content=slow(), timeout=60).status_code

    with ThreadPoolExecutor(12) as pool:
        answers = pool.map(hold, range(12))
        for _ in range(8):
            assert held.acquire(timeout=30)
        try:
            assert raw.post("/api/validate-yaml", json={"content": "x" * 500_000}).status_code == 200
            assert httpx.post(f"{hub.url}{BATCH}", json={"operation": "download", "objects": []}).status_code == 200
        finally:
            release.set()
        assert {200, 503} >= set(answers)


WRONG: list[Any] = [None, True, "x", "1e400", "١", -1, 0, 10**4000, 1e308, [], {}, [1], {"a": 1}, "\u0000", "é"]


@pytest.mark.fault("S7")
def test_claims_of_every_type_are_refused_and_never_fail(api: HfApi, hub: Running, raw: httpx.Client) -> None:
    """The identity of a job is signed by its service, and may still hold anything."""
    api.create_repo("me/model")
    secret, wanted = "s" * 32, {"repository": "me/app"}
    publisher = {"repo": "me/model", "secret": secret, "claims": wanted}
    raw.post("/api/hubkit/publishers", json=publisher).raise_for_status()
    good = {"aud": hub.url, "exp": time.time() + 60, **wanted}

    def part(value: Any) -> str:
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(text).decode().rstrip("=")

    def exchange(claims: Any, header: Any = {"alg": "HS256", "typ": "JWT"}) -> int:  # noqa: B006
        head = f"{part(header)}.{part(claims)}"
        signed = f"{head}.{part(hmac.new(secret.encode(), head.encode(), 'sha256').digest())}"
        names = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "resource": "me/model"}
        names |= {"subject_token_type": "urn:ietf:params:oauth:token-type:id_token", "subject_token": signed}
        return httpx.post(f"{hub.url}/oauth/token", json=names, timeout=20).status_code

    assert exchange(good) == 200
    for value in WRONG:
        assert exchange(value) == exchange(good, value) == 400, value
        for name in good:
            assert exchange(good | {name: value}) == 400, (name, value)
        for name in ("sub", "iat", "nbf", "jti"):
            assert exchange(good | {name: value}) in {200, 400}, (name, value)
    for text in (b"", b"[", b"\xff", b"[" * 5000 + b"]" * 5000, b'{"exp": NaN}', b'{"exp": 1e999}', b"9" * 9000):
        assert exchange(text) == exchange(good, text) == 400, text[:20]
    for token in ("", ".", "..", "a.b.c", "é.é.é", "=" * 100, "." * 1000):
        body = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "resource": "me/model"}
        body |= {"subject_token_type": "urn:ietf:params:oauth:token-type:id_token", "subject_token": token}
        assert httpx.post(f"{hub.url}/oauth/token", json=body, timeout=20).status_code == 400, token


@pytest.mark.fault("S7")
def test_rules_of_gitignore_cost_a_bounded_time_whatever_the_files(
    api: HfApi, hub: Running, raw: httpx.Client, record_property: Record
) -> None:
    api.create_repo("me/model")
    rules = "\n".join(["**/" + "a*b*c*/**/" * 5 + "z"] * 1000)
    files = [{"path": "/".join([f"abcabc{number}"] * 40), "size": 1} for number in range(1000)]
    server = psutil.Process(hub.pid)
    begun = sum(server.cpu_times()[:2])
    answer = raw.post("/api/models/me/model/preupload/main", json={"files": files, "gitIgnore": rules}, timeout=60)
    spent = sum(server.cpu_times()[:2]) - begun
    assert answer.status_code == 413 and "send fewer" in answer.json()["error"] and spent < 5
    record_property("figure", f"processor time of rules made to cost: {spent:.1f} s")
    assert raw.post("/api/models/me/model/preupload/main", json={"files": files[:3], "gitIgnore": rules}).is_success


@pytest.mark.fault("S7")
@pytest.mark.parametrize("start", ["GET /?", "GET / HTTP/1.1\r\nX: ", "GET / HTTP/1.1\r\n" + "a: b\r\n" * 10_000])
def test_heads_of_requests_are_bounded(hub: Running, start: str) -> None:
    url = httpx.URL(hub.url)
    with socket.create_connection((url.host, url.port or 80), timeout=20) as line:
        line.sendall(start.encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                line.sendall(b"a" * 65_536)
            answer = b"".join(iter(lambda: line.recv(65_536), b""))  # until it hangs up
            assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.fault("S7")
def test_large_commits_at_once_take_bounded_memory(
    api: HfApi, hub: Running, raw: httpx.Client, record_property: Record
) -> None:
    api.create_repo("me/model")
    server, ended, peak = psutil.Process(hub.pid), threading.Event(), [0]
    content = base64.b64encode(random.Random(0).randbytes(10 * 2**20)).decode()
    lines = [{"key": "header", "value": {"summary": "s"}}]
    lines += [{"key": "file", "value": {"path": "x", "content": content, "encoding": "base64"}}]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    before = server.memory_info().rss

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], server.memory_info().rss)

    def send(_: int) -> int:
        return raw.post("/api/models/me/model/commit/main", content=body, timeout=100).status_code

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(send, range(10)))
    ended.set()
    watcher.join()
    assert set(answers) <= {200, 412} and 200 in answers
    record_property("figure", f"peak of 10 commits of 10 MiB at once: {(peak[0] - before) / 2**20:.0f} MiB")
    assert peak[0] - before < 320 * 2**20
