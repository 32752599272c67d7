"""The calls that a release makes, by the unmodified client."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from hubkit.core.files import digests
from hubkit.server.process import Running

REPO = "Intel/model"
CARD = b"---\nlicense: apache-2.0\nbase_model: them/base\ntags: [dpo]\npipeline_tag: text-generation\n---\n# Model\n"


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


@pytest.fixture
def repo(api: HfApi) -> str:
    api.create_repo(REPO)
    return REPO


def head(api: HfApi, revision: str = "main") -> str:
    return str(api.repo_info(REPO, revision=revision).sha)


def test_a_namespace_comes_into_being_with_its_first_repo(api: HfApi) -> None:
    first = api.create_repo("argilla/data", repo_type="dataset")
    assert api.create_repo("argilla/data", repo_type="dataset", exist_ok=True) == first
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_repo("argilla/data", repo_type="dataset")
    assert refused.value.response.status_code == 409
    assert [org["name"] for org in api.whoami()["orgs"]] == ["argilla"]
    assert api.list_repo_files("argilla/data", repo_type="dataset") == [".gitattributes"]


def test_small_and_large_files_come_back_as_they_were_sent(api: HfApi, repo: str, tmp_path: Path) -> None:
    weights = os.urandom(3_000_001)
    (tmp_path / "big.safetensors").write_bytes(weights)
    operations = [add("README.md", CARD), CommitOperationAdd("a/b/w.safetensors", tmp_path / "big.safetensors")]
    done = api.create_commit(repo, [*operations, add("empty.bin", b"")], commit_message="One", commit_description="Why")
    files = {item.path: item for item in api.list_repo_tree(repo, recursive=True, expand=True)}
    assert set(files) == {".gitattributes", "README.md", "a", "a/b", "a/b/w.safetensors", "empty.bin"}
    kept = digests(tmp_path / "big.safetensors")
    large = files["a/b/w.safetensors"]
    assert (large.size, large.lfs.sha256, large.last_commit.oid) == (kept.size, kept.sha256, done.oid)
    assert files["README.md"].lfs is None and files["README.md"].size == len(CARD)
    folder = Path(api.snapshot_download(repo, local_dir=tmp_path / "out"))
    assert (folder / "a/b/w.safetensors").read_bytes() == weights and (folder / "README.md").read_bytes() == CARD
    assert (folder / "empty.bin").read_bytes() == b""
    newest = api.list_repo_commits(repo)[0]
    assert (newest.commit_id, newest.title, newest.message, newest.authors) == (done.oid, "One", "Why", ["hubkit"])
    info = api.model_info(repo)
    assert (info.pipeline_tag, info.card_data.license) == ("text-generation", "apache-2.0")
    assert {"dpo", "license:apache-2.0", "base_model:them/base", "safetensors"} <= set(info.tags)


def test_a_stale_parent_is_refused_and_moves_nothing(api: HfApi, repo: str) -> None:
    start = head(api)
    new = api.create_commit(repo, [add("a.txt", b"1")], commit_message="1", parent_commit=start).oid
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_commit(repo, [add("a.txt", b"2")], commit_message="2", parent_commit=start)
    assert refused.value.response.status_code == 412
    assert head(api) == new


@pytest.mark.fault("F10")
def test_of_many_at_once_exactly_one_wins(api: HfApi, repo: str) -> None:
    start, results = head(api), []

    def push(number: int) -> None:
        try:
            operations = [add("who.txt", str(number).encode())]
            results.append(api.create_commit(repo, operations, commit_message=str(number), parent_commit=start).oid)
        except HfHubHTTPError as error:
            results.append(error.response.status_code)

    threads = [threading.Thread(target=push, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [result for result in results if result != 412]
    assert len(results) == 8 and won == [head(api)]
    assert len(api.list_repo_commits(repo)) == 2


def test_branches_and_tags(api: HfApi, repo: str) -> None:
    first = head(api)
    api.create_commit(repo, [add("a.txt", b"1")], commit_message="1")
    api.create_branch(repo, branch="stage/one", revision=first)
    api.create_tag(repo, tag="v1", revision="main", tag_message="first")
    refs = api.list_repo_refs(repo)
    assert {branch.name: branch.target_commit for branch in refs.branches} == {"main": head(api), "stage/one": first}
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1", head(api))]
    api.create_commit(repo, [add("b.txt", b"2")], commit_message="2", revision="stage/one")
    assert api.list_repo_files(repo, revision="stage/one") == [".gitattributes", "b.txt"]
    assert api.list_repo_files(repo, revision="v1") == [".gitattributes", "a.txt"]
    api.delete_branch(repo, branch="stage/one")
    api.delete_tag(repo, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.list_repo_files(repo, revision="stage/one")
    with pytest.raises(RevisionNotFoundError):
        api.create_commit(repo, [add("b.txt", b"2")], commit_message="2", revision="stage/one")


def test_delete_and_copy_on_the_server(api: HfApi, repo: str) -> None:
    api.create_commit(
        repo, [add("a/w.bin", b"\0" * 5000), add("a/t.txt", b"t"), add("k.txt", b"k")], commit_message="1"
    )
    operations = [CommitOperationCopy("a/w.bin", "c/w.bin"), CommitOperationDelete("a/"), add("k.txt/inner", b"x")]
    api.create_commit(repo, operations, commit_message="2")
    assert api.list_repo_files(repo) == [".gitattributes", "c/w.bin", "k.txt/inner"]
    assert Path(api.hf_hub_download(repo, "c/w.bin")).read_bytes() == b"\0" * 5000
    with pytest.raises(EntryNotFoundError):
        api.create_commit(repo, [CommitOperationDelete("nowhere.txt")], commit_message="3")


def test_an_interrupted_download_goes_on_where_it_stopped(api: HfApi, raw: httpx.Client, repo: str) -> None:
    content = os.urandom(100_000)
    api.create_commit(repo, [add("w.bin", content), add("t.txt", b"0123456789")], commit_message="1")
    for path, body in (("w.bin", content), ("t.txt", b"0123456789")):
        url = f"/{repo}/resolve/main/{path}"
        whole = raw.head(url)
        etag = whole.headers["etag"]
        assert (whole.status_code, int(whole.headers["content-length"])) == (200, len(body))
        for header, part in (("bytes=5-", body[5:]), ("bytes=2-4", body[2:5]), ("bytes=-3", body[-3:])):
            answer = raw.get(url, headers={"Range": header})
            assert (answer.status_code, answer.content) == (206, part)
        assert raw.get(url, headers={"Range": f"bytes={len(body)}-"}).status_code == 416
        assert raw.get(url, headers={"Range": "bytes=5-", "If-Range": '"other"'}).content == body
        assert raw.get(url, headers={"If-None-Match": etag}).status_code == 304


def test_private_and_gated_repos_are_kept_from_others(api: HfApi, make_token: Callable[..., str], repo: str) -> None:
    api.create_commit(repo, [add("a.bin", b"\0secret")], commit_message="1")
    stranger = HfApi(endpoint=api.endpoint, token=make_token("stranger"))
    assert stranger.list_repo_files(repo) == [".gitattributes", "a.bin"]
    api.update_repo_settings(repo, gated="auto")
    with pytest.raises(GatedRepoError):
        stranger.auth_check(repo)
    with pytest.raises(GatedRepoError):
        stranger.hf_hub_download(repo, "a.bin")
    assert stranger.model_info(repo, expand=["gated"]).gated == "auto"
    api.update_repo_settings(repo, gated=False, private=True)
    for someone in (stranger, HfApi(endpoint=api.endpoint, token=False)):
        with pytest.raises(RepositoryNotFoundError):
            someone.model_info(repo)
        with pytest.raises(RepositoryNotFoundError):
            someone.hf_hub_download(repo, "a.bin")
        assert REPO not in [model.id for model in someone.list_models()]
    assert [model.id for model in api.list_models(search="MODEL", author="intel")] == [REPO]


def test_a_pointer_to_someone_elses_object_reads_nothing(
    api: HfApi, raw: httpx.Client, make_token: Callable[..., str]
) -> None:
    secret = os.urandom(4000)
    api.create_repo("owner/private", private=True)
    api.create_commit("owner/private", [add("w.bin", secret)], commit_message="1")
    oid = next(item for item in api.list_repo_tree("owner/private") if item.path == "w.bin").lfs.sha256
    token = make_token("thief")
    thief = HfApi(endpoint=api.endpoint, token=token)
    thief.create_repo("thief/copy")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 4000\n".encode()
    thief.create_commit("thief/copy", [add("w.txt", pointer)], commit_message="1")
    with pytest.raises(EntryNotFoundError):
        thief.hf_hub_download("thief/copy", "w.txt")
    lines = (
        f'{{"key":"header","value":{{"summary":"s"}}}}\n{{"key":"lfsFile","value":{{"path":"w.bin","oid":"{oid}"}}}}'
    )
    answer = raw.post("/api/models/thief/copy/commit/main", content=lines, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 400
    body = {"operation": "upload", "objects": [{"oid": oid, "size": 4000}]}
    batch = raw.post("/thief/copy.git/info/lfs/objects/batch", json=body, headers={"Authorization": f"Bearer {token}"})
    assert "upload" in batch.json()["objects"][0]["actions"]


def test_tokens_have_roles(api: HfApi, hub: Running, make_token: Callable[..., str], repo: str) -> None:
    reader = HfApi(endpoint=hub.url, token=make_token("reader", "read"))
    other = HfApi(endpoint=hub.url, token=make_token("other"))
    assert reader.whoami()["auth"]["accessToken"]["role"] == "read"
    for someone, refused in ((reader, "reader/x"), (other, "Intel/x")):
        with pytest.raises(HfHubHTTPError) as error:
            someone.create_repo(refused)
        assert error.value.response.status_code == 403
        with pytest.raises(HfHubHTTPError) as error:
            someone.create_commit(repo, [add("a.txt", b"1")], commit_message="1")
        assert error.value.response.status_code == 403
    assert other.create_repo("other/mine").repo_id == "other/mine"
    with pytest.raises(HfHubHTTPError) as error:
        HfApi(endpoint=hub.url, token="hf_wrong").whoami()
    assert error.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=hub.url, token="hf_wrong").model_info(repo)


def test_objects_that_are_here_already_are_not_sent_again(api: HfApi, raw: httpx.Client, repo: str) -> None:
    content = os.urandom(50_000)
    api.create_commit(repo, [add("w.bin", content)], commit_message="1")
    raw.put("/api/hubkit/faults", json=[])
    api.create_repo("Intel/second")
    api.create_commit("Intel/second", [add("other.bin", content)], commit_message="1")
    requests = raw.get("/api/hubkit/faults").json()["requests"]
    assert not [line for line in requests if line.startswith("PUT")] and any("/batch" in line for line in requests)
    assert Path(api.hf_hub_download("Intel/second", "other.bin")).read_bytes() == content


def test_move_duplicate_and_delete(api: HfApi, repo: str) -> None:
    api.create_commit(repo, [add("w.bin", b"\0" * 3000), add("t.txt", b"t")], commit_message="1")
    api.move_repo(repo, "Intel/renamed")
    assert api.model_info(repo).id == "Intel/renamed"
    api.duplicate_repo("Intel/renamed", "Intel/copy")
    api.delete_repo("Intel/renamed")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("Intel/renamed")
    assert Path(api.hf_hub_download("Intel/copy", "w.bin")).read_bytes() == b"\0" * 3000


def test_pages(api: HfApi, repo: str) -> None:
    operations = [add(f"f/{number:04}.txt", b"x") for number in range(1100)]
    api.create_commit(repo, operations, commit_message="many")
    for number in range(55):
        api.create_commit(repo, [add("n.txt", str(number).encode())], commit_message=str(number))
    assert len(api.list_repo_files(repo)) == 1102
    for number in range(3):
        api.create_repo(f"Intel/more-{number}")
    assert [model.id for model in api.list_models(author="Intel", limit=2)] == ["Intel/more-2", "Intel/more-1"]
    titles = [commit.title for commit in api.list_repo_commits(repo)]
    assert titles == [*(str(number) for number in reversed(range(55))), "many", "initial commit"]


def test_pull_requests_are_opened_and_merged(api: HfApi, make_token: Callable[..., str], repo: str) -> None:
    guest = HfApi(endpoint=api.endpoint, token=make_token("guest"))
    made = guest.create_commit(repo, [add("idea.bin", b"\0" * 20)], commit_message="An idea", create_pr=True)
    assert made.pr_num == 1
    details = api.get_discussion_details(repo, 1)
    assert (details.title, details.status, details.author) == ("An idea", "open", "guest")
    assert [event.type for event in details.events] == ["comment", "commit"]
    guest.create_commit(repo, [add("more.txt", b"m")], commit_message="More", revision="refs/pr/1")
    api.create_commit(repo, [add("theirs.txt", b"t")], commit_message="Meanwhile")
    other = HfApi(endpoint=api.endpoint, token=make_token("other"))
    with pytest.raises(HfHubHTTPError):
        other.create_commit(repo, [add("x.txt", b"x")], commit_message="Not mine", revision="refs/pr/1")
    with pytest.raises(HfHubHTTPError):
        guest.merge_pull_request(repo, 1)
    api.merge_pull_request(repo, 1)
    assert {"idea.bin", "more.txt", "theirs.txt"} <= set(api.list_repo_files(repo))
    assert api.get_discussion_details(repo, 1).status == "merged"


def test_card_data_with_merge_keys_and_a_value_that_ends_in_dashes(api: HfApi, repo: str) -> None:
    front = "base: &base\n  license: mit\n  tags: [x---]\ncopy:\n  <<: *base\n  license: apache-2.0\nname: a---\n"
    api.create_commit(repo, [add("README.md", f"---\n{front}---\n# Text".encode())], commit_message="Card")
    data = api.model_info(repo).card_data
    assert data is not None and data.get("copy") == {"license": "apache-2.0", "tags": ["x---"]}
    assert data.get("name") == "a---"


def test_validate_yaml_says_what_is_wrong(raw: httpx.Client) -> None:
    def said(text: str, **headers: str) -> httpx.Response:
        return raw.post("/api/validate-yaml", json={"content": text, "repoType": "model"}, headers=headers)

    assert said("---\nlicense: mit\n---\n").json() == {"errors": [], "warnings": []}
    assert said("# no metadata").json()["warnings"][0]["message"] == "empty or missing yaml metadata in repo card"
    wrong = said("---\nlicense: mine\n---\n", Accept="text/plain")
    assert wrong.status_code == 400 and wrong.text.startswith('- Error: "license" must be one of [apache-2.0, mit,')
    for text in (
        "a: !!python/object:os.system x",
        "a: 1\na: 2",
        "a: [",
        "- 1",
        "a: &x [1]\nb: [*x, *x]\nc: &y !!binary aGk=",
    ):
        answer = said(f"---\n{text}\n---\n")
        assert (answer.status_code, len(answer.json()["errors"])) == (400, 1), text
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    assert said(f"---\n{bomb}---\n").status_code == 400
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
    )
    problem = said(f"---\n{merges}---\n").json()["errors"][0]["message"]
    assert problem.startswith("YAML metadata error: its aliases stand for too many values (")
    assert said("---\na: &a {license: mit}\n<<: *a\n---\n").json() == {"errors": [], "warnings": []}
