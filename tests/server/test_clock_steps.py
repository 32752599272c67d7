"""The machine's clock is set back and forth while a Hub is used: nothing is lost, refused or out of order (F12)."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo

import pytest

from hubkit.server.accounts.accounts import OWNER, Account, Actor
from hubkit.server.fsck import fsck
from hubkit.server.garbage import collect_here
from hubkit.server.hooks.webhooks import Settings
from hubkit.server.hub import Hub
from hubkit.server.repos import comparing
from hubkit.server.repos import git as git_module
from hubkit.server.repos.git import Change
from hubkit.server.repos.store import Repo
from hubkit.server.storage import database

DAY = 86_400.0
STEPS = [0.0, -400 * DAY, 400 * DAY, -30 * DAY, 20 * 365 * DAY, 0.0]
Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the clock to a number of seconds before or after the real time."""
    real, shift = time.time, [0.0]

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=shift[0])

    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    for module in (git_module, database):
        monkeypatch.setattr(module, "datetime", Shifted)
    return lambda seconds: shift.__setitem__(0, seconds)


def commit(hub: Hub, repo: Repo, path: str, ref: str = "refs/heads/main", above: str | None = None) -> str:
    with hub.store.lock(repo), hub.store.writing(repo) as git:
        head = git.target(ref)
        base = above or head
        assert base
        tree = git.write_tree(base, [Change(path, git.write_blob(path.encode()))])
        made = git.write_commit(tree, [base], path, "me")
        git.move(ref, made, head)
    return made


@pytest.mark.fault("F12")
def test_history_and_merges_do_not_depend_on_the_clock(own_hub: Hub, owner: Actor, clock: Clock) -> None:
    repo = own_hub.store.create("model", "me", "model", actor=owner, private=False)
    made: list[str] = []
    for number, shift in enumerate(STEPS):
        clock(shift)
        made.insert(0, commit(own_hub, repo, f"f{number}"))
        side = commit(own_hub, repo, f"s{number}", f"refs/heads/side{number}", made[min(2, number)])
        git = own_hub.store.git(repo)
        assert [item.id for item in git.history(made[0])][: len(made)] == made
        assert git.merge_base(made[0], side) == made[min(2, number)]
        assert comparing.conflicts(git, made[0], side) == []
        facts = own_hub.head_facts(repo)
        assert facts is not None and facts.commit == made[0]
    collect_here(own_hub, days=14, dry_run=False)
    clock(0)
    git = own_hub.store.git(repo)
    assert {entry.path for entry in git.walk(made[0]) or ()} >= {f"f{number}" for number in range(len(STEPS))}
    assert fsck(own_hub.folder.root) == []


@pytest.mark.fault("F12")
def test_discussions_keep_their_order_and_tokens_their_end(own_hub: Hub, owner: Actor, clock: Clock) -> None:
    repo = own_hub.store.create("model", "me", "model", actor=owner, private=False)
    number = own_hub.discussions.open(repo, "A question", "first", "me")
    for shift in STEPS:
        clock(shift)
        own_hub.discussions.add_comment(repo, number, "me", str(shift))
    events = [event["data"]["latest"]["raw"] for event in own_hub.discussions.events(repo, number)]
    assert events == ["first", *map(str, STEPS)]
    clock(0)
    token = own_hub.accounts.add_token(OWNER, label="an hour", lives=3600.0)
    clock(2 * 3600)
    assert own_hub.accounts.identify(token) is None
    clock(-400 * DAY)
    assert own_hub.accounts.identify(own_hub.folder.owner_token.read_text().strip()) is not None


@pytest.mark.fault("F12")
def test_webhooks_are_delivered_after_the_clock_was_set_back(own_hub: Hub, owner: Actor, clock: Clock) -> None:
    account: Account = owner.account
    settings = Settings.of({"url": "http://127.0.0.1:9/", "watched": [{"type": "user", "name": "me"}]})
    hook = own_hub.webhooks.create(account, settings)
    clock(400 * DAY)
    assert own_hub.webhooks.queue(hook, {"n": 1})
    clock(0)
    (delivery,) = own_hub.webhooks.due()
    own_hub.webhooks.settle(delivery, delivered=False)
    assert own_hub.webhooks.due() == [], "it is tried again a second later"
    clock(5)
    assert [one.tries for one in own_hub.webhooks.due()] == [1]
