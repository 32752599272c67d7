"""Adapters as PEFT makes and saves them, of every form, with random numbers; and what PEFT itself merges them to."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from architectures import make

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTENTION = {
    "phi-3": "qkv_proj",
    "pythia": "query_key_value",
    "falcon": "query_key_value",
    "gpt-2": "c_attn",
}
"""A linear layer of the attention, where it is not ``q_proj``."""
OUTPUT = {"phi-3": "down_proj", "pythia": "dense_4h_to_h", "falcon": "dense_4h_to_h", "gpt-2": "c_proj"}
EMBEDDING = {"pythia": "embed_in", "falcon": "word_embeddings", "gpt-2": "wte"}
NORM = {"pythia": "final_layer_norm", "falcon": "ln_f", "gpt-2": "ln_f"}
MIXTURES = ("mixtral", "qwen3-moe")
TIED = ("llama-3-tied", "qwen3", "gemma-2", "gemma-3", "smollm", "falcon", "gpt-2")
BIASED = ("qwen2", "pythia", "gpt-2")


def forms(name: str) -> dict[str, dict[str, Any]]:
    """The adapters that are mergeable into the architecture ``name``: keys of LoraConfig by the form's name.

    Keys that begin with ``_`` tell :func:`save_adapter` what else to do.
    """
    one, two = ATTENTION.get(name, "q_proj"), OUTPUT.get(name, "o_proj" if name in MIXTURES else "down_proj")
    embedding, norm = EMBEDDING.get(name, "embed_tokens"), NORM.get(name, "norm")
    both = {"target_modules": [one, two]}
    made: dict[str, dict[str, Any]] = {
        "lora": {**both},
        "rslora": {**both, "use_rslora": True, "r": 3, "lora_alpha": 5},
        "patterns": {**both, "rank_pattern": {one: 2}, "alpha_pattern": {rf"1\..*{two}": 32}},
        "some layers": {**both, "layers_to_transform": [1]},
        "a regular expression": {"target_modules": rf".*1.*\.{one}"},
        "all-linear": {"target_modules": "all-linear"},
        "dora": {**both, "use_dora": True},
        "dora, rslora": {**both, "use_dora": True, "use_rslora": True, "rank_pattern": {two: 5}},
        "gaussian": {**both, "init_lora_weights": "gaussian"},
        "orthogonal": {**both, "init_lora_weights": "orthogonal"},
        "eva": {**both, "init_lora_weights": "eva", "rank_pattern": {one: 6}},
        "mica": {**both, "init_lora_weights": "mica"},
        "pissa": {**both, "init_lora_weights": "pissa", "_converted": True},
        "pissa, rslora": {**both, "init_lora_weights": "pissa_niter_4", "use_rslora": True, "_converted": True},
        "bias: all": {**both, "bias": "all"},
        "bias: lora_only": {**both, "bias": "lora_only"},
        "a norm saved": {**both, "modules_to_save": [norm]},
        "the head saved": {**both, "modules_to_save": ["lm_head"]},
        "the embedding saved": {**both, "modules_to_save": [embedding]},
        "both saved": {**both, "modules_to_save": [embedding, "lm_head"]},
        "tokens": {**both, "trainable_token_indices": {embedding: [1, 5, 300]}},
        "resized": {**both, "_resized": 7},
        "resized, saved": {**both, "_resized": 7, "modules_to_save": [embedding, "lm_head"]},
        "resized, tokens": {**both, "_resized": 7, "trainable_token_indices": {embedding: [2, 320]}},
    }
    if name in {"gpt-2", "pythia"}:
        made["lora_bias"] = {**both, "lora_bias": True}
        made["lora_bias, bias: all"] = {**both, "lora_bias": True, "bias": "all"}
    if name != "gpt-2":
        made["olora"] = {**both, "init_lora_weights": "olora", "_converted": True}
    if name in TIED:
        made["tied and saved"] = {**both, "modules_to_save": [embedding], "ensure_weight_tying": True}
    else:
        made["lora on the embedding"] = {"target_modules": [one, embedding]}
        made["lora on the head"] = {"target_modules": [one, "lm_head"]}
        made["dora on the embedding"] = {"target_modules": [one, embedding], "use_dora": True}
        made["lora on a resized embedding"] = {"target_modules": [one, embedding, "lm_head"], "_resized": 5}
        made["tokens of both"] = {**both, "trainable_token_indices": {embedding: [1, 7], "lm_head": [2]}}
    if name in MIXTURES:
        made["experts"] = {**both, "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
        made["one parameter of experts"] = {**both, "target_parameters": ["experts.down_proj"], "r": 2}
        made["gate"] = {**both, "target_parameters": ["gate.weight"], "use_rslora": True}
    return made


def save_adapter(base: Path, folder: Path, *, seed: int = 1, scale: float = 0.1, **lora: Any) -> Path:
    """An adapter on ``base`` whose trained numbers are random, as PEFT saves it into ``folder``."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {key: value for key, value in lora.items() if not key.startswith("_")}
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(base)
        if more := lora.get("_resized"):
            model.resize_token_embeddings(model.get_input_embeddings().weight.shape[0] + more)
        torch.manual_seed(seed)
        given = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **settings}
        peft = get_peft_model(model, LoraConfig(**given))
        start = folder / "start"
        if lora.get("_converted"):
            kind = peft.peft_config["default"].init_lora_weights
            peft.peft_config["default"].init_lora_weights = True
            peft.save_pretrained(start)
            peft.peft_config["default"].init_lora_weights = kind
        with torch.no_grad():
            for parameter in peft.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * scale)
        peft.save_pretrained(
            folder, path_initial_model_for_weight_conversion=str(start) if lora.get("_converted") else None
        )
    return folder


def merged_by_peft(base: Path, adapter: Path, folder: Path) -> Path:
    """What PEFT's merge_and_unload makes of the two in float32, saved into ``folder``."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if rows := resized(base, adapter):
            model.resize_token_embeddings(rows, mean_resizing=False)
        PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    return folder


def resized(base: Path, adapter: Path) -> int | None:
    """The tokens of the adapter's embedding where they are not as many as the base's."""
    from hubkit.models.tensors import read_header

    tokens = json.loads((base / "config.json").read_text())["vocab_size"]
    for name, tensor in read_header(adapter / "adapter_model.safetensors").tensors.items():
        ends = ("embed_tokens.", "embed_in.", "word_embeddings.", "wte.", "lm_head.")
        if any(f".{end}" in name for end in ends) and name.endswith(".weight") and ".lora_" not in name:
            return tensor.shape[0] if tensor.shape[0] != tokens else None
    return None


def read(folder: Path) -> dict[str, Any]:
    """All the tensors of a model."""
    from safetensors.torch import load_file

    from hubkit.models.tensors import read_weights

    return {name: value for path in read_weights(folder) for name, value in load_file(path).items()}


def base_of(name: str, folder: Path) -> Path:
    """The checkpoint of the architecture ``name`` in ``folder``, made once. Norms and biases are no round numbers."""
    import torch
    from safetensors.torch import load_file, save_file

    made = folder / name
    if not made.exists():
        with quiet():
            make(name, made)
        tensors = load_file(made / "model.safetensors")
        torch.manual_seed(7)
        moved = {key: value + torch.randn_like(value) * 0.05 for key, value in tensors.items()}
        save_file(moved, made / "model.safetensors", {"format": "pt"})
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """PEFT warns about embeddings, unmatched patterns and much else that the tests mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def one_rounding(ours: Mapping[str, Any], exact: Mapping[str, Any]) -> list[str]:
    """The names of tensors in ``ours`` that are not ``exact`` (float32) rounded once to their dtype.

    Two float32 sums in another order may round to neighbors: one step of the dtype is allowed.
    """
    import torch

    wrong = []
    for name, value in ours.items():
        step = torch.finfo(value.dtype).eps
        room = exact[name].float().abs() * step + 2e-6 * max(1.0, float(exact[name].abs().max()))
        if value.shape != exact[name].shape or bool(((value.float() - exact[name].float()).abs() > room).any()):
            wrong.append(name)
    return wrong
