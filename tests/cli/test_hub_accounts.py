"""`hubkit hub user`, `org`, `token`, `start --seed` and `--foreground`, as a team's administrator uses them."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import HUBKIT, environment, hubkit, hubkit_json, read_until
from huggingface_hub import HfApi
from huggingface_hub.utils import HfHubHTTPError, httpx

from hubkit.core.errors import UsageError
from hubkit.server.accounts.accounts import accounts_of
from hubkit.server.accounts.seed import read_seed

SEED: dict[str, Any] = {
    "users": [
        {"name": "__DUMMY_HUB_USER__", "fullname": "Dummy User", "token": "hf_x", "role": "write"},
        {"name": "eve", "token": "short", "role": "read"},
        {
            "name": "fine", "token": "fine-one", "role": "fine-grained",
            "permissions": {"global": [], "scoped": [{"entity": {"type": "org", "name": "team"},
                                                      "permissions": ["repo.write", "repo.content.read"]}]},
        },
    ],
    "orgs": [{"name": "team", "fullname": "The Team", "members": {"fine": "write", "eve": "read"},
              "default_visibility": "private"}],
}  # fmt: skip


def test_a_seeded_hub_in_the_foreground_answers_the_unmodified_client(tmp_path: Path) -> None:
    file, home, data = tmp_path / "seed.json", tmp_path / "home", tmp_path / "data"
    file.write_text(json.dumps(SEED))
    args = ["hub", "start", "--foreground", "--data", str(data), "--port", "0", "--host", "127.0.0.1"]
    for _ in range(2):  # the same command starts it each time
        server = subprocess.Popen(
            [HUBKIT, *args, "--seed", file], env=environment(home), cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            url = read_until(server.stdout, "http").strip()
            who = HfApi(endpoint=url, token="hf_x").whoami()
            assert (who["name"], who["fullname"], who["auth"]["accessToken"]["role"]) == (
                "__DUMMY_HUB_USER__", "Dummy User", "write",
            )  # fmt: skip
            running = hubkit("hub", "start", "--foreground", "--data", str(data), home=home)
            assert running.returncode == 2 and "already runs" in running.stderr
            elsewhere = [
                "hub",
                "start",
                "--foreground",
                "--data",
                str(tmp_path / "b"),
                "--port",
                url.rpartition(":")[2],
            ]
            assert hubkit(*elsewhere, home=home).returncode == 2
            fine, eve = HfApi(endpoint=url, token="fine-one"), HfApi(endpoint=url, token="short")
            assert fine.create_repo("team/model", exist_ok=True).repo_id == "team/model"
            assert fine.model_info("team/model").private
            assert eve.model_info("team/model").private
            with pytest.raises(HfHubHTTPError, match="403"):
                eve.create_repo("team/other")
            stranger = httpx.get(f"{url}/api/models/team/model", headers={"Authorization": "Bearer hf_x"})
            assert (stranger.status_code, stranger.headers["x-error-code"]) == (404, "RepoNotFound")
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
            assert server.stdout is not None
            server.stdout.close()
    for path in data.rglob("*"):
        assert not path.is_file() or b"fine-one" not in path.read_bytes(), f"{path} has a token"


def test_what_is_added_works_at_once_and_what_is_removed_ends_at_once(hub: Any, tmp_path: Path) -> None:
    home = tmp_path
    token = hubkit_json("hub", "user", "add", "ann", "--role", "write", home=home)["token"]
    ann = HfApi(endpoint=hub.url, token=token)
    assert ann.whoami()["name"] == "ann"
    hubkit_json("hub", "org", "add", "team", "--member", "ann=admin", "--default-visibility", "private", home=home)
    assert ann.create_repo("team/notes", repo_type="dataset").repo_id == "team/notes"
    allowed = ["--allow", "read:datasets/team/notes", "--expires", "1d"]
    narrow = hubkit("hub", "token", "add", "ann", *allowed, home=home).stdout.strip()
    reader = HfApi(endpoint=hub.url, token=narrow)
    assert reader.dataset_info("team/notes").private
    with pytest.raises(HfHubHTTPError, match="403"):
        reader.create_repo("ann/x")
    listed = hubkit_json("hub", "token", "list", "ann", home=home)
    assert [(item["role"], "expires" in item) for item in listed] == [("write", False), ("fine-grained", True)]
    hubkit_json("hub", "token", "remove", "ann", listed[1]["id"], home=home)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        reader.whoami()
    kept = hubkit("hub", "org", "remove", "team", home=home)
    assert kept.returncode == 2 and "repositories: 1" in kept.stderr
    ann.delete_repo("team/notes", repo_type="dataset")
    hubkit_json("hub", "org", "remove", "team", home=home)
    hubkit_json("hub", "user", "remove", "ann", home=home)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        ann.whoami()
    assert [item["name"] for item in hubkit_json("hub", "user", "list", home=home)] == ["hubkit"]
    assert hubkit_json("hub", "org", "list", home=home) == []


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "the seed must be an object"),
        ({"people": []}, "unknown key 'people'"),
        ({"users": [{"name": "a", "role": "root"}]}, r"users\[0\].role must be read, write"),
        ({"users": [{"fullname": "a"}]}, r"users\[0\] has no 'name'"),
        ({"users": [{"name": "a/b"}]}, r"users\[0\].name cannot be 'a/b'"),
        ({"users": [{"name": "a"}], "orgs": [{"name": "A"}]}, r"orgs\[0\].name is used twice"),
        ({"orgs": [{"name": "a", "members": {"b": "boss"}}]}, r"orgs\[0\].members.b must be admin"),
        ({"orgs": [{"name": "a", "default_visibility": "x"}]}, "must be public or private"),
        ({"users": [{"name": "a", "token": 7}]}, r"users\[0\].token must be a string"),
        ({"users": [{"name": "a", "permissions": {}}]}, "needs the role fine-grained"),
        ({"users": [{"name": "a", "role": "fine-grained", "permissions": {"global": 1}}]}, "'global' must be a list"),
    ],
)
def test_a_wrong_seed_names_its_mistake(tmp_path: Path, seed: Any, words: str) -> None:
    file = tmp_path / "seed.json"
    file.write_text(seed if isinstance(seed, str) else json.dumps(seed))
    with pytest.raises(UsageError, match=words):
        read_seed(file)


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        ({"users": [{"name": "first"}, {"name": "b", "token": "has space"}]}, "visible ASCII"),
        (
            {"users": [{"name": "first"}, {"name": "hubkit", "token": "taken"}, {"name": "c", "token": "taken"}]},
            "another",
        ),
        ({"users": [{"name": "first"}], "orgs": [{"name": "team", "members": {"nobody": "read"}}]}, "no user called"),
        ({"users": [{"name": "first"}], "orgs": [{"name": "hubkit"}]}, "is a user"),
    ],
)
def test_a_seed_is_applied_as_a_whole_or_not_at_all(tmp_path: Path, seed: Any, words: str) -> None:
    file = tmp_path / "seed.json"
    file.write_text(json.dumps(seed))
    with accounts_of(tmp_path / "hub") as accounts:
        with pytest.raises(UsageError, match=words):
            read_seed(file).apply(accounts)
        assert [account.name for account in accounts.all()] == ["hubkit"]


def test_a_token_of_ones_own_is_read_from_a_file_and_never_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("my-own-token\n")
    assert hubkit("hub", "user", "add", "ann", home=tmp_path).returncode == 0
    done = hubkit("hub", "token", "add", "ann", "--from-file", str(file), home=tmp_path)
    assert done.returncode == 0 and "my-own-token" not in done.stdout + done.stderr
    with accounts_of(tmp_path / "hub") as accounts:
        actor = accounts.identify("my-own-token")
    assert actor is not None and actor.name == "ann"
    assert (tmp_path / "hub" / "hub.sqlite").stat().st_mode & 0o077 == 0
