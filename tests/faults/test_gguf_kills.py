"""A release with GGUF files, killed at its requests: who follows `main` never sees a mix, and it rolls forward."""

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_releases import GgufRelease, asking
from kills import REQUESTS, killed_at
from releases import REPO, assert_whole, faults, heads, hub_of, requests

from hubkit.core.trees import tree_digest
from hubkit.hub.client import Hub
from hubkit.pipeline.runs import Run
from hubkit.server.process import Running

Record = Callable[[str, object], None]
OWN = f"{REPO}-GGUF"
PLACES = {
    "branch": ((REPO, "gguf"), (REPO, "dpo-v0"), (REPO, "main")),
    "repo": ((OWN, "main"), (REPO, "dpo-v0"), (REPO, "main")),
}
"""What readers see, in the order in which it moves."""
CALLS: dict[str, tuple[tuple[Any, str], ...]] = {
    "line of the journal": ((Run, "log"),),
    "request": ((Run, "log"), *REQUESTS),
}


def seen(hub: Hub, place: str) -> list[tuple[str, int]]:
    """The tree of each branch that readers see, and how many commits it has."""
    return [(tree_digest(hub.tree(repo, branch)), len(hub.history(repo, branch))) for repo, branch in PLACES[place]]


@pytest.mark.fault("F1")
@pytest.mark.parametrize(
    ("place", "moment", "point", "first", "step"),
    [
        ("branch", "before", "line of the journal", 1, 4),
        ("repo", "after", "line of the journal", 2, 4),
        *(
            pytest.param(place, moment, "request", 1, 1, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])
            for place in PLACES
            for moment in ("before", "after")
        ),
    ],
)
def test_killed_anywhere_it_is_old_or_new_and_main_is_last(
    hub: Running,
    tmp_path: Path,
    place: str,
    moment: str,
    point: str,
    first: int,
    step: int,
    record_property: Record,
) -> None:
    """Each release is killed once, and published over the one before: killed, then run again to its end."""
    recipe = asking(place)
    one = GgufRelease.on(hub, tmp_path / "0")
    one.recipe = recipe
    one.train(100).publish().promote()
    connected = hub_of(one)
    for number in itertools.count(first, step):
        home, old = tmp_path / str(number), seen(connected, place)
        release = GgufRelease.on(hub, home)
        release.recipe = recipe
        release.train(number)
        code = killed_at(number, moment, lambda release=release: release.publish().promote(), CALLS[point])  # type: ignore[misc]
        killed = seen(connected, place)
        again = GgufRelease.on(hub, home)
        again.recipe = recipe
        faults(hub)
        again.train(number).publish().promote()
        new = seen(connected, place)
        moved = [now != before for now, before in zip(killed, old, strict=True)]
        assert all(now in (before, after) for now, before, after in zip(killed, old, new, strict=True)), "old or new"
        assert moved == sorted(moved, reverse=True), "GGUF files first, main last"
        assert [count for _, count in new] == [count + 1 for _, count in old], "exactly one new commit on each"
        again.assert_gguf_whole()
        for name in ("main", "dpo-v0"):
            assert_whole(again, name)
        assert not any(name.startswith("staging/") for name in heads(again)), "the staging branches are gone"
        if code == 0:
            break
        assert code == -signal.SIGKILL
        sent = [line.partition("?")[0].rsplit("/", 1)[1] for line in requests(hub) if line.startswith("PUT ")]
        assert len(sent) == len(set(sent)), "no byte is sent twice"
    assert number > 12, "each was struck, and the loop came to its end"
    record_property("figure", f"{place}: killed {moment} each {step}. {point}, up to {number - 1}; old or new")
