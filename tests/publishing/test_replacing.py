"""`card.replaces`: the cards of older repos name the release as their new version, and nothing else of them changes."""

from pathlib import Path
from typing import Any

import pytest
from access_samples import WRITE, fine_grained, scope
from huggingface_hub import HfApi
from releases import RECIPE, REPO, Release, faults, hub_of, writes

from hubkit.checks.source import RepoSource
from hubkit.core.errors import RefusedError
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.hub.commits import Content
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import expand
from hubkit.publishing import compare_and_swap, replacing
from hubkit.publishing.notes import no_note
from hubkit.publishing.verifying import verify
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Scope
from hubkit.server.process import Running

OLD, OLDER = "hubkit/old", "hubkit/older"
CARD = b"---\r\nlicense: mit\r\ntags: [a,   b] # mine\r\n---\r\n# Old\r\n\r\nN\xff not UTF-8 "
POINTED = CARD.replace(b"# mine\r\n", b"# mine\r\nnew_version: hubkit/my-model\r\n")


def replacing_recipe(*repos: str) -> Recipe:
    return RECIPE.model_copy(update={"card": RECIPE.card.model_copy(update={"replaces": repos})})


def release_on(hub: Running, folder: Path, *repos: str, token: str | None = "owner") -> Release:
    release = Release.on(hub, folder, token)
    release.recipe = replacing_recipe(*repos)
    return release


def api_of(hub: Running, **cards: bytes) -> HfApi:
    """The owner's client, with the repos OLD and OLDER and their cards."""
    api = HfApi(endpoint=hub.url, token=hub.token)
    for name, card in cards.items():
        api.create_repo(f"hubkit/{name}")
        if card:
            write(hub, f"hubkit/{name}", card)
    return api


def write(hub: Running, repo: str, card: bytes) -> None:
    """Somebody's commit of a card; huggingface_hub itself sends none that is not UTF-8, git does."""
    theirs = connect(Target(hub.url, Path("unused"), hub.token, embedded=True))
    head = str(theirs.head(repo, "main"))
    theirs.create_commit(repo, "main", [Content("README.md", card)], parent=head, title="edit")


def card_of(release: Release, repo: str) -> bytes:
    hub = hub_of(release)
    return hub.read_listed(repo, "README.md", str(hub.head(repo, "main"))) or b""


def problems(release: Release) -> list[tuple[str, str]]:
    settings = find_stage("new_version").Settings.of(release.recipe, Scope(release.folder))
    found = find_stage("new_version").check(CheckContext(settings, release.target))
    return [(item.level, item.message) for item in found]


def test_the_older_cards_name_the_release_and_no_other_byte_changes(hub: Running, tmp_path: Path) -> None:
    api = api_of(hub, old=CARD, older=b"")
    release = release_on(hub, tmp_path, OLD, OLDER).train().publish()
    assert problems(release) == []
    release.promote()
    release.perform("new-version")
    assert card_of(release, OLD) == POINTED
    assert card_of(release, OLDER) == b"---\nnew_version: hubkit/my-model\n---\n", "a repo without a card gets one"
    assert {item.rfilename for item in api.list_repo_tree(OLD) if hasattr(item, "rfilename")} == {
        ".gitattributes",
        "README.md",
    }
    made = release.typed("new-version")
    assert made.newer == REPO and made.repos[OLD] == hub_of(release).head(OLD, "main")
    faults(hub)
    release.perform("new-version")
    assert not writes(hub) and release.outdated("new-version") is None, "once is enough"


def test_what_others_do_to_the_card_is_kept(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody edits the card between our reading and our commit; later somebody edits its text, then the key."""
    api = api_of(hub, old=CARD)
    release = release_on(hub, tmp_path, OLD).train().publish()
    release.promote()
    edited = CARD + b"\r\nEdited meanwhile."

    def after_another(*args: Any) -> str:
        monkeypatch.setattr(replacing, "commit", compare_and_swap.commit)
        write(hub, OLD, edited)
        return compare_and_swap.commit(*args)

    monkeypatch.setattr(replacing, "commit", after_another)
    release.perform("new-version")
    pointed = POINTED + b"\r\nEdited meanwhile."
    assert card_of(release, OLD) == pointed
    assert len(api.list_repo_commits(OLD)) == 4, "the repo's first one, the card, the edit and ours"
    write(hub, OLD, pointed + b" And later.")
    assert release.outdated("new-version") is None, "an edit of the text takes nothing back"
    other = pointed.replace(b"hubkit/my-model", b"them/other")
    write(hub, OLD, other)
    assert release.outdated("new-version") == f"the card of {OLD} no longer names {REPO} as its new version"
    assert problems(release) == [
        ("warning", f"The card of {OLD} names them/other as its new version; it will name {REPO}.")
    ]
    release.perform("new-version")
    assert card_of(release, OLD) == pointed
    api.delete_repo(OLD)
    assert release.outdated("new-version") is None, "a repo that was deleted has no page that could say it"


def test_a_rival_who_never_stops_ends_it(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api_of(hub, old=CARD)
    release = release_on(hub, tmp_path, OLD).train().publish()
    release.promote()
    tries: list[Any] = []

    def after_another(*args: Any) -> str:
        tries.append(args)
        write(hub, OLD, CARD + b"%d" % len(tries))
        return compare_and_swap.commit(*args)

    monkeypatch.setattr(replacing, "commit", after_another)
    with pytest.raises(Exception, match="moved from"):
        release.perform("new-version")
    assert len(tries) == 5 and card_of(release, OLD) == CARD + b"5"


def test_preflight_finds_what_cannot_be_pointed(hub: Running, tmp_path: Path) -> None:
    api_of(hub, old=b"---\n{license: mit}\n---\n", older=CARD)
    release = release_on(hub, tmp_path, OLD, "hubkit/missing", OLDER)
    assert problems(release) == [
        ("error", f"The front matter of README.md in {OLD} cannot be edited: the front matter is written in braces."),
        ("error", f"`card.replaces` names hubkit/missing, which is not on {hub.url}."),
    ]
    release = release_on(hub, tmp_path, OLD).train().publish()
    release.promote()
    with pytest.raises(RefusedError, match="cannot be edited"):
        release.perform("new-version")
    release = release_on(hub, tmp_path, OLDER, token=fine_grained(hub, "hubkit", scope("model", REPO, WRITE)))
    ((level, message),) = problems(release)
    assert level == "error" and message.startswith(f"Cannot write to {OLDER}, which `card.replaces` names:")


def test_pages_that_would_name_each_other_are_refused(hub: Running, tmp_path: Path) -> None:
    """p replaces q while the card of p, or of one that follows on it, names q."""
    api_of(hub, old=CARD, older=CARD.replace(b"---\r\nl", b"---\r\nnew_version: hubkit/Old\r\nl"))
    release = release_on(hub, tmp_path, OLD).train().publish()
    release.promote()
    replacing.point_to(hub_of(release), REPO, OLDER, no_note)
    ((level, message),) = problems(release)
    assert level == "error" and "names hubkit/old: the card of hubkit/older gives hubkit/old as its new" in message
    with pytest.raises(RefusedError, match="in a circle"):
        release.perform("new-version")
    assert card_of(release, OLD) == CARD
    write(hub, OLDER, CARD.replace(b"---\r\nl", b"---\r\nnew_version: https://hub/a/b/c\r\nl"))
    assert problems(release) == [], "what is no repo leads nowhere"


def test_an_old_name_of_the_release_is_no_other_repo(hub: Running, tmp_path: Path) -> None:
    """The Hub leads from the old name to the new one, so the key would be written into the release's own card."""
    release = release_on(hub, tmp_path, OLD)
    api_of(hub, old=CARD).move_repo(OLD, REPO)
    assert problems(release) == [
        ("error", f"`card.replaces` names {OLD}: {OLD} is {REPO} on {hub.url}, so it cannot be replaced by it.")
    ]


def test_it_is_the_last_step_and_only_of_a_whole_release() -> None:
    recipe = replacing_recipe(OLD)
    assert [job.id for job in expand(recipe)][-2:] == ["promote", "new-version"]
    assert "new-version" not in {job.id for job in expand(recipe, only="main")}
    assert "new-version" not in {job.id for job in expand(recipe.proposed())}


def test_an_older_release_that_is_made_again_keeps_it(hub: Running, tmp_path: Path) -> None:
    """It is an edit of the card on the Hub like any other; `verify` names it."""
    Release.on(hub, tmp_path / "1").train().publish().promote()
    release = Release.on(hub, tmp_path / "2")
    replacing.point_to(hub_of(release), REPO, "hubkit/newer", no_note)
    (difference,) = verify(RepoSource(hub_of(release), REPO)).differences
    assert (difference.path, difference.kind) == ("README.md", "changed")
    release.train(2).publish().promote()
    card = card_of(release, REPO)
    assert b"new_version: hubkit/newer\n" in card and b"# main 2" in card, "the new card, with the key"
    assert not verify(RepoSource(hub_of(release), REPO)).differences
