"""One lie of a proxy in a promotion or a rollback, told to each answer: old or new, and true words.

The proxy is between the real command and a real Hub. Whatever it answers, the branch holds exactly the tree that it
held or exactly the one that it is to hold, the words are true, and the same command without lies ends it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from lies import (
    SHARE,
    Ended,
    Soak,
    State,
    command,
    git_folder,
    judge,
    lied_to,
    routes,
    sweep,
    sweep_everything,
    told,
    untrue,
)
from lying_proxy import LyingProxy, Plan, chaos, truth
from releases import target_of, weights

from hubkit.hub.client import Hub, connect

REPO = "hubkit/some-model"
COMMANDS = {
    "promotion": ("revisions", "promote", REPO, "new", "main", "-y"),
    "rollback": ("revisions", "rollback", REPO, "main", "-y"),
}
EXCUSED: dict[str, str] = {}
"""Cases that go wrong, by pattern, with the reason why the lie cannot be told from the truth."""


@dataclass
class Place:
    """A proxy, a Hub, and the state before: ``main`` and ``new`` have releases of different files."""

    proxy: LyingProxy
    state: State
    goals: dict[str, str]
    """The tree that main is to hold, by command."""

    requests: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def asked(self, name: str) -> list[tuple[str, int]]:
        """The requests of a run without lies."""
        if name not in self.requests:
            self.state.restore()
            self.requests[name] = routes(self.proxy, lambda: self.run(name))
        return self.requests[name]

    def run(self, name: str) -> Ended:
        return command(*COMMANDS[name])

    def case(self, name: str) -> Callable[[Plan], list[str]]:
        """One run with lies and one without."""
        return lambda plan: self._case(name, plan)

    def _case(self, name: str, plan: Plan) -> list[str]:
        self.state.restore()
        old, count, goal = self.state.tree("main"), self.state.commits("main"), self.goals[name]
        self.proxy.listen(plan)
        end = self.run(name)
        self.proxy.stop_lying()
        tree = self.state.tree("main")
        problems = [*untrue(end, self.state.moved())]
        if tree not in {old, goal}:
            problems.append("neither old nor new")
        if end.code == 0 and tree != goal:
            problems.append("ended 0, but the branch has not the new tree")
        if self.state.commits("main") > count + 1:
            problems.append("more than one commit")
        again = self.run(name)
        if again.code or self.state.tree("main") != goal or self.state.commits("main") != count + 1:
            problems.append(f"again without lies: {again.code}, {self.state.commits('main') - count} commits")
        return [*problems, f"{end.code}: {end.words[-300:]}"] if problems else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("lies")
    with lied_to(home) as (running, proxy, patch):
        patch.setenv("HF_ENDPOINT", proxy.url)
        patch.setenv("HF_TOKEN", running.token)
        hub = connect(target_of(running, home))
        hub.ensure_repo(REPO, "public")
        first = put(hub, "main", {"a.txt": b"one", "w.safetensors": weights(1), "old.txt": b"old"})
        put(hub, "main", {"a.txt": b"two", "w.safetensors": weights(2), "old.txt": b"older"})
        hub.api.create_branch(REPO, branch="new", revision=first)
        new = put(hub, "new", {"a.txt": b"three", "w.safetensors": weights(3), "b.txt": b"b", "old.txt": None})
        state = State(git_folder(running, new))
        goals = {"promotion": str(state.git[new].tree.id), "rollback": str(state.git[first].tree.id)}
        yield Place(proxy, state, goals)


def put(hub: Hub, branch: str, files: dict[str, bytes | None]) -> str:
    """Commit a release of exactly these files (None: the one there was is removed), with its manifest."""
    there = {path: content for path, content in files.items() if content is not None}
    listed = [
        {
            "path": path,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "git": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        }
        for path, content in sorted(there.items())
    ]
    there[".hubkit/manifest.json"] = json.dumps({"schema": 1, "files": listed}).encode()
    operations = [CommitOperationAdd(path, content) for path, content in there.items()]
    gone = [CommitOperationDelete(path) for path, content in files.items() if content is None]
    done = hub.api.create_commit(REPO, [*gone, *operations], commit_message=f"put {len(there)}", revision=branch)
    return str(done.oid)


@pytest.mark.parametrize(("name", "lie"), told(*COMMANDS))
@pytest.mark.fault("L1")
def test_one_lie(place: Place, name: str, lie: str, record_property: Callable[[str, object], None]) -> None:
    requests = place.asked(name)
    found = sweep(place.proxy, requests, [lie], place.case(name))
    record_property("figure", f"{name}, {len(requests)} requests, cases of a lie: {found.cases} each")
    judge(found, EXCUSED)


def test_without_lies(place: Place) -> None:
    for name in COMMANDS:
        place.state.restore()
        place.proxy.listen(truth)
        end = place.run(name)
        assert end.code == 0 and place.state.tree("main") == place.goals[name], end.words


@pytest.mark.soak
@pytest.mark.parametrize("name", tuple(COMMANDS))
@pytest.mark.fault("L1")
def test_every_answer_and_every_route(place: Place, name: str) -> None:
    requests = place.asked(name)
    sweep_everything(place.proxy, name, requests, place.case(name), EXCUSED)


CHAOS = {"promotion": 40, "rollback": 40}
"""How many runs of chaos, by what is run."""
SOAKS = {name: Soak(name) for name in CHAOS}


@pytest.mark.soak
@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, runs in CHAOS.items() for seed in range(runs)])
@pytest.mark.fault("L1")
def test_chaos(place: Place, name: str, seed: int) -> None:
    place.asked(name)
    problems = place.case(name)(chaos(seed, SHARE))
    assert not problems, "; ".join(problems)
    SOAKS[name].survived(place.proxy)
