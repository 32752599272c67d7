"""Faults while a branch is promoted or rolled back: lost answers, a Hub that stumbles, kills, two at once.

A branch holds the old tree or the new one, whole, and the same command again ends with exactly one new commit.
"""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd
from releases import faults, requests, target_of, weights, writes

from hubkit.core.errors import ConflictError, HubkitError, RemoteError
from hubkit.core.trees import compare
from hubkit.hub.client import Hub, connect
from hubkit.publishing import revisions
from hubkit.server.process import Running

pytestmark = pytest.mark.usefixtures("impatient")

REPO = "hubkit/some-model"
Act = Callable[[Hub], str]


@pytest.fixture
def mine(hub: Running, tmp_path: Path) -> Hub:
    """A repo with three commits on main and a branch with other files."""
    connected = connect(target_of(hub, tmp_path))
    connected.ensure_repo(REPO, "public")
    for number in (1, 2):
        put(connected, "main", number)
    connected.api.create_branch(REPO, branch="new")
    put(connected, "new", 3)
    return connected


def put(hub: Hub, branch: str, number: int) -> str:
    added = [CommitOperationAdd("w.safetensors", weights(number)), CommitOperationAdd("a.txt", b"%d" % number)]
    return str(hub.api.create_commit(REPO, added, commit_message=f"put {number}", revision=branch).oid)


def promote(hub: Hub) -> str:
    return revisions.plan_promotion(hub, REPO, "new", "main").apply(hub)


def roll_back(hub: Hub) -> str:
    return revisions.plan_rollback(hub, REPO, "main").apply(hub)


ACTS = pytest.mark.parametrize("act", [promote, roll_back])


def wanted(hub: Hub, act: Act) -> str:
    """The commit whose tree main is to hold."""
    return str(hub.head(REPO, "new")) if act is promote else hub.history(REPO, "main")[1].id


def held(hub: Hub, commit: str) -> bool:
    return not compare(hub.tree(REPO, "main"), hub.tree(REPO, commit))


@ACTS
@pytest.mark.parametrize(
    "fault",
    [
        {"action": "drop-after"},
        {"action": "drop-after", "count": 0},
        {"action": "drop-before"},
        {"action": "status", "status": 500, "count": 1},
        {"action": "status", "status": 503, "count": 3},
        {"action": "status", "status": 429, "headers": {"Retry-After": "1"}},
    ],
    ids=["answer lost", "every answer lost", "request lost", "500 once", "503 three times", "429"],
)
@pytest.mark.fault("F3", "F6")
def test_one_commit_whatever_the_answer(hub: Running, mine: Hub, act: Act, fault: dict[str, object]) -> None:
    goal, before = wanted(mine, act), [item.id for item in mine.history(REPO, "main")]
    faults(hub, {"route": "POST .*/commit/main", **fault})
    done = act(mine)
    faults(hub)
    assert held(mine, goal)
    assert [item.id for item in mine.history(REPO, "main")] == [done, *before]


@ACTS
@pytest.mark.fault("F3")
def test_a_hub_that_never_takes_it(hub: Running, mine: Hub, act: Act) -> None:
    goal, head = wanted(mine, act), mine.head(REPO, "main")
    faults(hub, {"route": "POST .*/commit/main", "action": "status", "status": 500, "count": 0})
    with pytest.raises(RemoteError) as told:
        act(mine)
    assert told.value.exit_code == 5 and mine.head(REPO, "main") == head
    assert len(writes(hub)) == 4, "tried again, and given up"
    faults(hub)
    act(mine)
    assert held(mine, goal) and len(mine.history(REPO, "main")) == 4


@ACTS
@pytest.mark.fault("F7")
def test_a_hub_that_falls_silent(hub: Running, mine: Hub, act: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    goal = wanted(mine, act)
    monkeypatch.setenv("HUBKIT_TIMEOUT", "0.3")
    faults(hub, {"route": "POST .*/commit/main", "action": "hang", "seconds": 30})
    with pytest.raises(RemoteError, match="did not answer in time"):
        act(mine)
    monkeypatch.delenv("HUBKIT_TIMEOUT")
    faults(hub)
    act(mine)
    assert held(mine, goal)


@ACTS
@pytest.mark.fault("F3", "F6")
def test_reads_that_fail_are_made_again(hub: Running, mine: Hub, act: Act) -> None:
    goal = wanted(mine, act)
    faults(
        hub,
        {"route": "GET .*/refs", "action": "status", "status": 500, "count": 2},
        {"route": "GET .*/tree/", "action": "drop-before"},
        {"route": "GET .*/commits/", "action": "drop-after"},
    )
    act(mine)
    assert held(mine, goal)


KILLED = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from hubkit.core.target import Target
    from hubkit.hub.client import connect
    from hubkit.hub.commits import CommitCalls
    from hubkit.publishing import copying, revisions
    url, token, home, act, moment = sys.argv[1:]
    hub = connect(Target(url, Path(home), token, embedded=True))
    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "before":
        copying.commit = die
    else:
        send = CommitCalls.create_commit
        def sent(*args, **options):
            send(*args, **options)
            die()
        CommitCalls.create_commit = sent
    if act == "promote":
        revisions.plan_promotion(hub, "hubkit/some-model", "new", "main").apply(hub)
    else:
        revisions.plan_rollback(hub, "hubkit/some-model", "main").apply(hub)
""")


@ACTS
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.fault("F1")
def test_killed_between_reading_and_the_answer(hub: Running, mine: Hub, tmp_path: Path, act: Act, moment: str) -> None:
    goal, before = wanted(mine, act), [item.id for item in mine.history(REPO, "main")]
    name = "promote" if act is promote else "rollback"
    command = [sys.executable, "-c", KILLED, hub.url, hub.token, str(tmp_path), name, moment]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment, check=False, timeout=60).returncode == -signal.SIGKILL
    assert held(mine, before[0] if moment == "before" else goal), "old or new, and whole"
    act(mine)
    assert held(mine, goal), "the same again does not swing back"
    assert [item.id for item in mine.history(REPO, "main")][1:] == before, "exactly one new commit"


def at_once(count: int, act: Callable[[int], object]) -> list[HubkitError | None]:
    """``act`` in several threads that start together; what each raised."""
    barrier, told = threading.Barrier(count), [None] * count  # type: list[HubkitError | None]

    def go(number: int) -> None:
        barrier.wait()
        try:
            act(number)
        except HubkitError as error:
            told[number] = error

    threads = [threading.Thread(target=go, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


@pytest.mark.fault("F10")
def test_two_rollbacks_at_once(hub: Running, mine: Hub) -> None:
    """Planned from the same head, to two commits: one wins, the other is told; no tree is mixed."""
    before = [item.id for item in mine.history(REPO, "main")]
    plans = [revisions.plan_rollback(mine, REPO, "main", steps=steps) for steps in (1, 2)]
    told = at_once(2, lambda number: plans[number].apply(mine))
    (lost,) = [error for error in told if error is not None]
    assert isinstance(lost, ConflictError) and lost.exit_code == 4
    winner = plans[told.index(None)]
    assert held(mine, winner.plan.source)
    assert [item.id for item in mine.history(REPO, "main")][1:] == before


@pytest.mark.fault("F10")
def test_two_equal_rollbacks_at_once_make_one_commit(hub: Running, mine: Hub) -> None:
    goal, before = wanted(mine, roll_back), [item.id for item in mine.history(REPO, "main")]
    plans = [revisions.plan_rollback(mine, REPO, "main") for _ in range(2)]
    told = at_once(2, lambda number: plans[number].apply(mine))
    assert told == [None, None], "what both wanted is there"
    assert held(mine, goal) and [item.id for item in mine.history(REPO, "main")][1:] == before


@pytest.mark.fault("F10")
def test_eight_promotions_at_once(hub: Running, mine: Hub) -> None:
    for number in range(8):
        mine.api.create_branch(REPO, branch=f"b{number}")
        put(mine, f"b{number}", 10 + number)
    before = [item.id for item in mine.history(REPO, "main")]
    plans = [revisions.plan_promotion(mine, REPO, f"b{number}", "main") for number in range(8)]
    told = at_once(8, lambda number: plans[number].apply(mine))
    assert [type(error) for error in told].count(ConflictError) == 7 and told.count(None) == 1
    assert held(mine, plans[told.index(None)].plan.source)
    assert [item.id for item in mine.history(REPO, "main")][1:] == before


@pytest.mark.parametrize(
    "fault",
    [{"action": "drop-after"}, {"action": "drop-before"}, {"action": "status", "status": 500, "count": 2}],
    ids=["answer lost", "request lost", "500 twice"],
)
@pytest.mark.fault("F3", "F6")
def test_names_are_made_and_removed_whatever_the_answer(hub: Running, mine: Hub, fault: dict[str, object]) -> None:
    new = str(mine.head(REPO, "new"))
    for act, there in (
        (lambda: revisions.create(mine, REPO, "try", "new"), ({"main", "new", "try"}, set())),
        (lambda: revisions.tag(mine, REPO, "v1", "new"), ({"main", "new", "try"}, {"v1"})),
        (lambda: revisions.delete(mine, REPO, "try"), ({"main", "new"}, {"v1"})),
        (lambda: revisions.delete(mine, REPO, "v1"), ({"main", "new"}, set())),
    ):
        faults(hub, {"route": "(POST|DELETE) .*/(branch|tag)/", **fault})
        assert act().commit == new
        refs = mine.refs(REPO)
        assert (set(refs.branches), set(refs.tags)) == there


@pytest.mark.fault("F3")
def test_a_hub_that_never_removes(hub: Running, mine: Hub) -> None:
    faults(hub, {"route": "DELETE .*", "action": "status", "status": 500, "count": 0})
    with pytest.raises(RemoteError):
        revisions.delete(mine, REPO, "new")
    assert mine.head(REPO, "new") and len([line for line in requests(hub) if line.startswith("DELETE")]) == 4
