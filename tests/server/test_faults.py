"""Scripted faults do what they say; the client is the one that suffers them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx


@pytest.fixture(autouse=True)
def repo(api: HfApi) -> None:
    api.create_repo("me/model")


def script(raw: httpx.Client, *faults: dict[str, Any]) -> None:
    raw.put("/api/hubkit/faults", json=list(faults)).raise_for_status()


def push(api: HfApi, content: bytes = b"x") -> str:
    return str(api.create_commit("me/model", [CommitOperationAdd("f.txt", content)], commit_message="m").oid)


def commits(api: HfApi) -> int:
    return len(api.list_repo_commits("me/model"))


def test_the_nth_request_gets_the_status(api: HfApi, raw: httpx.Client) -> None:
    script(
        raw, {"route": "POST .*/commit/", "action": "status", "nth": 2, "status": 429, "headers": {"Retry-After": "2"}}
    )
    push(api)
    with pytest.raises(HfHubHTTPError) as refused:
        push(api, b"y")
    assert (refused.value.response.status_code, refused.value.response.headers["retry-after"]) == (429, "2")
    push(api, b"z")
    assert commits(api) == 3
    fault = raw.get("/api/hubkit/faults").json()["faults"][0]
    assert (fault["seen"], fault["struck"]) == (3, 1)


@pytest.mark.parametrize(("action", "made"), [("drop-before", 1), ("drop-after", 2)])
def test_a_dropped_connection_before_and_after_the_commit(
    api: HfApi, raw: httpx.Client, action: str, made: int
) -> None:
    script(raw, {"route": "POST .*/commit/", "action": action})
    with pytest.raises(Exception, match=r"(?i)disconnected|reset|closed"):
        push(api)
    assert commits(api) == made


def test_a_dropped_connection_after_a_download_was_made(api: HfApi, raw: httpx.Client) -> None:
    api.create_commit("me/model", [CommitOperationAdd("w.bin", b"\0" * 5000)], commit_message="m")
    script(raw, {"route": "GET .*/resolve/", "action": "drop-after"})
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):  # and not after a time
        raw.get("/me/model/resolve/main/w.bin")
    assert raw.get("/me/model/resolve/main/w.bin").content == b"\0" * 5000


def test_a_server_that_never_answers(raw: httpx.Client) -> None:
    script(raw, {"route": "GET /api/whoami", "action": "hang"})
    started = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        raw.get("/api/whoami-v2", timeout=0.5)
    assert time.monotonic() - started < 20
    assert raw.get("/api/whoami-v2").status_code == 200


def test_a_truncated_download_is_resumed_by_the_client(api: HfApi, raw: httpx.Client) -> None:
    content = bytes(range(256)) * 8000
    api.create_commit("me/model", [CommitOperationAdd("w.bin", content)], commit_message="m")
    script(raw, {"route": "GET .*/resolve/", "action": "truncate", "after": 700_000})
    assert Path(api.hf_hub_download("me/model", "w.bin")).read_bytes() == content
    assert len([line for line in raw.get("/api/hubkit/faults").json()["requests"] if line.startswith("GET /me")]) == 2


@pytest.mark.fault("F5")
def test_an_upload_cut_in_the_middle_stores_nothing(api: HfApi, raw: httpx.Client, hub: Any) -> None:
    content = bytes(range(256)) * 20000
    script(raw, {"route": "PUT /lfs/", "action": "drop-upload", "after": 2_000_000, "count": 0})
    plain = HfApi(endpoint=api.endpoint, token=api.token)
    oid = __import__("hashlib").sha256(content).hexdigest()
    body = {"operation": "upload", "objects": [{"oid": oid, "size": len(content)}]}
    answer = raw.post("/me/model.git/info/lfs/objects/batch", json=body).json()
    with pytest.raises(httpx.TransportError):
        httpx.put(answer["objects"][0]["actions"]["upload"]["href"], content=content)
    script(raw)
    assert [path for path in (hub.data / "lfs").rglob("*") if path.is_file()] == []
    plain.create_commit("me/model", [CommitOperationAdd("w.bin", content)], commit_message="m")
    assert Path(api.hf_hub_download("me/model", "w.bin")).read_bytes() == content


def test_a_wrong_script_is_refused(raw: httpx.Client) -> None:
    for fault in (
        {"route": "x", "action": "explode"},
        {"route": "(", "action": "hang"},
        {"action": "hang"},
        5,
        {"rote": "x"},
    ):
        assert raw.put("/api/hubkit/faults", json=[fault]).status_code == 400
