"""Settings written for older readers: what today's transformers and PEFT read of them is what they read before."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from architectures import ARCHITECTURES, make

from hubkit.models.merging.readable import adapter_for_all, config_for_all, peft_defaults, tokenizer_for_all

LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
TWO_KINDS = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {key: LLAMA_3[key] for key in LLAMA_3 if key != "rope_theta"},
    "part": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5},
}
READ_OTHERWISE = [
    "bailing_hybrid",
    "gemma3_text",
    "gemma4",
    "gemma4_text",
    "gpt_neox",
    "laguna",
    "lfm3",
    "llama",
    "mellum",
    "mimo_v2_flash",
    "modernbert-decoder",
    "neomme",
    "qwen2_vl_text",
]
"""Architectures that read an old name in different ways: beside the new one, in its place, or over it."""
ROTARY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"rope_type": "default", "rope_theta": 5e5}, {"rope_theta": 5e5}),
    "linear": (
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    "llama3": (
        LLAMA_3,
        {"rope_theta": 5e5, "rope_scaling": {key: LLAMA_3[key] for key in LLAMA_3 if key != "rope_theta"}},
    ),
    "part of a head": (
        {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
    ),
    "layers that older versions name otherwise": (
        {"compressed": {"rope_type": "default", "rope_theta": 1e6}, "other": {"rope_type": "default"}}, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_settings_have_the_names_of_transformers_4_too(name: str) -> None:
    new, old = ROTARY[name]
    made = config_for_all({"model_type": "llama", "rope_parameters": new})
    assert made == {"model_type": "llama", "rope_parameters": new, **old}
    assert config_for_all(made) == made
    kept = config_for_all({"model_type": "llama", "rope_parameters": new, "rope_theta": 3.0, "rope_scaling": None})
    assert (kept["rope_theta"], kept["rope_scaling"]) == (3.0, None)


def test_two_kinds_of_layers_have_the_names_that_gemma_3_had() -> None:
    made = config_for_all({"model_type": "gemma3_text", "rope_parameters": TWO_KINDS})
    assert (made["rope_theta"], made["rope_local_base_freq"]) == (1e6, 1e4)
    assert made["rope_scaling"] == {"type": "linear", "factor": 8.0}
    for other in ("gemma4_text", "lfm3", "mellum", "llama", "of_no_transformers"):
        given = {"model_type": other, "rope_parameters": TWO_KINDS}
        assert config_for_all(given) == given


def test_gpt_neox_has_names_of_its_own() -> None:
    rope = {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5}
    made = config_for_all({"model_type": "gpt_neox", "rope_parameters": rope})
    assert (made["rotary_emb_base"], made["rotary_pct"], "rope_theta" in made) == (5e5, 0.5, False)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", READ_OTHERWISE)
def test_no_old_name_changes_what_the_installed_transformers_reads(name: str, scaling: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[name]
    config = json.loads(kind().to_json_string(use_diff=False))
    text = config.get("text_config") or config
    rope = text["rope_parameters"]
    for each in [value for value in rope.values() if isinstance(value, dict)][:1] or [rope]:
        each.update(SCALINGS[scaling], rope_theta=777.0)
    made = config_for_all(copy.deepcopy(config))
    before, after = (json.loads(kind.from_dict(each).to_json_string(use_diff=False)) for each in (config, made))
    found, expected = ((each.get("text_config") or each)["rope_parameters"] for each in (after, before))
    assert _without_type(found) == _without_type(expected)
    assert {key: after[key] for key in before if key not in PARTS} == {
        key: before[key] for key in before if key not in PARTS
    }


PARTS = {"rope_parameters", "text_config", "torch_dtype", "dtype"}


def _without_type(rope: Any) -> Any:
    return {k: _without_type(v) for k, v in rope.items() if k != "type"} if isinstance(rope, dict) else rope


def test_a_long_rope_is_written_only_where_its_original_length_stays_known() -> None:
    long = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    old = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    rope = {**long, "original_max_position_embeddings": 128}
    phi = {"model_type": "phi3", "original_max_position_embeddings": 128, "rope_parameters": rope}
    assert config_for_all(phi)["rope_scaling"] == old
    assert "rope_scaling" not in config_for_all({"model_type": "phi3", "rope_parameters": rope})
    assert "rope_scaling" not in config_for_all({**phi, "model_type": "llama"})


def test_the_settings_of_the_text_part_are_written_as_well() -> None:
    rope = {"rope_type": "default", "rope_theta": 7.0}
    made = config_for_all(
        {"model_type": "llava", "dtype": "bfloat16", "text_config": {"model_type": "llama", "rope_parameters": rope}}
    )
    assert made["torch_dtype"] == "bfloat16"
    assert made["text_config"] == {"model_type": "llama", "rope_parameters": rope, "rope_theta": 7.0}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_installed_transformers_reads_the_same_config_and_tokenizer(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    new = make(name, tmp_path / "new")
    old = tmp_path / "old"
    old.mkdir()
    for item in new.iterdir():
        if not item.name.endswith("safetensors"):
            (old / item.name).write_bytes(item.read_bytes())
    _write(old / "config.json", config_for_all(_read(new / "config.json")))
    _write(old / "tokenizer_config.json", tokenizer_for_all(_read(new / "tokenizer_config.json")))
    expected, found = (AutoConfig.from_pretrained(folder).to_dict() for folder in (new, old))
    assert {key: found.get(key) for key in expected if key != "_name_or_path"} == {
        key: expected[key] for key in expected if key != "_name_or_path"
    }
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (new, old))
    text = "<|im_start|>user\nÇa coûte 12 €…<|im_end|>\n"
    assert after(text)["input_ids"] == before(text)["input_ids"]
    assert set(after.all_special_tokens) == set(before.all_special_tokens)
    assert len(after) == len(before)


def test_a_tokenizer_of_transformers_5_gets_the_names_of_transformers_4() -> None:
    new = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>"], "eos_token": "<b>"}
    assert tokenizer_for_all(new) == {
        "tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<a>"], "eos_token": "<b>",
    }  # fmt: skip
    both = {"extra_special_tokens": ["<a>"], "additional_special_tokens": ["<c>"]}
    assert tokenizer_for_all(both) == {"additional_special_tokens": ["<a>"]}
    assert tokenizer_for_all({**both, "extra_special_tokens": []}) == {"additional_special_tokens": ["<c>"]}
    other = {"tokenizer_class": "LlamaTokenizer", "extra_special_tokens": {"image_token": "<i>"}}
    assert tokenizer_for_all(other) == other


@pytest.mark.parametrize("extra", [["<a>", "<b>"], []])
def test_with_both_names_of_special_tokens_the_same_ones_are_special(extra: list[str], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = make("smollm", tmp_path / "new")
    settings = _read(folder / "tokenizer_config.json") | {
        "extra_special_tokens": extra, "additional_special_tokens": ["<c>", "<a>"],
    }  # fmt: skip
    read = []
    for each in (settings, tokenizer_for_all(settings)):
        _write(folder / "tokenizer_config.json", each)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        read.append((tokenizer.all_special_tokens, tokenizer("<a> <b> <c>")["input_ids"]))
    assert read[0] == read[1]


def test_an_adapter_keeps_what_is_not_a_default_and_what_peft_has_always_had() -> None:
    from peft import LoraConfig

    defaults = json.loads(json.dumps(peft_defaults(LoraConfig)))
    saved = {**defaults, "r": 8, "use_rslora": True, "rank_pattern": {"q_proj": 4}, "target_modules": ["q_proj"]}
    made = adapter_for_all({**saved, "key_of_another_version": None}, defaults)
    assert {"peft_type", "r", "lora_alpha", "target_modules", "bias", "lora_dropout"} <= set(made)
    assert (made["use_rslora"], made["rank_pattern"], made["lora_alpha"]) == (True, {"q_proj": 4}, 8)
    assert not {"use_dora", "peft_version", "alora_invocation_tokens", "loftq_config"} & set(made)
    assert "key_of_another_version" in made
    known = {key: value for key, value in made.items() if key not in {"peft_type", "key_of_another_version"}}
    assert LoraConfig(**known).to_dict() == LoraConfig(**{key: saved[key] for key in saved if key in known}).to_dict()


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), "utf-8")
