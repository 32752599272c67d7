"""Branches and tags of a repo, against the embedded Hub."""

from pathlib import Path

import pytest
from releases import REPO, Release

from hubkit import revisions
from hubkit.errors import RefusedError, UsageError
from hubkit.hub import connect
from hubkit.server.process import Running


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    """Two variants, staged; main still as the repo was made."""
    return Release.on(hub, tmp_path).train().publish()


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
    assert main.base == f"them/base@{'b' * 40}" and main.files == 10 and main.size > 8000
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


def test_create(release: Release) -> None:
    connected = connect(release.target)
    staged = str(connected.head(REPO, "staging/main"))
    assert revisions.create(connected, REPO, "try", "staging/main") == staged
    assert revisions.create(connected, REPO, "try", staged) == staged
    with pytest.raises(UsageError, match="already has a branch 'try'"):
        revisions.create(connected, REPO, "try", "main")
    with pytest.raises(UsageError, match="a space is not allowed"):
        revisions.create(connected, REPO, "a b")
    with pytest.raises(UsageError, match="no revision 'nowhere'"):
        revisions.create(connected, REPO, "new", "nowhere")


def test_delete(release: Release) -> None:
    release.promote()
    connected = connect(release.target)
    with pytest.raises(RefusedError, match="cannot be removed"):
        revisions.delete(connected, REPO, "main", force=True)
    with pytest.raises(RefusedError, match="speaks of 'dpo-v0'"):
        revisions.delete(connected, REPO, "dpo-v0")
    assert connected.head(REPO, "dpo-v0")
    commit = revisions.delete(connected, REPO, "dpo-v0", force=True)
    assert len(commit) == 40 and connected.head(REPO, "dpo-v0") is None
    with pytest.raises(UsageError, match="has no branch 'dpo-v0'"):
        revisions.delete(connected, REPO, "dpo-v0")
    revisions.create(connected, REPO, "try")
    assert revisions.delete(connected, REPO, "try")


def test_tag(release: Release) -> None:
    connected = connect(release.target)
    commit = revisions.tag(connected, REPO, "v1", "staging/main")
    assert commit == connected.head(REPO, "staging/main")
    with pytest.raises(UsageError, match="already has a tag"):
        revisions.tag(connected, REPO, "v1", "main")
    with pytest.raises(UsageError, match="cannot be a tag"):
        revisions.tag(connected, REPO, "-x", "main")


def test_difference(release: Release) -> None:
    release.promote()
    found = revisions.difference(connect(release.target), REPO, "dpo-v0", "main")
    assert {change.path for change in found.changed} >= {"README.md", "model.safetensors", ".hubkit/manifest.json"}
    assert not found.added and not found.removed
