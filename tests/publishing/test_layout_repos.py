"""`layout: repos`: each variant in a repo of its own. The repos move one by one, that of the recipe last."""

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from releases import RECIPE, Release, card, faults, hub_of, manifest, requests

from hubkit.checks.source import RepoSource
from hubkit.core.errors import ConflictError, RefusedError
from hubkit.core.trees import compare, tree_of
from hubkit.hub.client import Hub
from hubkit.pipeline.find_stage import find_stage
from hubkit.publishing.revisions.guards import need_unprotected
from hubkit.publishing.revisions.listing import list_revisions
from hubkit.publishing.revisions.promotion import plan_rollback
from hubkit.publishing.verifying import verify
from hubkit.recipe.gguf import Gguf
from hubkit.recipe.hub_pages import Collection
from hubkit.recipe.models import Recipe, Space
from hubkit.recipe.stage import Scope
from hubkit.server.process import Running

MAIN, OTHER = "hubkit/my-model", "hubkit/my-model-dpo-v0"
SEPARATE = RECIPE.model_copy(update={"layout": "repos"})


@dataclass
class Separate(Release):
    """A release whose recipe gives each variant a repo of its own."""

    recipe: Recipe = field(default_factory=lambda: SEPARATE)


def commits(hub: Hub) -> dict[str, list[str]]:
    """The history of main of each repo, newest first; empty for one that is not there."""
    return {repo: [item.id for item in hub.history(repo, "main")] for repo in (OTHER, MAIN) if hub.repo_exists(repo)}


def assert_both_whole(release: Release) -> None:
    hub = hub_of(release)
    for repo, variant in ((MAIN, "main"), (OTHER, "dpo-v0")):
        found = compare(tree_of(manifest(release, variant)), hub.tree(repo, "main"))
        assert not found, [change.sentence for change in found.changes]
        assert hub.refs(repo).branches.keys() == {"main"}, "no staging branch stays"


def test_each_variant_is_on_main_of_its_own_repo(hub: Running, tmp_path: Path) -> None:
    release = Separate.on(hub, tmp_path).train().publish()
    heads = {repo: hub_of(release).refs(repo).branches for repo in (MAIN, OTHER)}
    assert all(found.keys() == {"main", "staging/main"} for found in heads.values())
    moved = release.promote()
    assert [(name, item["repo"], item["branch"]) for name, item in moved.items()] == [
        ("dpo-v0", OTHER, "main"),
        ("main", MAIN, "main"),
    ], "the recipe's repo last"
    assert_both_whole(release)
    assert not any(release.outdated(step) for step in ("publish[main]", "publish[dpo-v0]", "promote"))
    for repo, variant in ((MAIN, "main"), (OTHER, "dpo-v0")):
        (found,) = list_revisions(hub_of(release), repo)
        assert (found.name, found.kind, found.variant) == ("main", "variant", variant)
        verified = verify(RepoSource(hub_of(release), repo))
        assert not verified.differences and verified.made_for == {"repo": repo, "variant": variant}
    before = commits(hub_of(release))
    release.publish().promote()
    assert commits(hub_of(release)) == before, "the same release again changes no branch"
    hub_of(release).api.delete_repo(OTHER)
    assert release.outdated("promote") == f"{OTHER} no longer exists"


CHILD = textwrap.dedent("""
    import sys
    from pathlib import Path
    from test_layout_repos import Separate
    from hubkit.server.process import Running
    url, data, token, home = sys.argv[1:]
    Separate.on(Running(url, 0, Path(data), token), Path(home)).train(2).publish().promote()
""")


@pytest.mark.fault("F1")
def test_killed_between_the_repos_it_rolls_forward(hub: Running, tmp_path: Path) -> None:
    first = Separate.on(hub, tmp_path / "first").train().publish()
    first.promote()
    connected, home = hub_of(first), tmp_path / "second"
    before = commits(connected)
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)]),
        "HUBKIT_TEST_KILL_AT": "branch-moved[main]:promote",
    }
    command = [sys.executable, "-c", CHILD, hub.url, str(hub.data), hub.token, str(home)]
    assert subprocess.run(command, env=variables, timeout=120, check=False).returncode == -signal.SIGKILL
    killed = commits(connected)
    assert killed[OTHER][1:] == before[OTHER] and killed[MAIN] == before[MAIN], "one moved, the recipe's did not"
    again = Separate.on(hub, home).train(2)
    faults(hub)
    again.publish().promote()
    assert not [line for line in requests(hub) if line.startswith("PUT ")], "no stored byte is sent again"
    after = commits(connected)
    assert after[OTHER] == killed[OTHER] and after[MAIN][1:] == before[MAIN], "one commit each"
    assert_both_whole(again)


def test_one_is_rolled_back_and_the_release_knows_which(hub: Running, tmp_path: Path) -> None:
    release = Separate.on(hub, tmp_path).train().publish()
    old = release.promote()["dpo-v0"]["commit"]
    release.train(2).publish().promote()
    connected, before = hub_of(release), commits(hub_of(release))
    plan_rollback(connected, OTHER, "main", to=old).apply(connected)
    assert not compare(connected.tree(OTHER, old), connected.tree(OTHER, "main"))
    assert commits(connected)[MAIN] == before[MAIN], "the other repo is left alone"
    assert str(release.outdated("promote")).startswith(f"the branch 'main' of {OTHER} moved from")
    with pytest.raises(ConflictError, match=f"{OTHER}.* since this run published it"):
        release.promote()


@pytest.mark.parametrize("repo", [MAIN, OTHER])
def test_an_edited_card_stops_the_release_before_any_repo_moves(hub: Running, tmp_path: Path, repo: str) -> None:
    release = Separate.on(hub, tmp_path).train().publish()
    release.promote()
    release.train(2).publish()
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.upload_file(path_or_fileobj=card("edited").encode(), path_in_repo="README.md", repo_id=repo)
    before = commits(hub_of(release))
    with pytest.raises(ConflictError, match=repo):
        release.promote()
    assert commits(hub_of(release)) == before


def check(release: Release, step: str) -> list[str]:
    """What the preflight check of ``step`` finds."""
    from hubkit.pipeline.find_stage import find_stage
    from hubkit.pipeline.jobs import expand
    from hubkit.pipeline.release_state import ReleaseState

    state = ReleaseState(release.recipe, release.folder, release.target, release.run, expand(release.recipe))
    job = release.job(step)
    return [item.message for item in find_stage(job.stage).check(state.check_context(job))]


def test_rights_and_visibility_are_checked_for_each_repo(hub: Running, tmp_path: Path) -> None:
    release = Separate.on(hub, tmp_path)
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo(OTHER, private=True)
    assert check(release, "publish[main]") == []
    assert check(release, "publish[dpo-v0]") == [f"{OTHER} is private, but the recipe says public."]


def test_protected_names_hold_for_each_repo(tmp_path: Path) -> None:
    from samples import RECIPE_TEXT

    (tmp_path / "hubkit.yaml").write_text(f"layout: repos\nprotected: [main]\n{RECIPE_TEXT}")
    for repo in ("me/my-model", "me/My-Model-DPO-v0"):
        with pytest.raises(RefusedError, match="'main' is protected"):
            need_unprotected(repo, "main", tmp_path)
    need_unprotected("me/other", "main", tmp_path)


def test_access_is_restricted_before_anything_is_uploaded_and_opened_after(hub: Running, tmp_path: Path) -> None:
    gated = SEPARATE.model_copy(update={"gated": "manual"})
    release = Separate.on(hub, tmp_path).train()
    release.recipe = gated
    faults(hub)
    release.publish("dpo-v0")
    sent = [line.partition("?")[0] for line in requests(hub)]
    assert sent.index(f"PUT /api/models/{OTHER}/settings") < next(
        at for at, line in enumerate(sent) if "/commit/" in line
    )
    api = HfApi(endpoint=hub.url, token=hub.token)
    assert api.model_info(OTHER).gated == "manual"
    release.publish("main").promote()
    assert api.model_info(MAIN).gated == "manual" and release.outdated("publish[main]") is None
    api.update_repo_settings(MAIN, gated=False)
    assert "is no longer restricted" in str(release.outdated("publish[main]"))
    release.recipe = SEPARATE.model_copy(update={"gated": False})
    release.publish()
    assert api.model_info(OTHER).gated == "manual", "not before the new files are there"
    release.promote()
    assert {repo: api.model_info(repo).gated for repo in (MAIN, OTHER)} == {MAIN: False, OTHER: False}
    release.recipe = SEPARATE
    api.update_repo_settings(MAIN, gated="auto")
    release.publish().promote()
    assert api.model_info(MAIN).gated == "auto", "a recipe that says nothing leaves it as it is"


def test_each_variant_is_proposed_to_its_own_repo(hub: Running, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token)
    for repo in (MAIN, OTHER):
        api.create_repo(repo)
    release = Separate.on(hub, tmp_path).train()
    release.recipe = SEPARATE.proposed()
    moved = release.publish().promote()
    assert {name: (item["repo"], item["pull_request"]) for name, item in moved.items()} == {
        "main": (MAIN, 1),
        "dpo-v0": (OTHER, 1),
    }
    api.merge_pull_request(OTHER, 1)
    tree = hub_of(release).tree(OTHER, "main")
    assert not compare(tree_of(manifest(release, "dpo-v0")), tree).changes, "it is merged, not made a branch"
    assert str(release.outdated("promote")) == f"the pull request 1 of {OTHER} is merged, and was open"


def in_collection(update: dict[str, Any] | None = None) -> Recipe:
    """The recipe with a collection and two papers."""
    made = Collection(title="My models", description="Both of them", notes={"2305.18290": "the method"})
    papers = SEPARATE.card.model_copy(update={"papers": ("2305.18290", "2310.01377v2")})
    titles = {name: item.model_copy(update={"title": f"{name} it is"}) for name, item in SEPARATE.variants.items()}
    return SEPARATE.model_copy(update={"collection": made, "card": papers, "variants": titles, **(update or {})})


def test_the_collection_lists_all_of_it_once(hub: Running, tmp_path: Path) -> None:
    release = Separate.on(hub, tmp_path).train()
    release.recipe = in_collection()
    release.publish().promote()
    slug = release.perform("collection").json("collection.json")["slug"]
    api = HfApi(endpoint=hub.url, token=hub.token)

    def items() -> list[tuple[str, str | None]]:
        return [(item.item_id, item.note) for item in api.get_collection(slug).items]

    expected = [
        (MAIN, "main it is"),
        (OTHER, "dpo-v0 it is"),
        ("2305.18290", "the method"),
        ("2310.01377", None),
    ]
    assert items() == expected and api.get_collection(slug).description == "Both of them"
    assert release.outdated("collection") is None
    faults(hub)
    release.perform("collection")
    changed = [line for line in requests(hub) if "/collections" in line and not line.startswith("GET")]
    assert items() == expected and not changed, "once is enough"
    found = {item.item_id: item.item_object_id for item in api.get_collection(slug).items}
    api.create_repo("hubkit/theirs")
    api.add_collection_item(slug, "hubkit/theirs", "model", note="mine")
    api.update_collection_item(slug, found[OTHER], note="written by a person")
    api.delete_collection_item(slug, found["2310.01377"])
    assert release.outdated("collection") == f"the collection {slug} no longer has 2310.01377"
    release.perform("collection")
    assert items() == [
        (MAIN, "main it is"),
        (OTHER, "written by a person"),
        ("2305.18290", "the method"),
        ("hubkit/theirs", "mine"),
        ("2310.01377", None),
    ]


def test_a_repo_of_gguf_files_is_an_item(hub: Running, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token)
    release = Separate.on(hub, tmp_path).train()
    release.recipe = in_collection({"gguf": Gguf(place="repo", variants=("main", "dpo-v0"))})
    release.publish().promote()
    for repo in (MAIN, OTHER):
        api.create_repo(f"{repo}-GGUF")
    slug = release.perform("collection").json("collection.json")["slug"]
    items = [(item.item_id, item.note) for item in api.get_collection(slug).items][:4]
    assert items == [
        (MAIN, "main it is"),
        (OTHER, "dpo-v0 it is"),
        (f"{MAIN}-GGUF", "GGUF files of my-model"),
        (f"{OTHER}-GGUF", "GGUF files of my-model-dpo-v0"),
    ]
    release.recipe = in_collection({"gguf": Gguf()})
    models = find_stage("collection").Settings.of(release.recipe, Scope(tmp_path)).models
    assert list(models) == [MAIN, OTHER], "a branch is no item of its own"


def test_a_collection_of_that_title_is_used_and_one_that_was_deleted_is_made_again(
    hub: Running, tmp_path: Path
) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token)
    mine = api.create_collection("My models", namespace="hubkit", private=True)
    release = Separate.on(hub, tmp_path).train()
    release.recipe = in_collection()
    release.publish().promote()
    made = release.perform("collection").json("collection.json")
    assert made["slug"] == mine.slug and not api.get_collection(mine.slug).private, "seen by whoever sees the repos"
    api.delete_collection(mine.slug)
    assert release.outdated("collection") == f"the collection {mine.slug} no longer exists"
    again = release.perform("collection").json("collection.json")["slug"]
    assert again != mine.slug and len(api.get_collection(again).items) == 4


def test_the_collection_needs_a_right_of_its_own(hub: Running, tmp_path: Path) -> None:
    from access_samples import WRITE, fine_grained, scope

    release = Separate.on(hub, tmp_path, fine_grained(hub, "hubkit", scope("user", "hubkit", WRITE)))
    release.recipe = in_collection()
    (message,) = check(release, "collection")
    assert "lacks the right collection.write for hubkit" in message
    release = Separate.on(hub, tmp_path, fine_grained(hub, "hubkit", scope("user", "hubkit", "collection.write")))
    release.recipe = in_collection()
    assert check(release, "collection") == []


def test_the_space_loads_each_variant_from_its_repo(tmp_path: Path) -> None:
    from hubkit.cards.space_and_dataset_cards import space_card
    from hubkit.publishing.spaces.building import Facts, Revision
    from hubkit.recipe.stage import Scope
    from hubkit_stages.space import Settings

    recipe = SEPARATE.model_copy(update={"space": Space(repo="hubkit/chat"), "gated": "manual"})
    settings = Settings.of(recipe, Scope(tmp_path))
    assert settings.labels == {"main": "my-model", "dpo-v0": "my-model-dpo-v0"} and settings.closed
    facts = Facts(
        "T", MAIN, "mit", ("them/base", "b" * 40), "float32", (2, "</s>"), 8,
        [Revision("my-model", "c" * 40, "both"), Revision("my-model-dpo-v0", "d" * 40, "DPO", repo=OTHER)], (),
    )  # fmt: skip
    assert [item.get("repo") for item in facts.to_json()["revisions"]] == [None, OTHER]
    text = space_card(facts)
    assert f"models:\n- {MAIN}\n- {OTHER}\n" in text and f"`{OTHER}` at commit `{'d' * 40}`" in text
