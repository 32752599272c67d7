"""The steps after the branches have moved (Space, collection, `new_version`), killed at each request: row F1.

Run again, everything is there once, in the order of the steps: no older page links to what is not there.
"""

import itertools
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from kept import kept
from kills import REQUESTS, a_write, killed_at
from releases import RECIPE, REPO, Release, hub_of
from served_apps import SERVER, folder_of, told

from hubkit.hub.commits import Content
from hubkit.publishing.spaces import building
from hubkit.recipe.hub_pages import Collection
from hubkit.recipe.models import Space
from hubkit.server.process import Running

Record = Callable[[str, object], None]
CARD = b"---\nlicense: mit\n---\n# Old \xe9\n"
POINTED = CARD.replace(b"mit\n", b"mit\nnew_version: hubkit/my-model\n")
SHORT, ALL = ("collection", "new-version"), ("space", "collection", "new-version")


@dataclass
class After:
    """The ``number``-th release on a Hub, promoted already, with two repos that it replaces and a title of its own."""

    hub: Running
    api: HfApi
    release: Release
    number: int
    steps: Sequence[str]

    @property
    def olds(self) -> tuple[str, str]:
        return f"hubkit/old-{self.number}", f"hubkit/older-{self.number}"

    @property
    def space(self) -> str:
        return f"hubkit/space-{self.number}"

    def prepared(self, promoted: dict[str, Any]) -> "After":
        """With the older repos on the Hub and the artifact of `promote`."""
        for repo in self.olds:
            self.api.create_repo(repo)
            head = self.api.model_info(repo).sha or ""
            hub_of(self.release).create_commit(repo, "main", [Content("README.md", CARD)], parent=head, title="card")
        space = Space(repo=self.space) if "space" in self.steps else None
        card = RECIPE.card.model_copy(update={"replaces": self.olds, "papers": ("2305.18290",)})
        collection = Collection(title=f"Models {self.number}")
        self.release.recipe = RECIPE.model_copy(update={"card": card, "collection": collection, "space": space})
        self.release.make("promote", {"release.json": promoted})
        return self

    def perform(self) -> None:
        """The steps that are not done, as the runner does them: in order, none twice."""
        for step in self.steps:
            found = self.release.run.find(step)
            if found is None:
                self.release.perform(step)
            else:
                self.release.made[step] = kept(found)

    def cards(self) -> list[bytes]:
        hub = hub_of(self.release)
        return [hub.read_listed(repo, "README.md", str(hub.head(repo, "main"))) or b"" for repo in self.olds]

    def items(self) -> list[tuple[str, str]]:
        """What the collections of this title hold; each collection counts."""
        listed = [item for item in self.api.list_collections(owner="hubkit") if item.title == f"Models {self.number}"]
        found = [self.api.get_collection(item.slug) for item in listed]
        assert len(found) <= 1, "one collection, however often it was begun"
        return [(item.item_type, item.item_id) for one in found for item in one.items]

    def expected(self) -> list[tuple[str, str]]:
        spaces = [("space", self.space)] if "space" in self.steps else []
        return [("model", REPO), *spaces, ("paper", "2305.18290")]

    def assert_in_order(self) -> None:
        """After a kill: each card is old or new, and none is new before the collection has everything."""
        cards = self.cards()
        assert set(cards) <= {CARD, POINTED}, "no card is half written"
        assert POINTED not in cards or self.items() == self.expected()

    def assert_once(self) -> None:
        """After the same command: everything is there, once."""
        assert self.cards() == [POINTED, POINTED] and self.items() == self.expected()
        for repo in self.olds:
            assert len(self.api.list_repo_commits(repo)) == 3, "the repo's first commit, the card and one of ours"
        if "space" in self.steps:
            assert len(self.api.list_repo_commits(self.space, repo_type="space")) == 2, "its first commit and ours"
            assert told(str(self.api.space_info(self.space).host))["says"] == "it runs"
        assert not any(self.release.outdated(step) for step in self.steps)


def sweep(
    hub: Running, home: Path, steps: Sequence[str], moment: str, counts: Callable[..., bool] = lambda *args: True
) -> int:
    """Kill at the first, second, ... call that ``counts`` until none is left; how many there were."""
    api = HfApi(endpoint=hub.url, token=hub.token)
    first = Release.on(hub, home / "first").train().publish()
    first.promote()
    promoted = first.made["promote"].json("release.json")
    for number in itertools.count(1):
        release = Release.on(hub, home / str(number)).train()
        after = After(hub, api, release, number, steps).prepared(promoted)
        code = killed_at(number, moment, after.perform, REQUESTS, counts)
        after.assert_in_order()
        after.perform()
        after.assert_once()
        if code == 0:
            return number - 1
        assert code == -signal.SIGKILL
    raise AssertionError("the loop ends by itself")


@pytest.mark.fault("F1")
def test_killed_after_each_write_everything_is_there_once(
    hub: Running, tmp_path: Path, record_property: Record
) -> None:
    writes = sweep(hub, tmp_path, SHORT, "after", lambda *args: len(args) > 1 and a_write(*args))
    assert writes == 5, "a collection, its two items and two cards"
    record_property("figure", f"killed after each of {writes} writes; collection and cards there once, in order")


@pytest.mark.soak
@pytest.mark.fault("F1")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_each_request_space_collection_and_cards_are_there_once(
    hub: Running, tmp_path: Path, moment: str, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(url: str, prompt: str, revision: str, limit: int | None = None, *, token: str | None = None) -> Any:
        return building.Answer(prompt, revision, str(told(url)["says"]), "eos", 3, 0.1)

    monkeypatch.setattr(building, "copy_app", lambda into: folder_of(into, SERVER.replace("SAYS", repr("it runs"))))
    monkeypatch.setattr(building, "ask", ask)
    requests = sweep(hub, tmp_path, ALL, moment)
    assert requests > 30
    record_property("figure", f"killed {moment} each of {requests} requests and syncs; everything there once, in order")
