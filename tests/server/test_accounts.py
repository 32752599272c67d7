"""Accounts on the data folder, and what fsck finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from hubkit.core.errors import ConflictError, UsageError
from hubkit.server.accounts.accounts import open_accounts
from hubkit.server.accounts.gates import Gates
from hubkit.server.fsck import fsck
from hubkit.server.permissions import Permissions
from hubkit.server.process import Running


def test_users_organizations_and_roles(tmp_path: Path) -> None:
    accounts = open_accounts(tmp_path)
    accounts.add_user("Ann", fullname="Ann A.")
    accounts.add_user("bob")
    accounts.add_org("team", members={"ann": "write", "bob": "read"})
    ann, bob = (accounts.identify(accounts.add_token(name)) for name in ("ann", "bob"))
    reading = accounts.identify(accounts.add_token("Ann", role="read", label="ci"))
    may_create = Permissions(accounts, Gates(accounts._db)).may_create
    assert ann and ann.name == "Ann" and may_create(ann, "team") and may_create(ann, "ANN")
    assert not may_create(bob, "team") and accounts.role_in(bob, "team") == "read"
    assert not may_create(reading, "team") and not may_create(None, "team")
    assert not may_create(ann, "bob") and accounts.role_in(ann, "nowhere") is None
    tokens = accounts.tokens("ann")
    assert [(token["label"], token["role"]) for token in tokens] == [("token", "write"), ("ci", "read")]
    assert accounts.revoke_token("ann", tokens[0]["id"]) and not accounts.revoke_token("ann", tokens[0]["id"])
    assert not accounts.revoke_token("bob", "%" * 12) and accounts.identify("") is None


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../x", "api", "datasets", "-x", "x" * 200, "x.git", "ann"])
def test_names_that_cannot_be_accounts(tmp_path: Path, name: str) -> None:
    accounts = open_accounts(tmp_path)
    accounts.add_user("Ann")
    with pytest.raises(UsageError):
        accounts.add_user(name)
    with pytest.raises(UsageError):
        accounts.add_token("nobody")


def test_an_account_made_on_the_folder_works_at_once(hub: Running) -> None:
    accounts = open_accounts(hub.data)
    accounts.add_user("late")
    assert HfApi(endpoint=hub.url, token=accounts.add_token("late")).whoami()["name"] == "late"


def test_fsck_finds_what_was_damaged(api: HfApi, hub: Running) -> None:
    api.create_repo("me/model")
    api.create_repo("me/other")
    for repo in ("me/model", "me/other"):
        operations = [CommitOperationAdd("w.bin", repo.encode() * 500), CommitOperationAdd("t.txt", b"text")]
        api.create_commit(repo, operations, commit_message="m")
    assert fsck(hub.data) == []
    first, second = sorted(path for path in (hub.data / "lfs").rglob("*") if path.is_file())
    first.write_bytes(first.read_bytes()[:-1] + b"!")
    assert fsck(hub.data) == [f"The LFS object {first.name} is damaged: its content has another sha256."]
    second.unlink()
    assert len(fsck(hub.data)) == 3
    for path in hub.data.glob("git/*/objects/??/*"):
        path.unlink()
    assert sum("refs cannot be read" in text for text in fsck(hub.data)) == 2
    with pytest.raises(ConflictError):
        fsck(hub.data / "nowhere")
