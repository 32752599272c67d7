"""Signed addresses of LFS objects: who may use them, and until when."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import httpx

from hubkit.server.accounts.accounts import Account, Actor
from hubkit.server.process import Running
from hubkit.server.repos import transfers
from hubkit.server.repos.store import Repo
from hubkit.server.repos.transfers import SECONDS, Transfer, Transfers

REPO, CONTENT = "me/model", b"\0secret weights" * 300
OID = hashlib.sha256(CONTENT).hexdigest()
pytestmark = pytest.mark.fault("A4")


@pytest.fixture
def repo(api: HfApi) -> str:
    """A public model with one large file."""
    api.create_repo(REPO)
    api.create_commit(REPO, [CommitOperationAdd("w.bin", CONTENT)], commit_message="m")
    return REPO


def batch(
    raw: httpx.Client, operation: str, token: str | None, content: bytes = CONTENT, repo: str = REPO
) -> dict[str, Any]:
    """The actions that the Hub offers for ``content``."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = {
        "operation": operation,
        "objects": [{"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}],
    }
    answer = httpx.post(
        f"{str(raw.base_url).rstrip('/')}/{repo}.git/info/lfs/objects/batch", json=body, headers=headers
    )
    actions: dict[str, Any] = answer.raise_for_status().json()["objects"][0]["actions"]
    return actions


def revoke(raw: httpx.Client, user: str) -> None:
    """Revoke every token of a user."""
    listed = raw.get("/api/hubkit/accounts").json()
    for token in next(item for item in listed if item["name"] == user)["tokens"]:
        raw.delete(f"/api/hubkit/tokens/{user}/{token['id']}").raise_for_status()


ENDS: dict[str, Callable[[HfApi, str], object]] = {
    "private": lambda api, repo: api.update_repo_settings(repo, private=True),
    "gated": lambda api, repo: api.update_repo_settings(repo, gated="manual"),
    "deleted": lambda api, repo: api.delete_repo(repo),
    "moved": lambda api, repo: api.move_repo(repo, f"{repo}-elsewhere"),
}


@pytest.fixture
def repos(api: HfApi) -> list[str]:
    """A public model with one large file for each way to end the right to read it."""
    names = [f"me/{change}" for change in ENDS]
    for name in names:
        api.create_repo(name)
        api.create_commit(name, [CommitOperationAdd("w.bin", CONTENT)], commit_message="m")
    return names


def assert_closed(href: str, tag: str) -> None:
    for headers in ({}, {"Range": "bytes=5-"}, {"If-None-Match": tag}, {"Range": "bytes=5-", "If-Range": tag}):
        for method in ("GET", "HEAD"):
            answer = httpx.request(method, href, headers=headers)
            assert answer.status_code == 403 and OID not in str(answer.headers), (method, headers)
            assert b"weights" not in answer.content


def test_an_address_to_read_from_ends_with_the_right_to_read(
    api: HfApi, raw: httpx.Client, make_token: Callable[..., str], repo: str, repos: list[str]
) -> None:
    tokens = (make_token("guest"), None)
    before = {(name, token): batch(raw, "download", token, repo=name)["download"] for name in repos for token in tokens}
    kept = [batch(raw, "download", token)["download"]["href"] for token in tokens]
    for action in before.values():
        assert action["expires_in"] == SECONDS <= 900
        whole = httpx.get(action["href"])
        assert whole.content == CONTENT and "no-store" in whole.headers["cache-control"]
    for name, change in zip(repos, ENDS.values(), strict=True):
        change(api, name)
        for token in tokens:
            assert_closed(before[name, token]["href"], whole.headers["etag"])
    assert all(httpx.get(href).status_code == 200 for href in kept)
    revoke(raw, "guest")
    assert_closed(kept[0], whole.headers["etag"])
    assert httpx.get(kept[1]).content == CONTENT, "nobody's address needs no token"


def test_the_owner_gets_another_address_when_the_repo_becomes_private(
    api: HfApi, hub: Running, raw: httpx.Client, repo: str
) -> None:
    leaked = batch(raw, "download", hub.token)["download"]["href"]
    api.update_repo_settings(REPO, private=True)
    assert httpx.get(leaked).status_code == 403
    assert httpx.get(batch(raw, "download", hub.token)["download"]["href"]).content == CONTENT


NEW = os.urandom(5000)


def test_an_address_to_upload_to_ends_with_the_right_to_propose(
    api: HfApi, hub: Running, raw: httpx.Client, make_token: Callable[..., str], repo: str, repos: list[str]
) -> None:
    token = make_token("guest")
    hrefs = [batch(raw, "upload", token, NEW, name)["upload"]["href"] for name in (*repos, repo)]
    for name, change in zip(repos, ENDS.values(), strict=True):
        change(api, name)
    revoke(raw, "guest")
    assert {httpx.put(href, content=NEW).status_code for href in hrefs} == {403}
    assert [path.name for path in (hub.data / "lfs").rglob("*") if path.is_file()] == [OID]


def test_an_upload_whose_token_is_revoked_on_the_way_is_not_kept(
    api: HfApi, hub: Running, raw: httpx.Client, make_token: Callable[..., str], repo: str
) -> None:
    href = batch(raw, "upload", make_token("guest"), NEW)["upload"]["href"]

    def body() -> Any:
        yield NEW[:2000]
        revoke(raw, "guest")
        yield NEW[2000:]

    answer = httpx.put(href, content=body(), headers={"Content-Length": str(len(NEW))})
    assert answer.status_code == 403
    assert not list((hub.data / "tmp").iterdir())
    assert "upload" in batch(raw, "upload", hub.token, NEW), "it must be uploaded again"


def test_an_upload_is_verified_without_a_token(api: HfApi, hub: Running, raw: httpx.Client, repo: str) -> None:
    """git-lfs sends none to an address of a batch that says ``authenticated``."""
    actions = batch(raw, "upload", hub.token, NEW)
    body = {"oid": hashlib.sha256(NEW).hexdigest(), "size": len(NEW)}
    assert httpx.post(actions["verify"]["href"], json=body).status_code == 404, "nothing was uploaded yet"
    httpx.put(actions["upload"]["href"], content=NEW).raise_for_status()
    assert httpx.post(actions["verify"]["href"], json=body).status_code == 200
    assert httpx.post(actions["verify"]["href"], json=body | {"oid": OID}).status_code == 403
    bare = actions["verify"]["href"].partition("?")[0]
    assert httpx.post(bare, json=body).status_code == 401
    assert raw.post(bare, json=body).status_code == 200
    assert raw.post(bare, json=body | {"size": 1}).status_code == 422


def test_no_address_serves_another_action_object_or_token(
    hub: Running, raw: httpx.Client, make_token: Callable[..., str], repo: str
) -> None:
    upload = batch(raw, "upload", hub.token, NEW)["upload"]["href"]
    read = batch(raw, "download", make_token("guest"))["download"]["href"]
    for forged in (
        upload.replace(hashlib.sha256(NEW).hexdigest(), OID),
        read.replace("token=", "token=1"),
        read.replace("token=2", "token=0"),
        read.replace("batch=", "batch=0"),
        read.replace("size=", "size=1"),
        read.replace("expires=", "expires=1"),
        read.partition("?")[0],
        read.partition("?")[0] + "?" + upload.partition("?")[2],
    ):
        assert forged not in (read, upload)
        assert httpx.get(forged).status_code in {400, 403}, forged


# --- when an address ends, with a clock of the test's own


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as a list of one number."""
    now = [1_800_000_000.0]
    monkeypatch.setattr(transfers.time, "time", lambda: now[0])
    monkeypatch.setattr(transfers.time, "monotonic", lambda: now[0] - 1000)
    return now


def transfer(action: Any, token: str = "d1") -> Transfer:
    repo = Repo("u", "model", "me", "model", False, "", None, "me", "")
    account = Account("1", "user", "me", "me", False, False, "")
    return Transfer(action, repo, "a" * 64, 10, Actor(account, "write", "l", "", None, 7, token))


def expiry(query: str) -> tuple[int, str]:
    fields = dict(pair.split("=") for pair in query.split("&"))
    return int(fields["expires"]), fields["signature"]


def test_addresses_end_after_minutes_and_begun_transfers_go_on(
    clock: list[float], record_property: Callable[[str, object], None]
) -> None:
    record_property("figure", f"an address to read from is good for: {SECONDS} s")
    signer = Transfers(b"s")
    for action in ("get", "put"):
        expires, signature = expiry(signer.sign(transfer(action), "b1"))
        assert signer.is_signed(transfer(action), "b1", expires, signature)
        assert not signer.is_signed(transfer(action, "d2"), "b1", expires, signature)
        clock[0] += SECONDS + 1
        assert not signer.is_signed(transfer(action), "b1", expires, signature)
        assert signer.is_signed(transfer(action), "b1", expires, signature, begun=True)


def test_the_addresses_of_a_batch_last_while_its_uploads_go_on(clock: list[float]) -> None:
    signer = Transfers(b"s")
    expires, signature = expiry(signer.sign(transfer("put"), "b1"))
    reading = expiry(signer.sign(transfer("get"), "b1"))
    other = expiry(signer.sign(transfer("put"), "b2"))

    def good(at: tuple[int, str] = (expires, signature), name: str = "b1", action: str = "put") -> bool:
        return signer.is_signed(transfer(action), name, *at)

    ends = [signer.begin("b1"), signer.begin("b1")]
    clock[0] += 5 * 3600  # a large file
    assert good() and not good(other, "b2") and not good(reading, action="get")
    for end in ends:
        end()
    clock[0] += SECONDS - 1
    assert good(), "the next file of the batch, or the same again"
    signer.begin("b1")()
    clock[0] += SECONDS - 1
    assert good()
    clock[0] += 2
    assert not good()
    signer.begin("b1")
    clock[0] += 24 * 3600
    assert not good(), "for a day at most"


def test_batches_that_ended_are_forgotten(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_MOST_BATCHES", 20)
    signer = Transfers(b"s")
    going = signer.begin("going")
    for number in range(100):
        signer.begin(f"b{number}")()
        clock[0] += SECONDS
    assert len(signer._batches) <= 20 and "going" in signer._batches
    going()
    going()


def test_large_files_still_travel(api: HfApi, repo: str, tmp_path: Path) -> None:
    began = time.process_time()
    api.create_commit(REPO, [CommitOperationAdd(f"{n}.bin", os.urandom(3000)) for n in range(12)], commit_message="m")
    assert len(list(api.list_lfs_files(REPO))) == 13 and time.process_time() - began < 20
