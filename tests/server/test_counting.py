"""How many commits a history has, without a walk through all of it for each that asks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hubkit.server.http.request import Request
from hubkit.server.hub import Hub
from hubkit.server.repos import history, reader
from hubkit.server.repos.git import MAIN, Git
from hubkit.server.repos.history import Lengths
from hubkit.server.routes import refs


def line(git: Git, count: int) -> list[str]:
    """Commits, each the child of the one before."""
    tree, made = git.write_tree(None, []), list[str]()
    for number in range(count):
        made.append(git.write_commit(tree, made[-1:], f"{number}", "me"))
    return made


def test_a_history_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git, lengths, read = Git.create(tmp_path / "git"), Lengths(), list[str]()
    monkeypatch.setattr(Lengths, "_EVERY", 10)
    made, links = line(git, 100), Git.links
    monkeypatch.setattr(Git, "links", lambda own, oid: read.append(oid) or links(own, oid))
    assert lengths.of(git, made[-1]) == 100 and len(read) == 100
    for number, commit in enumerate(made, 1):
        read.clear()
        assert lengths.of(git, commit) == number and len(read) <= 10
    longer = git.write_commit(git.write_tree(None, []), [made[-1]], "one more", "me")
    read.clear()
    assert lengths.of(git, longer) == 101 and read == [longer]
    monkeypatch.setattr(Lengths, "_MOST", 5)
    assert Lengths().of(git, longer, lambda: True) is None
    few = Lengths()
    assert few.of(git, longer) == 101 and len(few._known) == 5


def test_the_length_of_a_history_with_merges(tmp_path: Path) -> None:
    draw, git, lengths, made = random.Random(8), Git.create(tmp_path / "git"), Lengths(), list[str]()
    tree = git.write_tree(None, [])
    for number in range(60):
        parents = draw.sample(made[-5:], min(len(made), draw.choice([1, 1, 1, 2])))
        made.append(git.write_commit(tree, parents, f"{number}", "me"))
    for commit in draw.sample(made, 60):
        assert lengths.of(git, commit) == len(list(history.ids(git, commit)))
    assert Lengths().of(git, made[-1], lambda: True) is None


def test_one_commit_is_listed_though_another_is_damaged_or_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "hub")
    actor = hub.accounts.identify(hub.folder.owner_token.read_text().strip())
    assert actor is not None
    repo = hub.store.create("model", "hubkit", "a", actor=actor, private=False)
    with hub.store.writing(repo) as git:
        first = git.head()
        made = [first]
        for number in range(4):
            made.append(git.write_commit(git.write_tree(first, []), made[-1:], f"{number}", "me"))
        git.move(MAIN, made[-1], first)

    def counted() -> str | None:
        scope = {
            "type": "http", "method": "GET", "headers": [(b"host", b"x")], "query_string": b"limit=1",
            "raw_path": b"/api/models/hubkit/a/commits/main",
            "path_params": {"kind": "models", "ns": "hubkit", "name": "a", "rev": "main"},
        }  # fmt: skip
        answer = refs.commits(Request(scope, hub=hub))
        assert answer.status_code == 200 and made[-1].encode() in answer.body
        return answer.headers.get("x-total-count")

    monkeypatch.setattr(refs, "_LENGTHS", Lengths())
    with monkeypatch.context() as patch:
        patch.setattr(refs, "_COUNT_SECONDS", -1.0)
        assert counted() is None
    assert counted() == "5"
    monkeypatch.setattr(refs, "_LENGTHS", Lengths())
    reader._links.cache_clear()
    (hub.store.path(repo) / "objects" / first[:2] / first[2:]).unlink()
    assert counted() is None
    hub.close()
