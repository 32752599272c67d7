"""A release that is proposed to a repo of others: pull requests that stay one each, whatever happens."""

from pathlib import Path

import pytest
from access_samples import DISCUSS, READ, fine_grained, scope
from commands import hubkit, hubkit_json
from huggingface_hub import CommitOperationAdd
from releases import (
    RECIPE,
    REPO,
    Proposing,
    Release,
    admin,
    assert_whole,
    faults,
    heads,
    hub_of,
    manifest,
    requests,
    writes,
)

from hubkit.core.errors import ConflictError, RefusedError, RemoteError
from hubkit.core.trees import tree_of
from hubkit.hub.client import Hub
from hubkit.hub.commits import Addition, Operation
from hubkit.pipeline.jobs import expand
from hubkit.publishing import proposals
from hubkit.publishing.ownership import holds_release
from hubkit.recipe.stage import Options
from hubkit.server.process import Running
from hubkit_stages import publish

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def owner(hub: Running, tmp_path: Path) -> Hub:
    """The connection of the repo's owner; the repo holds a file and a branch of theirs."""
    mine = hub_of(Release.on(hub, tmp_path / "owner"))
    mine.ensure_repo(REPO, "public")
    mine.api.create_commit(REPO, [CommitOperationAdd("notes.txt", b"ours")], commit_message="notes")
    return mine


@pytest.fixture
def release(hub: Running, owner: Hub, tmp_path: Path) -> Proposing:
    """The run of a guest, who may write nothing of the owner's."""
    admin(hub, "POST", "users", {"name": "guest"})
    token = admin(hub, "POST", "tokens", {"user": "guest", "role": "write"})["token"]
    made = Proposing.on(hub, tmp_path, token)
    made.train()
    return made


def numbers(release: Release) -> dict[str, int | None]:
    return {name: release.made[f"publish[{name}]"].json("published.json")["pull_request"] for name in RECIPE.variants}


def opened(owner: Hub) -> list[str]:
    found = owner.pull_requests(REPO, "guest")
    return sorted(item.title for item in found if item.is_open)


def test_a_guest_proposes_and_the_owner_takes(owner: Hub, release: Proposing) -> None:
    before = owner.refs(REPO)
    release.publish()
    proposed = release.promote()
    assert owner.refs(REPO) == before, "no branch and no tag was written"
    assert opened(owner) == ["Release dpo-v0", "Release main"]
    assert {said["status"] for said in proposed.values()} == {"open"}
    number = numbers(release)["main"]
    assert number
    tree = owner.tree(REPO, f"refs/pr/{number}")
    assert holds_release(tree, tree_of(manifest(release, "main"))) and "notes.txt" in tree
    other = f"refs/pr/{numbers(release)['dpo-v0']}"
    assert owner.tree(REPO, other).keys() == tree_of(manifest(release, "dpo-v0")).keys(), "the tree of its own branch"

    owner.api.merge_pull_request(REPO, number)
    owner.create_branch(REPO, "dpo-v0", str(owner.head(REPO, other)))
    owner.api.change_discussion_status(REPO, numbers(release)["dpo-v0"] or 0, "closed")
    assert_whole(release, "dpo-v0")
    assert release.outdated("promote") is not None, "the merge is news"
    assert release.promote()["main"]["status"] == "merged"
    assert release.outdated("promote") is None


def test_proposing_again_opens_nothing(hub: Running, owner: Hub, release: Proposing) -> None:
    release.publish().promote()
    before = numbers(release)
    faults(hub)
    release.publish().promote()
    assert writes(hub) == [] and numbers(release) == before


def test_a_new_version_goes_on_with_the_same_pull_requests(owner: Hub, release: Proposing) -> None:
    release.publish()
    before = numbers(release)
    release.train(version=2)
    release.publish().promote()
    assert numbers(release) == before and opened(owner) == ["Release dpo-v0", "Release main"]
    tree = owner.tree(REPO, f"refs/pr/{before['main']}")
    assert holds_release(tree, tree_of(manifest(release, "main")))


def test_what_stands_already_is_not_proposed(owner: Hub, release: Proposing) -> None:
    release.publish()
    owner.api.merge_pull_request(REPO, numbers(release)["main"] or 0)
    release.publish()
    assert numbers(release)["main"] is None
    assert release.made["publish[main]"].json("published.json")["commit"] == heads(release)["main"]
    assert release.promote()["main"]["status"] == "up to date"


@pytest.mark.fault("F6")
def test_the_answer_to_the_opening_is_lost(hub: Running, owner: Hub, release: Proposing) -> None:
    faults(hub, {"route": "POST .*/commit/", "action": "drop-after", "count": 0})
    release.publish()
    assert opened(owner) == ["Release dpo-v0", "Release main"]
    assert len([line for line in requests(hub) if line.startswith("POST") and "/commit/" in line]) == 2


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.fault("F3")
def test_the_hub_stumbles_over_the_opening(hub: Running, owner: Hub, release: Proposing, times: int) -> None:
    faults(hub, {"route": "POST .*/commit/", "action": "status", "status": 500, "count": times})
    release.publish("main")
    assert opened(owner) == ["Release main"]


@pytest.mark.fault("F3")
def test_the_hub_never_takes_the_pull_request(hub: Running, owner: Hub, release: Proposing) -> None:
    faults(hub, {"route": "POST .*/commit/", "action": "status", "status": 500, "count": 0})
    with pytest.raises(RemoteError) as told:
        release.publish("main")
    assert told.value.exit_code == 5 and opened(owner) == []


def test_a_pull_request_that_was_closed_stays_closed(owner: Hub, release: Proposing) -> None:
    release.publish()
    number = numbers(release)["main"] or 0
    owner.api.change_discussion_status(REPO, number, "closed")
    with pytest.raises(RefusedError, match=f"Pull request {number} .* was closed") as told:
        release.promote()
    assert told.value.hint is not None and "--fresh" in told.value.hint
    assert opened(owner) == ["Release dpo-v0"]


def test_somebody_else_moves_the_pull_request(owner: Hub, release: Proposing, monkeypatch: pytest.MonkeyPatch) -> None:
    release.publish("main")
    ref = f"refs/pr/{release.made['publish[main]'].json('published.json')['pull_request']}"
    release.train(version=2)
    upload = proposals.upload

    def slower(hub: Hub, repo: str, revision: str, added: list[Addition], **rest: bool) -> list[Operation]:
        written = upload(hub, repo, revision, added, **rest)
        owner.api.create_commit(REPO, [CommitOperationAdd("x.txt", b"x")], commit_message="x", revision=ref)
        return written

    monkeypatch.setattr(proposals, "upload", slower)
    with pytest.raises(ConflictError, match="moved"):
        release.publish("main")
    assert "x.txt" in owner.tree(REPO, ref), "nothing was overwritten"


def test_what_a_maintainer_changed_in_the_pull_request_is_not_lost(owner: Hub, release: Proposing) -> None:
    release.publish()
    ref = f"refs/pr/{numbers(release)['main']}"
    theirs = [
        CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n# better"),
        CommitOperationAdd("extra.txt", b"x"),
    ]
    owner.api.create_commit(REPO, theirs, commit_message="a better card", revision=ref)
    release.train(version=2)
    with pytest.raises(
        ConflictError, match=r"Somebody changed README\.md and extra\.txt|README\.md, extra\.txt"
    ) as told:
        release.publish("main")
    assert told.value.hint is not None and "--overwrite-card" in told.value.hint
    assert owner.read_file(REPO, "README.md", ref) == theirs[0].path_or_fileobj
    release.options = Options(overwrite_card=True)
    release.publish("main")
    assert b"main 2" in (owner.read_file(REPO, "README.md", ref) or b"")


def test_what_was_taken_and_then_edited_is_no_refusal(owner: Hub, release: Proposing) -> None:
    release.publish()
    number = numbers(release)["dpo-v0"] or 0
    owner.create_branch(REPO, "dpo-v0", str(owner.head(REPO, f"refs/pr/{number}")))
    owner.api.change_discussion_status(REPO, number, "closed")
    assert release.promote()["dpo-v0"]["status"] == "closed"
    owner.api.create_commit(REPO, [CommitOperationAdd("README.md", b"mine")], commit_message="m", revision="dpo-v0")
    assert release.outdated("promote") is None


def test_what_stood_there_and_is_gone_is_proposed_anew(owner: Hub, release: Proposing) -> None:
    release.publish()
    owner.api.merge_pull_request(REPO, numbers(release)["main"] or 0)
    release.publish()
    assert release.outdated("publish[main]") is None
    owner.api.create_commit(REPO, [CommitOperationAdd("config.json", b"{}")], commit_message="m")
    assert "no longer holds" in str(release.outdated("publish[main]"))
    release.publish("main")
    assert numbers(release)["main"] is not None


def findings(release: Release) -> list[str]:
    return [item.message for item in publish.check(release.context("publish[main]")) if item.level == "error"]


def test_preflight_names_who_may_not_propose(hub: Running, owner: Hub, release: Proposing, tmp_path: Path) -> None:
    assert findings(release) == []

    def asked(token: str | None, name: str) -> str:
        (said,) = findings(Proposing.on(hub, tmp_path / name, token))
        return said

    reader = admin(hub, "POST", "tokens", {"user": "guest", "role": "read"})["token"]
    assert "is read-only; it needs discussion.write" in asked(reader, "reader")
    blind = fine_grained(hub, "guest", scope("user", "guest", READ, DISCUSS))
    assert f"lacks the right {DISCUSS} for {REPO}; it has it for guest" in asked(blind, "blind")
    assert "opening a pull request needs a user token; none is set for" in asked(None, "nobody")
    owner.ensure_repo("hubkit/other", "public")
    owner.api.delete_repo(REPO)
    assert f"{REPO} does not exist, or" in asked(release.target.token, "gone")


def test_a_token_that_may_only_discuss_is_enough(hub: Running, owner: Hub, tmp_path: Path, release: Proposing) -> None:
    token = fine_grained(hub, "guest", everywhere=(READ, DISCUSS))
    made = Proposing.on(hub, tmp_path / "fine", token)
    assert findings(made) == []
    made.train()
    made.publish()
    assert opened(owner) == ["Release dpo-v0", "Release main"]


def test_without_it_preflight_says_how_to_propose(hub: Running, release: Proposing) -> None:
    plain = Release(release.folder, release.target, release.run, release.made)
    (found,) = [item for item in publish.check(plain.context("publish[main]")) if item.level == "error"]
    assert "has no right to write" in found.message and found.hint is not None and "--pr" in found.hint


def test_no_space_is_deployed_of_what_is_only_proposed() -> None:
    assert not [job for job in expand(RECIPE.proposed()) if job.step.name == "space"]
    publish_job = next(job for job in expand(RECIPE.proposed()) if job.step.name == "publish")
    settings = publish.Settings.of(RECIPE.proposed(), publish_job.scope(Path()))
    assert settings != publish.Settings.of(RECIPE, publish_job.scope(Path())), "another key"


def test_the_owner_makes_the_branch_by_the_command_of_the_text(
    hub: Running, owner: Hub, release: Proposing, tmp_path: Path
) -> None:
    release.publish()
    number = numbers(release)["dpo-v0"]
    text = next(iter(owner.api.get_discussion_details(REPO, number or 0).events))
    assert f"hubkit revisions promote {REPO} refs/pr/N dpo-v0" in text.content  # type: ignore[attr-defined]
    done = hubkit("revisions", "promote", REPO, f"refs/pr/{number}", "dpo-v0", "-y", "--hub", hub.url, home=tmp_path,
                  HF_TOKEN=hub.token)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_whole(release, "dpo-v0")
    assert hubkit_json("revisions", "list", REPO, "--hub", hub.url, home=tmp_path, HF_TOKEN=hub.token)
