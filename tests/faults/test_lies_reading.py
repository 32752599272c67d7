"""One lie of a proxy to a command that only reads: what it prints is exactly what it prints without, or it fails.

So `hubkit verify` never says that files match which do not, and no list, comparison or check shows less than there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lies import Ended, command, ended, for_ever, judge, lied_to, routes, slice_of, sweep, sweep_everything, untrue
from lying_proxy import LIES, LyingProxy, Plan
from releases import REPO, Release

from hubkit.core.target import Target
from hubkit.hub.client import connect

COMMANDS = {
    "verify": ("verify", REPO),
    "verify --bytes": ("verify", REPO, "--revision", "dpo-v0", "--bytes"),
    "list": ("revisions", "list", REPO),
    "history": ("revisions", "history", REPO, "main"),
    "diff": ("revisions", "diff", REPO, "dpo-v0", "main"),
    "lint": ("card", "lint", REPO),
    "check": ("check", REPO),
}
EXCUSED = {
    r"half \| GET /api/models/hubkit/my-model/refs \| for ever": (
        "only one route lists all the branches and tags, and it was asked twice: nothing contradicts a list that always"
        " leaves some out"
    ),
    r"(half|flipped byte) \| GET /api/models/hubkit/my-model/commits/\{id\} \| for ever": (
        "only one route tells the titles and dates of commits, and which come before the head: the head itself is"
        " compared, and so are the files of each commit that is shown, and the list is asked for twice"
    ),
}
"""Cases that go wrong, by pattern, with the reason why the lie cannot be told from the truth."""


@dataclass
class Place:
    """A proxy, and a Hub with a release."""

    proxy: LyingProxy
    home: Path
    token: str
    requests: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    honest: dict[str, Ended] = field(default_factory=dict)

    def asked(self, name: str) -> list[tuple[str, int]]:
        """The requests of a command without lies; what it then prints is kept."""
        if name not in self.requests:

            def run() -> Ended:
                self.honest[name] = command(*COMMANDS[name])
                return self.honest[name]

            self.requests[name] = routes(self.proxy, run, codes={0, 3, 4})
        return self.requests[name]

    def case(self, name: str) -> Callable[[Plan], list[str]]:
        """One run with lies."""
        return lambda plan: self._case(name, plan)

    def _case(self, name: str, plan: Plan) -> list[str]:
        self.proxy.listen(plan)
        end, honest = command(*COMMANDS[name]), self.honest[name]
        problems = [*untrue(end, ())]
        if end.code == honest.code and end.words != honest.words:
            problems.append("prints something else, and ends as if it were true")
        if end.code not in {honest.code, 2, 4, 5}:
            problems.append(f"ended {end.code}")
        return [*problems, f"{end.code}: {end.words[-300:]}"] if problems else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("lies")
    with lied_to(home) as (running, proxy, patch):
        patch.setenv("HF_ENDPOINT", proxy.url)
        patch.setenv("HF_TOKEN", running.token)
        for version in (1, 2):
            release = Release.on(running, home / str(version)).train(version)
            release.publish().promote()
        yield Place(proxy, home, running.token)


@pytest.mark.parametrize(
    ("name", "lie"),
    [(name, lie) for name in COMMANDS for lie in LIES],
)
@pytest.mark.fault("L5")
def test_one_lie(place: Place, name: str, lie: str, record_property: Callable[[str, object], None]) -> None:
    requests = place.asked(name)
    found = sweep(place.proxy, slice_of(requests, lie), [lie], place.case(name))
    record_property("figure", f"{name}, {len(requests)} requests, cases of a lie: {found.cases} each")
    judge(found, EXCUSED)


@pytest.mark.fault("L5")
def test_no_other_code_runs_than_the_card_has(place: Place) -> None:
    """`hubkit card run` and a release run the blocks that are on the card, and never what a proxy wrote into it."""
    hub = connect(Target(place.proxy.url, place.home / "hf", place.token, embedded=True))

    def read() -> tuple[bytes | None, ...]:
        fresh = connect(hub.target)
        commit = fresh.resolve(REPO, "main")
        return tuple(fresh.read_listed(REPO, path, commit) for path in ("README.md", "none.md"))

    honest: list[tuple[bytes | None, ...]] = []
    requests = routes(place.proxy, lambda: ended(lambda: honest.append(read())))
    assert honest[0][0] and honest[0][1] is None

    def case(plan: Plan) -> list[str]:
        place.proxy.listen(plan)
        content: list[tuple[bytes | None, ...]] = []
        end = ended(lambda: content.append(read()))
        problems = [*untrue(end, ())]
        if content and content != honest:
            problems.append(f"read {content}")
        return problems

    once, ever = sweep(place.proxy, requests, LIES, case), for_ever(place.proxy, requests, case)
    assert once.cases > 20 and ever.cases > 20
    judge(once, {})
    judge(ever, {})


@pytest.mark.soak
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.fault("L5")
def test_every_answer_and_every_route(place: Place, name: str) -> None:
    requests = place.asked(name)
    sweep_everything(place.proxy, name, requests, place.case(name), EXCUSED)
