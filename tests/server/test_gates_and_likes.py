"""Gated repos, likes, profiles, lists and services that this Hub lacks, by the unmodified client."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import httpx
from safetensors.numpy import save_file

from hubkit.server.process import Running

MakeToken = Callable[..., str]


def test_who_was_let_in_reads_a_gated_repo_until_turned_away(
    hub: Running, api: HfApi, make_token: MakeToken, raw: httpx.Client
) -> None:
    repo = api.create_repo("hubkit/gated").repo_id
    api.upload_file(path_or_fileobj=b"inside", path_in_repo="a.txt", repo_id=repo)
    with pytest.raises(BadRequestError, match="not gated"):
        list(api.list_pending_access_requests(repo))
    api.update_repo_settings(repo, gated="manual")
    eve, eve_reads = (HfApi(endpoint=hub.url, token=make_token("eve", role)) for role in ("write", "read"))

    def may_read(who: HfApi) -> bool:
        try:
            who.auth_check(repo)
            return bool(who.list_repo_tree(repo))
        except GatedRepoError:
            return False

    def ask(token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.post(f"{hub.url}/{repo}/ask-access", headers=headers, data={"purpose": "tests"})

    assert not may_read(eve)
    assert ask(str(eve.token)).json()["status"] == "pending" == ask(str(eve.token)).json()["status"]
    assert ask(str(eve_reads.token)).status_code == 403 and not may_read(eve)
    (pending,) = api.list_pending_access_requests(repo)
    assert (pending.username, pending.fields) == ("eve", {"purpose": "tests"})
    with pytest.raises(HfHubHTTPError, match="403"):
        eve.accept_access_request(repo, "eve")
    api.accept_access_request(repo, "EVE")
    assert may_read(eve) and may_read(eve_reads)
    assert eve.create_discussion(repo, "a question").num == 1
    with pytest.raises(HfHubHTTPError, match="403"):
        eve.upload_file(path_or_fileobj=b"x", path_in_repo="b.txt", repo_id=repo)
    api.reject_access_request(repo, "eve", rejection_reason="none")
    assert not may_read(eve) and [item.username for item in api.list_rejected_access_requests(repo)] == ["eve"]
    api.grant_access(repo, "eve")
    assert may_read(eve)
    api.update_repo_settings(repo, visibility="private")
    with pytest.raises(RepositoryNotFoundError):
        eve.auth_check(repo)
    api.update_repo_settings(repo, visibility="public", gated="auto")
    zed = HfApi(endpoint=hub.url, token=make_token("zed"))
    assert not may_read(zed) and ask(str(zed.token)).json()["status"] == "accepted" and may_read(zed)
    with pytest.raises(HfHubHTTPError, match="404"):
        api.grant_access(repo, "nobody-of-that-name")


def test_likes_count_once_each_and_tell_nobody_of_private_repos(
    hub: Running, api: HfApi, make_token: MakeToken
) -> None:
    ann, bob = (HfApi(endpoint=hub.url, token=make_token(name)) for name in ("ann", "bob"))
    ann.create_repo("ann/public")
    ann.create_repo("ann/other")
    ann.create_repo("ann/secret", private=True)

    def like(who: HfApi, repo: str) -> int:
        headers = {"Authorization": f"Bearer {who.token}"}
        return httpx.post(f"{hub.url}/api/models/{repo}/like", headers=headers).status_code

    assert [like(ann, "ann/public"), like(ann, "ann/public"), like(bob, "ann/public"), like(ann, "ann/secret")] == [
        200
    ] * 4
    assert like(bob, "ann/secret") == 404
    assert bob.model_info("ann/public").likes == 2
    assert sorted(user.username for user in bob.list_repo_likers("ann/public")) == ["ann", "bob"]
    assert bob.list_liked_repos("ann").models == ["ann/public"]
    assert sorted(ann.list_liked_repos().models) == ["ann/public", "ann/secret"]
    assert [info.id for info in bob.list_models(author="ann", sort="likes")] == ["ann/public", "ann/other"]
    assert (bob.get_user_overview("ann").num_models, ann.get_user_overview("ann").num_models) == (2, 3)
    assert bob.get_user_overview("ann").num_likes == 1
    bob.unlike("ann/public")
    assert bob.model_info("ann/public", expand=["likes", "trendingScore"]).likes == 1
    with pytest.raises(RepositoryNotFoundError):
        bob.unlike("without-namespace")
    for missing in (lambda: bob.get_user_overview("zed"), lambda: list(bob.list_organization_members("ann"))):
        with pytest.raises(HfHubHTTPError, match="404"):
            missing()
    assert list(bob.list_user_followers("ann")) == []


def test_lists_are_filtered_ordered_and_paged(api: HfApi, raw: httpx.Client) -> None:
    for name, card in (
        ("one", "tags: [x, y]\npipeline_tag: text-generation\n"), ("two", "tags: [x]\n"), ("three", "license: mit\n"),
    ):  # fmt: skip
        api.create_repo(f"hubkit/{name}")
        api.upload_file(
            path_or_fileobj=f"---\n{card}---\n".encode(), path_in_repo="README.md", repo_id=f"hubkit/{name}"
        )
    api.update_repo_settings("hubkit/two", gated="auto")
    api.create_repo("hubkit/app", repo_type="space", space_sdk="static")
    card = b"---\nsdk: static\nmodels: [hubkit/one]\n---\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="hubkit/app", repo_type="space")

    def names(**options: object) -> list[str]:
        return [info.id.partition("/")[2] for info in api.list_models(**options)]  # type: ignore[arg-type]

    assert names() == ["three", "two", "one"] == names(sort="created_at")
    assert names(filter=["x", "y"]) == ["one"] == names(pipeline_tag="text-generation")
    assert (
        names(filter="x") == ["two", "one"] and names(gated=True) == ["two"] and names(search="HUBKIT ee") == ["three"]
    )
    assert [info.id for info in api.list_spaces(models="hubkit/one")] == ["hubkit/app"]
    assert list(api.list_spaces(datasets="hubkit/one")) == [] == names(inference="warm")
    pages = [raw.get("/api/models?limit=2")]
    while link := pages[-1].links.get("next"):
        pages.append(raw.get(link["url"]))
    assert [[item["id"] for item in answer.json()] for answer in pages] == [
        ["hubkit/three", "hubkit/two"],
        ["hubkit/one"],
    ]
    assert list(api.list_models(num_parameters="min:1K")) == []
    for query in ("sort=beauty", "expand[]=beauty", "num_parameters=many", "gated=perhaps"):
        assert raw.get(f"/api/models?{query}").status_code == 400, query
    problem = raw.get("/api/models/hubkit/one?expand=beauty").json()["error"]
    assert "expected one of " in problem and '"siblings"' in problem


def test_the_headers_of_all_shards_in_one_response(api: HfApi, tmp_path: Path) -> None:
    repo = api.create_repo("hubkit/shards").repo_id
    folder = tmp_path / "model"
    folder.mkdir()
    shards = {"model-00001-of-00002.safetensors": "a", "model-00002-of-00002.safetensors": "b.2"}
    for file, name in shards.items():
        save_file({name: numpy.zeros((2, 3), dtype="float32")}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 48}, "weight_map": {name: file for file, name in shards.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    api.upload_folder(folder_path=folder, repo_id=repo)
    found = api.get_sharded_safetensors_metadata(repo)
    assert found.metadata == {"total_size": 48} and set(found.files_metadata) == set(shards)
    assert found.files_metadata["model-00002-of-00002.safetensors"].tensors["b.2"].shape == [2, 3]
    assert found.parameter_count == {"F32": 12}


def test_large_files_are_given_to_another_repo_by_who_may_read_them_and_propose_there(
    hub: Running, api: HfApi, make_token: MakeToken
) -> None:
    for repo, private in (("hubkit/source", False), ("hubkit/hidden", True), ("hubkit/target", False)):
        api.create_repo(repo, private=private)
    content = b"\0large" * 100
    for repo in ("hubkit/source", "hubkit/hidden"):
        api.upload_file(path_or_fileobj=content, path_in_repo="a.bin", repo_id=repo)
    oid = hashlib.sha256(content).hexdigest()

    def give(source: str, target: str, token: str | None, *oids: str) -> tuple[int, list[str]]:
        body = {"target": {"type": "model", "name": target}, "files": [{"sha256": oid} for oid in oids]}
        url = f"{hub.url}/api/models/{source}/lfs-files/duplicate"
        answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {token}"})
        return answer.status_code, [item["sha256"] for item in answer.json().get("failed", [])]

    eve = make_token("eve")
    assert give("hubkit/hidden", "hubkit/target", eve, oid) == (404, [])
    assert give("hubkit/source", "hubkit/hidden", eve, oid) == (404, [])
    assert give("hubkit/source", "hubkit/target", make_token("zed", "read"), oid) == (403, [])
    assert give("hubkit/source", "hubkit/target", hub.token, oid, "0" * 64) == (200, ["0" * 64])
    files = {item.filename: item.file_oid for item in api.list_lfs_files("hubkit/target")}
    assert len(files) == 1


def test_a_kernel_is_a_repo_like_any_other(hub: Running, api: HfApi, tmp_path: Path) -> None:
    url = api.create_repo("hubkit/kernel", repo_type="kernel")
    assert (url.repo_type, str(url)) == ("kernel", f"{hub.url}/kernels/hubkit/kernel")
    done = api.upload_file(
        path_or_fileobj=b"# K", path_in_repo="README.md", repo_id="hubkit/kernel", repo_type="kernel"
    )
    assert done.commit_url.startswith(f"{hub.url}/kernels/hubkit/kernel/commit/")
    (tmp_path / "k" / "build").mkdir(parents=True)
    (tmp_path / "k" / "build" / "kernel.bin").write_bytes(bytes(100))
    api.upload_folder(folder_path=tmp_path / "k", repo_id="hubkit/kernel", repo_type="kernel")
    assert "build/kernel.bin" in api.list_repo_files("hubkit/kernel", repo_type="kernel")
    assert api.kernel_info("hubkit/kernel").author == "hubkit"
    path = api.hf_hub_download("hubkit/kernel", "build/kernel.bin", repo_type="kernel", cache_dir=tmp_path / "c")
    assert Path(path).read_bytes() == bytes(100)
    assert api.list_repo_refs("hubkit/kernel", repo_type="kernel").branches[0].name == "main"


def test_a_service_that_is_not_here_says_so(raw: httpx.Client) -> None:
    for method, path, words in (
        ("GET", "/api/jobs/hubkit", "no jobs"), ("POST", "/api/jobs/hubkit", "no jobs"),
        ("GET", "/api/scheduled-jobs/hubkit/1", "no jobs"), ("POST", "/api/buckets/hubkit/x", "no buckets"),
        ("GET", "/buckets/hubkit/x/resolve/a.txt", "no buckets"), ("GET", "/api/daily_papers", "no pages of papers"),
        ("GET", "/api/tasks", "no inference"), ("POST", "/uploads", "no attachments"),
        ("GET", "/api/datasets/me/data/leaderboard", "ranks no models"),
        ("POST", "/api/collections/me/best-1/resource-group", "no resource groups"),
    ):  # fmt: skip
        answer = raw.request(method, path)
        assert answer.status_code == 501 and words in answer.headers["x-error-message"], path
