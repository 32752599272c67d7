"""One lie of a proxy while a release is proposed to somebody else's repo: pull requests are opened or updated.

The owner's branches never move; a pull request holds exactly what was proposed before or exactly the new release; the
words are true; the same steps without lies end with one pull request for each variant.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd
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
from releases import RECIPE, Proposing, admin, target_of

from hubkit.core.errors import BY_EXIT_CODE
from hubkit.core.files import Manifest
from hubkit.core.target import Target
from hubkit.hub.client import Hub, connect
from hubkit.pipeline.runs import open_run
from hubkit.publishing.proposals import title_of
from hubkit.recipe.stage import CheckContext
from hubkit.server.process import Running
from hubkit_stages import publish

EXCUSED: dict[str, str] = {}
"""Cases that go wrong, by pattern, with the reason why the lie cannot be told from the truth."""
VARIANTS = {"opening": tuple(RECIPE.variants), "updating": ("main",)}


@dataclass
class Case:
    """A guest's release for the owner's repo, about to be proposed."""

    release: Proposing
    owner: Hub
    before: State
    variants: tuple[str, ...]

    def run(self) -> Ended:
        """Check and propose each variant, then read the state of each pull request."""
        return ended(self._run)

    def _run(self) -> None:
        for variant in self.variants:
            step = f"publish[{variant}]"
            if step not in self.release.made:
                context = self.release.context(step)
                for finding in publish.check(CheckContext(context.settings, context.target, context.options)):
                    if finding.level == "error":
                        raise BY_EXIT_CODE[finding.exit_code](finding.message, hint=finding.hint)
                self.release.perform(step)
        if len(self.variants) == len(RECIPE.variants):
            self.release.perform("promote")

    def goal(self, variant: str) -> Manifest:
        return Manifest.from_json(self.release.made[f"publish[{variant}]"].json("bundle.json"))

    def opened(self) -> dict[int, str]:
        """The variant of each open pull request of the guest, by its number."""
        titles = {title_of(variant): variant for variant in RECIPE.variants}
        found = self.owner.pull_requests(self.release.recipe.repo, "guest")
        return {item.number: titles[item.title] for item in found if item.is_open}

    def _holds(self, ref: str, variant: str) -> bool:
        return self.before.holds(ref, self.goal(variant), others=variant == "main")

    def reached(self) -> bool:
        """Whether there is one pull request for each variant, and it holds exactly the release."""
        opened = self.opened()
        return sorted(opened.values()) == sorted(self.variants) and all(
            self._holds(f"refs/pr/{number}", variant) for number, variant in opened.items()
        )


@dataclass
class Place:
    """A proxy, and a Hub with an owner and a guest."""

    home: Path
    proxy: LyingProxy
    running: Running
    owner: Target
    guest: Target
    trained: list[dict[str, Kept]]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(100))
    requests: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def new(self, name: str) -> Case:
        """A repo of the owner's, and for it a release of the guest's; in "updating" an earlier one is proposed."""
        number = next(self.numbers)
        repo = f"hubkit/case-{number}"
        owner = connect(self.owner)
        owner.ensure_repo(repo, "public")
        notes = [CommitOperationAdd("notes.txt", b"ours")]
        head = owner.api.create_commit(repo, notes, commit_message=f"notes of {repo}").oid
        recipe = RECIPE.proposed().model_copy(update={"repo": repo})
        release = Proposing(self.home, self.guest, open_run(self.home, repo, self.guest), dict(self.trained[0]), recipe)
        case = Case(release, owner, State(git_folder(self.running, str(head))), VARIANTS[name])
        if name == "updating":
            assert case.run().code == 0
            release.made = dict(self.trained[1])
            case.before = State(case.before.git)
        release.target = replace(self.guest, endpoint=self.proxy.url)
        return case

    def asked(self, name: str) -> list[tuple[str, int]]:
        """The requests of a run without lies."""
        if name not in self.requests:
            self.requests[name] = routes(self.proxy, self.new(name).run)
        return self.requests[name]

    def case(self, name: str) -> Callable[[Plan], list[str]]:
        """One run with lies and one without."""
        return lambda plan: self._case(name, plan)

    def _case(self, name: str, plan: Plan) -> list[str]:
        case = self.new(name)
        old = case.before.trees()
        self.proxy.listen(plan)
        end = case.run()
        self.proxy.stop_lying()
        moved, opened, now = case.before.moved(), case.opened(), case.before.trees()
        reached = end.code == 0 and case.reached()
        problems = [*untrue(end, moved)]
        problems += [f"{ref} moved" for ref in moved if not ref.startswith("refs/pr/")]
        if end.code == 0 and not reached:
            problems.append("ended 0, but not every variant is proposed")
        again = case.run()
        if again.code:
            problems.append(f"again without lies: {again.code}: {again.words}")
        else:
            if not case.reached():
                problems.append(f"again without lies: ended 0 with {case.opened()}")
            goals = {number: now.get(f"refs/pr/{number}") for number in opened}
            for number, tree in goals.items():
                if tree not in {old.get(f"refs/pr/{number}"), case.before.trees().get(f"refs/pr/{number}")}:
                    problems.append(f"pull request {number} was neither old nor new")
        return [*problems, f"{end.code}: {end.words[-300:]}"] if problems else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("lies")
    with lied_to(home) as (running, proxy, _):
        owner = target_of(running, home / "owner")
        admin(running, "POST", "users", {"name": "guest"})
        token = admin(running, "POST", "tokens", {"user": "guest", "role": "write"})["token"]
        guest = Target(running.url, home / "hf", token, embedded=True)
        runs = [Proposing.on(running, home / f"release-{version}") for version in (1, 2)]
        trained = [run.train(version).made for version, run in enumerate(runs, 1)]
        yield Place(home, proxy, running, owner, guest, trained)


@pytest.mark.parametrize(("name", "lie"), told(*VARIANTS))
@pytest.mark.fault("L3")
def test_one_lie(place: Place, name: str, lie: str, record_property: Callable[[str, object], None]) -> None:
    requests = place.asked(name)
    found = sweep(place.proxy, slice_of(requests, lie), [lie], place.case(name))
    record_property("figure", f"{name}, {len(requests)} requests, cases of a lie: {found.cases} each")
    judge(found, EXCUSED)


@pytest.mark.soak
@pytest.mark.parametrize("name", tuple(VARIANTS))
@pytest.mark.fault("L3")
def test_every_answer_and_every_route(place: Place, name: str) -> None:
    requests = place.asked(name)
    sweep_everything(place.proxy, name, requests, place.case(name), EXCUSED)


CHAOS = {"opening": 15, "updating": 15}
"""How many runs of chaos, by what is run."""
SOAKS = {name: Soak(name) for name in CHAOS}


@pytest.mark.soak
@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, runs in CHAOS.items() for seed in range(runs)])
@pytest.mark.fault("L3")
def test_chaos(place: Place, name: str, seed: int) -> None:
    place.asked(name)
    problems = place.case(name)(chaos(seed, SHARE))
    assert not problems, "; ".join(problems)
    SOAKS[name].survived(place.proxy)
