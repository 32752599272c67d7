"""Cards that people edited on the Hub survive the next release, or stop it."""

from pathlib import Path
from typing import Any

import pytest
from releases import (
    REPO,
    Release,
    assert_whole,
    heads,
    hub_of,
)

from hubkit.core.errors import ConflictError, RefusedError
from hubkit.hub.client import Hub
from hubkit.publishing.promotion import Promotion
from hubkit.recipe.stage import Options
from hubkit.server.process import Running
from hubkit_stages import promote, publish

EDITED = b"---\nlicense: apache-2.0\ntags: [mine]\n---\n\n# edited\n"


@pytest.fixture
def release(hub: Running, tmp_path: Path) -> Release:
    return Release.on(hub, tmp_path).train()


def edit(release: Release, text: bytes, path: str = "README.md") -> None:
    hub_of(release).api.upload_file(path_or_fileobj=text, path_in_repo=path, repo_id=REPO)


def on_main(release: Release, path: str = "README.md") -> str:
    return (hub_of(release).read_file(REPO, path, "main") or b"").decode()


def test_an_edited_card_survives_the_next_release(release: Release) -> None:
    release.publish()
    release.promote()
    was = on_main(release)
    edit(release, was.replace("---\n", "---\ntags: [mine]\n", 1).encode())
    assert "was edited" in str(release.outdated("publish[main]"))
    assert release.outdated("publish[dpo-v0]") is None
    (finding,) = publish.check(release.context("publish[main]"))
    assert finding.level == "warning" and "README.md of the branch 'main'" in finding.message
    assert "`tags`" in finding.message
    release.publish()
    assert release.made["publish[main]"].summary["warnings"] and not release.made["publish[dpo-v0]"].summary["warnings"]
    release.promote()
    assert "mine" in on_main(release), "the same words again: the card stays as it was edited"
    assert release.outdated("publish[main]") is None
    release.train(2)
    release.publish()
    release.promote()
    assert "mine" in on_main(release) and "main 2" in on_main(release)
    assert_whole(release, "main")
    assert "mine" not in on_main(release, ".hubkit/cards/README.md")


def test_an_edit_that_this_release_writes_anew_too_stops_it_and_is_shown(hub: Running, release: Release) -> None:
    release.publish()
    release.promote()
    edit(release, EDITED)
    before = heads(release)
    again = Release.on(hub, release.folder, fresh=True).train(2)
    with pytest.raises(ConflictError) as told:
        again.publish()
    assert told.value.exit_code == 4 and "+# edited" in told.value.message
    assert "--overwrite-card" in str(told.value.hint)
    assert heads(release)["main"] == before["main"] and on_main(release) == EDITED.decode()
    again.options = Options(overwrite_card=True)
    again.publish()
    again.promote()
    assert_whole(again, "main")
    assert "# edited" not in on_main(release) and "main 2" in on_main(release)


def test_a_card_that_was_there_before_any_release_stops_the_first_one(release: Release) -> None:
    hub_of(release).ensure_repo(REPO, "public")
    edit(release, b"---\nlicense: apache-2.0\n---\n\n# An old card\n")
    with pytest.raises(ConflictError, match="it was not written by hubkit"):
        release.publish()
    (finding,) = publish.check(release.context("publish[main]"))
    assert (finding.level, finding.exit_code) == ("error", 4) and "was not written by hubkit" in finding.message
    release.options = Options(overwrite_card=True)
    assert list(publish.check(release.context("publish[main]"))) == []
    release.options = Options(overwrite_card=False)
    edit(release, b"---\nlicense: apache-2.0\n---\n")
    assert list(publish.check(release.context("publish[main]"))) == []
    release.publish()
    release.promote()
    assert_whole(release, "main")


def test_an_edit_between_publishing_and_promotion_is_not_written_over(release: Release) -> None:
    release.publish()
    release.promote()
    release.train(2)
    release.publish()
    edit(release, on_main(release).replace("---\n", "---\ntags: [mine]\n", 1).encode())
    before = heads(release)["main"]
    with pytest.raises(ConflictError, match=r"README\.md .* was edited during the release"):
        release.promote()
    assert heads(release)["main"] == before
    release.publish()
    release.promote()
    assert "mine" in on_main(release) and "main 2" in on_main(release)


def test_an_edit_while_the_other_branches_move_is_not_written_over(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.publish()
    release.promote()
    release.train(2)
    release.publish()
    real = promote.promote

    def slower(hub: Hub, repo: str, branch: str, *args: Any, **rest: Any) -> Promotion:
        done = real(hub, repo, branch, *args, **rest)
        if branch == "dpo-v0":
            edit(release, on_main(release).replace("---\n", "---\ntags: [mine]\n", 1).encode())
        return done

    monkeypatch.setattr(promote, "promote", slower)
    with pytest.raises(ConflictError, match=r"README\.md .* was edited during the release"):
        release.promote()
    assert "mine" in on_main(release)


def test_an_edit_that_the_hub_would_not_have_is_refused(release: Release) -> None:
    release.publish()
    release.promote()
    edit(release, f"{on_main(release)}\n```text\na block of code that nobody closed\n".encode())
    with pytest.raises(RefusedError, match="would be rejected by the Hub with the edit made there"):
        release.publish()
    release.options = Options(overwrite_card=True)
    release.publish()
    assert "nobody closed" not in str(hub_of(release).read_file(REPO, "README.md", "staging/main"))
