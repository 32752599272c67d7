"""The tiny models of the tests behave as the real ones do: they load, answer, and their templates do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import ARCHITECTURES, make

from hubkit.models.tensors import read_weights

ASKED = [{"role": "user", "content": " What is the capital of France? "}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "Paris."}]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_is_an_ordinary_checkpoint(tmp_path: Path, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, what = make(name, tmp_path / "m"), ARCHITECTURES[name]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(ANSWERED, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids(what.turn_end)
    assert ids.count(end) == text.count(what.turn_end) and end in ids[-2:]
    assert tokenizer.decode(ids) == text
    prompt = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.inference_mode():
        answer = model.generate(**prompt, max_new_tokens=4, do_sample=False, pad_token_id=end)
    assert answer.shape[1] > prompt["input_ids"].shape[1]
    assert sum(len(header.tensors) for header in read_weights(folder).values()) > 10
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == model.config.tie_word_embeddings


@pytest.mark.parametrize("name", ["gpt-2", "mixtral", "qwen3-moe"])
def test_each_is_read_in_the_next_wider_dtype(tmp_path: Path, name: str) -> None:
    """Fused experts have no product in float64: a release in float32 ended there, after its training."""
    from hubkit.models.chat.form_agreement import Predictions, predict, predict_wider
    from hubkit.models.load import load_model

    model, texts = load_model(make(name, tmp_path / "m")), [[5, 6, 7, 8]]
    narrow, wide = predict(model, texts), predict_wider(model, texts)
    assert isinstance(wide, Predictions) and wide.dtype == "float64"
    assert narrow.against(wide).max_difference < 1e-4
