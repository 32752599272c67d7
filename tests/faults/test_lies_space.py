"""One lie of a proxy while a Space is deployed over one that runs.

Its branch holds exactly the old files or exactly the new ones, the words are true, and the same deployment without lies
ends it: the new version runs. Each case deploys the next version, over the one of the case before.
"""

from __future__ import annotations

import itertools
import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from lies import (
    SHARE,
    Ended,
    Soak,
    State,
    ended,
    git_folder,
    judge,
    lied_to,
    routes,
    slice_of,
    sweep,
    sweep_everything,
    told,
    untrue,
)
from lying_proxy import LyingProxy, Plan, chaos
from releases import target_of
from space_samples import HEAD, server
from tenacity import wait_fixed

from hubkit.core.errors import HubkitError
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.publishing.bundle import Bundle
from hubkit.publishing.spaces import building, deployment

REPO = "hubkit/shown"
EXCUSED: dict[str, str] = {}
"""Cases that go wrong, by pattern, with the reason why the lie cannot be told from the truth."""


@dataclass
class Place:
    """A proxy, and a Hub with a Space that runs."""

    home: Path
    proxy: LyingProxy
    direct: Target
    state: State | None = None
    numbers: Iterator[int] = field(default_factory=itertools.count)
    requests: list[tuple[str, int]] = field(default_factory=list)

    def version(self) -> tuple[Bundle, int]:
        """The next version, and its number."""
        number = next(self.numbers)
        folder = self.home / f"app-{number}"
        folder.mkdir()
        for name in ("same.txt", f"only-{number}.txt"):
            (folder / name).write_text(name)
        (folder / "README.md").write_text(HEAD.format(""))
        (folder / "app.py").write_text(server(number))
        return building.bundle_of(folder, self.home / f"manifest-{number}.json"), number

    def deploy(self, bundle: Bundle, number: int, target: Target | None = None) -> Ended:
        """Deploy it through the proxy, or directly."""

        def ask(host: str) -> None:
            with urllib.request.urlopen(host, timeout=10) as answer:
                if json.load(answer)["version"] != number:
                    raise HubkitError(f"{host} is another version.")

        hub = connect(target or replace(self.direct, endpoint=self.proxy.url))
        return ended(lambda: deployment.deploy(hub, REPO, bundle, "public", ask=ask, timeout=10))

    def asked(self) -> list[tuple[str, int]]:
        """The requests of a deployment without lies."""
        if not self.requests:
            self.requests = routes(self.proxy, lambda: self.deploy(*self.version()))
        return self.requests

    def case(self, plan: Plan) -> list[str]:
        """One deployment with lies, and the same without."""
        assert self.state is not None
        bundle, number = self.version()
        self.state = State(self.state.git)
        old = self.state.tree("main")
        self.proxy.listen(plan)
        end = self.deploy(bundle, number)
        self.proxy.stop_lying()
        tree, reached = self.state.tree("main"), self.state.holds("main", bundle.manifest, others=True)
        problems = [*untrue(end, self.state.moved())]
        if end.code == 0 and not reached:
            problems.append("ended 0, but the Space has not the new files")
        if "Rolled back" in end.words and tree != old:
            problems.append("said that it was rolled back, but it is not at the old files")
        written = self.state.commits("main")
        again = self.deploy(bundle, number)
        if again.code:
            problems.append(f"again without lies: {again.code}: {again.words}")
        elif not self.state.holds("main", bundle.manifest, others=True):
            problems.append("again without lies: ended 0 without the new files")
        if tree not in {old, self.state.tree("main")}:
            problems.append("neither old nor new")
        if reached and self.state.commits("main") != written:
            problems.append("written twice")
        return [*problems, f"{end.code}: {end.words[-300:]}"] if problems else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("lies")
    with lied_to(home) as (running, proxy, patch):
        patch.setattr("hubkit.hub.retry.wait_fixed", lambda seconds: wait_fixed(0.05))
        place = Place(home, proxy, target_of(running, home))
        end = place.deploy(*place.version(), place.direct)
        assert end.code == 0, end.words
        head = connect(place.direct).head(REPO, "main", "space")
        place.state = State(git_folder(running, str(head)))
        yield place


@pytest.mark.parametrize(("name", "lie"), told("deploying a Space"))
@pytest.mark.fault("L4")
def test_one_lie(place: Place, name: str, lie: str, record_property: Callable[[str, object], None]) -> None:
    requests = place.asked()
    found = sweep(place.proxy, slice_of(requests, lie), [lie], place.case)
    record_property("figure", f"{len(requests)} requests, cases of a lie: {found.cases} each")
    judge(found, EXCUSED)


@pytest.mark.soak
@pytest.mark.parametrize("name", ("deploying a Space",))
@pytest.mark.fault("L4")
def test_every_answer_and_every_route(place: Place, name: str) -> None:
    requests = place.asked()
    sweep_everything(place.proxy, name, requests, place.case, EXCUSED)


CHAOS = {"deploying a Space": 20}
"""How many runs of chaos, by what is run."""
SOAKS = {name: Soak(name) for name in CHAOS}


@pytest.mark.soak
@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, runs in CHAOS.items() for seed in range(runs)])
@pytest.mark.fault("L4")
def test_chaos(place: Place, name: str, seed: int) -> None:
    place.asked()
    problems = place.case(chaos(seed, SHARE))
    assert not problems, "; ".join(problems)
    SOAKS[name].survived(place.proxy)
