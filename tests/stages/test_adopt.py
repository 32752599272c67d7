"""The stage `adopt`: what it takes, what it writes, and what it refuses before anything is uploaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adopting import BASE, UNSLOTH, Adopting, named, rewrite
from kept import sample
from safetensors.torch import load_file, save_file

from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.findings import Finding
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.base import PinnedBase
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import CheckContext, Context, Scope
from hubkit.server import process
from hubkit.training.adapter import TrainedAdapter
from hubkit_stages import adopt

RECIPE = """
repo: me/mine
visibility: public
license: apache-2.0
base: {{repo: hubkit/base, dtype: float32}}
stages:
  mine: {{uses: adopt, {stage}}}
variants: {{main: {{stage: mine, gate: report}}}}
evaluate: {{suites: []}}
gates: {{stop_rate: {{prompts: 4, max_new_tokens: 8}}}}
card: {{title: Mine}}
"""


@pytest.fixture(scope="module")
def adopting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adopting]:
    folder = tmp_path_factory.mktemp("adopting")
    running = process.start(folder / "hub")
    try:
        yield Adopting(folder, Target(running.url, folder / "hf", running.token, embedded=True)).start()
    finally:
        process.stop(folder / "hub")


def settings(adopting: Adopting, stage: str) -> adopt.Settings:
    recipe = parse_recipe(RECIPE.format(stage=stage))
    return adopt.Settings.of(recipe, Scope(adopting.folder, training="mine"))


def findings(adopting: Adopting, stage: str) -> list[Finding]:
    made = settings(adopting, stage)
    return list(adopt.check(CheckContext(made, adopting.target, base=adopting.base_repo)))


def run(adopting: Adopting, stage: str, out: Path) -> TrainedAdapter:
    assert findings(adopting, stage) == []
    commit = connect(adopting.target).resolve(BASE, "main")
    base = out.parent / f"{out.name}-base"
    base.mkdir()
    for name in ("chat_template.jinja", "training_template.jinja"):
        (base / name).write_text((adopting.base / "chat_template.jinja").read_text())
    pinned = PinnedBase.parse(sample("base.json", repo=BASE, commit=commit), base)
    out.mkdir()
    ctx = Context(
        settings(adopting, stage), adopt.Inputs(pinned, None, None), adopting.target, out, out.parent / "scratch"
    )
    made = adopt.run(ctx)
    assert made.warnings == ()
    made.artifact.save(out)
    return TrainedAdapter.load(out)


def published(made: TrainedAdapter) -> dict[str, Any]:
    return dict(json.loads((made.weights / "adapter_config.json").read_text()))


def test_a_peft_folder_names_the_repo_and_commit_of_the_base(adopting: Adopting, tmp_path: Path) -> None:
    made = run(adopting, "adapter: plain", tmp_path / "out")
    commit = connect(adopting.target).resolve(BASE, "main")
    config = published(made)
    assert (config["base_model_name_or_path"], config["revision"]) == (BASE, commit)
    assert {path.name for path in made.weights.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert (made.form, made.origin["name"], made.origin["base_by"]) == ("adapter", "plain", "config")
    assert made.lora["r"] == 4 and made.quantization == "none" and made.seen() is None and made.steps is None
    adopted, given = (
        load_file(path / "adapter_model.safetensors") for path in (made.weights, adopting.folder / "plain")
    )
    assert all((adopted[name] == given[name]).all() for name in given) and adopted.keys() == given.keys()


def test_what_unsloth_leaves_is_taken_when_the_person_says_which_base_it_is(adopting: Adopting, tmp_path: Path) -> None:
    adopting.unsloth("unsloth")
    (refused,) = findings(adopting, "adapter: unsloth")
    assert refused.exit_code == 3
    assert refused.message == (
        f"stages.mine.adapter: The adapter's config names the base {UNSLOTH}:"
        " a 4-bit copy, whose files cannot be compared."
    )
    assert refused.hint == f"If it is {BASE}, say so in the recipe: stages.mine.base: {UNSLOTH}"
    made = run(adopting, f"adapter: unsloth, base: {UNSLOTH}, quantization: nf4", tmp_path / "out")
    assert (made.origin["base_name"], made.origin["base_by"]) == (UNSLOTH, "stated")
    assert published(made)["base_model_name_or_path"] == BASE and "auto_mapping" not in published(made)


def test_what_axolotl_leaves_names_a_folder_that_is_proved_by_digests(adopting: Adopting, tmp_path: Path) -> None:
    adopting.axolotl("axolotl")
    training = "[axolotl/checkpoint-40/trainer_state.json, axolotl.yaml]"
    stage = f"adapter: axolotl, trained_with: axolotl 0.9, training: {training}"
    made = run(adopting, stage, tmp_path / "out")
    assert (made.origin["base_name"], made.origin["base_by"]) == ("base", "digests")
    state, yaml = made.reported["files"]
    assert made.reported["trained_with"] == "axolotl 0.9"
    assert state["values"] == {
        "steps": 40, "epochs": 2.0, "seconds": 62.5, "train_loss": 1.25, "first_loss": 1.75, "last_loss": 0.8125,
    }  # fmt: skip
    assert yaml["settings"]["learning_rate"] == 2e-4 and yaml["settings"]["lora_r"] == 4
    assert "/home/someone" not in json.dumps(made.to_json()) and str(adopting.folder) not in json.dumps(made.to_json())
    assert (made.steps, made.seconds, made.curve) == (None, None, ()), "what is reported is not measured"


def test_of_a_trainers_folder_the_last_checkpoint_is_taken(adopting: Adopting, tmp_path: Path) -> None:
    out = adopting.folder / "run"
    for step in (9, 40, 120):
        adopting.copy(f"run/checkpoint-{step}")
    rewrite(out / "checkpoint-120" / "adapter_config.json", lora_alpha=16)
    made = run(adopting, "adapter: run", tmp_path / "out")
    assert (made.origin["name"], made.origin["file"], made.lora["lora_alpha"]) == ("run", "checkpoint-120", 16)


def test_a_repo_at_a_revision(adopting: Adopting, tmp_path: Path) -> None:
    adopting.upload("them/adapter", adopting.unsloth("for-the-hub"))
    stage = f"adapter: them/adapter@main, base: {UNSLOTH}"
    made = run(adopting, stage, tmp_path / "out")
    head = connect(adopting.target).resolve("them/adapter", "main")
    assert (made.origin["name"], made.origin["commit"]) == ("them/adapter@main", head)
    ctx: Any = Context(settings(adopting, stage), None, adopting.target, tmp_path, tmp_path)
    assert adopt.outdated(ctx, made) is None
    assert "is now at" in str(adopt.outdated(ctx, replace(made, origin={**made.origin, "commit": "0" * 40})))


def test_the_adapter_of_a_release_of_hubkit_is_in_a_folder_of_its_own(adopting: Adopting, tmp_path: Path) -> None:
    adopting.copy("released/adapter")
    for file in ("config.json", "model.safetensors"):
        (adopting.folder / "released" / file).write_bytes((adopting.base / file).read_bytes())
    adopting.upload("them/released", adopting.folder / "released")
    for name, stage in (("here", "released"), ("there", "them/released@main")):
        made = run(adopting, f"adapter: {stage}", tmp_path / name)
        assert (made.form, made.origin["file"], made.lora["r"]) == ("adapter", "adapter", 4)


def test_weights_of_a_whole_model(adopting: Adopting, tmp_path: Path) -> None:
    made = run(adopting, "weights: base", tmp_path / "out")
    assert made.form == "weights" and made.weights == tmp_path / "out" / "weights"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in made.weights.iterdir()}
    assert "README.md" not in {path.name for path in made.weights.iterdir()}


def _pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _nan(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def _other_shape(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def _truncated(folder: Path) -> None:
    body = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(body[:-8])


def _missing_half(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors[next(name for name in tensors if "lora_B" in name)]
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def _pointer(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )


def _pickled_inside(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 64)


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickle": (_pickle, "adapter_model.bin, a pickle, which can run code when it is loaded."),
    "pickled-inside": (_pickled_inside, "is a zip archive, the format in which torch saves pickles"),
    "nan": (_nan, "NaN"),
    "other-shape": (_other_shape, "has the shape"),
    "truncated": (_truncated, "adapter_model.safetensors"),
    "missing-half": (_missing_half, "The adapter has only lora_A.weight for"),
    "pointer": (_pointer, "is a git-lfs pointer, not the file."),
    "other-base": (
        lambda folder: named(folder, "them/other"),
        "The adapter was trained on them/other, and the base of the recipe is hubkit/base.",
    ),
    "local-gone": (
        lambda folder: named(folder, "/home/someone/models/base"),
        "The adapter's config names the base base: a folder that is not here.",
    ),
    "dora-unknown": (
        lambda folder: rewrite(folder / "adapter_config.json", use_qalora=True),
        "This adapter cannot be merged here",
    ),
    "other-rank": (lambda folder: rewrite(folder / "adapter_config.json", r=8), "not rank 8"),
    "not-json": (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not valid JSON"),
    "whole-model": (
        lambda folder: (folder / "adapter_config.json").rename(folder / "config.json"),
        "holds no adapter_config.json.",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_tampered_or_mismatched_adapter_is_refused_in_a_sentence(adopting: Adopting, name: str) -> None:
    change, sentence = CHANGES[name]
    change(adopting.copy(name))
    (found,) = findings(adopting, f"adapter: {name}")
    assert found.level == "error" and sentence in found.message and found.message.startswith("stages.mine.adapter: ")
    assert found.hint and found.exit_code in {2, 3}


def test_another_commit_of_the_base_is_refused(adopting: Adopting) -> None:
    folder = adopting.copy("other-commit")
    rewrite(folder / "adapter_config.json", revision="1" * 40)
    (found,) = findings(adopting, "adapter: other-commit")
    assert found.hint == f"Set base.revision to {'1' * 40}." and "at 111111111111" in found.message


def test_a_mirror_with_the_same_weights_is_proved(adopting: Adopting, tmp_path: Path) -> None:
    adopting.upload("mirror/base", adopting.base)
    named(adopting.copy("of-a-mirror"), "mirror/base")
    assert run(adopting, "adapter: of-a-mirror", tmp_path / "out").origin["base_by"] == "digests"


def test_weights_of_another_model_are_refused(adopting: Adopting) -> None:
    from architectures import make

    make("qwen2", adopting.folder / "qwen")
    (found,) = findings(adopting, "weights: qwen")
    assert found.message == "stages.mine.weights: The model in qwen is a qwen2, the base a llama."


def test_files_that_change_after_the_check_are_refused_when_it_runs(adopting: Adopting, tmp_path: Path) -> None:
    adopting.copy("changes")
    made = settings(adopting, "adapter: changes")
    _nan(adopting.folder / "changes")
    commit = connect(adopting.target).resolve(BASE, "main")
    base = PinnedBase.parse(sample("base.json", repo=BASE, commit=commit), tmp_path)
    (tmp_path / "out").mkdir()
    ctx = Context(made, adopt.Inputs(base, None, None), adopting.target, tmp_path / "out", tmp_path)
    with pytest.raises(RefusedError, match="NaN"):
        adopt.run(ctx)


def test_the_digest_counts_and_the_folder_does_not(adopting: Adopting) -> None:
    one, other = (settings(adopting, f"adapter: {adopting.copy(name).name}") for name in ("one", "two"))
    assert isinstance(one.source, adopt.NamedFile) and isinstance(other.source, adopt.NamedFile)
    assert one.source.digest == other.source.digest != ""
    (adopting.folder / "one" / "optimizer.pt").write_bytes(b"x")
    assert settings(adopting, "adapter: one").source == one.source
    rewrite(adopting.folder / "one" / "adapter_config.json", lora_alpha=9)
    assert settings(adopting, "adapter: one").source != one.source


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ("adapter: nowhere", "nowhere does not exist."),
        ("adapter: plain, training: nothing.json", "There is no file"),
        ("adapter: hubkit/none@main", "hubkit/none"),
    ],
)
def test_what_is_not_there(adopting: Adopting, stage: str, sentence: str) -> None:
    (found,) = findings(adopting, stage)
    assert sentence in found.message and found.message.startswith("stages.mine.")


@pytest.mark.parametrize(
    ("stage", "problem"),
    [
        ("data: rows", "needs one of `adapter` and `weights`"),
        ("adapter: a, weights: b", "needs one of `adapter` and `weights`"),
        ("adapter: a, args: {max_steps: 1}", "nothing is trained in this stage"),
        ("weights: a, base: b", "only an adapter names its base"),
    ],
)
def test_keys_that_do_not_go_together(stage: str, problem: str) -> None:
    with pytest.raises(HubkitError, match=r"stages\.mine") as error:
        parse_recipe(RECIPE.format(stage=stage))
    assert problem in error.value.message


def test_a_stage_that_trains_has_no_adapter() -> None:
    text = RECIPE.format(stage="adapter: a").replace("uses: adopt", "uses: sft, data: rows")
    with pytest.raises(HubkitError, match="only a stage with `uses: adopt` has this key"):
        parse_recipe(text)
