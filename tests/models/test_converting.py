"""Pickled weights become safetensors in a child with limits; what is more than tensors never runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import hubkit_json
from safetensors.torch import load_file

from hubkit.core.errors import HubkitError, RefusedError
from hubkit.models import converting
from hubkit.models.tensors import read_weights


class Runs:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def quiet(figure: str, share: float) -> None:
    """Show nothing."""


def test_shards_with_shared_tensors(tmp_path: Path) -> None:
    source, out, tensor = tmp_path / "in", tmp_path / "out", torch.arange(6.0).reshape(2, 3)
    source.mkdir()
    torch.save(
        {"embed": tensor, "head": tensor, "half": tensor.bfloat16()}, source / "pytorch_model-00001-of-00002.bin"
    )
    torch.save({"last": tensor.T}, source / "pytorch_model-00002-of-00002.bin")
    (source / "config.json").write_text("{}")
    (source / "training_args.bin").write_bytes(b"\x80\x04.")
    found = hubkit_json("convert", str(source), "-o", str(out), home=tmp_path / "home")
    assert [item["tensors"] for item in found["files"]] == [3, 1]
    assert {path.name for path in out.iterdir()} == {
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }  # fmt: skip
    read = {name: value for path in read_weights(out) for name, value in load_file(path).items()}
    assert torch.equal(read["head"], tensor) and torch.equal(read["last"], tensor.T.contiguous())
    assert read["half"].dtype == torch.bfloat16
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 6 * (4 + 4 + 2 + 4)


def test_what_would_run_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source, mark = tmp_path / "in", tmp_path / "it-ran"
    source.mkdir()
    torch.save({"a": Runs(mark)}, source / "adapter_model.bin")
    with pytest.raises(RefusedError, match=r"adapter_model\.bin was not converted: it holds more than tensors"):
        converting.convert(source, tmp_path / "out", quiet)
    assert not mark.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "out", "sentence"),
    [
        ([], "out", "There are no pickled weights in"),
        (["adapter_model.bin"], "full", "is there already and is not empty."),
        (None, "out", "There is no folder"),
    ],
)
def test_what_cannot_be_converted(names: list[str] | None, out: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    if names is not None:
        (tmp_path / "in").mkdir()
        for name in names:
            (tmp_path / "in" / name).write_bytes(b"x")
    with pytest.raises(HubkitError) as error:
        converting.convert(tmp_path / "in", tmp_path / out, quiet)
    assert sentence in error.value.message and (tmp_path / "full" / "x").exists()
