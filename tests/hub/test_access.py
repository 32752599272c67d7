"""Who may do what, seen before anything is uploaded: rights, visibility, gates, money, and the identity of a CI job."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from access_samples import DISCUSS, READ, WRITE, Issuer, fine_grained, listening, scope
from releases import REPO, Release, admin, faults, requests, target_of, writes

from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.files import digests
from hubkit.core.target import Target
from hubkit.hub import trusted_publishing
from hubkit.hub.auth import Account
from hubkit.hub.client import Hub, connect
from hubkit.hub.commits import addition
from hubkit.hub.uploads import upload
from hubkit.server.process import Running
from hubkit_stages import publish

MODEL = "hubkit/some-model"
SECRET = "hf_" + "Zz9" * 12


@pytest.fixture
def mine(hub: Running, tmp_path: Path) -> Hub:
    connected = connect(target_of(hub, tmp_path))
    connected.ensure_repo(MODEL, "public")
    return connected


def with_token(hub: Running, tmp_path: Path, token: str | None) -> Hub:
    return connect(target_of(hub, tmp_path, token))


def write_one(hub: Hub, repo: str) -> None:
    from huggingface_hub import CommitOperationAdd

    hub.ensure_repo(repo, "public")
    made = [CommitOperationAdd("x.txt", b"x")]
    hub.send(lambda: hub.api.create_commit(repo, made, commit_message="m"), repo=repo)


RIGHTS: list[tuple[list[dict[str, Any]], tuple[str, ...], str, str | None]] = [
    ([scope("user", "hubkit", READ, WRITE)], (), MODEL, None),
    ([scope("user", "hubkit", READ, WRITE)], (), "hubkit/new", None),
    ([scope("model", MODEL, READ, WRITE)], (), MODEL, None),
    ([scope("model", MODEL, READ, WRITE)], (), "hubkit/new", f"lacks the right {WRITE} for new repos of hubkit"),
    ([scope("user", "hubkit", READ)], (), MODEL, f"lacks the right {WRITE} for {MODEL}"),
    ([scope("org", "team", READ, WRITE)], (), MODEL, f"{MODEL}; it has it for team"),
    ([scope("dataset", MODEL, READ, WRITE)], (), MODEL, f"lacks the right {WRITE}"),
    ([scope("model", "hubkit/other", READ, WRITE)], (), MODEL, "it has it for hubkit/other"),
    ([], (DISCUSS,), MODEL, f"lacks the right {WRITE}"),
    ([], (WRITE,), MODEL, None),
    ([], (), MODEL, f"lacks the right {WRITE}"),
]


@pytest.mark.parametrize(("scopes", "everywhere", "repo", "words"), RIGHTS)
def test_preflight_and_the_hub_agree_on_a_fine_grained_token(
    hub: Running, mine: Hub, tmp_path: Path, scopes: Any, everywhere: tuple[str, ...], repo: str, words: str | None
) -> None:
    fine = with_token(hub, tmp_path, fine_grained(hub, "hubkit", *scopes, everywhere=everywhere))
    said = fine.writing_problem(repo)
    if words is None:
        assert said is None
        write_one(fine, repo)
    else:
        assert said is not None and words in said and "\n" not in said
        with pytest.raises(RefusedError, match="lacks permission") as told:
            write_one(fine, repo)
        assert told.value.exit_code == 3


def test_a_token_that_may_only_read_names_the_missing_right(hub: Running, mine: Hub, tmp_path: Path) -> None:
    token = admin(hub, "POST", "tokens", {"user": "hubkit", "role": "read"})["token"]
    faults(hub)
    said = str(with_token(hub, tmp_path, token).writing_problem(MODEL))
    assert "is read-only" in said and WRITE in said and requests(hub) == ["GET /api/whoami-v2"]


def test_a_private_repo_needs_the_right_to_read(hub: Running, mine: Hub, tmp_path: Path) -> None:
    mine.ensure_repo("hubkit/secret", "private")
    blind = with_token(hub, tmp_path, fine_grained(hub, "hubkit", scope("model", MODEL, READ)))
    assert not blind.repo_exists("hubkit/secret")
    seeing = with_token(hub, tmp_path, fine_grained(hub, "hubkit", scope("model", "hubkit/secret", READ)))
    assert seeing.visibility("hubkit/secret") == "private"


def test_a_hub_without_xet_is_sent_files_by_lfs(
    hub: Running, mine: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    by_address = connect(replace(target_of(hub, tmp_path), embedded=False))
    faults(hub, {"route": "GET .*/xet-(read|write)-token/", "action": "status", "status": 404, "count": 0})
    (tmp_path / "model.bin").write_bytes(b"\0" * 4096)
    upload(by_address, MODEL, "main", [addition("model.bin", tmp_path / "model.bin", digests(tmp_path / "model.bin"))])
    asked = requests(hub)
    assert any("/xet-write-token/" in line for line in asked), "it was tried"
    assert any(line.startswith("PUT ") for line in asked), "and then sent another way"


def test_what_the_real_hub_says_is_understood() -> None:
    said = {
        "type": "user",
        "name": "ann",
        "orgs": [{"type": "org", "name": "team", "roleInOrg": "write"}],
        "auth": {
            "type": "access_token",
            "accessToken": {
                "displayName": "ci",
                "role": "fineGrained",
                "fineGrained": {
                    "canReadGatedRepos": True,
                    "global": [DISCUSS],
                    "scoped": [{"entity": {"_id": "1", "type": "user", "name": "Ann"}, "permissions": [WRITE]}],
                },
            },
        },
    }
    account = Account.of(said)
    assert account.rights_on("ann/x", "model", new=True) == {WRITE, DISCUSS}
    assert account.lacks(WRITE, "ann/x", "space") is None and account.organizations == ("team",)
    assert account.lacks(READ, "ann/x", "model") is not None
    bare = Account.of({"name": "ann"})
    assert bare.role is None and bare.lacks(WRITE, "ann/x", "model") is None


def test_a_token_that_has_expired(hub: Running, mine: Hub, tmp_path: Path) -> None:
    token = admin(hub, "POST", "tokens", {"user": "hubkit", "lives": 0})["token"]
    with pytest.raises(RefusedError, match="does not accept this token") as told:
        with_token(hub, tmp_path, token).writing_problem(MODEL)
    assert "Log in again" in str(told.value.hint) and token not in str(told.value)


def test_over_https_a_refused_token_is_not_taken_for_a_missing_repo() -> None:
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils import hf_raise_for_status, httpx

    from hubkit.hub.errors import explain

    def explained(sent: dict[str, str], said: dict[str, str]) -> HubkitError | None:
        request = httpx.Request("GET", "https://hub.example/api/models/a/b", headers=sent)
        with pytest.raises(RepositoryNotFoundError) as told:
            hf_raise_for_status(httpx.Response(401, headers=said, request=request))
        return explain(told.value, "https://hub.example", "a/b")

    expired = {"X-Error-Message": "User Access Token 'ci' is expired"}
    assert isinstance(explained({"authorization": "Bearer x"}, expired), RefusedError)
    assert isinstance(explained({}, expired), UsageError)
    assert isinstance(explained({"authorization": "Bearer x"}, {"X-Error-Code": "RepoNotFound"}), UsageError)


# --- gates, visibility, money


@pytest.mark.parametrize(("kind", "folder"), [("model", ""), ("dataset", "datasets/")])
def test_a_gated_repo_says_where_to_ask(hub: Running, mine: Hub, tmp_path: Path, kind: Any, folder: str) -> None:
    repo = "hubkit/gated"
    mine.ensure_repo(repo, "public", kind)
    mine.api.update_repo_settings(repo, gated="manual", repo_type=kind)
    admin(hub, "POST", "users", {"name": "guest"})
    guest = with_token(hub, tmp_path, admin(hub, "POST", "tokens", {"user": "guest"})["token"])
    assert guest.repo_exists(repo, kind)
    with pytest.raises(RefusedError, match=f"{repo} is gated") as told:
        guest.read_file(repo, ".gitattributes", "main", kind)
    assert f"{hub.url}/{folder}{repo};" in str(told.value.hint)


def test_a_hub_that_makes_the_repo_public_gets_nothing(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path).train()
    asked = {"find": '"private"', "body": '"public"'}
    faults(hub, {"route": "POST /api/repos/create", "action": "rewrite", **asked})
    with pytest.raises(RefusedError, match=f"{REPO} is public on .* the recipe says private"):
        publish.run(release.context("publish[main]", {"repo": REPO, "visibility": "private"}))
    assert writes(hub) == ["POST /api/repos/create"], "not one byte of a file was sent"
    assert list(connect(release.target).tree(REPO, "main")) == [".gitattributes"]


MONEY = [
    (402, "Payment required: private storage is full", "requires a paid plan or more storage"),
    (402, "Gradio Spaces need a PRO subscription", "requires a paid plan or more storage"),
    (
        403,
        "Private repository storage limit reached, please upgrade your plan.",
        "requires a paid plan or more storage",
    ),
    (403, "You are not in the right group.", "This token lacks permission"),
    (507, "Disk is full", "has no storage left"),
]


@pytest.mark.parametrize(("status", "words", "sentence"), MONEY)
def test_answers_about_room_and_money(hub: Running, tmp_path: Path, status: int, words: str, sentence: str) -> None:
    release = Release.on(hub, tmp_path).train()
    told_so = {"X-Error-Message": words}
    fault = {"route": "POST .*/objects/batch", "action": "status", "status": status, "headers": told_so, "count": 0}
    faults(hub, fault | {"body": ""})
    with pytest.raises(HubkitError) as told:
        release.publish("main")
    assert sentence in told.value.message and words.rstrip(".") in told.value.message and told.value.hint
    assert told.value.exit_code == (5 if status == 507 else 3)
    assert len([line for line in requests(hub) if "batch" in line]) == 1, "it stays so: nobody asks twice"
    faults(hub)
    release.publish("main")


def test_a_refusal_of_single_files_is_told(hub: Running, mine: Hub, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"\0" * 2000)
    said = '{"objects": [{"oid": "x", "size": 1, "error": {"code": 403, "message": "Over your storage quota"}}]}'
    faults(hub, {"route": "objects/batch", "action": "status", "status": 200, "body": said})
    with pytest.raises(RefusedError, match=r"refused files for .*Over your storage quota"):
        upload(mine, MODEL, "main", [addition("w.safetensors", path, digests(path))])


# --- trusted publishing


CLAIMS = {"sub": "repo:me/work:ref:refs/heads/main", "repository": "me/work"}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    """A CI job: its variables are set, no token is."""
    trusted_publishing._identities.clear()
    for name in ("HF_TOKEN", "HF_OIDC_ID_TOKEN", "HF_OIDC_RESOURCE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    issuer = Issuer(CLAIMS)
    with issuer.serving() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield issuer


def stranger(hub: Running, tmp_path: Path) -> Target:
    """A Hub that hubkit knows nothing of, and no token for it."""
    return replace(target_of(hub, tmp_path, None), embedded=False)


def trust(hub: Running, repo: str = MODEL) -> None:
    admin(hub, "POST", "publishers", {"repo": repo, "secret": Issuer.KEY, "claims": CLAIMS})


@pytest.fixture(autouse=True)
def _lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded Hub keeps files by LFS, also when it is met as a stranger's."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


def test_a_ci_job_publishes_with_its_identity(hub: Running, mine: Hub, tmp_path: Path, job: Issuer) -> None:
    trust(hub)
    target = trusted_publishing.signed_in(stranger(hub, tmp_path), MODEL)
    assert target.token and target.trusted == MODEL and job.asked == [hub.url] and job.wrong == 0
    connected = connect(target)
    assert connected.writing_problem(MODEL) is None
    write_one(connected, MODEL)
    assert "no right to write to hubkit/other" in str(_made(mine, connected, "hubkit/other"))
    assert "does not exist" in str(connected.writing_problem("hubkit/nothing"))
    assert len(job.asked) == 1, "one token serves until its end is near"


def _made(owner: Hub, other: Hub, repo: str) -> str | None:
    owner.ensure_repo(repo, "public")
    return other.writing_problem(repo)


def test_the_jobs_token_goes_to_its_hub_alone(hub: Running, mine: Hub, tmp_path: Path, job: Issuer) -> None:
    trust(hub)
    target = trusted_publishing.signed_in(stranger(hub, tmp_path), MODEL)
    with listening() as (url, heard):
        other = connect(Target(url, tmp_path, None))
        with pytest.raises(HubkitError):
            other.query(lambda: other.api.model_info(MODEL, token=str(target.token)))
        with pytest.raises(HubkitError):
            other.query(lambda: other.api.model_info(MODEL, token=Issuer.SECRET))
    assert len(heard) == 2 and not any("authorization" in headers for headers in heard)


def test_a_token_is_renewed_before_it_ends(
    hub: Running, mine: Hub, tmp_path: Path, job: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(hub)
    target = trusted_publishing.signed_in(stranger(hub, tmp_path), MODEL)
    connected = connect(target)
    now = time.monotonic()
    monkeypatch.setattr(trusted_publishing.time, "monotonic", lambda: now + 3290)
    assert connected.writing_problem(MODEL) is None and len(job.asked) == 1
    owner = admin(hub, "GET", "accounts")[0]
    for token in owner["tokens"]:
        if token["label"] == "trusted publisher":
            admin(hub, "DELETE", f"tokens/{owner['name']}/{token['id']}")
    monkeypatch.setattr(trusted_publishing.time, "monotonic", lambda: now + 3310)
    assert connected.writing_problem(MODEL) is None, "the old token is gone, and the new one was sent"
    assert len(job.asked) == 2


def test_a_job_that_may_not_show_who_it_is(
    hub: Running, mine: Hub, tmp_path: Path, job: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    with pytest.raises(RefusedError, match="no permission to prove its identity") as told:
        trusted_publishing.signed_in(stranger(hub, tmp_path), MODEL)
    assert "`permissions: id-token: write`" in str(told.value.hint) and MODEL in str(told.value.hint)
    assert told.value.exit_code == 3


def test_a_job_that_the_repo_does_not_trust(hub: Running, mine: Hub, tmp_path: Path, job: Issuer) -> None:
    for claims in ({**CLAIMS, "repository": "me/other"}, {**CLAIMS, "aud": "https://elsewhere"}, {**CLAIMS, "exp": 1}):
        trust(hub)
        trusted_publishing._identities.clear()
        job.claims = claims
        with pytest.raises(RefusedError, match=r"refused this job a token .*no trusted publisher") as told:
            trusted_publishing.signed_in(stranger(hub, tmp_path), MODEL)
        assert "Trusted Publishers" in str(told.value.hint)


def test_a_ci_service_that_fails_is_told(
    hub: Running, mine: Hub, tmp_path: Path, job: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "another")
    with pytest.raises(HubkitError) as told:
        trusted_publishing.signed_in(stranger(hub, tmp_path), MODEL)
    assert told.value.exit_code in {3, 5} and "another" not in str(told.value)


def test_an_identity_that_was_given(
    hub: Running, mine: Hub, tmp_path: Path, job: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(hub)
    monkeypatch.delenv("GITHUB_ACTIONS")
    monkeypatch.setenv("HF_OIDC_ID_TOKEN", job.sign(hub.url))
    assert trusted_publishing.signed_in(stranger(hub, tmp_path), MODEL).token is None, "it was issued for another Hub"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert trusted_publishing.signed_in(stranger(hub, tmp_path), MODEL).token and job.asked == []


def test_outside_of_ci_nothing_is_asked(hub: Running, tmp_path: Path, job: Issuer, monkeypatch: Any) -> None:
    owner = target_of(hub, tmp_path)
    assert trusted_publishing.signed_in(owner, MODEL) is owner
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert trusted_publishing.signed_in(stranger(hub, tmp_path), MODEL).token is None and job.asked == []
