"""What must not pass for "works", and what is no fault of the model: each with a planted fault."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adapters import save_adapter
from read_models import as_published, as_saved, changed, questions

from hubkit.models.readers import in_transformers
from hubkit.models.readers.asking import Places, Report, ask
from hubkit.models.readers.matrix import Model, read_by
from hubkit.models.readers.readers import Reader, reader_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    return as_published(as_saved(root / "saved"), root / "published")


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    return save_adapter(model, model.parent / "adapter", target_modules=["q_proj", "v_proj"], scale=0.5)


def read(folder: Path, adapter: Path | None = None) -> dict[str, Any]:
    asked = questions(max_new_tokens=8)
    return in_transformers.read(
        {
            "model": str(folder), "tokenizer": str(folder), "adapter": str(adapter) if adapter else None, "texts": [],
            "conversations": asked.conversations, "prompts": asked.prompts[:2], "max_new_tokens": 8,
        }
    )  # fmt: skip


def failed(report: dict[str, Any]) -> str:
    assert len(report["failed"]) == 1, report["failed"]
    return " ".join(report["failed"][0].values())


def copied(source: Path, folder: Path, file: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of ``source`` with other tensors in ``file``."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    save_file(change(load_file(folder / file)), folder / file, {"format": "pt"})
    return folder


def test_an_adapter_that_does_nothing_or_is_a_pickle_fails(model: Path, adapter: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    name = "adapter_model.safetensors"
    assert read(model, adapter)["failed"] == []

    elsewhere = copied(adapter, tmp_path / "elsewhere", name, lambda all: {f"x.{key}": all[key] for key in all})
    assert "tensors are not in the file, as base_model.model.model.layers.0" in failed(read(model, elsewhere))

    more = copied(adapter, tmp_path / "more", name, lambda all: all | {"x.lora_A.weight": torch.ones(2)})
    assert "1 of the file's 9 tensors fit nothing in the model, as x.lora_A.weight" in failed(read(model, more))

    pickled = tmp_path / "pickled"
    shutil.copytree(adapter, pickled)
    torch.save(load_file(pickled / name), pickled / "adapter_model.bin")
    (pickled / name).unlink()
    assert "there is no adapter_model.safetensors" in failed(read(model, pickled))


def test_weights_without_a_tensor_fail(model: Path, tmp_path: Path) -> None:
    lost = "model.layers.1.mlp.up_proj.weight"
    fewer = copied(
        model, tmp_path / "fewer", "model.safetensors", lambda all: {key: all[key] for key in all if key != lost}
    )
    assert f"1 tensors are not in the files, as {lost}" in failed(read(fewer))


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    from gguf_models import make

    assert read(make("llama-3-tied", tmp_path / "tied", dtype="float32"))["failed"] == []


def test_penalties_of_the_generation_config_are_not_asked(model: Path, tmp_path: Path) -> None:
    other = changed(
        model, tmp_path / "other", "generation_config.json", repetition_penalty=5.0, no_repeat_ngram_size=1,
        suppress_tokens=[0, 1],
    )  # fmt: skip
    assert read(other)["answers"] == read(model)["answers"]


def script(folder: Path, text: str) -> Reader:
    """The installed transformers, by another script."""
    (folder / "script.py").write_text(text, "utf-8")
    return replace(reader_of("transformers"), script=folder / "script.py")


def asked_by(reader: Reader, folder: Path | None, model: Path) -> Report:
    return ask(reader, folder, Places(model, model), questions(), timeout=60)


def test_a_reader_killed_from_outside_is_not_run(tmp_path: Path) -> None:
    killed = asked_by(script(tmp_path, "import os; os.kill(os.getpid(), 9)"), None, tmp_path)
    assert killed.not_run == "the reader was ended by signal 9; is there enough memory?"
    crashed = asked_by(script(tmp_path, f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})"), None, tmp_path)
    assert crashed.not_run is None and crashed.broke_off == "the reader ended by signal 11"


@pytest.mark.parametrize("name", ["transformers-4", "llama-cpp"])
def test_an_environment_without_its_packages_is_not_run(name: str, tmp_path: Path) -> None:
    folder = tmp_path / f"{name}-0"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(getattr(sys, "_base_executable", sys.executable))
    (folder / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\n", "utf-8")
    found = asked_by(reader_of(name), folder, tmp_path)
    assert found.not_run and found.not_run.startswith("its environment cannot be used: PackageNotFoundError"), found
    assert found.not_run.endswith(f"; remove readers/{name}-0 in hubkit's home")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_a_folder_of_node_without_its_packages_is_not_run(tmp_path: Path) -> None:
    found = asked_by(reader_of("transformers-js"), tmp_path, tmp_path)
    assert found.not_run and "Cannot find module '@huggingface/transformers'" in found.not_run, found


def test_a_package_that_the_model_needs_beside_the_pinned_is_its_fault() -> None:
    def needs(name: str) -> dict[str, Any]:
        report: dict[str, Any] = {"failed": []}

        def load() -> None:
            try:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            except ImportError as error:
                raise RuntimeError("Failed to import") from error

        in_transformers._tried(report, "the tokenizer", load)
        return report

    assert failed(needs("sentencepiece")) == "the tokenizer RuntimeError: Failed to import"
    assert needs("transformers.models.llama") == {"failed": [], "environment": "RuntimeError: Failed to import"}


def test_a_gguf_file_is_known_by_its_type_and_has_the_template(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from hubkit.models.gguf.write import write_gguf

    file = write_gguf(model, tmp_path / "x-F16.gguf", "q8_0").file
    reader = replace(reader_of("llama-cpp"), lock=None)
    reports = [ask(reader, None, Places(file, model), questions(max_new_tokens=2), timeout=60)]
    assert reports[0].content["file_type"] == "7"
    assert reports[0].content["template"] == read(model)["template"]


def test_answers_of_a_file_called_f16_that_is_quantized_are_not_compared(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubkit.models.readers import matrix

    own = read(model)
    others = [{**item, "ids": [7, *item["ids"]]} for item in own["answers"]]

    def reported(reader: Reader, folder: Path | None, places: Places, *rest: Any, **keys: Any) -> Report:
        kind = {"model-F16.gguf": "7", "model-Q8_0.gguf": "1"}.get(places.model.name)
        return Report(own if kind is None else {**own, "file_type": kind, "answers": others})

    monkeypatch.setattr(matrix, "ask", reported)
    monkeypatch.setattr(matrix, "environment", lambda *rest: tmp_path)
    files = (tmp_path / "model-F16.gguf", tmp_path / "model-Q8_0.gguf")
    found = read_by(["llama-cpp"], Model(model, gguf=files), questions(), home=tmp_path, report=lambda text: None)
    quantized, exact = (cell for cell in found.cells if cell.form == "gguf")
    assert quantized.same is None and "answers are others" not in str(quantized.why)
    assert exact.same == 0 and "answers are others" in str(exact.why)
