"""One lie of a proxy in what a release publishes: staging, reading back, loading back, moving two branches.

``main`` and ``dpo-v0`` hold exactly their old tree or exactly their new one, ``main`` never the new one before
``dpo-v0`` does, and no variant before the GGUF files of the release; the words are true; the same steps without lies
end the release, with one commit for each branch.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from gguf_releases import GgufRelease
from kept import Kept
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
from releases import REPO, Release, hub_of

from hubkit.core.errors import BY_EXIT_CODE
from hubkit.core.files import Manifest
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.runs import Run, open_run
from hubkit.publishing.read_back import verify_bytes
from hubkit.recipe.stage import CheckContext

EXCUSED: dict[str, str] = {}
"""Cases that go wrong, by pattern, with the reason why the lie cannot be told from the truth."""
STEPS = {"dpo-v0": "publish[dpo-v0]", "main": "publish[main]"}
"""The branches in the order in which they move, with the step that stages each."""
GGUF_STEPS = {"gguf": "publish-gguf[main]", **STEPS}
"""The same of a release that has a branch of GGUF files."""


@dataclass
class Case:
    """A release through the proxy that is about to run, from ``before`` on; ``steps`` are what is run of it."""

    release: Release
    before: State
    steps: tuple[str, ...]
    branches: Mapping[str, str]
    downloads: int = 0

    def run(self) -> Ended:
        """Run the steps. What is done is not done again, as in a run that is resumed."""
        return ended(lambda: [self._step(step) for step in self.steps])

    def _step(self, step: str) -> None:
        release = self.release
        if step == "promote":
            release.perform(step)
            return
        if step not in release.made:
            context = release.context(step)
            stage = find_stage(release.job(step).stage)
            for finding in stage.check(CheckContext(context.settings, context.target, context.options)):
                if finding.level == "error":
                    raise BY_EXIT_CODE[finding.exit_code](finding.message, hint=finding.hint)
            release.perform(step)
        # A folder of its own, as in a new process: the client keeps listings in memory, by folder.
        self.downloads += 1
        staged, cache = release.typed(step), release.run.path / f"cache-{self.downloads}"
        verify_bytes(hub_of(release), REPO, staged.commit, staged.bundle, cache)

    def goal(self, name: str) -> Manifest:
        return Manifest.from_json(self.release.made[self.branches[name]].json("bundle.json"))

    def reached(self, state: State, name: str) -> bool:
        """Whether the branch ``name``, or its staging branch, holds exactly the files that are to be there."""
        return state.holds(name if "promote" in self.steps else f"staging/{name}", self.goal(name))


@dataclass
class Place:
    """A proxy, and a Hub with a finished release. ``staged`` is the next one, up to its staging branches."""

    home: Path
    proxy: LyingProxy
    released: Release
    before: State
    branches: Mapping[str, str]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(100))
    staged: Case | None = None
    requests: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def new(self, name: str) -> Case:
        """What is to be run for ``name``: one variant up to its loading back, the promotion of both, or all of it."""
        if name == "moving":
            return self._staged()
        number = next(self.numbers)
        target = replace(self.released.target, endpoint=self.proxy.url)
        release = type(self.released)(self.home, target, open_run(self.home, f"cases/{number}", target)).train(number)
        first = next(iter(self.branches.values())) if "gguf" in self.branches else self.branches["main"]
        steps = (first,) if name == "staging" else (*self.branches.values(), "promote")
        return Case(release, self.before, steps, self.branches)

    def _staged(self) -> Case:
        """A copy of the release that is staged."""
        if self.staged is None:
            self.before.restore()
            whole = self.new("release")
            self.staged = Case(whole.release, self.before, ("promote",), self.branches)
            assert Case(whole.release, self.before, whole.steps[:-1], self.branches).run().code == 0
            self.staged.before = State(self.before.git)
        template, run = self.staged.release, self.staged.release.run.path
        to = run.with_name(f"{run.name}-{next(self.numbers)}")
        shutil.copytree(run, to)
        made = {
            step: Kept(to / item.path.relative_to(run), item.key, item.manifest, item.summary, item.seconds)
            for step, item in template.made.items()
        }
        copied = type(self.released)(self.home, template.target, Run(to), made)
        return Case(copied, self.staged.before, ("promote",), self.branches)

    def asked(self, name: str) -> list[tuple[str, int]]:
        """The requests of a run without lies."""
        if name not in self.requests:
            case = self.new(name)
            case.before.restore()
            self.requests[name] = routes(self.proxy, case.run)
        return self.requests[name]

    def case(self, name: str) -> Callable[[Plan], list[str]]:
        """One run with lies and one without."""
        return lambda plan: self._case(name, plan)

    def _case(self, name: str, plan: Plan) -> list[str]:
        case = self.new(name)
        branches, state = self.branches, case.before
        goals = [name for name, step in branches.items() if step in case.steps] or list(branches)
        state.restore()
        old = {branch: (state.tree(branch), state.commits(branch)) for branch in branches}
        self.proxy.listen(plan)
        end = case.run()
        self.proxy.stop_lying()
        between = {branch: state.tree(branch) for branch in branches}
        reached = end.code == 0 and all(case.reached(state, name) for name in goals)
        problems = [*untrue(end, state.moved())]
        if end.code == 0 and not reached:
            problems.append("ended 0, but a branch has not its new tree")
        again = case.run()
        if again.code:
            problems.append(f"again without lies: {again.code}: {again.words}")
        elif not all(case.reached(state, name) for name in goals):
            problems.append("again without lies: ended 0, but a branch has not its new tree")
        for branch in branches:
            new = (state.tree(branch), old[branch][1] + 1) if "promote" in case.steps else old[branch]
            if between[branch] not in {old[branch][0], new[0]}:
                problems.append(f"{branch} neither old nor new")
            if state.commits(branch) != new[1]:
                problems.append(f"{branch} has {state.commits(branch) - old[branch][1]} new commits")
        moved = [between[branch] != old[branch][0] for branch in branches]
        if moved != sorted(moved, reverse=True):
            problems.append(f"not moved in order: {dict(zip(branches, moved, strict=True))}")
        shutil.rmtree(case.release.run.path)
        return [*problems, f"{end.code}: {end.words[-300:]}"] if problems else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(tmp_path_factory.mktemp("lies"), Release, STEPS) as made:
        yield made


@pytest.fixture(scope="module")
def gguf_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(tmp_path_factory.mktemp("lies-gguf"), GgufRelease, GGUF_STEPS) as made:
        yield made


@contextmanager
def placed(home: Path, kind: type[Release], steps: Mapping[str, str]) -> Iterator[Place]:
    """A Hub behind a proxy, with a finished release of ``kind``."""
    with lied_to(home) as (running, proxy, _):
        released = kind.on(running, home).train().publish()
        released.promote()
        commit = released.made["promote"].json("release.json")["variants"]["main"]["commit"]
        yield Place(home, proxy, released, State(git_folder(running, commit)), steps)


@pytest.mark.parametrize(("name", "lie"), told("staging", "moving"))
@pytest.mark.fault("L2")
def test_one_lie(place: Place, name: str, lie: str, record_property: Callable[[str, object], None]) -> None:
    requests = place.asked(name)
    found = sweep(place.proxy, slice_of(requests, lie), [lie], place.case(name))
    record_property("figure", f"{name}, {len(requests)} requests, cases of a lie: {found.cases} each")
    judge(found, EXCUSED)


@pytest.mark.soak
@pytest.mark.parametrize("name", ("release", "moving"))
@pytest.mark.fault("L2")
def test_every_answer_and_every_route(place: Place, name: str) -> None:
    requests = place.asked(name)
    sweep_everything(place.proxy, name, requests, place.case(name), EXCUSED)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ("staging", "moving"))
@pytest.mark.fault("L2")
def test_every_answer_of_a_release_with_gguf_files(gguf_place: Place, name: str) -> None:
    requests = gguf_place.asked(name)
    sweep_everything(gguf_place.proxy, f"GGUF files, {name}", requests, gguf_place.case(name), EXCUSED)


CHAOS = {"release": 30, "moving": 40}
"""How many runs of chaos, by what is run."""
SOAKS = {name: Soak(name) for name in CHAOS}


@pytest.mark.soak
@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, runs in CHAOS.items() for seed in range(runs)])
@pytest.mark.fault("L2")
def test_chaos(place: Place, name: str, seed: int) -> None:
    place.asked(name)
    problems = place.case(name)(chaos(seed, SHARE))
    assert not problems, "; ".join(problems)
    SOAKS[name].survived(place.proxy)
