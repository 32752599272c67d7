"""Git's transfers take turns: how many at once, whose, and how long one that is too slow is waited for. What a list of
refs costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import empty_receive
from starlette.types import Message

from hubkit.server.http.exceptions import HTTPException
from hubkit.server.http.request import Request
from hubkit.server.hub import Hub
from hubkit.server.repos import references
from hubkit.server.repos.git import Git
from hubkit.server.repos.objects import DamagedError
from hubkit.server.routes.git import info_refs
from hubkit.server.smart.responses import Patience, turns
from hubkit.server.smart.turns import Turns


def test_one_caller_leaves_turns_to_others() -> None:
    async def scene() -> list[Any]:
        turns, log = Turns(3, 2, 0.2), []
        end = asyncio.Event()

        async def work(caller: str) -> None:
            async with turns.turn(caller):
                log.append(caller)
                await end.wait()

        greedy = [asyncio.create_task(work("greedy")) for _ in range(4)]
        await asyncio.sleep(0)
        other = asyncio.create_task(work("other"))
        while len(log) < 3:
            await asyncio.sleep(0)
        late = await asyncio.gather(*greedy[2:], return_exceptions=True)
        end.set()
        await asyncio.gather(*greedy[:2], other, work("late"))
        return [log, [error.status_code for error in late if isinstance(error, HTTPException)]]

    assert asyncio.run(scene()) == [["greedy", "greedy", "other", "late"], [503, 503]]


def test_work_that_lasts_long_leaves_its_turns_to_others() -> None:
    """Two callers hold all turns; once their work is long, two of the turns go to others, and no more to them."""

    async def scene() -> list[list[str]]:
        turns, end, log, seen = Turns(4, 2, 5.0, long=2), asyncio.Event(), list[str](), list[list[str]]()
        turns.SOON = 0.05  # type: ignore[misc]

        async def work(caller: str) -> None:
            async with turns.turn(caller):
                log.append(caller)
                await end.wait()

        tasks = [asyncio.create_task(work(caller)) for caller in ("a", "a", "b", "b", "a", "c", "d", "e")]
        await asyncio.sleep(0)
        seen.append(sorted(log))
        while len(log) < 6:
            await asyncio.sleep(0.01)
        seen.append(sorted(log))
        end.set()
        await asyncio.gather(*tasks)
        return [*seen, [str(turns.counts())]]

    assert asyncio.run(scene()) == [["a", "a", "b", "b"], ["a", "a", "b", "b", "c", "d"], ["(0, 0)"]]


def test_callers_without_a_token_leave_turns_to_those_with_one() -> None:
    async def scene() -> list[tuple[int, int]]:
        turns, end, seen = Turns(4, 3, 5.0, strangers=2), asyncio.Event(), []

        async def work(caller: str) -> None:
            async with turns.turn(caller):
                await end.wait()

        strangers = [asyncio.create_task(work(f"address 10.0.0.{number}")) for number in range(4)]
        await asyncio.sleep(0)
        seen.append(turns.counts())
        known = [asyncio.create_task(work("account me")) for _ in range(2)]
        await asyncio.sleep(0)
        seen.append(turns.counts())
        end.set()
        await asyncio.gather(*strangers, *known)
        return [*seen, turns.counts()]

    assert asyncio.run(scene()) == [(2, 2), (4, 2), (0, 0)]


def test_a_client_that_reads_too_slowly_is_not_waited_for() -> None:
    async def pieces(patience: Patience, seconds: float) -> int:
        sent = 0
        with contextlib.suppress(TimeoutError):
            for sent in range(20):  # noqa: B007
                await patience.wait(asyncio.sleep(seconds), 1000)
        return sent

    assert asyncio.run(pieces(Patience(rate=1e6, late=0.1), 0.03)) < 5, "each piece alone is quick enough"
    assert asyncio.run(pieces(Patience(rate=1000, late=5), 0.001)) == 19
    assert asyncio.run(pieces(Patience(rate=1, longest=0.1), 0.03)) < 5


@pytest.mark.parametrize("service", ["git-upload-pack", "git-receive-pack"])
def test_the_refs_of_a_repo_are_read_in_the_turn_of_who_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    """Anybody may ask a public repo for them, as often as they like: in Python it is work for the processor."""
    hub, seen = Hub(tmp_path / "hub"), list[dict[str, tuple[int, int]]]()
    actor = hub.accounts.identify(hub.folder.owner_token.read_text().strip())
    assert actor is not None
    hub.store.create("model", "hubkit", "a", actor=actor, private=False)

    def refs(place: Git | Path) -> Iterator[str]:
        seen.append(turns())
        raise DamagedError("a ref")

    async def send(message: Message) -> None:
        raise AssertionError(message)

    monkeypatch.setattr(Git, "refs", refs)
    monkeypatch.setattr(references, "names", refs)
    scope = {
        "type": "http", "method": "GET", "headers": [], "query_string": f"service={service}".encode(),
        "path_params": {"kind": "models", "ns": "hubkit", "name": "a"}, "client": ("127.0.0.1", 1),
    }  # fmt: skip
    response = info_refs(Request(scope, hub=hub, actor=actor))
    assert not seen
    with pytest.raises(DamagedError):
        asyncio.run(response(scope, empty_receive, send))
    nobody = dict.fromkeys(turns(), (0, 0))
    own = "fetch" if service == "git-upload-pack" else "push-refs"
    assert seen == [{**nobody, own: (1, 0)}], "slow clones, and pushes, keep nobody from asking what to push"
    assert turns() == nobody
    hub.close()


def test_packs_are_looked_at_once_for_all_refs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git, looked = Git.create(tmp_path / "a.git"), list[str]()
    tree, scan = git.write_tree(None, []), os.scandir
    commits = [git.write_commit(tree, [], f"{number}", "me") for number in range(50)]
    git.repo.pack(str(git.path / "objects" / "pack"))
    for commit in commits:
        shutil.rmtree(git.path / "objects" / commit[:2], ignore_errors=True)
    found = {f"refs/heads/b{number:02}": commit for number, commit in enumerate(commits)}
    (git.path / "packed-refs").write_text("".join(f"{commit} {ref}\n" for ref, commit in found.items()))

    def scandir(path: Any) -> Any:
        looked.append(Path(path).name)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert dict(Git(git.path).refs()) == found
    assert looked.count("pack") == 1
