"""GGUF files of a release: on a branch, in a folder beside the weights, in a repo of their own."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf_releases import CARD, GgufRelease, asking
from huggingface_hub import HfApi
from releases import REPO, assert_whole, faults, heads, hub_of, requests
from signatures import key_pair

from hubkit.checks.source import RepoSource
from hubkit.cli import plan
from hubkit.cli.revisions.writing import planned_lines
from hubkit.core.errors import ConflictError, RefusedError
from hubkit.pipeline import outcome
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.publishing.gguf_origins import written_from
from hubkit.publishing.provenance import PROVENANCE_PATH
from hubkit.publishing.rederiving.recipe import recipe_of
from hubkit.publishing.revisions.listing import list_revisions
from hubkit.publishing.revisions.promotion import plan_promotion, plan_rollback
from hubkit.publishing.signing import verifier
from hubkit.publishing.verifying import verify
from hubkit.server.process import Running

OWN = f"{REPO}-GGUF"


def test_on_a_branch_it_moves_before_every_variant(hub: Running, tmp_path: Path) -> None:
    release = GgufRelease.on(hub, tmp_path).train().publish()
    assert heads(release).keys() == {"main", "staging/main", "staging/dpo-v0", "staging/gguf"}
    faults(hub)
    release.promote()
    moved = [line.split("/")[-1].partition("?")[0] for line in requests(hub) if line.startswith("POST ")]
    assert [name for name in moved if name in {"gguf", "dpo-v0", "main"}] == ["gguf", "dpo-v0", "main"]
    assert heads(release).keys() == {"main", "dpo-v0", "gguf"}, "the staging branches are gone"
    release.assert_gguf_whole()
    for name in ("main", "dpo-v0"):
        assert_whole(release, name)
    tree = hub_of(release).tree(REPO, "gguf")
    assert set(tree) == {
        ".gitattributes", ".hubkit/cards/README.md", ".hubkit/manifest.json", "Modelfile", "README.md",
        "my-model-F16.gguf", "my-model-Q8_0.gguf", "params",
    }  # fmt: skip
    assert tree["my-model-F16.gguf"].sha256, "in LFS"
    released = release.typed("promote")
    assert released.gguf["main"].commit == heads(release)["gguf"] and released.gguf["main"].branch == "gguf"
    assert not any(release.outdated(step) for step in ("publish-gguf[main]", "promote"))
    before = heads(release)
    release.publish().promote()
    assert heads(release) == before, "the same release again changes no branch"


def test_its_manifest_names_the_weights_and_is_verified(hub: Running, tmp_path: Path) -> None:
    release = GgufRelease.on(hub, tmp_path).train().publish()
    release.promote()
    connected = hub_of(release)
    content = json.loads(connected.read_file(REPO, ".hubkit/manifest.json", "gguf") or b"")
    main = connected.tree(REPO, "main")
    assert content["variant"] == "main" and content["branch"] == "gguf" and content["license"] == "apache-2.0"
    assert content["base"] == {**content["base"], "repo": "them/base", "commit": "b" * 40}
    assert content["gguf"]["weights"]["repo"] == REPO and "branch" not in content["gguf"]["weights"]
    named = content["gguf"]["weights"]["files"]
    assert named["model.safetensors"] == main["model.safetensors"].sha256
    assert set(named) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert [item["type"] for item in content["gguf"]["files"]] == ["f16", "q8_0"]
    report = verify(RepoSource(connected, REPO, "gguf"), all_bytes=True)
    assert not report.differences and report.made_for == {"repo": REPO, "variant": "main"}
    found = {item.name: item.kind for item in list_revisions(connected, REPO)}
    assert found == {"main": "variant", "dpo-v0": "variant", "gguf": "gguf"}
    made = {step: item.path for step, item in release.made.items()}
    (result,) = outcome._gguf(made, release.typed("promote"), release.target)
    assert (result.variant, result.branch, result.commit) == ("main", "gguf", heads(release)["gguf"])
    assert result.page == f"{hub.url}/{REPO}/tree/gguf" and result.stop_rates == {"f16": None, "q8_0": None}


def test_a_second_release_replaces_it_in_one_commit_and_it_can_be_rolled_back(hub: Running, tmp_path: Path) -> None:
    release = GgufRelease.on(hub, tmp_path).train().publish()
    release.promote()
    connected = hub_of(release)
    before = [item.id for item in connected.history(REPO, "gguf")]
    release.train(2).publish().promote()
    assert [item.id for item in connected.history(REPO, "gguf")][1:] == before
    release.assert_gguf_whole()
    back = plan_rollback(connected, REPO, "gguf")
    back.apply(connected)
    assert connected.tree(REPO, "gguf") == connected.tree(REPO, before[0])
    assert str(release.outdated("promote")).startswith("the branch 'gguf' of")
    with pytest.raises(ConflictError, match=r"'gguf'.* since this run published it"):
        release.promote()


def test_an_edited_card_of_the_place_is_kept_and_a_late_edit_stops_every_branch(hub: Running, tmp_path: Path) -> None:
    release = GgufRelease.on(hub, tmp_path).train().publish()
    release.promote()
    api = HfApi(endpoint=hub.url, token=hub.token)
    release.train(2).publish()
    edited = CARD.replace("license: apache-2.0", "license: mit").encode()
    api.upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id=REPO, revision="gguf")
    before = heads(release)
    with pytest.raises(ConflictError, match=r"README\.md of the branch 'gguf'"):
        release.promote()
    assert heads(release) == before, "no branch moved, main neither"
    assert "was edited since it was read" in str(release.outdated("publish-gguf[main]"))


def test_in_a_repo_of_its_own(hub: Running, tmp_path: Path) -> None:
    release = GgufRelease.on(hub, tmp_path)
    release.recipe = asking("repo").model_copy(update={"gated": "manual", "visibility": "private"})
    api = HfApi(endpoint=hub.url, token=hub.token)
    faults(hub)
    release.train().publish()
    sent = [line.partition("?")[0] for line in requests(hub)]
    gated = sent.index(f"PUT /api/models/{OWN}/settings")
    assert gated < next(at for at, line in enumerate(sent) if f"{OWN}/commit/" in line), "before anything can be read"
    info = api.model_info(OWN)
    assert info.private and info.gated == "manual"
    faults(hub)
    release.promote()
    written = [line for line in requests(hub) if line.startswith("POST ") and "/commit/main" in line]
    assert [REPO if f"{REPO}/" in line else OWN for line in written] == [OWN, REPO], "the GGUF repo first"
    assert heads(release).keys() == {"main", "dpo-v0"} and hub_of(release).refs(OWN).branches.keys() == {"main"}
    release.assert_gguf_whole()
    (found,) = list_revisions(hub_of(release), OWN)
    assert (found.name, found.kind, found.variant) == ("main", "gguf", "main")
    release.recipe = asking("repo").model_copy(update={"gated": False, "visibility": "private"})
    release.publish().promote()
    assert not api.model_info(OWN).gated and not api.model_info(REPO).gated
    api.delete_repo(OWN)
    assert release.outdated("promote") == f"{OWN} no longer exists"


def test_in_a_folder_beside_the_weights(hub: Running, tmp_path: Path) -> None:
    release = GgufRelease.on(hub, tmp_path)
    release.recipe = asking("folder")
    assert "publish-gguf[main]" not in release.jobs()
    release.train().publish().promote()
    connected = hub_of(release)
    tree = connected.tree(REPO, "main")
    assert {path for path in tree if path.startswith("gguf/")} == {
        "gguf/my-model-F16.gguf", "gguf/my-model-Q8_0.gguf", "gguf/Modelfile", "gguf/params",
    }  # fmt: skip
    assert heads(release).keys() == {"main", "dpo-v0"} and not any(
        "gguf" in path for path in connected.tree(REPO, "dpo-v0")
    )
    content = json.loads(connected.read_file(REPO, ".hubkit/manifest.json", "main") or b"")
    assert [item["type"] for item in content["gguf"]["files"]] == ["f16", "q8_0"] and "weights" not in content["gguf"]
    assert not verify(RepoSource(connected, REPO, "main"), all_bytes=True).differences
    assert {item.name: item.kind for item in list_revisions(connected, REPO)}["main"] == "variant"


def test_files_that_were_not_measured_are_refused_before_anything_is_sent(hub: Running, tmp_path: Path) -> None:
    release = GgufRelease.on(hub, tmp_path).train()
    faults(hub)
    made = release.made["gguf[main]"]
    facts = made.json("gguf.json")
    facts["files"][0]["sha256"] = "0" * 64
    files = {name: (made.path / name).read_bytes() for name in made.manifest.files}
    release.make("gguf[main]", {**files, "gguf.json": facts})
    with pytest.raises(ConflictError, match=r"my-model-F16.gguf is not the file that was measured"):
        release.perform("publish-gguf[main]")
    release.train().make("gguf[main]", {**files, "gguf.json": {**json.loads(files["gguf.json"]), "source": {}}})
    with pytest.raises(ConflictError, match="written from other weights"):
        release.perform("publish-gguf[main]")
    release.train()
    card = release.made["card[main]"]
    kept = {name: (card.path / name).read_bytes() for name in card.manifest.files if name != "gguf/README.md"}
    release.make("card[main]", dict(kept))
    with pytest.raises(RefusedError, match=r"lacks gguf/README\.md"):
        release.perform("publish-gguf[main]")
    assert not [line for line in requests(hub) if not line.startswith(("GET ", "HEAD "))], "nothing was written"


def test_it_is_proposed_where_the_release_is(hub: Running, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo(REPO)
    release = GgufRelease.on(hub, tmp_path)
    release.recipe = asking().proposed()
    release.train().publish().promote()
    found = release.typed("promote")
    assert heads(release).keys() == {"main"}, "no branch is written"
    number = found.gguf["main"].pull_request
    assert number and found.gguf["main"].status == "open"
    tree = hub_of(release).tree(REPO, f"refs/pr/{number}")
    assert "my-model-Q8_0.gguf" in tree and "model.safetensors" not in tree
    assert release.outdated("promote") is None


def findings(release: GgufRelease, step: str) -> list[str]:
    """What the preflight check of ``step`` finds."""
    jobs = expand(release.recipe)
    state = ReleaseState(release.recipe, release.folder, release.target, release.run, jobs)
    job = next(job for job in jobs if job.id == step)
    return [item.message for item in find_stage(job.stage).check(state.check_context(job))]


def test_preflight_asks_for_a_repo_of_its_own_and_names_what_an_earlier_release_left(
    hub: Running, tmp_path: Path
) -> None:
    release = GgufRelease.on(hub, tmp_path).train().publish()
    release.promote()
    assert not findings(release, "publish[main]") and not findings(release, "publish-gguf[main]")
    release.recipe = asking("repo")
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo(OWN, private=True)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=OWN)
    assert findings(release, "publish-gguf[main]") == [
        f"{OWN} is private, but the recipe says public.",
        f"The branch 'main' of {OWN}: 1 file not published by hubkit is kept: notes.txt.",
    ]
    assert plan._order(release.recipe) == (
        f"{OWN} (GGUF files of main), then dpo-v0 (adapter of stage dpo), then main (adapter of stage sft)"
    )
    (stale,) = findings(release, "publish[main]")
    assert stale.startswith(f"The branch 'gguf' of {REPO} has GGUF files of an earlier release of 'main'")
    assert findings(release, "publish[dpo-v0]") == []
    release.recipe = asking().model_copy(update={"gguf": None})
    assert findings(release, "publish[main]") == [stale]


@pytest.mark.parametrize("place", ["repo", "folder"])
def test_preflight_says_which_files_of_others_are_overwritten(hub: Running, tmp_path: Path, place: str) -> None:
    """By what the recipe tells: nothing is written yet. Those that are kept are kept."""
    release, api = GgufRelease.on(hub, tmp_path), HfApi(endpoint=hub.url, token=hub.token)
    release.recipe = asking(place, types=("q8_0",))
    repo, prefix, step = (OWN, "", "publish-gguf[main]") if place == "repo" else (REPO, "gguf/", "publish[main]")
    api.create_repo(repo)
    for name in ("my-model-Q8_0.gguf", "my-model-Q4_0.gguf", "Modelfile"):
        api.upload_file(path_or_fileobj=b"GGUF mine", path_in_repo=f"{prefix}{name}", repo_id=repo)
    where = f"The branch 'main' of {repo}"
    assert findings(release, step) == [
        f"{where}: 2 files not published by hubkit are overwritten: {prefix}Modelfile, {prefix}my-model-Q8_0.gguf.",
        f"{where}: 1 file not published by hubkit is kept: {prefix}my-model-Q4_0.gguf.",
    ]


def test_what_is_staged_is_no_earlier_release_and_a_repo_of_its_own_may_be(hub: Running, tmp_path: Path) -> None:
    release = GgufRelease.on(hub, tmp_path)
    release.recipe = asking("repo")
    release.train().publish().promote()
    connected = hub_of(release)
    release.recipe = asking()
    release.train(2).publish()
    assert "staging/gguf" in heads(release)
    assert findings(release, "publish[main]") == [
        f"{OWN} has GGUF files of an earlier release of 'main', and this recipe publishes none there."
        " Delete it on the Hub."
    ]
    release.promote()
    release.train(3).publish()
    assert plan_rollback(connected, REPO, "main").gguf_left == ("gguf",), f"{OWN} has those of what comes back"
    release.promote()
    assert plan_rollback(connected, REPO, "main").gguf_left == ("gguf", OWN)
    for odd in (f"a+b{chr(0xE9)}", "x" * 90):
        assert list(written_from(connected, REPO, odd)) == [], "no repo can be called after that branch"


def test_what_an_interrupted_attempt_staged_is_removed_although_the_recipe_lost_it(
    hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = GgufRelease.on(hub, tmp_path).train().publish()
    stage: Any = sys.modules[find_stage("promote").run.__module__]
    moved = stage._moved

    def interrupted(ctx: Any, connected: Any, move: Any) -> Any:
        if not move.gguf:
            raise KeyboardInterrupt
        return moved(ctx, connected, move)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stage, "_moved", interrupted)
        release.promote()
    assert {"gguf", "staging/gguf"} <= heads(release).keys() and "dpo-v0" not in heads(release)
    release.recipe = asking().model_copy(update={"gguf": None})
    for name in ("main", "dpo-v0"):
        release.perform(f"publish[{name}]")
    release.promote()
    assert heads(release).keys() == {"main", "dpo-v0", "gguf"}, "no staging branch is left"


def test_it_is_signed_where_the_release_is_and_states_its_provenance(hub: Running, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path)
    release = GgufRelease.on(hub, tmp_path / "run").train()
    release.recipe = asking().signed_with(private)
    release.publish("main").promote()
    connected, key = hub_of(release), verifier(public)
    report = verify(RepoSource(connected, REPO, "gguf"), verifier=key)
    assert not report.differences and (report.signature, report.provenance) == ("valid", "valid")
    before = heads(release)
    release.perform("publish-gguf[main]")
    release.promote()
    assert heads(release) == before, "signed once: the same files make no second commit"
    statement = json.loads(key.stated(connected.read_file(REPO, PROVENANCE_PATH, "gguf") or b""))
    uses = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    (weights,) = (item for item in uses if item["name"] == "weights model.safetensors")
    digest = connected.tree(REPO, "main")["model.safetensors"].sha256
    assert weights == {"name": weights["name"], "uri": f"hf://{REPO}", "digest": {"sha256": digest}}


def test_it_is_not_reproduced_but_its_weights_are(hub: Running, tmp_path: Path) -> None:
    release = GgufRelease.on(hub, tmp_path).train().publish("main")
    content = release.made["publish-gguf[main]"].json("written/.hubkit/manifest.json")
    with pytest.raises(RefusedError, match="There are GGUF files alone") as caught:
        recipe_of(content, None, tmp_path)
    assert f"{REPO}@main" in str(caught.value.hint)


def test_a_rollback_of_main_names_the_gguf_files_that_it_leaves_behind(hub: Running, tmp_path: Path) -> None:
    release = GgufRelease.on(hub, tmp_path).train().publish()
    release.promote()
    connected = hub_of(release)
    release.train(2).publish().promote()
    back = plan_rollback(connected, REPO, "main")
    assert back.gguf_left == ("gguf",) and back.to_json()["gguf_left"] == ["gguf"]
    assert planned_lines(back)[-1].startswith(
        "  written from other weights than main will have: the GGUF files on gguf;"
    )
    assert plan_rollback(connected, REPO, "dpo-v0").gguf_left == ()
    back.apply(connected)
    plan_rollback(connected, REPO, "gguf").apply(connected)
    assert plan_promotion(connected, REPO, "main", "copy").gguf_left == ()
    with pytest.raises(RefusedError, match="has GGUF files alone, and the branch 'main' has weights"):
        plan_promotion(connected, REPO, "gguf", "main")
    with pytest.raises(RefusedError, match="has weights, and the branch 'gguf' has GGUF files alone"):
        plan_promotion(connected, REPO, "main", "gguf")
    assert plan_promotion(connected, REPO, "gguf", "main", force=True).plan.change
    assert not plan_promotion(connected, REPO, "gguf", "gguf-2").nothing_to_do


def test_of_both_variants_in_repos_of_their_own(hub: Running, tmp_path: Path) -> None:
    """`layout: repos`: a branch `gguf` in the repo of each; all GGUF files move before the first variant does."""
    release = GgufRelease.on(hub, tmp_path)
    release.recipe = asking(variants=("main", "dpo-v0")).model_copy(update={"layout": "repos"})
    release.train().publish()
    faults(hub)
    release.promote()
    other = f"{REPO}-dpo-v0"
    created = [line.split(" ")[1] for line in requests(hub) if line.startswith("POST ") and "/branch/" in line]
    assert sorted(line.partition("/api/models/")[2] for line in created) == [
        f"{REPO}-dpo-v0/branch/gguf", f"{REPO}/branch/gguf",
    ]  # fmt: skip
    moved = [line for line in requests(hub) if line.startswith("POST ") and ("/branch/" in line or "/commit/" in line)]
    assert ["/branch/" in line for line in moved] == [True, True, False, False], "GGUF files first"
    assert [f"{other}/" in line for line in moved] == [True, False, True, False], "in each part main last"
    for name, repo in (("main", REPO), ("dpo-v0", other)):
        release.assert_gguf_whole(name)
        assert hub_of(release).refs(repo).branches.keys() == {"main", "gguf"}
        assert not verify(RepoSource(hub_of(release), repo, "gguf")).differences
    assert release.outdated("promote") is None
