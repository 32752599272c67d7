"""What clients that are not in this environment send, as it is on the wire: git-xet, git-lfs, @huggingface/hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import httpx
from xet_wire import Wire

from hubkit.server.process import Running

REPO, STORED = "hubkit/wire", b"\0stored" * 1000
LFS = {"Accept": "application/vnd.git-lfs+json", "Content-Type": "application/vnd.git-lfs+json; charset=utf-8"}


@pytest.fixture(scope="module")
def api(hub: Running) -> HfApi:
    """The owner, of a model with one large file."""
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo(REPO, private=True)
    api.create_commit(REPO, [CommitOperationAdd("stored.bin", STORED)], commit_message="Stored")
    return api


@pytest.fixture
def wire(hub: Running, api: HfApi) -> Iterator[httpx.Client]:
    """As git-lfs sends the token: as a password."""
    with httpx.Client(base_url=hub.url, auth=("me", hub.token), timeout=20) as client:
        yield client


def batch(wire: httpx.Client, operation: str, content: bytes, **more: Any) -> dict[str, Any]:
    """What the batch endpoint answers about one file."""
    objects = [{"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}]
    body = {"operation": operation, "objects": objects, "hash_algo": "sha256", "ref": {"name": "refs/heads/main"}}
    response = wire.post(f"/{REPO}.git/info/lfs/objects/batch", json=body | more, headers=LFS)
    answer: dict[str, Any] = response.raise_for_status().json()
    assert response.headers["Content-Type"].startswith(LFS["Accept"]) and answer["hash_algo"] == "sha256"
    return answer


def test_git_lfs_with_git_xet_uploads_by_xet(wire: httpx.Client, api: HfApi, hub: Running) -> None:
    """git-lfs names all transfers that it knows. git-xet is given a token, refreshes it, uploads; git-lfs verifies."""
    content = os.urandom(200_000)
    answer = batch(wire, "upload", content, transfers=["lfs-standalone-file", "xet", "basic", "ssh"])
    actions = answer["objects"][0]["actions"]
    header = actions["upload"]["header"]
    assert answer["transfer"] == "xet" and int(header["X-Xet-Token-Expiration"])
    fresh = httpx.get(actions["upload"]["href"], headers={"Authorization": f"Bearer {hub.token}"}).raise_for_status()
    assert fresh.json()["casUrl"] == header["X-Xet-Cas-Url"] and {"exp", "accessToken"} <= fresh.json().keys()
    xet = Wire(hub.url, hub.token, REPO)
    xet.url, xet.headers = header["X-Xet-Cas-Url"], {"Authorization": f"Bearer {header['X-Xet-Access-Token']}"}
    xet.upload([content[:100_000], content[100_000:]])
    verify = {"oid": answer["objects"][0]["oid"], "size": len(content)}
    checked = httpx.post(actions["verify"]["href"], json=verify, headers=LFS | actions["verify"].get("header", {}))
    assert checked.status_code == 200
    assert "actions" not in batch(wire, "upload", content, transfers=["xet", "basic"])["objects"][0]


def test_git_lfs_with_git_xet_downloads_by_lfs(wire: httpx.Client) -> None:
    """git-xet cannot download: a Hub that chose its transfer for a download would leave git with nothing."""
    answer = batch(wire, "download", STORED, transfers=["xet", "basic"])
    download = answer["objects"][0]["actions"]["download"]
    assert answer["transfer"] == "basic" and not set(download.get("header", {})) & {"X-Xet-Cas-Url"}
    assert httpx.get(download["href"]).content == STORED


@pytest.mark.parametrize("transfers", [["basic"], ["lfs-standalone-file", "basic", "ssh"], ["tus"], [], None])
def test_git_lfs_without_it_uploads_by_lfs(wire: httpx.Client, transfers: list[str] | None) -> None:
    content = os.urandom(1000)
    answer = batch(wire, "upload", content, **({} if transfers is None else {"transfers": transfers}))
    upload = answer["objects"][0]["actions"]["upload"]
    assert answer["transfer"] == "basic"
    assert httpx.put(upload["href"], content=content, headers=upload.get("header", {})).status_code == 200
    assert "actions" not in batch(wire, "upload", content)["objects"][0]


def test_javascript_spells_sha256_its_own_way(wire: httpx.Client) -> None:
    """@huggingface/hub writes ``sha_256``. Another algorithm is refused."""
    more = {"transfers": ["basic", "multipart", "xet"], "ref": {"name": "main"}}
    assert batch(wire, "upload", os.urandom(9), hash_algo="sha_256", **more)["transfer"] == "xet"
    refused = {"operation": "upload", "objects": [], "hash_algo": "sha512"}
    assert wire.post(f"/{REPO}.git/info/lfs/objects/batch", json=refused, headers=LFS).status_code == 409


def test_javascript_counts_commits_by_a_header(wire: httpx.Client, api: HfApi) -> None:
    listed = wire.get(f"/api/models/{REPO}/commits/main", params={"limit": 1}).raise_for_status()
    assert len(listed.json()) == 1 and listed.headers["X-Total-Count"] == str(len(api.list_repo_commits(REPO)))
