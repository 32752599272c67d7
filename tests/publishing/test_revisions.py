"""Branches and tags of a repo, against the embedded Hub: list, history, create, delete, tag, prune, what protects."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import until
from huggingface_hub import CommitOperationAdd
from releases import FILES, REPO, Release, admin, target_of
from samples import RECIPE_TEXT

from hubkit.core.errors import ConflictError, RefusedError, UsageError
from hubkit.hub.client import Hub, connect
from hubkit.publishing import revisions
from hubkit.publishing.revisions.guards import names_revision
from hubkit.server.process import Running


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    """Two variants, staged; main still as the repo was made."""
    return Release.on(hub, tmp_path).train().publish()


def write(hub: Hub, path: str, text: str, branch: str = "main", repo: str = REPO, repo_type: str = "model") -> str:
    """One commit on a branch; its id."""
    done = hub.api.create_commit(
        repo, [CommitOperationAdd(path, text.encode())], commit_message=path, revision=branch, repo_type=repo_type
    )
    return str(done.oid)


# --- list


def test_a_released_repo(release: Release) -> None:
    moved = release.promote()
    connected = connect(release.target)
    revisions.tag(connected, REPO, "v1.0", "dpo-v0", "first")
    revisions.create(connected, REPO, "try")
    listed = revisions.list_revisions(connected, REPO)
    assert [(item.name, item.kind) for item in listed] == [
        ("main", "variant"),
        ("dpo-v0", "variant"),
        ("try", "branch"),
        ("v1.0", "tag"),
    ]
    main, dpo, _, tagged = listed
    assert main.commit == moved["main"]["commit"] and main.variant == "main"
    assert main.base == f"them/base@{'b' * 40}" and main.files == FILES and main.size > 8000
    assert main.title and main.title.startswith("Release main") and str(main.date).endswith("Z")
    assert (main.stop_rates, main.average) == ({"merged": 0.6}, 0.25)
    assert tagged.commit == dpo.commit and tagged.variant == "dpo-v0"


def test_a_repo_that_hubkit_did_not_make(release: Release) -> None:
    connected = connect(release.target)
    connected.ensure_repo("hubkit/other", "public")
    (only,) = revisions.list_revisions(connected, "hubkit/other")
    assert (only.name, only.kind, only.variant, only.stop_rates) == ("main", "branch", None, None)
    kinds = {item.name: item.kind for item in revisions.list_revisions(connected, REPO)}
    assert kinds == {"main": "branch", "staging/main": "staging", "staging/dpo-v0": "staging"}
    with pytest.raises(UsageError, match="There is no hubkit/nothing"):
        revisions.list_revisions(connected, "hubkit/nothing")


@pytest.mark.parametrize(
    "content", ["[]", '{"files": 3}', '{"files": [], "base": 7, "stop_rates": "x", "average": "y"}']
)
def test_anybodys_manifest(release: Release, content: str) -> None:
    connected = connect(release.target)
    write(connected, ".hubkit/manifest.json", content)
    listed = {item.name: item for item in revisions.list_revisions(connected, REPO)}
    assert (listed["main"].variant, listed["main"].base, listed["main"].stop_rates) == (None, None, None)


def test_pull_requests_come_when_asked_for(release: Release) -> None:
    connected = connect(release.target)
    opened = connected.api.create_commit(
        REPO, [CommitOperationAdd("x.txt", b"x")], commit_message="mine", create_pr=True
    )
    assert opened.pr_revision == "refs/pr/1"
    names = [item.name for item in revisions.list_revisions(connected, REPO)]
    assert "refs/pr/1" not in names
    last = revisions.list_revisions(connected, REPO, pull_requests=True)[-1]
    assert (last.name, last.kind, last.title) == ("refs/pr/1", "pull request", "mine")


# --- history


def test_history_tells_releases_promotions_and_rollbacks(release: Release) -> None:
    release.promote()
    connected = connect(release.target)
    released = str(connected.head(REPO, "main"))
    revisions.plan_promotion(connected, REPO, "dpo-v0", "main").apply(connected)
    revisions.plan_rollback(connected, REPO, "main", to=released[:12]).apply(connected)
    write(connected, "NOTES.md", "a note")
    connected.api.delete_file("NOTES.md", REPO, commit_message="put it away")
    steps = revisions.history(connected, REPO, "main")
    assert [step.kind for step in steps] == ["rollback", "commit", "rollback", "promotion", "release", "commit"]
    assert steps[0].title == "put it away", "known by its files, whatever the title says"
    assert steps[0].tree == steps[2].tree == steps[4].tree != steps[3].tree
    assert steps[2].source == steps[4].commit[:12] == released[:12]
    assert steps[3].source == str(connected.head(REPO, "dpo-v0"))[:12]
    assert [step.variant for step in steps] == ["main", "main", "main", "dpo-v0", "main", None]
    assert steps[3].stop_rates == {"merged": 0.61} and steps[4].stop_rates == {"merged": 0.6}
    assert steps[1].changed == 1 and steps[-1].files == 1
    short = revisions.history(connected, REPO, "main", limit=2)
    assert [step.commit for step in short] == [step.commit for step in steps[:2]]
    assert short[1].changed == 1, "the commit before the first that is shown is still compared with"


# --- create, tag


def test_create(release: Release) -> None:
    connected = connect(release.target)
    staged = str(connected.head(REPO, "staging/main"))
    assert revisions.create(connected, REPO, "try", "staging/main", dry_run=True).commit == staged
    assert connected.head(REPO, "try") is None, "a dry run writes nothing"
    made = revisions.create(connected, REPO, "try", "staging/main")
    assert (made.commit, made.already) == (staged, False) and connected.head(REPO, "try") == staged
    assert revisions.create(connected, REPO, "try", staged[:7]).already
    with pytest.raises(UsageError, match="already has a branch 'try'"):
        revisions.create(connected, REPO, "try", "main")
    with pytest.raises(UsageError, match="a space is not allowed"):
        revisions.create(connected, REPO, "a b")
    with pytest.raises(UsageError, match="no revision 'nowhere'"):
        revisions.create(connected, REPO, "new", "nowhere")
    with pytest.raises(UsageError, match="no revision 'abcdef0'"):
        revisions.create(connected, REPO, "new", "abcdef0")


def test_tag(release: Release) -> None:
    connected = connect(release.target)
    assert not revisions.tag(connected, REPO, "v1", "staging/main", dry_run=True).already
    assert connected.refs(REPO).tags == {}
    made = revisions.tag(connected, REPO, "v1", "staging/main")
    assert made.commit == connected.head(REPO, "staging/main") == connected.refs(REPO).tags["v1"]
    assert revisions.tag(connected, REPO, "v1", "staging/main").already
    with pytest.raises(UsageError, match="already has a tag"):
        revisions.tag(connected, REPO, "v1", "main")
    with pytest.raises(UsageError, match="cannot be a tag"):
        revisions.tag(connected, REPO, "-x", "main")
    with pytest.raises(UsageError, match="has a branch 'main'"):
        revisions.tag(connected, REPO, "main", "main")
    with pytest.raises(UsageError, match="has a tag 'v1'"):
        revisions.create(connected, REPO, "v1")


@pytest.mark.parametrize("repo_type", ["dataset", "space"])
def test_datasets_and_spaces(hub: Running, tmp_path: Path, repo_type: str) -> None:
    connected = connect(target_of(hub, tmp_path))
    connected.ensure_repo("hubkit/other", "public", repo_type)  # type: ignore[arg-type]
    first = write(connected, "a.txt", "one", repo="hubkit/other", repo_type=repo_type)
    revisions.create(connected, "hubkit/other", "try", "main", repo_type)  # type: ignore[arg-type]
    write(connected, "a.txt", "two", "try", "hubkit/other", repo_type)
    change = revisions.plan_promotion(connected, "hubkit/other", "try", "main", repo_type=repo_type)  # type: ignore[arg-type]
    change.apply(connected)
    assert connected.read_file("hubkit/other", "a.txt", "main", repo_type) == b"two"  # type: ignore[arg-type]
    back = revisions.plan_rollback(connected, "hubkit/other", "main", to=first, repo_type=repo_type)  # type: ignore[arg-type]
    back.apply(connected)
    assert connected.read_file("hubkit/other", "a.txt", "main", repo_type) == b"one"  # type: ignore[arg-type]
    revisions.tag(connected, "hubkit/other", "v1", repo_type=repo_type)  # type: ignore[arg-type]
    revisions.delete(connected, "hubkit/other", "v1", repo_type)  # type: ignore[arg-type]
    revisions.delete(connected, "hubkit/other", "try", repo_type)  # type: ignore[arg-type]
    names = [item.name for item in revisions.list_revisions(connected, "hubkit/other", repo_type)]  # type: ignore[arg-type]
    assert names == ["main"]


# --- delete, and what speaks against it


def test_delete(release: Release) -> None:
    release.promote()
    connected = connect(release.target)
    with pytest.raises(RefusedError, match="cannot be removed"):
        revisions.delete(connected, REPO, "main", force=True)
    with pytest.raises(RefusedError, match=r"'dpo-v0' .* the card on 'main' \(README.md\) names it"):
        revisions.delete(connected, REPO, "dpo-v0")
    assert connected.head(REPO, "dpo-v0")
    revisions.delete(connected, REPO, "dpo-v0", force=True, dry_run=True)
    assert connected.head(REPO, "dpo-v0"), "a dry run removes nothing"
    removed = revisions.delete(connected, REPO, "dpo-v0", force=True)
    assert len(removed.commit) == 40 and connected.head(REPO, "dpo-v0") is None
    with pytest.raises(UsageError, match="has no branch or tag 'dpo-v0'"):
        revisions.delete(connected, REPO, "dpo-v0")
    revisions.create(connected, REPO, "try")
    assert revisions.delete(connected, REPO, "try").kind == "branch"


def test_a_branch_that_moved_since_it_was_looked_at_is_not_removed(release: Release) -> None:
    connected = connect(release.target)
    seen = revisions.create(connected, REPO, "try").commit
    moved = write(connected, "x.txt", "somebody's work", "try")
    with pytest.raises(ConflictError, match="it was not overwritten"):
        revisions.delete(connected, REPO, "try", at=seen)
    assert connected.head(REPO, "try") == moved
    revisions.delete(connected, REPO, "try", at=moved)


def test_delete_a_tag(release: Release) -> None:
    connected = connect(release.target)
    revisions.tag(connected, REPO, "v1", "staging/main")
    with pytest.raises(UsageError, match="has no tag 'staging/main'"):
        revisions.delete(connected, REPO, "staging/main", is_tag=True)
    assert revisions.delete(connected, REPO, "v1").kind == "tag"
    assert connected.refs(REPO).tags == {} and connected.head(REPO, "staging/main")


def test_what_another_variants_card_speaks_of_is_kept(release: Release) -> None:
    release.promote()
    connected = connect(release.target)
    revisions.create(connected, REPO, "try")
    write(connected, "README.md", "See [it](https://x.example/tree/try).", "dpo-v0")
    with pytest.raises(RefusedError, match="card on 'dpo-v0'"):
        revisions.delete(connected, REPO, "try")
    revisions.tag(connected, REPO, "v2", "main")
    write(connected, "adapter/README.md", 'from_pretrained("x", revision="v2")', "dpo-v0")
    with pytest.raises(RefusedError, match=r"card on 'dpo-v0' \(adapter/README.md\)"):
        revisions.delete(connected, REPO, "v2")


@pytest.mark.parametrize("way", ["name", "commit"])
def test_what_a_space_loads_is_kept(release: Release, way: str) -> None:
    connected = connect(release.target)
    first = write(connected, "x.txt", "x", "staging/main")
    revisions.create(connected, REPO, "try", "staging/main")
    connected.ensure_repo("hubkit/app", "public", "space")
    declared = f"---\nsdk: gradio\nmodels: [{REPO}]\n---\n"
    write(connected, "README.md", declared, repo="hubkit/app", repo_type="space")
    pins = {"name": f'{{"repo": "{REPO}", "revision": "try"}}', "commit": f'{{"repo": "{REPO}", "commit": "{first}"}}'}
    write(connected, "release.json", pins[way], repo="hubkit/app", repo_type="space")
    with pytest.raises(RefusedError, match=r"the Space hubkit/app loads it \(release.json\)"):
        revisions.delete(connected, REPO, "try")
    write(connected, "release.json", pins[way].replace(REPO, "them/theirs"), repo="hubkit/app", repo_type="space")
    assert revisions.delete(connected, REPO, "try").commit == first


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        ("the variant `v1` is", True),
        ("revision='v1'", True),
        ("revision: v1\n", True),
        ("hf download me/x --revision v1", True),
        ("me/model@v1", True),
        ("https://x.example/me/model/tree/v1", True),
        ("https://x.example/me/model/tree/v1.2", False),
        ("it is v1 of many", False),
        ("`v1.2` and `xv1`", False),
        ("revision: v1.2", False),
    ],
)
def test_how_a_text_names_a_revision(text: str, speaks: bool) -> None:
    assert names_revision(text, "v1") is speaks


def test_a_recipe_protects(tmp_path: Path) -> None:
    recipe = tmp_path / "hubkit.yaml"
    revisions.need_unprotected("me/my-model", "main", tmp_path)
    recipe.write_text(RECIPE_TEXT + "protected: [main, v1]\n")
    for name in ("main", "v1"):
        with pytest.raises(RefusedError) as told:
            revisions.need_unprotected("me/My-Model", name, tmp_path)
        assert str(recipe) in told.value.message and "`protected`" in told.value.message
        revisions.need_unprotected("me/my-model", name, tmp_path, force=True)
    revisions.need_unprotected("me/my-model", "dpo-v0", tmp_path)
    revisions.need_unprotected("me/another", "main", tmp_path)
    recipe.write_text("repo: [")
    with pytest.raises(RefusedError, match="it is unknown whether it protects 'dpo-v0'"):
        revisions.need_unprotected("me/my-model", "dpo-v0", tmp_path)


# --- prune


LATER = datetime.now(UTC) + timedelta(days=8)


def told(hub: Hub, **options: object) -> dict[str, tuple[bool, str]]:
    """Branch to whether it goes, and why."""
    found = revisions.plan_prune(hub, REPO, now=LATER, **options)  # type: ignore[arg-type]
    return {item.branch: (item.goes, item.reason) for item in found}


def test_prune_removes_what_was_promoted(hub: Running, release: Release) -> None:
    connected = connect(release.target)
    assert told(connected) == {
        "staging/dpo-v0": (False, "its release was never promoted"),
        "staging/main": (False, "its release was never promoted"),
    }
    staged = str(connected.head(REPO, "staging/main"))
    release.promote()
    revisions.create(connected, REPO, "staging/main", staged)
    revisions.create(connected, REPO, "staging/mine", "main")
    write(connected, "x.txt", "x", "staging/mine")
    connected.api.create_branch(REPO, branch="staging/notes", revision=connected.history(REPO, "main")[-1].id)
    assert told(connected) == {
        "staging/main": (True, "promoted to main"),
        "staging/mine": (False, "its release was never promoted"),
        "staging/notes": (False, "not published by hubkit"),
    }
    young = revisions.plan_prune(connected, REPO)
    assert {(item.goes, item.reason) for item in young} == {
        (False, "younger than 7 days"),
        (False, "not published by hubkit"),
    }
    plan = revisions.plan_prune(connected, REPO, now=LATER)
    assert [item.branch for item in revisions.prune(connected, REPO, plan)] == ["staging/main"]
    assert {"staging/mine", "staging/notes"} <= connected.refs(REPO).branches.keys()
    assert connected.head(REPO, "staging/main") is None


def test_prune_leaves_what_moved_since(release: Release) -> None:
    connected = connect(release.target)
    staged = str(connected.head(REPO, "staging/main"))
    release.promote()
    revisions.create(connected, REPO, "staging/main", staged)
    plan = revisions.plan_prune(connected, REPO, now=LATER)
    moved = write(connected, "x.txt", "x", "staging/main")
    assert revisions.prune(connected, REPO, plan) == [] and connected.head(REPO, "staging/main") == moved


def test_prune_removes_what_was_superseded(release: Release) -> None:
    connected = connect(release.target)
    release.promote()
    revisions.create(connected, REPO, "staging/main", "dpo-v0")
    old = write(connected, "config.json", "{}", "staging/main")
    assert told(connected)["staging/main"] == (False, "its release was never promoted")
    staged = connected.history(REPO, old)[0].date
    until(lambda: datetime.now(UTC) - datetime.fromisoformat(staged) >= timedelta(seconds=1), 5)  # dates have seconds
    revisions.plan_promotion(connected, REPO, "dpo-v0", "main").apply(connected)
    later = str(connected.head(REPO, "main"))[:12]
    assert told(connected)["staging/main"] == (True, f"superseded by {later} on main")


def test_a_token_without_rights_changes_nothing(hub: Running, release: Release, tmp_path: Path) -> None:
    connected = connect(release.target)
    admin(hub, "POST", "users", {"name": "guest"})
    guest = admin(hub, "POST", "tokens", {"user": "guest", "role": "write"})["token"]
    stranger = connect(target_of(hub, tmp_path, guest))
    before = connected.refs(REPO)
    for act in (
        lambda: revisions.create(stranger, REPO, "try"),
        lambda: revisions.tag(stranger, REPO, "v1"),
        lambda: revisions.delete(stranger, REPO, "staging/main"),
        lambda: revisions.plan_promotion(stranger, REPO, "staging/main", "main").apply(stranger),
    ):
        with pytest.raises(RefusedError, match="lacks permission"):
            act()
    assert connected.refs(REPO) == before
