"""`preupload: true`: the weights are uploaded before the gates, nobody sees them, and publishing sends them no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from releases import REPO, Release, faults, hub_of, requests

from hubkit.core.errors import RefusedError
from hubkit.publishing.ahead import upload_weights
from hubkit.server.process import Running
from hubkit_stages import publish


def ahead(release: Release, visibility: str = "public") -> str:
    """What the stage does ahead, given the weights alone."""
    kept = {name: release.made.pop(name) for name in ("card[main]",)}
    ctx = release.context("publish[main]", {"visibility": visibility})
    release.made |= kept
    assert ctx.inputs.cards is None
    return publish.ahead(ctx)


def sent(hub: Running) -> list[str]:
    """Uploads of large files."""
    return [line for line in requests(hub) if line.startswith("PUT ")]


def test_what_was_uploaded_ahead_is_in_no_branch_and_is_not_sent_again(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path).train()
    hub_of(release).ensure_repo(REPO, "public")
    before = hub_of(release).refs(REPO)
    faults(hub)
    assert "2 files" in ahead(release) and "uploaded while the models were measured" in ahead(release)
    uploads = sent(hub)
    assert len(uploads) == 2, "the second time nothing is sent"
    after = hub_of(release).refs(REPO)
    assert (after.branches, after.tags) == (before.branches, before.tags)
    assert "model.safetensors" not in hub_of(release).tree(REPO, "main")
    faults(hub)
    release.publish("main")
    assert not sent(hub), "publishing sends no weights"
    assert release.made["publish[main]"].json("published.json")["branch"] == "staging/main"


def test_no_public_repo_is_created_before_the_gates(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path).train()
    faults(hub)
    assert "does not exist yet" in ahead(release)
    assert not hub_of(release).repo_exists(REPO) and not sent(hub)
    assert "2 files" in ahead(release, "private"), "an empty private repo is seen by nobody else"
    assert hub_of(release).visibility(REPO) == "private"


def test_what_must_not_be_published_is_not_uploaded_ahead_either(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path).train()
    release.make("merge[main]", {"merge.json": {}, "model/config.json": "{}", "model/model.safetensors": b"\x00" * 64})
    hub_of(release).ensure_repo(REPO, "public")
    faults(hub)
    parts = (release.typed("merge[main]"), release.typed("train[sft]"))
    with pytest.raises(RefusedError, match="must not be published"):
        upload_weights(hub_of(release), REPO, "public", *parts)
    assert not sent(hub)
