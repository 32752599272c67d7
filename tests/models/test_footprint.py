"""The memory of a model, computed from its tensors, compared with what PyTorch and bitsandbytes hold of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import make

from hubkit.core.errors import RefusedError
from hubkit.models import footprint, load


def _held(model: Any) -> int:
    """Bytes of the weights of ``model``, each storage once, with the constants of 4-bit ones; without buffers."""
    found: dict[int, int] = {}

    def add(*tensors: Any) -> None:
        found.update({item.untyped_storage().data_ptr(): item.untyped_storage().nbytes() for item in tensors})

    for parameter in model.parameters():
        add(parameter.data)
        if (state := getattr(parameter, "quant_state", None)) is not None:
            add(state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    return sum(found.values())


@pytest.mark.parametrize("name", ["llama-3-tied", "gpt-2", "mixtral", "phi-3"])
def test_it_is_what_torch_and_bitsandbytes_allocate(name: str, tmp_path: Path) -> None:
    """Tied embeddings, Conv1D, experts that are not quantized, an output layer of its own."""
    import torch

    folder = make(name, tmp_path / "model", dtype="bfloat16")
    made = footprint.footprint(folder)
    model = load.load_model(folder, dtype="bfloat16")
    assert (made.dtype, made.weights) == ("bfloat16", _held(model))
    ids = torch.zeros((1, 40), dtype=torch.long)
    with torch.no_grad():
        kept = model(ids, use_cache=True).past_key_values.layers
    held = sum(footprint._bytes_held(layer) for layer in kept)
    assert footprint._cache((folder / "config.json").read_bytes(), 40) == held > 0
    quantized = load.load_model(folder, dtype=torch.bfloat16, quantization="nf4")
    layers = [layer for layer, module in quantized.named_modules() if type(module).__name__ == "Linear4bit"]
    from hubkit.models import meta

    assert list(footprint.quantized_layers(meta.facts_of((folder / "config.json").read_bytes()))) == layers != []
    assert made.nf4 == _held(quantized)


def test_a_window_ends_the_growth_of_the_cache(tmp_path: Path) -> None:
    config = make("mistral", tmp_path / "model", dtype="bfloat16") / "config.json"
    settings = json.loads(config.read_text())
    one, ten, hundred = (
        footprint._cache(json.dumps({**settings, "sliding_window": 11}).encode(), tokens) for tokens in (1, 10, 100)
    )
    unlimited = footprint._cache(json.dumps({**settings, "sliding_window": None}).encode(), 100)
    assert one and ten and hundred and unlimited
    assert one < ten == hundred < unlimited


def test_an_architecture_that_transformers_lacks_has_the_bytes_of_its_files_alone(tmp_path: Path) -> None:
    folder = make("gpt-2", tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "own-kind"}')
    made = footprint.footprint(folder)
    size = (folder / "model.safetensors").stat().st_size
    assert made.dtype == "float32" and size * 0.9 < made.weights < size
    assert (made.nf4, made.context, made.cache) == (None, None, None)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RefusedError, match="no safetensors weights"):
        footprint.footprint(folder)
