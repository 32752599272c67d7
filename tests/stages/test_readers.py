"""The stage readers: what it leaves of the programs that read a variant, and what is found before anything runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf_steps import RECIPE, context
from kept import perform, sample
from read_models import TOKENS, as_saved

from hubkit.core.errors import HubkitError, RemoteError
from hubkit.core.files import write_json
from hubkit.core.target import Target
from hubkit.models.chat import eos
from hubkit.models.load import load_tokenizer
from hubkit.models.readers import environments
from hubkit.models.readers.made import ReadBy
from hubkit.models.readers.readers import Reader, reader_of
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.runs import Run
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import CheckContext, Scope
from hubkit_stages import readers

TEXT = "".join(line + "\n" for line in RECIPE.splitlines() if not line.startswith("gguf:"))
TEXT = TEXT.replace("max_new_tokens: 8", f"max_new_tokens: {TOKENS}")
QUESTION = '{"messages": [{"role": "user", "content": "What is the capital of France?"}]}\n'


def test_a_recipe_that_asks_for_it_has_the_step_before_the_cards() -> None:
    ids = [job.id for job in expand(parse_recipe(TEXT + "readers: [llama-cpp]\n"))]
    assert ids.index("merge[main]") < ids.index("readers[main]") < ids.index("card[main]")
    assert not [item for item in map(str, expand(parse_recipe(TEXT))) if "readers[" in item]
    for wrong in ("readers: [transformers-3]", "readers: [llama-cpp, llama-cpp]"):
        with pytest.raises(HubkitError, match="readers"):
            parse_recipe(TEXT + wrong + "\n")


def test_what_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant of full weights; llama.cpp has nothing to read, and transformers 4 cannot be installed."""

    def offline(reader: Reader, folder: Path) -> None:
        assert reader.name == "transformers-4", "nothing is installed for what is not run"
        raise RemoteError("The packages could not be installed.", hint="Check the connection.")

    monkeypatch.setenv("HUBKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(environments, "_install_by_pip", offline)
    model = as_saved(tmp_path / "merge" / "model")
    end = eos.find(load_tokenizer(model))
    token: dict[str, Any] = {"token": end.token, "id": end.id, "suffix_ids": []}
    write_json(tmp_path / "base" / "base.json", sample("base.json", end_of_turn=token, repo="me/base"))
    write_json(tmp_path / "data" / "data.json", sample("data.json"))
    (tmp_path / "data" / "prompts.jsonl").write_text(QUESTION * 6)
    write_json(tmp_path / "train" / "training.json", sample("training.json", form="weights"))
    write_json(tmp_path / "merge" / "merge.json", sample("merge.json"))
    names = {"base": "base", "data": "data", "train[sft]": "train", "merge[main]": "merge"}
    asked = parse_recipe(TEXT + "readers: [llama-cpp, transformers-4]\n")
    ctx = context(tmp_path, asked, "readers[main]", {job: tmp_path / name for job, name in names.items()})
    kept = perform(readers, ctx, Run(tmp_path / "run"), "readers[main]")
    found = ReadBy.load(kept.path)
    assert [(cell.reader, cell.form, cell.status) for cell in found.cells] == [
        ("transformers", "adapter", "not run"), ("transformers", "merged", "works"), ("llama-cpp", "gguf", "not run"),
        ("transformers-4", "adapter", "not run"), ("transformers-4", "merged", "not run"),
    ]  # fmt: skip
    assert (found.cells[1].answers, found.cells[1].stopped) == (4, 4)
    assert kept.summary["figure"] == "1 of 1 readings work"
    assert kept.summary["warnings"] == ["transformers-4 was not run: The packages could not be installed."]
    assert found.cells[-1].why == "The packages could not be installed"
    assert ReadBy.parse(found.to_json()) == found


def test_node_and_the_downloads_are_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = parse_recipe(TEXT + "readers: [transformers-js, llama-cpp]\n")
    settings = readers.Settings.of(asked, Scope(tmp_path, variant="main"))
    ctx = CheckContext(settings, Target("http://127.0.0.1:9", tmp_path))
    monkeypatch.setenv("HUBKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    (found,) = readers.check(ctx)
    assert found.level == "warning" and f"625 MB from PyPI or npm into {tmp_path / 'home'}" in found.message
    for name in settings.readers:
        (environments._folder(reader_of(name), tmp_path / "home") / "bin").mkdir(parents=True)
        (environments._folder(reader_of(name), tmp_path / "home") / "bin" / "python").touch()
        (environments._folder(reader_of(name), tmp_path / "home") / "INSTALLED").touch()
    assert list(readers.check(ctx)) == []
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (found,) = readers.check(ctx)
    assert found.level == "error" and "node is not installed" in found.message
    assert list(readers.check(replace(ctx, settings=replace(settings, readers={"llama-cpp": ""})))) == []
