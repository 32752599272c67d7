"""Webhooks: a receiver on this machine is told what its owner may see, in order, until it answers; no other host is."""

from __future__ import annotations

import json
import queue
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commands import until
from huggingface_hub import HfApi, WebhookPayload
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from hubkit.server.accounts.accounts import Account, Actor
from hubkit.server.hooks import delivery as delivering
from hubkit.server.hooks.delivery import Delivering
from hubkit.server.hooks.webhooks import WAITS, Settings, Webhooks, is_local
from hubkit.server.hub import Hub
from hubkit.server.process import Running
from hubkit.server.storage.database import Database


class Receiver:
    """A program that webhooks are delivered to; ``refuse`` is how many deliveries it answers with 503 first."""

    def __init__(self) -> None:
        self.told: queue.Queue[tuple[dict[str, str], Any]] = queue.Queue()
        self.refuse = 0
        self.url = ""

    def next(self) -> tuple[str, Any]:
        """The next thing it was told: the event in words, and the payload, which the client's own class accepts."""
        _, value = self.told.get(timeout=20)
        WebhookPayload.model_validate(value)
        return f"{value['event']['action']} {value['event']['scope']}", value


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if receiver.refuse:
                receiver.refuse -= 1
                self.send_response(503)
            else:
                receiver.told.put((dict(self.headers), json.loads(body)))
                self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_receiver_is_told_what_happens_in_order_and_again_after_it_refused(
    hub: Running, api: HfApi, make_token: Callable[..., str]
) -> None:
    ann = HfApi(endpoint=hub.url, token=make_token("ann"))
    bob = HfApi(endpoint=hub.url, token=make_token("bob"))
    with receiving() as receiver:
        receiver.refuse = 1
        watched = [{"type": "user", "name": "ann"}]
        hook = ann.create_webhook(url=receiver.url, watched=watched, secret="s3")
        assert (hook.secret, hook.disabled) == ("s3", False)
        with receiving() as spy:
            bob.create_webhook(url=spy.url, watched=watched, domains=["repo"])
            ann.create_repo("ann/secret", private=True)
            ann.create_repo("ann/open")
            headers, first = receiver.told.get(timeout=20)
            assert headers["X-Webhook-Secret"] == "s3" and first["repo"]["name"] == "ann/secret"
            what, payload = receiver.next()
            assert (what, payload["repo"]["name"], payload["webhook"]["id"]) == ("create repo", "ann/open", hook.id)
            commit = ann.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="ann/open")
            what, payload = receiver.next()
            assert what == "update repo.content" and payload["updatedRefs"][0]["ref"] == "refs/heads/main"
            assert payload["updatedRefs"][0]["newSha"] == payload["repo"]["headSha"] == commit.oid
            talk = bob.create_discussion("ann/open", "a question", description="why?")
            assert receiver.next()[1]["discussion"]["title"] == "a question"
            bob.comment_discussion("ann/open", talk.num, "because")
            what, payload = receiver.next()
            assert (what, payload["comment"]["content"]) == ("create discussion.comment", "because")
            ann.change_discussion_status("ann/open", talk.num, "closed")
            assert receiver.next()[1]["discussion"]["status"] == "closed"
            ann.move_repo("ann/open", "ann/moved")
            what, payload = receiver.next()
            assert (what, payload["movedTo"]["name"]) == ("move repo", "ann/moved")
            ann.create_tag("ann/moved", tag="v1")
            assert receiver.next()[1]["updatedRefs"][0]["ref"] == "refs/tags/v1"
            ann.disable_webhook(hook.id)
            ann.delete_repo("ann/secret")
            ann.delete_repo("ann/moved")
            seen = [spy.next() for _ in range(5)]
        assert [what for what, _ in seen] == [
            "create repo", "update repo.content", "move repo", "update repo.content", "delete repo"
        ]  # fmt: skip
        assert {payload["repo"]["name"] for _, payload in seen} == {"ann/open", "ann/moved"}, (
            "of a private repo nothing"
        )
        assert receiver.told.empty(), "a disabled webhook is told nothing"


def test_no_other_host_is_told_and_the_client_hears_of_it(hub: Running, api: HfApi, raw: httpx.Client) -> None:
    body = {"url": "https://webhook.site/x", "watched": [{"type": "user", "name": "hubkit"}]}
    answer = raw.post("/api/settings/webhooks", json=body)
    assert "of its own machine only" in answer.headers["x-hf-warning"]
    identity = answer.json()["webhook"]["id"]
    api.create_repo("hubkit/x")
    log = hub.data / "log" / "hub.log"
    with receiving() as receiver:  # another one, told later than the first would have been
        api.create_webhook(url=receiver.url, watched=[{"type": "model", "name": "hubkit/y"}])
        api.create_repo("hubkit/y")
        receiver.next()
    refusal = f"webhook {identity}, attempt 1: the address is not on this machine"
    until(lambda: refusal in log.read_text(), 20)
    with pytest.raises(HfHubHTTPError, match="501"):
        api.create_webhook(job_id="1", watched=[{"type": "user", "name": "hubkit"}])
    for wrong in ({"url": "ftp://x"}, {"url": "http://x:99999/"}, {"watched": []}, {"watched": [{"type": "bucket"}]},
                  {"domains": ["x"]}, {"secret": "a\nb"}, {"url": "http://x/\r\nHost: y"}):  # fmt: skip
        assert raw.post("/api/settings/webhooks", json=body | wrong).status_code == 400, wrong


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:80/x", True), ("http://localhost/", True), ("http://[::1]:9/", True),
        ("http://127.1.2.3/", True), ("https://127.0.0.1/", False), ("http://127.0.0.1.example.org/", False),
        ("http://example.org/", False), ("http://10.0.0.1/", False), ("http://0.0.0.0/", False),
        ("http://169.254.169.254/", False), ("http://user@example.org:80/", False),
        ("http://[::ffff:10.0.0.1]/", False),
    ],
)  # fmt: skip
def test_what_is_this_machine(url: str, local: bool) -> None:
    assert is_local(url) is local


def test_what_waits_survives_a_restart_is_tried_in_order_and_dropped_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "hub.sqlite"
    database = Database(path)
    database.run("INSERT INTO accounts VALUES ('a', 'user', 'ann', 'ann', 'ann', 0, 0, 'now')")
    settings = Settings.of({"url": "http://127.0.0.1:1/", "watched": [{"type": "user", "name": "ann"}]})
    hooks = Webhooks(database)
    hook = hooks.create(Account("a", "user", "ann", "ann", False, False, "now"), settings)
    assert hooks.queue(hook, {"n": 1}) and hooks.queue(hook, {"n": 2})
    database.close()
    database = Database(path)
    hooks = Webhooks(database)
    for attempt in range(len(WAITS) + 1):
        (delivery,) = hooks.due()
        assert (json.loads(delivery.body), delivery.tries) == ({"n": 1}, attempt)
        assert hooks.settle(delivery, delivered=False) == (attempt == len(WAITS))
        if attempt < len(WAITS):
            assert hooks.due() == [], "the second does not overtake the first"
            database.run("UPDATE webhook_deliveries SET due = 0 WHERE tries > 0")
    (delivery,) = hooks.due()
    assert json.loads(delivery.body) == {"n": 2} and not hooks.settle(delivery, delivered=True)
    assert hooks.next_due() is None
    database.close()


@pytest.mark.parametrize("lost", ["discussions", "accounts"])
def test_what_has_happened_is_no_error_because_nobody_can_be_told(
    own_hub: Hub, owner: Actor, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    repo = own_hub.store.create("model", "hubkit", "r", actor=owner, private=False)
    number = own_hub.discussions.open(repo, "title", "text", "hubkit")
    watched = [{"type": "user", "name": "hubkit"}]
    settings = Settings.of({"url": "http://127.0.0.1:1/", "watched": watched, "domains": ["repo", "discussion"]})
    own_hub.webhooks.create(owner.account, settings)

    def queued() -> int:
        own_hub.events.discussion(repo, number, "create", "http://127.0.0.1:1")
        own_hub.events.repo(repo, "move", "http://127.0.0.1:1", old=repo)
        return len(own_hub.database.rows("SELECT * FROM webhook_deliveries"))

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(own_hub.discussions, "row", refuse)
        if lost == "accounts":
            patched.setattr(own_hub.accounts, "find", refuse)
        assert queued() == (1 if lost == "discussions" else 0)
    assert queued() == (3 if lost == "discussions" else 2)


def test_slow_receivers_hold_up_only_their_own_accounts(tmp_path: Path) -> None:
    """Neither many of one account nor those of many accounts."""
    database = Database(tmp_path / "hub.sqlite")
    hooks = Webhooks(database)
    with receiving() as receiver, socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never answers
        slow = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        eves = [(f"eve{number}", slow, 2) for number in range(9)]
        for name, url, count in (("eve", slow, 20), *eves, ("ann", receiver.url, 1)):
            database.run("INSERT INTO accounts VALUES (?, 'user', ?, ?, ?, 0, 0, 'now')", *[name] * 4)
            settings = Settings.of({"url": url, "watched": [{"type": "user", "name": name}]})
            for number in range(count):
                hook = hooks.create(Account(name, "user", name, name, False, False, "now"), settings)
                assert hooks.queue(hook, {"n": number})
        delivery = Delivering(hooks)
        delivery.wake()
        assert receiver.told.get(timeout=5)[1] == {"n": 0}
        until(lambda: len(hooks.due()) == 38, 5)
        begun = time.monotonic()
        delivery.close()
        until(lambda: not any(thread.name == "webhook" for thread in threading.enumerate()), 5)
        assert time.monotonic() - begun < 5
    assert {delivery.tries for delivery in hooks.due()} == {0}, "what the end of the Hub broke off is no attempt"
    database.close()


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "_SECONDS", 0.5)
    database, ended = Database(tmp_path / "hub.sqlite"), threading.Event()
    database.run("INSERT INTO accounts VALUES ('a', 'user', 'ann', 'ann', 'ann', 0, 0, 'now')")
    hooks = Webhooks(database)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            client, _ = server.accept()
            with client:
                for _ in range(200):
                    try:
                        client.sendall(b"H")
                    except OSError:
                        break
                    if ended.wait(0.1):
                        break

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        settings = Settings.of({"url": url, "watched": [{"type": "user", "name": "ann"}]})
        hooks.queue(hooks.create(Account("a", "user", "ann", "ann", False, False, "now"), settings), {"n": 1})
        delivery = Delivering(hooks)
        delivery.wake()
        try:
            until(lambda: database.rows("SELECT 1 FROM webhook_deliveries WHERE tries = 1") != [], 5)
        finally:
            ended.set()
            thread.join()
            delivery.close()
    database.close()


def test_a_push_by_git_is_told(hub: Running, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("hubkit/pushed")
    with receiving() as receiver:
        api.create_webhook(url=receiver.url, watched=[{"type": "model", "name": "hubkit/pushed"}])
        address = hub.url.replace("://", f"://hubkit:{hub.token}@") + "/hubkit/pushed"
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run([*git, "clone", "-q", address, str(tmp_path / "clone")], check=True)
        for command in (["commit", "-q", "--allow-empty", "-m", "x"], ["push", "-q", "origin", "HEAD:refs/heads/new"]):
            subprocess.run([*git, *command], cwd=tmp_path / "clone", check=True)
        what, payload = receiver.next()
        assert (what, payload["updatedRefs"][0]["ref"]) == ("update repo.content", "refs/heads/new")
        assert payload["updatedRefs"][0]["oldSha"] is None
