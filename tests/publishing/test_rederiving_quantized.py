"""GGUF files in a type of llama.cpp's quantizer, compared with the weights: by their bytes, or by keys and numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf_models import library_quantizer, make

from hubkit.models.gguf import write
from hubkit.models.gguf.write import write_gguf
from hubkit.publishing.rederiving import gguf as rederiving
from hubkit.publishing.rederiving.gguf import gguf_again


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("smollm", tmp_path_factory.mktemp("quantized") / "model")


@pytest.fixture(scope="module")
def file(model: Path) -> Path:
    """The model in Q4_0."""
    return write_gguf(model, model.parent / "x.gguf", "q4_0", name="x", quantizer=library_quantizer()).file


def again(model: Path, file: Path) -> rederiving.GgufAgain:
    return gguf_again(model, file, file.parent, file.name)


def test_with_the_quantizer_that_wrote_it_every_byte_is_compared(
    model: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rederiving, "has_runtime", lambda: True)
    monkeypatch.setattr(write, "runtime", lambda: None)
    monkeypatch.setattr(write, "quantize", library_quantizer())
    assert again(model, file) == rederiving.GgufAgain("x.gguf", "q4_0", file.stat().st_size)

    def rounds_otherwise(*arguments: Any) -> None:
        library_quantizer()(*arguments)
        reader = gguf.GGUFReader(arguments[1], "r+")
        next(item for item in reader.tensors if item.name == "blk.0.ffn_up.weight").data[0, 5] ^= 1
        reader.data.flush()

    monkeypatch.setattr(write, "quantize", rounds_otherwise)
    found = again(model, file)
    assert found.error and 0.05 < found.error < 0.2 and not found.differences and not found.not_compared
    assert sorted(path.name for path in file.parent.iterdir()) == ["model", "x.gguf"]


def test_without_a_quantizer_keys_and_numbers_are(model: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor with other numbers, a changed stop, and the file of another model are found."""
    monkeypatch.setattr(rederiving, "has_runtime", lambda: False)
    found = again(model, file)
    assert found.error and 0.05 < found.error < 0.2 and not found.differences and not found.not_compared

    def spoiled(act: Any) -> rederiving.GgufAgain:
        copy = Path(shutil.copy(file, file.with_name("copy.gguf")))
        reader = gguf.GGUFReader(copy, "r+")
        act(reader)
        reader.data.flush()
        found = again(model, copy)
        copy.unlink()
        return found

    def other_numbers(reader: Any) -> None:
        data = next(item for item in reader.tensors if item.name == "blk.1.attn_q.weight").data
        data[:, 2:] ^= 0xFF

    def other_norm(reader: Any) -> None:
        next(item for item in reader.tensors if item.name == "blk.1.ffn_norm.weight").data[0] += 0.001

    def other_stop(reader: Any) -> None:
        reader.fields["tokenizer.ggml.eot_token_id"].parts[-1][0] = 0

    (difference,) = spoiled(other_numbers).differences
    assert difference.startswith("tensor blk.1.attn_q.weight is ") and "away from the weights, in Q4_0" in difference
    (difference,) = spoiled(other_norm).differences
    assert difference.startswith("tensor blk.1.ffn_norm.weight is ") and difference.endswith("in F32")
    (difference,) = spoiled(other_stop).differences
    assert "the key tokenizer.ggml.eot_token_id has another value" in difference


def test_a_file_that_only_claims_the_type_is_no_way_around(
    model: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other weights in F16, said to be Q4_0."""
    monkeypatch.setattr(rederiving, "has_runtime", lambda: False)
    other = make("smollm", file.parent / "other", initializer_range=0.05)
    try:
        claimed = write_gguf(other, file.parent / "claimed.gguf", "f16", name="x").file
        reader = gguf.GGUFReader(claimed, "r+")
        reader.fields["general.file_type"].parts[-1][0] = 2
        reader.data.flush()
        found = again(model, claimed)
        assert found.kind == "q4_0" and found.error is None and not found.not_compared
        assert "token_embd.weight is" in found.differences[0] and found.differences[0].endswith("in F16")
        claimed.unlink()
    finally:
        shutil.rmtree(other)
