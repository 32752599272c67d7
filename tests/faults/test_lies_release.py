"""One lie of a proxy in what a release publishes: staging, reading back, loading back, moving two branches.

``main`` and ``dpo-v0`` hold exactly their old tree or exactly their new one, ``main`` never the new one before
``dpo-v0`` does; the words are true; the same steps without lies end the release, with one commit for each branch.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
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
from releases import RECIPE, REPO, Release, hub_of

from hubkit.core.errors import BY_EXIT_CODE
from hubkit.core.files import Manifest
from hubkit.pipeline.runs import Run, open_run
from hubkit.publishing.read_back import verify_bytes
from hubkit.recipe.stage import CheckContext
from hubkit_stages import publish

EXCUSED: dict[str, str] = {}
"""Cases that go wrong, by pattern, with the reason why the lie cannot be told from the truth."""
BRANCHES = ("dpo-v0", "main")
"""In the order in which they move."""


@dataclass
class Case:
    """A release through the proxy that is about to run, from ``before`` on; ``steps`` are what is run of it."""

    release: Release
    before: State
    steps: tuple[str, ...]
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
            for finding in publish.check(CheckContext(context.settings, context.target, context.options)):
                if finding.level == "error":
                    raise BY_EXIT_CODE[finding.exit_code](finding.message, hint=finding.hint)
            release.perform(step)
        # A folder of its own, as in a new process: the client keeps listings in memory, by folder.
        self.downloads += 1
        staged, cache = release.typed(step), release.run.path / f"cache-{self.downloads}"
        verify_bytes(hub_of(release), REPO, staged.commit, staged.bundle, cache)

    def goal(self, name: str) -> Manifest:
        return Manifest.from_json(self.release.made[f"publish[{name}]"].json("bundle.json"))

    def reached(self, state: State, name: str) -> bool:
        """Whether the branch that the steps are to bring to the variant ``name`` holds exactly its files."""
        return state.holds(name if "promote" in self.steps else f"staging/{name}", self.goal(name))


@dataclass
class Place:
    """A proxy, and a Hub with a finished release. ``staged`` is the next one, up to its staging branches."""

    home: Path
    proxy: LyingProxy
    released: Release
    before: State
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(100))
    staged: Case | None = None
    requests: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def new(self, name: str) -> Case:
        """What is to be run for ``name``: one variant up to its loading back, the promotion of both, or all of it."""
        if name == "moving":
            return self._staged()
        number = next(self.numbers)
        target = replace(self.released.target, endpoint=self.proxy.url)
        release = Release(self.home, target, open_run(self.home, f"cases/{number}", target)).train(number)
        publishing = tuple(f"publish[{variant}]" for variant in RECIPE.variants)
        return Case(release, self.before, publishing[:1] if name == "staging" else (*publishing, "promote"))

    def _staged(self) -> Case:
        """A copy of the release that is staged."""
        if self.staged is None:
            self.before.restore()
            whole = self.new("release")
            self.staged = Case(whole.release, self.before, ("promote",))
            assert Case(whole.release, self.before, whole.steps[:-1]).run().code == 0
            self.staged.before = State(self.before.git)
        template, run = self.staged.release, self.staged.release.run.path
        to = run.with_name(f"{run.name}-{next(self.numbers)}")
        shutil.copytree(run, to)
        made = {
            step: Kept(to / item.path.relative_to(run), item.key, item.manifest, item.summary, item.seconds)
            for step, item in template.made.items()
        }
        return Case(Release(self.home, template.target, Run(to), made), self.staged.before, ("promote",))

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
        state, variants = case.before, [re.sub(r".*\[|\]", "", step) for step in case.steps if "[" in step] or BRANCHES
        state.restore()
        old = {branch: (state.tree(branch), state.commits(branch)) for branch in BRANCHES}
        self.proxy.listen(plan)
        end = case.run()
        self.proxy.stop_lying()
        between = {branch: state.tree(branch) for branch in BRANCHES}
        reached = end.code == 0 and all(case.reached(state, variant) for variant in variants)
        problems = [*untrue(end, state.moved())]
        if end.code == 0 and not reached:
            problems.append("ended 0, but a branch has not its new tree")
        again = case.run()
        if again.code:
            problems.append(f"again without lies: {again.code}: {again.words}")
        elif not all(case.reached(state, variant) for variant in variants):
            problems.append("again without lies: ended 0, but a branch has not its new tree")
        for branch in BRANCHES:
            new = (state.tree(branch), old[branch][1] + 1) if "promote" in case.steps else old[branch]
            if between[branch] not in {old[branch][0], new[0]}:
                problems.append(f"{branch} neither old nor new")
            if state.commits(branch) != new[1]:
                problems.append(f"{branch} has {state.commits(branch) - old[branch][1]} new commits")
        if between["main"] != old["main"][0] and between["dpo-v0"] == old["dpo-v0"][0]:
            problems.append("main moved before dpo-v0")
        shutil.rmtree(case.release.run.path)
        return [*problems, f"{end.code}: {end.words[-300:]}"] if problems else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("lies")
    with lied_to(home) as (running, proxy, _):
        released = Release.on(running, home).train().publish()
        released.promote()
        commit = released.made["promote"].json("release.json")["variants"]["main"]["commit"]
        yield Place(home, proxy, released, State(git_folder(running, commit)))


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
