"""The gate on benchmarks against what a branch of the embedded Hub publishes: releases follow each other on one Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from quality import measured
from releases import REPO, Release, card, hub_of

from hubkit.core.errors import RefusedError
from hubkit.evals.published import PUBLISHED_SCORES
from hubkit.evals.scores import SCORES_FILE, Measured, write_measured
from hubkit.recipe.models import Gates
from hubkit.server.process import Running
from hubkit_stages import gate

CURRENT = {"all": ("current - 0.01",)}


def evaluated(release: Release, folder: Path, right: int, **more: Any) -> Measured:
    """Benchmarks of the base and of both variants, of which ``right`` of 200 answers of ``main`` are right."""
    made = measured(facts=[1] * right + [0] * (200 - right), **more)
    before = measured(facts=[1] * 180 + [0] * 20)
    for step, found in (("base-scores", before), ("evaluate[main]", made), ("evaluate[dpo-v0]", before)):
        packed = folder / SCORES_FILE
        write_measured(packed, found)
        release.make(step, {"results.json": found.results.model_dump(mode="json"), SCORES_FILE: packed.read_bytes()})
    for step in ("base-stopping", "stopping[main]", "stopping[dpo-v0]"):
        rate = {
            "stopped": 256, "prompts": 256, "rate": 1.0, "low": 1.0, "high": 1.0, "mean_tokens": 4.0,
            "dtype": "float32", "examples": [],
        }  # fmt: skip
        forms = {"base": rate} if step.startswith("base") else {"merged": rate, "adapter": rate}
        release.make(step, {"stopping.json": {"forms": forms}})
    return made


def gated(release: Release, **benchmarks: tuple[str, ...]) -> dict[str, Any]:
    gates = Gates(stop_rate=release.recipe.gates.stop_rate, benchmarks=benchmarks)
    return {"gates": gates}


def judged(release: Release, benchmarks: dict[str, tuple[str, ...]] = CURRENT) -> Any:
    return release.perform("gate", gated(release, **benchmarks)).json("gates.json")["variants"]["main"]


def release_with(hub: Running, folder: Path, right: int, *, fresh: bool = True) -> Release:
    """Publish and promote a release whose ``main`` has ``right`` answers right."""
    release = Release.on(hub, folder, fresh=fresh).train()
    made = evaluated(release, folder, right)
    packed = folder / "packed"
    write_measured(packed, made)
    release.make("card[main]", {
        "README.md": card("main"), "adapter-README.md": card("adapter"), "numbers.json": {},
        PUBLISHED_SCORES: packed.read_bytes(),
    })  # fmt: skip
    release.publish().promote()
    return release


def test_a_first_release_has_nothing_to_be_compared_with(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path).train()
    evaluated(release, tmp_path, 100)
    made = release.perform("gate", gated(release, **CURRENT))
    (found,) = made.json("gates.json")["variants"]["main"]["benchmarks"]
    assert (found["result"], found["note"]) == ("not compared", "nothing is published there yet")
    assert "main: all is not compared with what the branch publishes: nothing is published" in str(made.summary)


def test_a_release_that_is_as_good_passes_and_a_worse_one_is_refused(hub: Running, tmp_path: Path) -> None:
    first = release_with(hub, tmp_path, 180)
    head = hub_of(first).head(REPO, "main")
    assert head is not None and PUBLISHED_SCORES in hub_of(first).tree(REPO, head)
    text = hub_of(first).read_file(REPO, ".hubkit/manifest.json", head)
    assert text is not None and PUBLISHED_SCORES in {item["path"] for item in json.loads(text)["files"]}

    evaluated(first, tmp_path, 178)
    (found,) = judged(first)["benchmarks"]
    assert (found["result"], found["commit"], found["n"], found["changed"]) == ("passed", head, 200, 2)

    evaluated(first, tmp_path, 140)
    with pytest.raises(RefusedError) as refused:
        judged(first)
    assert refused.value.exit_code == 3
    said = refused.value.message.splitlines()
    assert said[0] == "Worse than the gate allows: main is not released."
    assert said[1].startswith(
        f"  main: all is 0.7000, what the branch publishes at {head[:12]} has 0.9000: -0.2000 ± 0.0284 on "
        "200 questions, 40 changed; a drop of 0.0100 is allowed: failed"
    )
    assert "gates.benchmarks" in (refused.value.hint or "")
    assert hub_of(first).head(REPO, "main") == head


def test_a_gate_that_only_reports_holds_nothing_back(hub: Running, tmp_path: Path) -> None:
    release = release_with(hub, tmp_path, 180)
    evaluated(release, tmp_path, 100)
    variants = {
        **release.recipe.variants,
        "main": release.recipe.variants["main"].model_copy(update={"gate": "report"}),
    }
    made = release.perform("gate", {**gated(release, facts=("base", "current")), "variants": variants})
    main = made.json("gates.json")["variants"]["main"]
    assert [(item["against"], item["result"]) for item in main["benchmarks"]] == [
        ("base", "failed"),
        ("current", "failed"),
    ]
    assert "main failed (reported)" in made.summary["figure"] and "1 of 4 conditions on benchmarks hold" in str(
        made.summary
    )
    assert len(made.summary["warnings"]) >= 2


def test_of_an_older_release_the_numbers_on_its_card_are_compared(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path).train()
    index = (
        "---\nlicense: apache-2.0\nmodel-index:\n- name: x\n  results:\n  - task: {type: text-generation}\n"
        "    dataset: {name: facts, type: facts, args: {num_few_shot: 0}}\n"
        "    metrics: [{type: acc, value: 0.9}]\n---\n"
    )
    release.make(
        "card[main]",
        {"README.md": f"{index}# main\n", "adapter-README.md": card("a"), "numbers.json": {}},
    )
    release.publish().promote()
    evaluated(release, tmp_path, 178)
    (found,) = judged(release)["benchmarks"]
    assert (found["result"], found["before"]) == ("passed", 0.9)
    assert (
        found["note"] == "unpaired: the scores of the questions of facts are not known" or "unpaired" in found["note"]
    )
    evaluated(release, tmp_path, 120)
    with pytest.raises(RefusedError, match=r"0\.9000.*unpaired"):
        judged(release)


def test_scores_on_the_branch_that_are_none_are_said(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path).train()
    release.make(
        "card[main]",
        {
            "README.md": card("x"),
            "adapter-README.md": card("a"),
            "numbers.json": {},
            PUBLISHED_SCORES: b"\x1f\x8b nonsense",
        },
    )
    release.publish().promote()
    evaluated(release, tmp_path, 100)
    (found,) = judged(release)["benchmarks"]
    assert (found["result"], found["note"]) == ("not compared", "the branch publishes no result of these benchmarks")


def test_after_the_promotion_the_verdict_stands_and_a_branch_that_moved_is_compared_again(
    hub: Running, tmp_path: Path
) -> None:
    release = Release.on(hub, tmp_path).train()
    evaluated(release, tmp_path, 180)
    release.recipe = release.recipe.model_copy(update=gated(release, **CURRENT))
    release.perform("gate")
    assert release.outdated("gate") is None
    for name in ("main", "dpo-v0"):
        packed = (release.made[f"evaluate[{name}]"].path / SCORES_FILE).read_bytes()
        files: dict[str, Any] = {"README.md": card(name), "adapter-README.md": card("a"), "numbers.json": {}}
        release.make(f"card[{name}]", {**files, PUBLISHED_SCORES: packed})
    release.publish().promote()
    assert release.outdated("gate") is None, "the branches hold this release"
    hub_of(release).api.upload_file(path_or_fileobj=b"{}", path_in_repo=PUBLISHED_SCORES, repo_id=REPO)
    assert release.outdated("gate") == f"the branch 'main' of {REPO} moved since its benchmarks were compared"


def test_a_condition_on_what_is_not_measured_is_refused_before(hub: Running, tmp_path: Path) -> None:
    from hubkit.recipe.stage import CheckContext, Scope

    release = Release.on(hub, tmp_path)
    evaluate = release.recipe.evaluate.model_copy(update={"suites": ("hellaswag",), "limit": 20})
    recipe = release.recipe.model_copy(
        update={"evaluate": evaluate, **gated(release, facts=("base",), hellaswag=("current",))}
    )
    settings = gate.Settings.of(recipe, Scope(tmp_path))
    found = list(gate.check(CheckContext(settings, release.target)))
    errors = [item for item in found if item.level == "error"]
    assert [item.message.partition(":")[0] for item in errors] == [
        "gates.benchmarks.facts",
        "gates.benchmarks.hellaswag",
    ]
    assert "hellaswag" in errors[0].message and "raise the limit" in errors[1].message
    assert any("There is no branch 'main'" in item.message for item in found if item.level == "note")


def test_without_conditions_nothing_of_benchmarks_counts(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path)
    evaluated(release, tmp_path, 10)
    assert release.perform("gate").json("gates.json")["variants"]["main"]["benchmarks"] == []
