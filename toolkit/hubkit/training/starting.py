"""What a training starts from: the base, the adapter that it continues, or the weights that an earlier stage left.

All the weights are trained in float32, whatever they are stored in: an update of less than a 256th of a weight would
be lost in bfloat16. An adapter that is continued so is merged first.
"""

from __future__ import annotations

import copy
import shutil
from typing import TYPE_CHECKING, Any

from hubkit.models import load
from hubkit.models.merging.companions import TEMPLATE, TOKENIZER_FILES, tokenizer_of
from hubkit.training.arguments import effective, lora_class
from hubkit.training.launching import ranks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from peft import LoraConfig

    from hubkit.models.base import PinnedBase
    from hubkit.training.adapter import TrainedAdapter
    from hubkit.training.contract import Settings


def model_to_train(
    base: load.PinnedRepo, previous: TrainedAdapter | None, settings: Settings
) -> tuple[Any, LoraConfig | None]:
    """The model, and the config of the adapter that TRL is to begin on it (None: there is one, or none is trained)."""
    weights = previous.weights if previous is not None and previous.form == "weights" else None
    adapter = previous.weights if previous is not None and previous.form == "adapter" else None
    source = weights or base
    if settings.trains_all_weights:
        return _all_weights(source, adapter), None
    model = load.load_model(
        source,
        dtype=load.training_dtype(),
        quantization=settings.quantization,
        attention=load.training_attention(),
        sharded=ranks.shards_weights(),
    )
    if adapter is not None:
        return load.load_adapter(model, adapter, trainable=True), None
    return model, lora_class()(task_type="CAUSAL_LM", **settings.lora_keys)


def _all_weights(source: load.Source, adapter: Path | None) -> Any:
    """The model in ``source`` in float32, with ``adapter`` merged into it, all of it to be trained."""
    from transformers import GenerationConfig

    model = load.load_model(source, dtype="float32", sharded=ranks.shards_weights())
    if adapter is not None:
        model = load.load_adapter(model, adapter).merge_and_unload()
    model.requires_grad_(True)
    # The base's own may be one that transformers refuses to write. What is published is made of the base's files.
    model.generation_config = GenerationConfig()
    return model


def reference_of(model: Any, settings: Settings) -> Any | None:
    """DPO's reference where all the weights of ``model`` are trained: these as they are now, which do not change.

    None where TRL needs no second model: the adapter can be switched off, or the reference's numbers are computed
    before the first step. Without one TRL would load the main branch of the base's repo.
    """
    if not settings.trains_all_weights or effective("dpo", settings.args, "precompute_ref_log_probs"):
        return None
    return copy.deepcopy(model).to(load.training_dtype()).requires_grad_(False).eval()


def tokenizer_to_train(base: PinnedBase, previous: TrainedAdapter | None, endpoint: str) -> Any:
    """The tokenizer for the training: the base's, or that of the weights that are trained further, if they have one."""
    own = _own_tokenizer(previous)
    if own is None:
        return base.load_tokenizer(endpoint)
    return load.load_tokenizer(own, chat_template=base.training_template, pad_token=base.pad_token)


def _own_tokenizer(previous: TrainedAdapter | None) -> Path | None:
    return tokenizer_of(previous.weights) if previous is not None and previous.form == "weights" else None


def save_weights(
    model: Any, folder: Path, previous: TrainedAdapter | None, weights: Mapping[str, Any] | None = None
) -> None:
    """Save all the weights of ``model``, as safetensors, with its config.json, and the tokenizer of ``previous``.

    ``weights`` are those of the model where it has only a part of them itself.
    """
    model.save_pretrained(folder, **({} if weights is None else {"state_dict": dict(weights)}))
    if own := _own_tokenizer(previous):
        for name in (*TOKENIZER_FILES, TEMPLATE):
            if (own / name).is_file():
                shutil.copyfile(own / name, folder / name)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "README.md").unlink(missing_ok=True)
