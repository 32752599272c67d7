"""Weights that were trained without an adapter, written in the dtype of a release."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubkit.core.errors import RefusedError, UsageError
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.chat.library import CHATML
from hubkit.models.merging.casting import cast_weights
from hubkit.models.tensors import INDEX, read_weights

END = EndOfTurn("<|im_end|>", 260, (198,))


@pytest.fixture
def folders(make_model: Any, make_tokenizer: Any, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Make a base in bfloat16 and weights in float32 that were trained from it, without a tokenizer."""

    def make(change: float = 0.01, **settings: Any) -> tuple[Path, Path]:
        import torch

        base, weights = tmp_path / "base", tmp_path / "weights"
        model = make_model(**settings).to(torch.bfloat16)
        model.generation_config.eos_token_id = [260, 257]
        model.save_pretrained(base)
        make_tokenizer().save_pretrained(base)
        model = model.float()
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.add_(torch.full_like(parameter, change if number % 2 else 0.0))
        model.config.use_cache, model.config.eos_token_id, model.config.pad_token_id = False, 257, 257
        model.config.output_router_logits = True
        model.save_pretrained(weights)
        (weights / "generation_config.json").unlink()
        return base, weights

    return make


def settings_of(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / name).read_text()))


def test_each_tensor_is_rounded_once_and_the_base_says_the_rest(
    folders: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, weights = folders()
    report = cast_weights(weights, base, tmp_path / "out", chat_template=CHATML, end_of_turn=END, pad_token="<pad>")
    trained = load_file(weights / "model.safetensors")
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert made.keys() == trained.keys()
    assert all(torch.equal(made[name], trained[name].bfloat16()) for name in trained)
    assert report.way == "cast" and 0 < report.changed < report.tensors == len(trained)
    config, generation = (settings_of(tmp_path / "out", name) for name in ("config.json", "generation_config.json"))
    assert (config["use_cache"], config["eos_token_id"], config["pad_token_id"]) == (True, 260, 258)
    assert config["output_router_logits"] is False
    assert (config["dtype"], generation["eos_token_id"]) == ("bfloat16", [260, 257])
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == CHATML
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_shards_are_written_and_counted_like_one_file(
    folders: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    base, weights = folders()
    whole = cast_weights(weights, base, tmp_path / "whole")
    parts = cast_weights(weights, base, tmp_path / "parts", max_shard_bytes=20_000)
    assert (whole.changed, whole.tensors, whole.parameters) == (parts.changed, parts.tensors, parts.parameters)
    assert len(read_weights(tmp_path / "parts")) > 2 and (tmp_path / "parts" / INDEX).is_file()


def test_the_tokenizer_of_the_weights_is_taken_where_they_have_one(
    folders: Callable[..., tuple[Path, Path]], make_tokenizer: Any, tmp_path: Path
) -> None:
    base, weights = folders(vocab_size=264)
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    tokenizer.save_pretrained(weights)
    cast_weights(weights, base, tmp_path / "out", end_of_turn=END)
    assert "<|extra|>" in (tmp_path / "out" / "tokenizer.json").read_text()
    assert settings_of(tmp_path / "out", "config.json")["eos_token_id"] == 260, "the end-of-turn token is added"


def test_a_vocabulary_that_was_made_smaller_is_refused(
    folders: Callable[..., tuple[Path, Path]], make_model: Any, tmp_path: Path
) -> None:
    base, weights = folders()
    model = make_model()
    model.resize_token_embeddings(200)
    model.save_pretrained(weights)
    with pytest.raises(RefusedError, match="has the token id 260, and the model 200 tokens"):
        cast_weights(weights, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("change", "said"), [(0.0, "are those of the base"), (float("nan"), "holds a NaN")])
def test_weights_that_are_no_training_are_refused(
    folders: Callable[..., tuple[Path, Path]], tmp_path: Path, change: float, said: str
) -> None:
    base, weights = folders(change=change)
    with pytest.raises(RefusedError, match=said):
        cast_weights(weights, base, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_folder_that_is_not_empty_is_not_written_to(
    folders: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    base, weights = folders()
    with pytest.raises(UsageError, match="already exists"):
        cast_weights(weights, base, base)
