"""One release, killed -9 at a random moment of each of its steps.

After every kill each branch of the Hub holds what it held, or its whole release; nothing that was finished is done
again; and no worker outlives its parent. Its weights are uploaded ahead of the gates, and it is killed in that, too.
The seed is fixed, the moments are the machine's.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import HUBKIT, environment, hubkit, hubkit_json, until, workers_of
from soak_figures import record

from hubkit.pipeline.runs import Run
from hubkit_stages.recipes import tiny

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

REPO = "hubkit/tiny-hermes-dpo"


def branches(home: Path) -> dict[str, str]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    status = hubkit_json("hub", "status", home=home)
    if not status["running"]:
        return {}
    try:
        found = HfApi(endpoint=status["url"], token=False).list_repo_refs(REPO).branches
    except RepositoryNotFoundError:
        return {}
    return {ref.name: ref.target_commit for ref in found if not ref.name.startswith("staging/")}


def recipe_in(folder: Path, home: Path) -> Path:
    """The tiny recipe with uploads ahead of the gates, and its repo: a public one is not created for them."""
    from huggingface_hub import HfApi

    shutil.copytree(tiny.RECIPE.parent / "tasks", folder / "tasks")
    (folder / "hubkit.yaml").write_text(tiny.RECIPE.read_text(encoding="utf-8") + "preupload: true\n", encoding="utf-8")
    url = hubkit_json("hub", "start", home=home)["url"]
    HfApi(endpoint=url, token=(home / "hub" / "owner.token").read_text().strip()).create_repo(REPO)
    return folder / "hubkit.yaml"


def events(home: Path) -> Counter[str]:
    """How many lines of each kind the journal has."""
    return Counter(line["event"] for run in home.glob("runs/*") for line in Run(run).journal())


def killed_in(step: str, recipe: Path, home: Path, after: float, *, uploading: bool = False) -> str | None:
    """Run the release and kill it ``after`` seconds into ``step``; the step it was in, None when it was faster.

    With ``uploading`` the seconds count from when an upload ahead is begun in that step.
    """
    before = events(home)
    command = subprocess.Popen(
        [HUBKIT, "release", str(recipe)],
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stderr is not None
    last = step
    for line in command.stderr:
        if line.startswith((f"{step} …", f"{step}: up to date")):
            break
    if uploading:
        until(lambda: command.poll() is not None or events(home)["ahead"] > before["ahead"], 60)
    try:
        command.wait(after)
        return None
    except subprocess.TimeoutExpired:
        workers = workers_of(command.pid)
        command.kill()
        for line in command.communicate()[1].splitlines():
            last = line.split(" …")[0] if line.endswith("…") else last
    until(lambda: not any(worker.is_running() for worker in workers), 20)
    new = events(home) - before
    return f"{last} beside an upload" if new["ahead"] > new["uploaded-ahead"] else last


def test_killed_in_every_step_a_release_still_comes_whole(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    moments, killed = random.Random(20261121), Counter[str]()
    began = time.monotonic()
    try:
        recipe = recipe_in(tmp_path, home)
        steps = [step["step"] for step in hubkit_json("plan", str(recipe), home=home)["steps"]]
        for step in ("preflight", *steps):
            tries = [(moments.uniform(0.0, 0.5), False)]
            if step.startswith("stopping["):
                tries = [(moments.uniform(0.0, 8.0), True), *tries]
            for after, uploading in tries:
                found = killed_in(step, recipe, home, after, uploading=uploading)
                if found is not None:
                    killed[found] += 1
                for commit in branches(home).values():
                    problems = whole(home, commit)
                    assert not problems, problems
        outcome = hubkit_json("release", str(recipe), home=home)
        journal = Run(home / "runs" / outcome["run"]).journal()
        done = Counter(line["step"] for line in journal if line["event"] == "done")
        assert set(done.values()) <= {1}, done
        assert hubkit("hub", "fsck", home=home).returncode == 0
        assert {line["variant"]: line["commit"] for line in outcome["variants"]} == branches(home)
    finally:
        hubkit("hub", "stop", home=home)
    where = ", ".join(f"{step} {count}" for step, count in killed.items())
    record(
        "one release, killed -9 in its steps at random moments",
        f"{killed.total()} kills in {time.monotonic() - began:.0f} s (while in: {where}); no branch ever half, "
        "no step done twice, no orphan; a plain re-run finished it",
    )


def whole(home: Path, commit: str) -> list[str]:
    """What is wrong with the tree at ``commit``: an empty first commit, or all that its own manifest names."""
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.utils import get_session

    url = hubkit_json("hub", "status", home=home)["url"]
    api = HfApi(endpoint=url, token=False)
    tree = {
        item.path: (item.lfs.sha256 if item.lfs else item.blob_id)
        for item in api.list_repo_tree(REPO, revision=commit, recursive=True)
        if hasattr(item, "blob_id")
    }
    if set(tree) <= {".gitattributes"}:
        return []
    address = hf_hub_url(REPO, ".hubkit/manifest.json", revision=commit, endpoint=url)
    named = get_session().get(address).json()["files"]
    return [
        f"{item['path']} at {commit}" for item in named if tree.get(item["path"]) not in {item["sha256"], item["git"]}
    ]
