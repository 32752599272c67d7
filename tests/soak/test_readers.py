"""The readers for real: environments made from the package indexes, and planted incompatibilities, all of them named.

The first run installs about 1 GB under a temporary home and compiles llama-cpp-python, unless pip has kept it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from adapters import save_adapter
from read_models import as_published, as_saved, changed, questions

from hubkit.models.gguf.write import write_gguf
from hubkit.models.merging.readable import adapter_for_all, peft_defaults, tokenizer_for_all
from hubkit.models.readers.comparing import Cell
from hubkit.models.readers.matrix import Model, read_by

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(shutil.which("npm") is None, reason="SKIPPED: install Node 20 or later, with npm"),
]
TRANSFORMERS = ("transformers-4", "transformers-4.36")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers 5 saves it, but for tokenizer.json, whose pairs tokenizers before 0.20 cannot read."""
    folder = as_saved(tmp_path_factory.mktemp("saved") / "model")
    words = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    words["model"]["merges"] = [" ".join(pair) for pair in words["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(words), "utf-8")
    return folder


@pytest.fixture(scope="module")
def published(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_published(saved, tmp_path_factory.mktemp("published") / "model")


def read(home: Path, model: Model, *names: str) -> Mapping[tuple[str, str], Cell]:
    found = read_by(names, model, questions(), home=home, report=lambda text: None)
    return {(cell.reader, cell.form): cell for cell in found.cells}


def test_what_hubkit_writes_works_everywhere(home: Path, saved: Path, published: Path, tmp_path: Path) -> None:
    adapter = save_adapter(saved, tmp_path / "adapter", target_modules=["q_proj", "v_proj"], scale=0.01)
    _as_released(adapter)
    file = write_gguf(published, tmp_path / "model-F16.gguf", "f16").file
    model = Model(published, adapter, published, (file,))
    cells = read(home, model, *TRANSFORMERS, "peft-0.6", "transformers-js", "llama-cpp")
    assert {key: (cell.status, cell.why) for key, cell in cells.items()} == {
        (reader, form): ("works", None)
        for reader, forms in {
            "transformers": ("merged", "adapter"), "transformers-4": ("merged", "adapter"),
            "transformers-4.36": ("merged", "adapter"), "peft-0.6": ("adapter",), "transformers-js": ("tokenizer",),
            "llama-cpp": ("gguf",),
        }.items()
        for form in forms
    }  # fmt: skip
    for (reader, form), cell in cells.items():
        assert form == "tokenizer" or cell.stopped, reader
        assert cell.same is None or reader == "llama-cpp" or cell.same == cell.answers, reader


def test_planted_incompatibilities_are_named(home: Path, saved: Path, published: Path, tmp_path: Path) -> None:
    cells = read(home, Model(saved), *TRANSFORMERS, "transformers-js")
    for reader in TRANSFORMERS:
        assert "Tokenizer class TokenizersBackend does not exist" in str(cells[reader, "merged"].why)
    assert "chat_template is not set" in str(cells["transformers-js", "tokenizer"].why)

    known = tmp_path / "known"
    shutil.copytree(saved, known)
    settings = json.loads((known / "tokenizer_config.json").read_text("utf-8"))
    (known / "tokenizer_config.json").write_text(json.dumps(tokenizer_for_all(settings)), "utf-8")
    cells = read(home, Model(known), *TRANSFORMERS)
    assert "beyond rounding" in str(cells["transformers-4", "merged"].why), "another rotary base"
    assert "chat template" in str(cells["transformers-4.36", "merged"].why), "it is in chat_template.jinja alone"

    tokens = json.loads((published / "tokenizer_config.json").read_text("utf-8"))["additional_special_tokens"]
    listed = changed(
        published, tmp_path / "listed", "tokenizer_config.json", without=["additional_special_tokens"],
        extra_special_tokens=tokens,
    )  # fmt: skip
    cells = read(home, Model(listed), "transformers-4")
    assert "'list' object has no attribute 'keys'" in str(cells["transformers-4", "merged"].why)

    old = changed(published, tmp_path / "old", "config.json", without=["rope_theta", "torch_dtype"])
    cells = read(home, Model(old), *TRANSFORMERS)
    for reader in TRANSFORMERS:
        assert "beyond rounding" in str(cells[reader, "merged"].why)
    assert "torch_dtype of config.json is None to it" in str(cells["transformers-4.36", "merged"].notes)

    unended = changed(published, tmp_path / "unended", "generation_config.json", without=["eos_token_id"])
    cells = read(home, Model(unended), *TRANSFORMERS)
    for reader in ("transformers", *TRANSFORMERS):
        assert "answers do not stop at <|eot_id|>" in str(cells[reader, "merged"].why)


def test_an_adapter_with_a_key_of_another_version(home: Path, published: Path, tmp_path: Path) -> None:
    adapter = save_adapter(published, tmp_path / "adapter", target_modules=["q_proj"], scale=0.01)
    cells = read(home, Model(published, adapter, published), "transformers-4", "peft-0.6")
    assert "unexpected keyword argument" in str(cells["peft-0.6", "adapter"].why)
    _as_released(adapter)
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "key_of_tomorrow": True}), "utf-8")
    cells = read(home, Model(published, adapter, published), "transformers-4", "peft-0.6")
    assert "unexpected keyword argument 'key_of_tomorrow'" in str(cells["peft-0.6", "adapter"].why)
    assert cells["transformers-4", "adapter"].status == "works"
    assert "key_of_tomorrow" in str(cells["transformers-4", "adapter"].notes)


def _as_released(adapter: Path) -> None:
    from peft import LoraConfig

    config = adapter / "adapter_config.json"
    settings = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(adapter_for_all(settings, peft_defaults(LoraConfig))), "utf-8")
