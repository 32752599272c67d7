"""The merge by PEFT itself, for changes that are not made of one tensor of the base: all in memory, in float32.

PEFT's result is not believed: on a few tokens, the merged model must compute what the adapter on the base computes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.models.merging.adapter import Adapter
from hubkit.models.merging.changes import Change, ReplacedTensor
from hubkit.models.merging.checkpoint_names import layout
from hubkit.models.merging.resolution import PREFIX
from hubkit.models.tensors import Tensor, read_header

_FILE = "merged.safetensors"
_TOKENS = 16
_FAR = 1e-3
"""The largest difference of logits, as a share of the largest logit: float32 sums in another order differ by 1e-6."""


def fit_by_peft(adapter: Adapter, base: Path, tensors: Mapping[str, Tensor], scratch: Path, reason: str) -> Adapter:
    """``adapter`` merged into the model in ``base`` by PEFT; its changes replace the tensors that PEFT changed.

    They are written into ``scratch`` in float32. ``tensors``: the base's by name; ``reason``: what is not local.
    RefusedError when PEFT cannot merge it (which tells ``reason``), or merges it to another model.
    """
    from safetensors.torch import save_file

    merged = _merged(adapter, base, reason)
    found = _in_checkpoint(merged, {name: item.shape for name, item in tensors.items()})
    changed = {name: value for name, value in found.items() if name not in tensors or _differs(base, name, value)}
    if not changed:
        raise RefusedError("The adapter changes nothing: PEFT's merged model equals the base.")
    scratch.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in changed.items()}, scratch / _FILE, {"format": "pt"})
    changes: dict[str, Change] = {}
    for name, value in changed.items():
        shape = tuple(value.shape)
        origin = None if name in tensors else next(key for key, item in tensors.items() if item.shape == shape)
        changes[name] = ReplacedTensor(name.rpartition(".")[0], name, shape, origin, expected=False)
    config = {}
    if merged.config.get_text_config().vocab_size != _vocabulary(base):
        config["vocab_size"] = merged.config.get_text_config().vocab_size
    if any(name not in tensors for name in changed):
        config["tie_word_embeddings"] = False
    header = read_header(scratch / _FILE)
    return replace(
        adapter, folder=scratch, file=_FILE, header=header, changes=changes, config=config, way="peft", reason=reason
    )


def _merged(adapter: Adapter, base: Path, reason: str) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)
        rows = _rows(adapter)
        if rows and rows != model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(rows, mean_resizing=False)
        try:
            wrapped = PeftModel.from_pretrained(model, adapter.folder).eval()
            tokens = torch.arange(3, 3 + _TOKENS)[None] % model.get_input_embeddings().weight.shape[0]
            before = wrapped(input_ids=tokens).logits
            merged = wrapped.merge_and_unload(safe_merge=True)
            after = merged(input_ids=tokens).logits
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError) as error:
            words = " ".join(str(error).split())[:300].rstrip(". ")
            raise RefusedError(
                f"This adapter cannot be merged tensor by tensor ({reason}), nor by PEFT: {words}.",
                hint="Train without this option.",
            ) from error
    distance = float((after - before).abs().max())
    if not distance <= _FAR * float(before.abs().max()):
        raise RefusedError(
            f"PEFT's merge makes another model of this adapter ({reason}): logits differ by {distance:.2g}.",
            hint="Train without this option, or use the adapter without merging it.",
        )
    return merged


def _rows(adapter: Adapter) -> int | None:
    """The tokens of an embedding that the adapter brings whole; None when it brings none."""
    ends = ("embed_tokens", "embed_in", "word_embeddings", "wte", "lm_head")
    for name, tensor in adapter.header.tensors.items():
        module = name.removeprefix(PREFIX).removesuffix(".weight").removesuffix(".base_layer").rpartition(".")[2]
        if module in ends and name.endswith(".weight") and ".lora_" not in name:
            return tensor.shape[0]
    return None


def _in_checkpoint(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The tensors of ``model`` as the base's files name and keep them."""
    from transformers.core_model_loading import revert_weight_conversion

    parts = layout(model, shapes).parts
    first: dict[int, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        first.setdefault(id(value), name)
    once = {first[id(value)]: value.data for value in model.state_dict(keep_vars=True).values()}
    found = {}
    for name, value in revert_weight_conversion(model, once).items():
        own = parts.get(name, ())
        found[own[0].name if len(own) == 1 else name] = value
    return found


def _differs(base: Path, name: str, value: Any) -> bool:
    import torch
    from safetensors import safe_open

    from hubkit.models.tensors import read_weights

    for path, header in read_weights(base).items():
        if name in header.tensors:
            with safe_open(path, "pt") as file:
                there = file.get_tensor(name).float()
            return there.shape != value.shape or not torch.equal(there, value)
    return True


def _vocabulary(base: Path) -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(base, trust_remote_code=False).get_text_config().vocab_size)
