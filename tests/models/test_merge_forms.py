"""The merge takes what PEFT takes: each form of LoRA on thirteen architectures equals PEFT's merge to one rounding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.adapters import base_of, forms, merged_by_peft, one_rounding, read, save_adapter
from tests.support.architectures import ARCHITECTURES

from hubkit.models.merging.merge import merge

EVERY = [(name, form) for name in ARCHITECTURES for form in forms(name)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bases")


def equal_to_peft(name: str, form: str, bases: Path, folder: Path) -> None:
    import torch

    base = base_of(name, bases)
    adapter = save_adapter(base, folder / "adapter", **forms(name)[form])
    theirs = merged_by_peft(base, adapter, folder / "peft")
    exact, expected = read(theirs), json.loads((theirs / "config.json").read_text())
    report = merge(base, adapter, folder / "float32", dtype="float32")
    ours = read(folder / "float32")
    assert ours.keys() == exact.keys()
    assert one_rounding(ours, exact) == []
    assert report.way == "streamed"
    config = json.loads((folder / "float32" / "config.json").read_text())
    for key in ("vocab_size", "tie_word_embeddings"):
        assert config.get(key, expected.get(key)) == expected.get(key)
    merge(base, adapter, folder / "bfloat16", dtype="bfloat16")
    rounded = read(folder / "bfloat16")
    assert all(torch.equal(rounded[key], value.bfloat16()) for key, value in ours.items())


@pytest.mark.soak
@pytest.mark.parametrize(("name", "form"), EVERY)
def test_every_form_on_every_architecture_equals_pefts_merge(name, form, bases, tmp_path):
    equal_to_peft(name, form, bases, tmp_path)
