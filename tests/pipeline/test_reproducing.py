"""`hubkit reproduce`: the recipe made again from a manifest, and what is said when something is not as it was."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from kept import sample
from samples import RECIPE_TEXT

from hubkit.core.errors import RefusedError
from hubkit.core.files import Digests
from hubkit.core.processes.parent import JsonChild
from hubkit.core.target import Target
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.reproducing import _causes, _compared
from hubkit.pipeline.runs import Run
from hubkit.pipeline.worker import Worker
from hubkit.publishing.recipe_record import recipe_record
from hubkit.publishing.rederiving.recipe import recipe_of, refuse_other_files, write_template
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Scope
from hubkit.training.adapter import TrainedAdapter
from hubkit.training.counted import counted_args
from hubkit.training.data import files as data_files
from hubkit.training.data.prepared import PreparedData

RECIPE = parse_recipe(RECIPE_TEXT)
COMMIT = {"them/base": "b" * 40}


def manifest(recipe: Recipe = RECIPE, variant: str = "main", folder: Path = Path()) -> dict[str, Any]:
    """The manifest of a variant, of which nothing but its origin is read."""
    record = recipe_record(recipe, Scope(variant=variant, recipe_folder=folder))
    sources = [(name, source) for name, listed in sorted(recipe.data.items()) for source in listed]
    return copy.deepcopy(
        {
            "schema": 1,
            "repo": recipe.repo,
            "variant": variant,
            "base": {"repo": recipe.base.repo, "commit": "b" * 40},
            "data": [
                {"set": name, "repo": source.repo, "commit": f"{number:040x}", "split": source.split}
                for number, (name, source) in enumerate(sources)
            ],
            "stage": recipe.variants[variant].stage,
            "recipe": json.loads(json.dumps(record)),
        }
    )


@pytest.mark.parametrize("variant", list(RECIPE.variants))
def test_the_recipe_is_that_of_the_release_at_its_commits(variant: str, tmp_path: Path) -> None:
    made = recipe_of(manifest(variant=variant), None, tmp_path)
    stage = RECIPE.variants[variant].stage
    assert (made.base.repo, made.base.revision) == (RECIPE.base.repo, "b" * 40) and made.seed == RECIPE.seed
    assert list(made.variants) == [variant] and made.chain(stage) == RECIPE.chain(stage)
    for name in RECIPE.chain(stage):
        then, now = RECIPE.stages[name], made.stages[name]
        assert (now.lora, now.data, now.continues) == (then.lora, then.data, then.continues)
        assert now.args == {**counted_args(then.args), "report_to": "none"}, "nothing is sent to a tracker"
    revisions = [source.revision for name in sorted(made.data) for source in made.data[name]]
    assert revisions == [f"{number:040x}" for number in range(len(revisions))]
    assert made.gates.stop_rate == RECIPE.gates.stop_rate, "the held-out prompts are not trained on"
    assert not made.evaluate.suites and made.space is None and made.sign is None


def test_a_template_of_its_own_is_the_published_one(tmp_path: Path) -> None:
    content = manifest()
    content["recipe"] |= {
        "chat": {"template": "file"},
        "files": {"chat.template": hashlib.sha256(b"{{x}}").hexdigest()},
    }
    made = recipe_of(content, b"{{x}}", tmp_path / "work")
    assert not (tmp_path / "work").exists(), "nothing is written before it is agreed to"
    for _ in range(2):
        write_template(made, b"{{x}}")
        assert Path(made.chat.template).read_bytes() == b"{{x}}"
    Path(made.chat.template).write_bytes(b"mine")
    with pytest.raises(RefusedError, match="is there already and is not the release's"):
        write_template(made, b"{{x}}")
    for other in (None, b"{{y}}"):
        with pytest.raises(RefusedError, match="the published one is not that file"):
            recipe_of(content, other, tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content.pop("recipe"), "has no recipe that could be run again"),
        (lambda content: content.update(recipe=[]), "has no recipe that could be run again"),
        (lambda content: content.update(stage="gone"), "has no recipe that could be run again"),
        (lambda content: content.update(adopted={"name": "x"}), "was trained elsewhere"),
        (lambda content: content.update(data=[]), "does not say at which commits"),
        (lambda content: content["base"].update(repo="no repo"), "cannot be read by this version"),
        (lambda content: content["recipe"]["stages"]["dpo"].update(launch={"processes": 8, "machines": 2}), "machines"),
        (lambda content: content["recipe"]["stages"]["dpo"].update(uses="evil"), "only dpo and sft are run again"),
        (lambda content: content["recipe"]["stages"].update(evil=content["recipe"]["stages"]["dpo"]), "only dpo and"),
        (lambda content: content["recipe"].update(chat={"template": "/etc/x.jinja"}), "that is not published"),
        (lambda content: content["recipe"]["stages"]["dpo"].update(lora={"megatron_core": "evil"}), "megatron_core"),
        (lambda content: content["base"].update(commit="refs/pr/1"), "at which commit the base was read"),
        (lambda content: content["data"][0].update(commit="main"), "at which commit the data"),
    ],
)
def test_what_is_not_enough_is_refused(change: Any, sentence: str, tmp_path: Path) -> None:
    change(content := manifest())
    with pytest.raises(RefusedError, match=sentence) as caught:
        recipe_of(content, None, tmp_path)
    assert caught.value.exit_code == 3 and caught.value.hint


def test_processes_of_one_machine_are_part_of_the_recipe(tmp_path: Path) -> None:
    content = manifest()
    content["recipe"]["stages"]["dpo"]["launch"] = {"processes": 2, "machines": 1, "kind": "ddp"}
    launch = recipe_of(content, None, tmp_path).stages["dpo"].launch
    assert launch is not None and launch.processes == 2


def local(file: Any, commit: str = "a" * 64) -> dict[str, Any]:
    """A manifest whose first set are files of the publisher's machine."""
    content = manifest()
    first = content["data"][0]["set"]
    content["recipe"]["data"][first] = [{"file": file, "revision": "main", "split": "train"}]
    others = [item for item in content["data"] if item["set"] != first]
    content["data"] = [{"set": first, "repo": file, "commit": commit, "split": "train", "local": True}, *others]
    return content


PRIVATE = {
    "report_to": ["trackio", "wandb"],
    "trackio_space_id": "evil/collect",
    "trackio_bucket_id": "evil/collect",
    "hub_token": "x",
    "hub_model_id": "evil/x",
    "output_dir": "x",
    "logging_dir": "x",
    "chat_template_path": "x",
    "run_name": "x",
    "project": "x",
    "deepspeed": "x",
    "accelerator_config": {"x": 1},
    "lr_scheduler_kwargs": "sub/x.json",
    "gradient_checkpointing_kwargs": "x.json",
    "optim_args": "~/x",
    "push_to_hub": True,
    "dataloader_num_workers": 9999,
    "save_steps": 1,
}


@pytest.mark.parametrize("name", PRIVATE)
def test_no_argument_of_a_stranger_names_a_path_a_service_or_a_token(name: str, tmp_path: Path) -> None:
    content = manifest()
    content["recipe"]["stages"]["dpo"]["args"][name] = PRIVATE[name]
    made = recipe_of(content, None, tmp_path).stages["dpo"]
    assert made.args == {**counted_args(RECIPE.stages["dpo"].args), "report_to": "none"}


@pytest.mark.parametrize(
    "file", ["/home/me/*.jsonl", "../../x.jsonl", "a/../../x", "~/x.jsonl", "a.jsonl, /etc/x", ".x"]
)
def test_files_of_a_stranger_are_in_the_folder_of_the_data(file: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="files outside the recipe's folder"):
        recipe_of(local(file), None, tmp_path)


def test_files_are_compared_before_anything_is_trained(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    named = [NamedFile.beside(tmp_path, name) for name in ("a.jsonl", "b.jsonl")]
    content = local("a.jsonl, b.jsonl", data_files.digest(named))
    refuse_other_files(made := recipe_of(content, None, tmp_path), content, tmp_path)
    with pytest.raises(RefusedError, match=r"files of the publisher's machine: a.jsonl, b.jsonl"):
        refuse_other_files(made, content, None)
    (tmp_path / "b.jsonl").write_text("{}")
    with pytest.raises(RefusedError, match="are not those that were trained on"):
        refuse_other_files(made, content, tmp_path)


def test_what_trains_a_strangers_recipe_has_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr(JsonChild, "start", lambda command, environment: given.append(environment))
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    state = ReleaseState(RECIPE, tmp_path, Target("https://hub.example", tmp_path, "hf_mine"), Run(tmp_path), ())
    for sealed in (False, True):
        Worker(state, sealed=sealed)._start()
    assert given[0]["HF_TOKEN"] == "hf_mine" and "HF_HUB_OFFLINE" not in given[0]
    assert "hf_mine" not in given[1].values() and given[1]["HF_HUB_OFFLINE"] == "1"
    assert Path(given[1]["HF_TOKEN_PATH"]).read_bytes() == b"", "nor one that the user's login left in a file"


def digest(letter: str) -> Digests:
    return Digests(1, letter * 64, letter * 40)


def test_the_files_of_the_models_are_compared() -> None:
    released = {
        name: digest("a")
        for name in ("README.md", "config.json", "model.safetensors", "adapter/adapter_config.json", "assets/a.png")
    }
    made = {"config.json": digest("a"), "model.safetensors": digest("b"), "tokenizer.json": digest("a")}
    found = _compared(Path("run"), made, released, (), ())
    assert (found.equal, found.different) == (("config.json",), ("model.safetensors",))
    assert (found.missing, found.extra) == (("adapter/adapter_config.json",), ("tokenizer.json",))
    assert found.not_compared == ("README.md", "assets/a.png") and not found.is_equal
    equal = _compared(Path("run"), {"config.json": digest("a")}, {"config.json": digest("a")}, (), ())
    assert equal.is_equal and not _compared(Path("run"), {}, {"README.md": digest("a")}, (), ()).is_equal


@pytest.mark.parametrize(
    "path",
    ["chat_template.jinja", "generation_config.json", "tokenizer.model", "pytorch_model.bin", "adapter/x.bin", "x.py"],
)
def test_a_file_of_the_model_that_nothing_made_is_missing(path: str) -> None:
    made = {"config.json": digest("a")}
    for listed, foreign in (({path: digest("b")}, ()), ({}, (path,))):
        found = _compared(Path("run"), made, {**made, **listed}, foreign, ())
        assert found.missing == (path,) and not found.is_equal
    added = _compared(Path("run"), made, made, ("x-q8_0.gguf", "assets/b.png"), ())
    assert added.is_equal and added.not_compared == ("assets/b.png", "x-q8_0.gguf")


def test_what_was_not_as_in_the_release_is_named() -> None:
    source = {"repo": "them/pairs", "commit": "d" * 40, "split": "train", "mapping": "pairs", "read": 1, "kept": 1}
    data = PreparedData.parse(
        sample("data.json", sets={"preferences": {"rows": 1, "sources": [{**source, "dropped": {}, "used": 9}]}})
    )
    trained = TrainedAdapter.parse(sample("training.json", stage="dpo", device="CPU", rows=9, steps=10))
    content = {
        "made_by": {"torch": "1.0.0"},
        "merge": {"cpu": "abacus"},
        "recipe": {"seed": 5},
        "data": [{"set": "preferences", "commit": "e" * 40, "rows": 9}],
        "trainings": [{"stage": "dpo", "device": "8 × H200", "rows": 8, "steps": 10, "seconds": 1.0}],
    }
    found = list(_causes(content, RECIPE, data, {"dpo": trained}))
    assert [(item.kind, item.name) for item in found] == [
        ("version", "torch"),
        ("device", "merge: cpu"),
        ("seed", "seed"),
        ("data", "preferences: them/pairs: commit"),
        ("data", "dpo: rows"),
        ("device", "dpo: device"),
    ]
    assert not list(_causes({}, RECIPE, data, {"dpo": trained})), "what is not recorded is no cause"
