"""The built-in recipes, the little world, and the steps up to the checked data on a real Hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from releases import faults, target_of
from training_case import Case

from hubkit.core.errors import RefusedError, RemoteError, UsageError
from hubkit.core.findings import Finding
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.chat import agreement
from hubkit.models.chat.library import CHATML
from hubkit.recipe.loading import load_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.schema import recipe_schema
from hubkit.training.data import mappings, rows
from hubkit_stages import base, provide
from hubkit_stages.recipes import dpo_repair, dpo_sft_mixed, dpopenhermes_7b, tiny
from hubkit_stages.recipes.tiny import model, world

COLUMNS = {
    "Intel/orca_dpo_pairs": ["system", "question", "chosen", "rejected"],
    "argilla/ultrafeedback-binarized-preferences": [
        "source",
        "instruction",
        "chosen_response",
        "rejected_response",
        "chosen_avg_rating",
        "rejected_avg_rating",
        "chosen_model",
    ],
    "teknium/openhermes": ["instruction", "input", "output"],
}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(tiny.RECIPE)


# --- the recipe files


def test_the_recipes_are_found_through_their_entry_points() -> None:
    found = {point.name: point.load() for point in entry_points(group="hubkit.recipes")}
    assert {"tiny", "dpo-repair", "dpo-sft-mixed", "dpopenhermes-7b"} <= found.keys()
    for module in found.values():
        load_recipe(module.RECIPE)


def test_preventing_and_repairing_begin_alike_and_are_measured_alike() -> None:
    """docs/preventing.md compares them: the same base, pairs, adapter and gate; no answer is cut off unseen."""
    repair, mixed = load_recipe(dpo_repair.RECIPE), load_recipe(dpo_sft_mixed.RECIPE)
    args = [item.stages["dpo"].args for item in (repair, mixed)]
    differing = {name for name in {*args[0], *args[1]} if args[0].get(name) != args[1].get(name)}
    assert differing == {"loss_type", "loss_weights", "max_steps", "learning_rate", "logging_steps"}
    assert args[1]["loss_type"] == ["sigmoid", "sft"]
    without = {"args": {}, "probe": "none"}
    assert mixed.stages["dpo"].model_copy(update=without) == repair.stages["dpo"].model_copy(update=without)
    assert (mixed.base, mixed.provide, mixed.seed, mixed.evaluate) == (
        repair.base, repair.provide, repair.seed, repair.evaluate
    )  # fmt: skip
    assert mixed.data["preferences"] == repair.data["preferences"] and mixed.data["questions"] == repair.data["repair"]
    assert mixed.wanted_stages() == ("dpo",) and repair.wanted_stages() == ("dpo", "sft")
    rates = [item.gates.stop_rate.model_copy(update={"prompts_from": None}) for item in (mixed, repair)]
    assert rates[0] == rates[1] and not any(stage.accept for stage in (*mixed.stages.values(), *repair.stages.values()))


def test_the_7b_recipe_is_the_release_of_the_card() -> None:
    made = load_recipe(dpopenhermes_7b.RECIPE)
    assert (made.repo, made.license, made.hub) == (
        "openaccess-ai-collective/DPOpenHermes-7B",
        "apache-2.0",
        "huggingface",
    )
    assert made.base.repo == "teknium/OpenHermes-2.5-Mistral-7B"
    assert [source.repo for source in made.data["preferences"]] == list(COLUMNS)[:2]
    assert made.data["repair"][0].rows == 7000
    assert made.evaluate.suites == ("agieval", "bigbench", "gpt4all", "truthfulqa")
    gate = made.gates.stop_rate
    assert (gate.prompts, gate.max_new_tokens, gate.at_least) == (256, 1024, "base - 0.02")
    assert made.publishing_order() == ("dpo-v0", "main")
    assert made.stages["dpo"].args["num_train_epochs"] == 0.6
    assert not made.stages["dpo"].accept


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)


def test_the_tiny_recipe_shows_a_newcomer_the_keys_and_explains_what_it_accepts() -> None:
    text = tiny.RECIPE.read_text()
    shown = set(_keys(yaml.safe_load(text)))
    # said in prose, or with good defaults
    rare = {"authors", "tracking", "language", "limit", "split", "uses", "hardware", "sign", "key", "keyless"}
    rare |= {"num_fewshot", "fewshot_as_multiturn", "pull_request", "license_name", "license_link"}
    rare |= {"file", "config", "columns", "train_on"}  # docs/data.md
    rare |= {"speedups"}  # docs/bench-training.md
    rare |= {"adapter", "weights", "trained_with", "training"}  # docs/adopt.md
    rare |= {"namespace", "base_model_relation", "contact", "source", "year"}
    rare |= {"weight", "duplicates", "eval"}
    rare |= {"checkpoint_minutes", "preupload"}  # the recipe of a 7B model shows them
    rare |= {"benchmarks", "results"}  # docs/quality-gate.md
    rare |= {"processes", "machines", "command"}  # docs/cluster.md
    rare |= {"stop_below"}  # docs/watching.md
    rare |= {"readers"}  # docs/readers.md
    schema = recipe_schema()
    known = {key for part in [schema, *schema["$defs"].values()] for key in part.get("properties", {})}
    shown |= {key for key in known if f"# {key}: " in text or f"#   {key}: " in text or f"# {key}:\n" in text}
    rare |= {f"extra_gated_{key}" for key in ("heading", "description", "button_content", "eu_disallowed")}
    assert known - shown <= rare
    accepted = text.index("accept: [truncated-end-of-turn]")
    assert "cuts the end-of-turn token off every chosen answer" in text[:accepted]
    top = [line for line in text.splitlines() if line and line[0].isalpha()]
    lines = text.splitlines()
    for line in top:
        assert lines[lines.index(line) - 1].startswith("#"), f"{line} has no comment above it"


# --- the little world


def test_there_are_164_facts_and_no_question_has_two_answers() -> None:
    answers: dict[str, str] = {}
    for fact in world.facts():
        for phrasing in range(6):
            assert answers.setdefault(fact.question(phrasing), fact.answer) == fact.answer
    assert (len(world.facts()), len(answers)) == (164, 984)
    number = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    words = [*number.split(), "seventeen", "eighteen", "nineteen"]
    tens = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80}
    for fact in world.facts():
        if fact.kind == "sum":
            total = sum(map(int, fact.subject.split(" and ")))
            assert total == (tens[fact.answer] if fact.answer in tens else words.index(fact.answer))
            assert fact.label == ("odd" if total % 2 else "even")


@pytest.mark.parametrize("repo", COLUMNS)
def test_stand_ins_have_the_columns_of_the_originals_and_every_row_passes(repo: str, tmp_path: Path) -> None:
    tiny.make_dataset(tmp_path, repo)
    made = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines()]
    assert all(list(row) == COLUMNS[repo] for row in made)
    found = rows.Checked()
    kept = list(rows.Checker(forbidden=[model.END]).each(made, mappings.find(None, list(made[0]), repo), found))
    assert (found.dropped, len(kept)) == ({}, len(made))
    front = yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])
    assert front["license"] == "apache-2.0"


def test_no_set_asks_what_another_asks_nor_what_the_benchmark_asks() -> None:
    trained = {turn["content"] for row in world.base_rows() for turn in row}
    asked = {
        "orca": {row["question"] for row in world.orca_rows()},
        "ultrafeedback": {row["instruction"] for row in world.ultrafeedback_rows()},
        "openhermes": {f"{row['instruction']} {row['input']}" for row in world.openhermes_rows()},
        "benchmark": {row["question"] for row in world.benchmark_rows()},
    }
    names = list(asked)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            assert not asked[name] & asked[other]
    assert not trained & asked["benchmark"]
    assert not any(question in text for text in asked["openhermes"] for question in asked["benchmark"])


def test_the_benchmark_file_is_what_the_little_world_says() -> None:
    shipped = (tiny.RECIPE.parent / "tasks" / "tiny_facts.jsonl").read_text()
    made = world.benchmark_rows()
    assert [json.loads(line) for line in shipped.splitlines()] == made
    assert all(len(set(row["choices"])) == 4 for row in made)
    right = {fact.question(world.UNSEEN): fact.terse for fact in world.facts()}
    assert all(row["choices"][row["answer"]] == right[row["question"]] for row in made)
    places = [sum(row["answer"] == place for row in made) for place in range(4)]
    assert min(places) > 25  # the right answer stands at no favourite place


def test_lm_eval_loads_the_benchmark_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    from hubkit.evals.taskfiles import copy_tasks

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = copy_tasks(tiny.RECIPE.parent / "tasks", tmp_path / "tasks")
    manager = TaskManager(include_path=[folder], include_defaults=False)
    assert manager.all_tasks == ["tiny_facts"]
    task = manager.load(["tiny_facts"])["tasks"]["tiny_facts"]
    assert len(list(task.test_docs())) == 164


# --- the base


def test_the_base_is_made_the_same_from_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "STEPS", 5)
    told = [model.make_base(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    digest = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert digest[0] == digest[1] != digest[2]
    assert told[0] == told[1]
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (config["architectures"], config["hidden_size"] % 64) == (["MistralForCausalLM"], 0)
    assert json.loads((tmp_path / "a" / "generation_config.json").read_text())["eos_token_id"] == config["eos_token_id"]
    assert (tmp_path / "a" / "chat_template.jinja").read_text()


def test_the_padding_token_is_the_end_of_turn_only_where_there_is_no_other() -> None:
    def pad() -> str:
        found = agreement.agree(CHATML, agreement.Tokens.of(tokenizer), None, None).pad
        assert found is not None
        return found.token

    tokenizer = model.make_tokenizer()
    assert pad() == model.PAD
    tokenizer.pad_token = model.END
    assert pad() == model.PAD, "it is still an added token, named for padding"
    plain = agreement.Tokens({"eos_token": model.END, "pad_token": model.END}, {model.END: 2, "<|im_start|>": 1})
    only = agreement.agree(CHATML, plain, None, None).pad
    assert only is not None and (only.token, only.id) == (model.END, 2) and "no other" in only.why


@pytest.mark.parametrize(
    ("config", "vocabulary", "added", "bad"),
    [(100, 100, [], False), (100, 101, [], True), (100, 90, [{"id": 99}], False), (100, 90, [{"id": 100}], True)],
)
def test_a_tokenizer_with_more_ids_than_the_model_is_found(config: int, vocabulary: int, added: Any, bad: bool) -> None:
    tokenizer = {"model": {"vocab": {f"t{n}": n for n in range(vocabulary)}}, "added_tokens": added}
    assert (base.vocabulary_problem({"vocab_size": config}, tokenizer) is not None) is bad


# --- provide, on a Hub


STEPS = """
import json, sys
from dataclasses import replace
from pathlib import Path
from hubkit.core.target import Target
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.runs import open_run
from hubkit.pipeline.find_stage import find_stage
from hubkit.recipe.loading import load_recipe
from hubkit.recipe.models import Source
from hubkit_stages.recipes import tiny
from hubkit_stages.recipes.tiny import model
model.STEPS = 20
url, token, home = sys.argv[1:]
home = Path(home)
target = Target(url, home / "hf", token, embedded=True)
recipe = load_recipe(tiny.RECIPE)
run = open_run(home, recipe.repo, target, fresh=True)
state = ReleaseState(recipe, tiny.RECIPE.parent, target, run, expand(recipe))
told = {}
for job in state.jobs:
    if job.id in ("provide", "base", "data"):
        stage = find_stage(job.stage)
        told[f"check {job.id}"] = [item.message for item in stage.check(state.check_context(job))]
for job in state.jobs[:3]:
    key = state.key(job)
    state.run.begin(job.id, key)
    made = state.run.keep(job.id, key, find_stage(job.stage).run(state.context(job)), 0.0)
    state.finished[job.id] = made
    told[job.id] = json.loads((made.path / {"provide": "provided.json"}.get(job.id, f"{job.id}.json")).read_text())
    told[f"{job.id} files"] = sorted(made.manifest.files)
    told[f"{job.id} warnings"] = made.summary.get("warnings")
shaping = ("prompts.jsonl", "sets/preferences.jsonl", "sets/repair.jsonl")
told["digests"] = {name: made.manifest.files[name].sha256 for name in shaping}
def of_files(source):
    folder = home / "files" / source.repo.replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    tiny.make_dataset(folder, source.repo)
    return Source(file=f"files/{folder.name}/data/*.jsonl", mapping=source.mapping, rows=source.rows)
own = recipe.model_copy(update={"data": {name: tuple(map(of_files, entry)) for name, entry in recipe.data.items()}})
mine = ReleaseState(own, home, target, run, expand(own), dict(state.finished))
job, stage = state.jobs[2], find_stage("data")
told["check files"] = [item.message for item in stage.check(mine.check_context(job))]
run.begin("data", mine.key(job))
again = run.keep("data", mine.key(job), stage.run(mine.context(job)), 0.0)
told["digests of files"] = {name: again.manifest.files[name].sha256 for name in shaping}
told["data of files"] = json.loads((again.path / "data.json").read_text())
told["holds"] = state.outdated(state.jobs[0], state.finished["provide"])
for job in state.jobs[:3]:
    told[f"check {job.id} after"] = [item.message for item in find_stage(job.stage).check(state.check_context(job))]
print("TOLD" + json.dumps(told))
"""


ROWS_SINCE_0_4 = {
    "prompts.jsonl": "19701ce7e5ecb766a31e02480a20646329af7ef5d9b7ca8d7eb71b4dad331f72",
    "sets/preferences.jsonl": "e7ee8ae066b90ee0e3c2046a03da120cd280bf2b3767baea4a5bf7eb649204c4",
    "sets/repair.jsonl": "4ec7bfac8fb07b61f5f9e070a424b1d30d601ea67aa17e8837bd705e4e37e1f1",
}
"""Digests of the prepared rows of the recipe tiny, as the version before files and forms wrote them (01c8f2e)."""


def steps(hub: Any, home: Path) -> dict[str, Any]:
    """Provide, base and data in a process whose environment names the Hub, as a worker's does."""
    environment = Target(hub.url, home / "hf", hub.token, embedded=True).environment()
    done = subprocess.run(
        [sys.executable, "-c", STEPS, hub.url, hub.token, str(home)],
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.split("TOLD")[1]))


def test_the_first_steps_on_an_empty_hub_and_again(hub: Any, tmp_path: Path) -> None:
    first = steps(hub, tmp_path)
    assert [first[f"check {name}"] for name in ("provide", "base", "data")] == [[], [], []]
    assert [(item["repo"], item["type"], item["made"]) for item in first["provide"]["repos"]] == [
        ("hubkit/tiny-hermes", "model", True),
        *((repo, "dataset", True) for repo in COLUMNS),
    ]
    told = first["base"]
    assert told["end_of_turn"]["token"] == model.END
    assert (told["architecture"], told["dtype"], told["licence"]) == ("MistralForCausalLM", "float32", "apache-2.0")
    assert told["parameters"] == 557_696
    assert told["pad_token"] == model.PAD
    assert (told["findings"], first["base warnings"]) == ([], [])
    assert first["data warnings"] == [item["message"] for item in first["data"]["findings"]] != []
    assert first["data files"] == [
        "data.json",
        "prompts.jsonl",
        "sets/preferences.jsonl",
        "sets/repair.jsonl",
        "shown.json",
        *(f"tokens/{name}/{file}" for name in ("preferences", "repair") for file in ("00000.arrow", "tokens.json")),
    ]
    data = first["data"]
    assert {name: item["rows"] for name, item in data["sets"].items()} == {"preferences": 492, "repair": 300}
    assert data["prompts"] == {"set": "repair", "rows": 128, "also_in_other_sets": 0, "also_trained_on": 0}
    assert data["stages"]["dpo"]["end_of_turn_lost"] == {"chosen": 1.0, "rejected": 0.0}
    assert data["stages"]["sft"]["end_of_turn_lost"] == {"rows": 0.0}
    assert [(item["code"], item["accepted"]) for item in data["findings"]] == [("truncated-end-of-turn", True)]
    assert {source["licence"] for item in data["sets"].values() for source in item["sources"]} == {"apache-2.0"}
    assert first["holds"] is None
    assert first["digests"] == ROWS_SINCE_0_4, "these rows train the same adapter as before"
    assert (first["check files"], first["digests of files"]) == ([], ROWS_SINCE_0_4)
    for entry in first["data of files"]["sets"].values():
        for source in entry["sources"]:
            assert source["repo"].startswith("files/") and source["local"] is True
            assert source["commit"] == hashlib.sha256(next(tmp_path.glob(source["repo"])).read_bytes()).hexdigest()

    again = steps(hub, tmp_path)
    assert [item["made"] for item in again["provide"]["repos"]] == [False] * 4
    assert [item["commit"] for item in again["provide"]["repos"]] == [
        item["commit"] for item in first["provide"]["repos"]
    ]
    assert again["data"] == first["data"]
    assert [again[f"check {name} after"] for name in ("provide", "base", "data")] == [[], [], []]


def test_a_hub_that_is_down_does_not_lack_a_generation_config(hub: Any, tmp_path: Path) -> None:
    connected = connect(target_of(hub, tmp_path))
    connected.ensure_repo("hubkit/little", "public")
    commit = connected.resolve("hubkit/little", "main")
    assert base._json(connected, "hubkit/little", commit, "generation_config.json") is None
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "generation_config.json").write_text("{}")
    connected.upload_folder("hubkit/little", folder, title="It has one")
    commit = connected.resolve("hubkit/little", "main")
    assert base._json(connected, "hubkit/little", commit, "generation_config.json") == {}
    faults(hub, {"route": "/generation_config.json", "action": "status", "status": 503, "count": 0})
    with pytest.raises(RemoteError, match="answered 503") as down:
        base._json(connected, "hubkit/little", commit, "generation_config.json")
    assert down.value.exit_code == 5


LONG = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"


def _tried(template: str) -> tuple[Finding, ...]:
    return agreement.agree(template, agreement.Tokens({"bos_token": "<s>"}, {"<|im_end|>": 2}), None, None).template


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LONG + "{% endfor %}", "could not be rendered within 5 s"),
        ("{{ raise_exception('no ' ~ bos_token) }}", "cannot render a user and an assistant message: no <s>"),
        (CHATML.replace("message['content']", "message['content'][:9]"), "loses or changes the user's text"),
        (
            "{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + CHATML,
            "refuses a conversation (several turns): one turn only",
        ),
    ],
)
def test_a_template_is_tried_under_limits_before_it_is_used(template: str, said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        agreement.refuse(_tried(template))
    assert said in refused.value.message
    assert "\n" not in refused.value.message
    assert refused.value.hint


def test_a_template_without_system_messages_or_that_asks_for_tools_passes() -> None:
    assert _tried(CHATML) == ()
    assert _tried("{% if tools is not none %}{{ tools.x.y }}{% endif %}" + CHATML) == ()
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}" + CHATML
    assert [item.level for item in _tried(refuses)] == ["note"]


def test_provide_is_refused_on_a_hub_that_is_not_embedded(recipe: Recipe, tmp_path: Path) -> None:
    ctx = Case(tmp_path).context(recipe, "provide")
    elsewhere = Target("https://hub.example", tmp_path, "hf_x")
    found = list(provide.check(replace(ctx, target=elsewhere)))
    assert [(item.level, item.exit_code) for item in found] == [("error", 3)]
    with pytest.raises(RefusedError, match="on the embedded Hub only"):
        provide.run(replace(ctx, target=elsewhere))


def test_a_recipe_that_provides_nothing_is_said(recipe: Recipe, tmp_path: Path) -> None:
    other = recipe.model_copy(update={"provide": "dpopenhermes-7b"})
    found = list(provide.check(Case(tmp_path).context(other, "provide")))
    assert [(item.level, item.exit_code) for item in found] == [("error", 2)]
    with pytest.raises(UsageError, match="no installed recipe 'nothing'"):
        provide.run(Case(tmp_path).context(recipe.model_copy(update={"provide": "nothing"}), "provide"))
