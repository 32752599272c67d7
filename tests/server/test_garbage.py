"""Garbage is what no ref leads to and is old: it is named, then removed, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RevisionNotFoundError
from real_git import Git, address, git, needs_git

from hubkit.core.errors import ConflictError
from hubkit.server import process
from hubkit.server.fsck import fsck
from hubkit.server.garbage import Collected, collect
from hubkit.server.process import Running

__all__ = ["git"]


def test_what_no_ref_leads_to_is_collected(api: HfApi, hub: Running, tmp_path: Path) -> None:
    kept = {f"{name}.bin": os.urandom(3000) for name in ("main", "branch", "pull", "history")}
    for repo in ("me/one", "me/two"):
        api.create_repo(repo)

    def shared(repo: str, **more: str) -> None:
        added = [CommitOperationAdd("shared.bin", b"s" * 5000)]
        api.create_commit(repo, added, commit_message="in two repos", **more)  # type: ignore[arg-type]

    shared("me/two")

    def commit(name: str, **more: str | bool) -> str:
        added = [CommitOperationAdd(name, kept.get(name, b"lost" * 900))]
        return api.create_commit("me/one", added, commit_message=name, **more).oid  # type: ignore[arg-type]

    commit("history.bin")
    api.delete_file("history.bin", "me/one")
    commit("main.bin")
    api.create_branch("me/one", branch="other")
    commit("branch.bin", revision="other")
    commit("pull.bin", create_pr=True)
    api.create_branch("me/one", branch="gone")
    shared("me/one", revision="gone")
    lost = commit("lost.bin", revision="gone")
    api.delete_branch("me/one", branch="gone")
    assert api.list_repo_commits("me/one", revision=lost)
    assert collect(hub.data, days=14, dry_run=False) == Collected(), "all of it is young"
    planned = collect(hub.data, days=0, dry_run=True)
    assert api.list_repo_commits("me/one", revision=lost)
    done = collect(hub.data, days=0, dry_run=False)
    assert done == planned and done.files == 2 and done.objects >= 5 and 3600 < done.size < 5000 and not done.skipped
    with pytest.raises(RevisionNotFoundError):
        api.list_repo_commits("me/one", revision=lost)
    assert fsck(hub.data) == [] and len(list((hub.data / "lfs").glob("*/*/*"))) == 5
    for name, revision in {"main.bin": "main", "branch.bin": "other", "pull.bin": "refs/pr/1"}.items():
        assert Path(api.hf_hub_download("me/one", name, revision=revision)).read_bytes() == kept[name]
    process.stop(hub.data)
    assert collect(hub.data, days=0, dry_run=False) == Collected()
    with pytest.raises(ConflictError, match="no Hub in"):
        collect(tmp_path / "absent", days=0, dry_run=True)


@needs_git
def test_what_was_pushed_as_a_pack_is_collected(api: HfApi, hub: Running, git: Git, tmp_path: Path) -> None:
    api.create_repo("me/one")
    work = tmp_path / "work"
    git("clone", "-q", address(hub.url, hub.token, "me/one"), str(work), at=tmp_path)

    def push(branch: str) -> str:
        for number in range(150):
            (work / f"{branch}{number}").write_bytes(os.urandom(40))
        git("add", "-A", at=work)
        git("commit", "-qm", branch, at=work)
        git("push", "-q", "origin", f"HEAD:{branch}", at=work)
        return git("rev-parse", "HEAD", at=work).stdout.strip()

    kept = push("main")
    lost = push("secret")
    packs = sorted((hub.data / "git").glob("*/objects/pack/*.pack"))
    api.delete_branch("me/one", branch="secret")
    api.upload_file(path_or_fileobj=b"loose", path_in_repo="loose", repo_id="me/one")
    young = collect(hub.data, days=1, dry_run=False)
    assert young == Collected() and api.file_exists("me/one", "secret7", revision=lost)
    planned = collect(hub.data, days=0, dry_run=True)
    assert len(packs) == 2 and sorted((hub.data / "git").glob("*/objects/pack/*.pack")) == packs
    assert collect(hub.data, days=0, dry_run=False) == planned and planned.objects == 152 and planned.size > 152 * 40
    with pytest.raises(RevisionNotFoundError):
        api.list_repo_commits("me/one", revision=lost)
    assert fsck(hub.data) == [] and api.file_exists("me/one", "main7") and api.file_exists("me/one", "loose")
    assert Path(api.hf_hub_download("me/one", "main3", revision=kept)).stat().st_size == 40
    assert collect(hub.data, days=0, dry_run=False) == Collected()
    git("clone", "-q", f"{hub.url}/me/one", str(tmp_path / "again"), at=tmp_path)
    assert (tmp_path / "again" / "loose").read_bytes() == b"loose"
