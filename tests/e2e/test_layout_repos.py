"""The release once more with `layout: repos`: what was trained and measured is used again, and each variant goes to a
repo of its own, killed between the two, with a collection that lists both.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import hubkit, hubkit_json
from tiny_release import Released

from hubkit_stages.recipes import tiny

pytestmark = [pytest.mark.train, pytest.mark.soak, pytest.mark.timeout(1500)]
MAIN, OTHER = "hubkit/tiny-apart", "hubkit/tiny-apart-dpo-v0"


@pytest.fixture(scope="module")
def recipe(released: Released, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe whose run has the trainings and measurements of the release; what it publishes is removed at the end."""
    folder = tmp_path_factory.mktemp("apart")
    shutil.copytree(tiny.RECIPE.parent / "tasks", folder / "tasks")
    text = tiny.RECIPE.read_text(encoding="utf-8").replace("repo: hubkit/tiny-hermes-dpo\n", f"repo: {MAIN}\n", 1)
    text = text.replace("layout: branches", "layout: repos").partition("# The Gradio Space")[0]
    text = text.replace("  # papers: [", "  papers: [")
    (folder / "hubkit.yaml").write_text(f'{text}collection: {{title: "Tiny Hermes, apart"}}\n', encoding="utf-8")
    run = released.home / "runs" / "tiny-apart-1"
    shutil.copytree(released.run, run)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"id": run.name, "repo": MAIN}))
    (run / "journal.jsonl").unlink()
    yield folder / "hubkit.yaml"
    shutil.rmtree(run)
    api = owner(released)
    for repo in (MAIN, OTHER):
        api.delete_repo(repo, missing_ok=True)
    for found in [item for item in api.list_collections(owner="hubkit") if item.title == "Tiny Hermes, apart"]:
        api.delete_collection(found.slug)


def owner(released: Released) -> Any:
    from huggingface_hub import HfApi

    token = next((released.home / "hub").rglob("owner.token")).read_text().strip()
    return HfApi(endpoint=released.url, token=token)


@pytest.mark.fault("F1")
def test_each_variant_in_a_repo_of_its_own(released: Released, recipe: Path) -> None:
    api, home = owner(released), released.home
    killed = hubkit("release", str(recipe), home=home, HUBKIT_TEST_KILL_AT="branch-moved[main]:promote")
    assert killed.returncode == 1, killed.stderr
    assert len(api.list_repo_commits(OTHER)) == 2 and len(api.list_repo_commits(MAIN)) == 1, "between the two"
    outcome = hubkit_json("release", str(recipe), home=home)
    moved = {line["repo"]: line["commit"] for line in outcome["variants"]}
    assert moved == {repo: api.model_info(repo).sha for repo in (OTHER, MAIN)} and outcome["repo"] == MAIN
    events = [json.loads(line) for line in (home / "runs/tiny-apart-1/journal.jsonl").read_text().splitlines()]
    done = [line["step"] for line in events if line["event"] == "done"]
    assert len(done) == len(set(done)) and not [step for step in done if step.startswith(("train", "merge", "stop"))]
    for repo in (OTHER, MAIN):
        assert [item.name for item in api.list_repo_refs(repo).branches] == ["main"]
        assert len(api.list_repo_commits(repo)) == 2, "one commit for the release"
        assert hubkit("verify", repo, home=home).returncode == 0
        assert "arxiv:2305.18290" in (api.model_info(repo).tags or [])
    (listed,) = [item for item in api.list_collections(owner="hubkit") if item.title == "Tiny Hermes, apart"]
    assert outcome["collection"] == f"{released.url}/collections/{listed.slug}"
    held = [(item.item_id, item.note) for item in api.get_collection(listed.slug).items]
    fixed = "DPO, then SFT that restores the end-of-turn token"
    assert held == [(MAIN, fixed), (OTHER, "DPO only"), ("2305.18290", None)]
    again = hubkit("release", str(recipe), home=home)
    assert again.returncode == 0 and f"{MAIN} is up to date" in again.stdout
    plan = hubkit("plan", str(recipe), home=home).stdout
    assert f"{MAIN}, {OTHER} (public, apache-2.0)" in " ".join(plan.split())
    assert f"{OTHER} (adapter of stage dpo), then {MAIN}" in " ".join(plan.split())


def test_a_person_gets_from_one_repo_to_the_other_and_to_the_collection(
    released: Released, recipe: Path, page: Any
) -> None:
    page.goto(f"{released.url}/{OTHER}")
    page.locator("article.card table").first.get_by_role("link", name=MAIN, exact=True).click()
    page.wait_for_url(f"{released.url}/{MAIN}")
    assert "This repository holds the variant tiny-apart" in page.locator("article.card").inner_text()
    page.locator("aside").get_by_role("link", name="Tiny Hermes, apart").click()
    page.wait_for_url("**/collections/hubkit/tiny-hermes-apart-*")
    shown = page.locator("main").inner_text()
    assert "DPO, then SFT that restores the end-of-turn token" in shown and "arXiv 2305.18290" in shown
    page.get_by_role("link", name=OTHER).click()
    page.wait_for_url(f"{released.url}/{OTHER}")
