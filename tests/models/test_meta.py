"""The model of a base on the meta device: what config.json and a LoRA config say before any weight is read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from architectures import ARCHITECTURES, make_config
from torch.nn import Module

from hubkit.core.errors import RefusedError
from hubkit.models import meta
from hubkit.models.facts import AdapterFacts, ModelFacts


def config_of(name: str, **changes: Any) -> bytes:
    settings = make_config(name, 400, bos=1, eos=2, pad=0).to_dict()
    return json.dumps({**settings, **changes}).encode()


def built(name: str, lora: dict[str, Any]) -> tuple[ModelFacts, AdapterFacts]:
    config = config_of(name)
    return meta.facts_of(config), meta.resolve(config, lora)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_facts_are_those_of_the_model_with_weights(name: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    facts, adapter = built(name, {"r": 2, "target_modules": "all-linear"})
    real: Module = AutoModelForCausalLM.from_config(make_config(name, 400, bos=1, eos=2, pad=0))
    assert facts.count == sum(item.numel() for item in real.parameters())
    assert dict(facts.parameters) == {key: tuple(item.shape) for key, item in real.named_parameters()}
    assert (facts.layers, facts.hidden, facts.vocabulary, facts.heads) == (2, 32, 400, 4)
    trained = get_peft_model(real, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    assert adapter.trainable == trained.get_nb_trainable_parameters()[0] > 0
    assert not adapter.unmatched and not [item for item in adapter.warnings if "Conv1D" not in item]


def test_experts_are_targeted_as_parameters_and_count_by_their_share() -> None:
    facts, adapter = built("mixtral", {"r": 2, "target_modules": "all-linear"})
    kinds = {item.parameter: item.kind for item in adapter.targets if item.module.endswith("experts")}
    assert kinds == {"gate_up_proj": "parameter", "down_proj": "parameter"}
    assert {item.rank for item in adapter.targets if item.parameter == "gate_up_proj"} == {4}
    experts = sum(math.prod(shape) for name, shape in facts.parameters.items() if "experts" in name)
    assert facts.count_in_experts == experts and facts.active == facts.count - experts // 2


def test_tied_embeddings_conv1d_and_modules_to_save_are_told_apart() -> None:
    facts, adapter = built("llama-3-tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]})
    assert facts.tied == {"lm_head.weight": "model.embed_tokens.weight"} and facts.ties_embeddings
    assert adapter.in_full == ("model.embed_tokens.weight",)
    assert any("tie_word_embeddings" in item for item in adapter.warnings)
    _, adapter = built("gpt-2", {"target_modules": ["c_attn"]})
    assert {item.kind for item in adapter.targets} == {"conv1d"}
    assert adapter.settings["fan_in_fan_out"] is True


@pytest.mark.parametrize(
    ("name", "lora", "unmatched"),
    [
        ("llama-3", {"target_modules": ["q_proj", "q_prj"]}, ("target_modules: q_prj",)),
        ("llama-3", {"target_modules": ["q_proj"], "modules_to_save": ["lm_haed"]}, ("modules_to_save: lm_haed",)),
        ("mixtral", {"target_modules": ["w1", "w3", "q_proj"]}, ()),
        ("mixtral", {"target_parameters": ["down_proj", "up_proj"]}, ("target_parameters: up_proj",)),
    ],
)
def test_entries_that_match_nothing_are_listed(name: str, lora: dict[str, Any], unmatched: tuple[str, ...]) -> None:
    assert built(name, lora)[1].unmatched == unmatched


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"target_modules": ["q_prj"]}, "Target modules {'q_prj'} not found"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [9]}, "layers_to_transform"),
        ({"target_modules": ["q_proj"], "r": 0}, "`r` should be a positive integer"),
    ],
)
def test_what_peft_refuses_is_refused_in_its_words(lora: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        meta.resolve(config_of("llama-3"), lora)


@pytest.mark.parametrize("start", ["pissa", "olora", "orthogonal", "gaussian"])
def test_how_an_adapter_starts_does_not_change_what_is_trained(start: str) -> None:
    one = meta.resolve(config_of("llama-3"), {"target_modules": "all-linear"})
    other = meta.resolve(config_of("llama-3"), {"target_modules": "all-linear", "init_lora_weights": start})
    assert one.trained == other.trained and other.settings["init_lora_weights"] == start


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (b"{", "config.json is not valid JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "has no model_type"),
        (b'{"model_type": "nix"}', "does not know the base's model type 'nix'"),
        (b'{"model_type": "nix", "auto_map": {"AutoConfig": "c.C"}}', "needs code from its own repo"),
        (b'{"model_type": "gemma3"}', "a multimodal model (gemma3 with vision)"),
        (b'{"model_type": "qwen3_vl"}', "a multimodal model (qwen3_vl with vision)"),
        (b'{"model_type": "t5"}', "not a causal language model: its type is 't5'"),
        (b'{"model_type": "llama", "num_hidden_layers": 100000}', "has num_hidden_layers: 100000"),
        (b'{"model_type": "llama", "hidden_size": "x"}', "cannot build the base from its config.json"),
    ],
)
def test_what_is_no_base_is_refused_in_a_sentence(config: bytes, sentence: str) -> None:
    with pytest.raises(RefusedError) as refused:
        meta.facts_of(config)
    assert sentence in refused.value.message and refused.value.hint


def test_problems_have_the_names_of_their_stages() -> None:
    loras: dict[str, dict[str, Any]] = {"dpo": {"target_modules": "all-linear"}, "sft": {"target_modules": ["no"]}}
    answer = meta.look(config_of("qwen3"), loras)
    assert list(answer.adapters) == ["dpo"] and list(answer.problems) == ["sft"]
