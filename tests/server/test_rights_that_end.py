"""Rights that end while something is going on, and tokens that are for one thing alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from access_samples import Issuer
from access_world import ONE, PLACES, PORT, World, world

from hubkit.server.accounts.grants import Publisher, checked
from hubkit.server.repos.store import Repo
from hubkit.server.smart.turns import Turns

pytestmark = pytest.mark.fault("A3", "A4")
SPACE = next(place for place in PLACES if place.kind == "space" and place.ns == "ann")


@pytest.fixture
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world") / "hub") as made:
        yield made


def revoke(known: World, user: str) -> None:
    for token in known.hub.accounts.tokens(user):
        known.hub.accounts.revoke_token(user, token["id"])


@pytest.mark.parametrize("end", ["revoked", "moved away", "deleted"])
def test_a_log_that_is_followed_ends_with_the_right_to_read_it(
    known: World, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    hub, repo = known.hub, known.repo(SPACE)
    monkeypatch.setattr(hub.spaces, "stage", lambda repo: "RUNNING")
    owner = hub.accounts.identify(str(known.tokens["owner"]))
    assert owner is not None
    log = hub.folder.spaces / repo.uid / "run.log"

    def change() -> None:
        if end == "revoked":
            revoke(known, "ann")
        elif end == "deleted":
            hub.store.delete(repo)
        else:
            hub.store.move(repo, "bob", "elsewhere", actor=owner)
        with log.open("a") as file:
            file.write(json.dumps({"data": "said later", "timestamp": "2026-01-01T00:00:00.000Z"}) + "\n")

    path = f"/api/spaces/{SPACE.id}/logs/run"
    answer = known.send("GET", path, token=known.tokens["ann: read"], meanwhile=change)
    assert answer.status == 200 and SPACE.word("g") in answer.text and "said later" not in answer.text


BODIES: list[tuple[str, Any]] = [
    ("/api/models/{id}/commit/main", b'{"key":"header","value":{"summary":"s"}}\n{"key":"file","value":{"path":"x"}}'),
    ("/api/models/{id}/branch/late", {"startingPoint": "main"}),
    ("/api/models/{id}/discussions", {"title": "late"}),
    ("/api/repos/create", {"name": "late"}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_a_token_that_is_revoked_while_its_body_arrives_changes_nothing(known: World, path: str, body: Any) -> None:
    before = known.send("GET", f"/api/models/{ONE.id}/refs", token=known.tokens["owner"], query="include_prs=1").body
    answer = known.send(
        "POST", path.replace("{id}", ONE.id), token=known.tokens["ann: write"], body=body,
        meanwhile=lambda: revoke(known, "ann"),
    )  # fmt: skip
    assert answer.status == 401, answer.text
    after = known.send("GET", f"/api/models/{ONE.id}/refs", token=known.tokens["owner"], query="include_prs=1").body
    assert before == after and known.hub.store.find("model", "ann/late") is None
    assert len(known.hub.discussions.listed(known.repo(ONE))) == 2 and not list(known.hub.folder.spool.iterdir())


LINES = b'{"key":"header","value":{"summary":"s"}}\n{"key":"file","value":{"path":"x","content":"y"}}'


LOCKED: list[tuple[str, str, Any]] = [
    ("POST", "commit/main", LINES), ("POST", "commit/main?create_pr=1", LINES), ("POST", "branch/late", {}),
    ("DELETE", "branch/{branch}", None), ("POST", "tag/main", {"tag": "late"}), ("DELETE", "tag/{tag}", None),
    ("POST", "super-squash/main", {}), ("POST", "discussions", {"title": "late"}),
    ("POST", "discussions/{pull}/merge", {}), ("POST", "lfs-files/batch", {"deletions": {"sha": ["0" * 64]}}),
]  # fmt: skip


@pytest.mark.parametrize(("end", "status", "asked"), [("revoked", 401, LOCKED), ("another", 404, LOCKED[:1])])
def test_what_waits_for_its_turn_needs_the_right_when_it_has_it(
    known: World, monkeypatch: pytest.MonkeyPatch, end: str, status: int, asked: list[tuple[str, str, Any]]
) -> None:
    hub, repo, lock = known.hub, known.repo(ONE), known.hub.store.lock
    owner, before = hub.accounts.identify(str(known.tokens["owner"])), dict(hub.store.git(repo).refs())
    assert owner is not None
    names = {
        kind: next(name for ref in before if (name := ref.split("/")[2]).startswith(kind)) for kind in ("branch", "tag")
    }
    pull = next(row["num"] for row in hub.discussions.listed(repo) if row["pull"] and row["status"] == "open")

    def wait(waited_for: Repo) -> Any:
        monkeypatch.undo()
        if end == "revoked":
            revoke(known, "ann")
        else:
            hub.store.move(repo, "team", "elsewhere", actor=owner)
            hub.store.create("model", ONE.ns, ONE.name, actor=owner, private=False)
        return lock(waited_for)

    for method, path, body in asked:
        monkeypatch.setattr(hub.store, "lock", wait)
        token = hub.accounts.add_token("ann")
        path, _, query = path.format(pull=pull, **names).partition("?")
        answer = known.send(method, f"/api/models/{ONE.id}/{path}", token=token, body=body, query=query)
        assert answer.status == status, (path, answer.text)
        assert hub.store.lock == lock, "it came to where it would have waited"
    assert dict(hub.store.git(repo).refs()) == before and len(hub.discussions.listed(repo)) == 2


@pytest.mark.parametrize("path", [
    "info/refs?service=git-upload-pack", "info/refs?service=git-receive-pack", "git-upload-pack",
])  # fmt: skip
def test_git_that_waits_for_its_turn_needs_the_right_when_it_has_it(
    known: World, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    turn = Turns.turn

    def wait(turns: Turns, caller: str) -> Any:
        revoke(known, "ann")
        return turn(turns, caller)

    monkeypatch.setattr(Turns, "turn", wait)
    path, _, query = path.partition("?")
    more: dict[str, Any] = (
        {} if query else {"body": b"0000", "headers": {"content-type": f"application/x-{path}-request"}}
    )
    token = known.tokens["ann: write"]
    answer = known.send("GET" if query else "POST", f"/{ONE.id}.git/{path}", token=token, query=query, **more)
    assert answer.status == 401, answer.text


def test_who_gets_the_name_of_a_removed_user_gets_nothing_that_it_wrote(known: World) -> None:
    accounts, place = known.hub.accounts, next(place for place in PLACES if place.state == "public")
    api = f"/api/{place.kind}s/{place.id}"
    number, event = 0, ""
    for status in (200, 403):
        accounts.add_user("zoe")
        token = accounts.add_token("zoe")
        if not number:
            asked = {"title": "a proposal", "description": "as said", "pullRequest": True}
            number = json.loads(known.send("POST", f"{api}/discussions", token=token, body=asked).body)["num"]
            event = json.loads(known.send("GET", f"{api}/discussions/{number}", token=token).body)["events"][0]["id"]
        line = {"key": "file", "value": {"path": f"{status}.txt", "content": ""}}
        lines = ({"key": "header", "value": {"summary": "s"}}, line)
        commit = b"".join(json.dumps(item).encode() + b"\n" for item in lines)
        for path, body in (
            (f"discussions/{number}/title", {"title": "another"}), (f"discussions/{number}/status", {"status": "open"}),
            (f"discussions/{number}/comment/{event}/edit", {"content": "never said"}),
            (f"commit/refs%2Fpr%2F{number}", commit), (f"discussions/{number}/comment/{event}/hide", {}),
        ):  # fmt: skip
            answer = known.send("POST", f"{api}/{path}", token=token, body=body)
            assert answer.status == status, (path, answer.text)
        accounts.remove("zoe", "user")


def test_logins_end_with_their_token_whether_or_not_the_link_was_followed(known: World) -> None:
    page, token = f"/{ONE.id}", str(known.tokens["ann: reads one"])
    cookie, key = known.cookie("ann: reads one"), known.hub.sessions.key(token, page)
    assert known.send("GET", page, headers={"cookie": cookie, "accept": "text/html"}).status == 200
    revoke(known, "ann")
    answer = known.send("GET", "/login", query=f"key={key}", headers={"accept": "text/html"})
    for one in (cookie, answer.headers.get("set-cookie", "").partition(";")[0]):
        assert known.send("GET", page, headers={"cookie": one, "accept": "text/html"}).status == 404


# --- trusted publishers


def exchange(known: World, resource: str, identity: str, host: str = f"127.0.0.1:{PORT}") -> Any:
    body = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "subject_token": identity,
        "resource": resource,
    }
    return known.send("POST", "/oauth/token", body=body, headers={"host": host})


@pytest.fixture
def job(known: World) -> Issuer:
    """A job that may publish to the repo ONE."""
    account = known.hub.accounts.find("hubkit")
    assert account is not None
    known.hub.accounts.add_publisher(known.repo(ONE).uid, account, Issuer.KEY, {"repository": "me/work"})
    return Issuer({"repository": "me/work", "sub": "repo:me/work <x>\n"})


def test_the_token_of_a_job_is_for_one_repo_whatever_its_name_becomes(known: World, job: Issuer) -> None:
    answer = exchange(known, ONE.id, job.sign(f"http://127.0.0.1:{PORT}"))
    token = json.loads(answer.body)["access_token"]
    actor = known.hub.accounts.identify(token)
    assert actor and not actor.account.admin and actor.name == "[OIDC] repo:me/work ?x??"
    header = {"key": "header", "value": {"summary": "s"}}
    content = "\n".join(map(json.dumps, (header, {"key": "file", "value": {"path": "a", "content": "b"}})))
    owner = known.hub.accounts.identify(str(known.tokens["owner"]))
    assert owner is not None
    moved = known.hub.store.move(known.repo(ONE), "team", "elsewhere", actor=owner)
    other = known.hub.store.create("model", ONE.ns, ONE.name, actor=owner, private=False)
    for repo, status in ((moved, 200), (other, 403)):
        answer = known.send("POST", f"/api/models/{repo.id}/commit/main", token=token, body=content.encode())
        assert answer.status == status, answer.text
    history = known.send("GET", f"/api/models/{moved.id}/commits/main", token=token)
    assert json.loads(history.body)[0]["authors"][0]["user"] == actor.name
    known.hub.store.delete(moved)
    assert known.send("GET", f"/api/models/{moved.id}", token=token).status == 404


def test_jobs_that_are_trusted_no_more_have_no_token_and_get_none(known: World, job: Issuer) -> None:
    identity = job.sign(f"http://127.0.0.1:{PORT}")
    token = json.loads(exchange(known, ONE.id, identity).body)["access_token"]
    assert known.send("GET", f"/api/models/{ONE.id}", token=token).status == 200
    owner, body = known.tokens["owner"], {"repo": ONE.id}
    answer = known.send("DELETE", "/api/hubkit/publishers", token=owner, body=body)
    assert json.loads(answer.body) == {"removed": 1}
    assert known.send("GET", f"/api/models/{ONE.id}", token=token).status == 401
    assert exchange(known, ONE.id, identity).status == 400
    assert known.send("GET", "/api/whoami-v2", token=known.tokens["ann: reads one"]).status == 200


def test_an_identity_for_another_hub_is_refused_whatever_the_host_says(known: World, job: Issuer) -> None:
    for audience, host in (
        ("http://127.0.0.1:1234", "127.0.0.1:1234"), ("http://127.0.0.1:1234", f"127.0.0.1:{PORT}"),
        ("https://huggingface.co", f"127.0.0.1:{PORT}"), ("", f"127.0.0.1:{PORT}"), ("http://localhost", "localhost"),
    ):  # fmt: skip
        assert exchange(known, ONE.id, job.sign(audience), host).status == 400, audience
    for own in ("127.0.0.1", "localhost", "[::1]"):
        assert exchange(known, ONE.id, job.sign(f"http://{own}:{PORT}")).status == 200, own


def test_an_identity_that_does_not_say_when_it_ends_is_refused(known: World, job: Issuer) -> None:
    for until in ("never", None, True, [], {}, "1", float("nan"), float("inf"), 10**400, -1, 0):
        job.claims["exp"] = until
        assert exchange(known, ONE.id, job.sign(f"http://127.0.0.1:{PORT}")).status == 400, until


def test_a_claim_that_is_missing_is_not_an_empty_one(known: World, job: Issuer) -> None:
    account = known.hub.accounts.find("hubkit")
    assert account is not None
    known.hub.accounts.add_publisher(known.repo(PLACES[0]).uid, account, Issuer.KEY, {"branch": None})
    assert exchange(known, PLACES[0].id, job.sign(f"http://127.0.0.1:{PORT}")).status == 400


def test_expired_tokens_leave_the_database(known: World) -> None:
    accounts = known.hub.accounts
    for _ in range(3):
        accounts.add_token("hubkit", limits=Publisher("x"), lives=0)
    assert accounts.identify(accounts.add_token("hubkit", lives=100)) is not None
    rows = known.hub.database.rows("SELECT * FROM token_limits WHERE expires <= ?", time.time())
    assert not rows and known.hub.database.rows("SELECT * FROM token_limits WHERE expires IS NOT NULL")


def test_permissions_that_are_none_are_refused(known: World) -> None:
    def scoped(entity: Any, permissions: Any) -> dict[str, Any]:
        return {"scoped": [{"entity": entity, "permissions": permissions}]}

    for value in (
        None, [], "x", {"scoped": [1]}, {"scoped": "x"}, {"global": "repo.write"}, {"global": [1]},
        scoped({"type": "bucket", "name": "x"}, []), scoped({"type": "user"}, []),
        scoped({"type": "user", "name": "x"}, "repo.write"),
    ):  # fmt: skip
        body = {"user": "ann", "fineGrained": value}
        answer = known.send("POST", "/api/hubkit/tokens", token=known.tokens["owner"], body=body)
        assert answer.status == 400, value
    assert checked({"global": ["repo.write"]}).everywhere == {"repo.write"}


def test_a_right_on_one_repo_follows_it_and_no_other_repo_of_its_name(known: World) -> None:
    hub, admin = known.hub, known.tokens["owner"]
    owner = hub.accounts.identify(str(admin))
    assert owner is not None
    one = {"entity": {"type": "model", "name": ONE.id.upper()}, "permissions": ["repo.content.read"]}
    body = {"user": "ann", "fineGrained": {"scoped": [one]}}
    token = json.loads(known.send("POST", "/api/hubkit/tokens", token=admin, body=body).body)["token"]
    moved = hub.store.move(known.repo(ONE), "ann", "renamed", actor=owner)
    hub.store.create("model", ONE.ns, ONE.name, actor=owner, private=True)
    for repo, status in ((moved.id, 200), (ONE.id, 404)):
        assert known.send("GET", f"/api/models/{repo}", token=token).status == status

    def said() -> str:
        return str(json.loads(known.send("GET", "/api/whoami-v2", token=token).body)["auth"])

    assert "ann/renamed" in said()
    hub.store.move(moved, "bob", "secret", actor=owner)
    assert "secret" not in said() and known.send("GET", "/api/models/bob/secret", token=token).status == 404
