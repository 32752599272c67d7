"""Random adapters of a chosen strength, and what can go wrong with a merge, planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from hubkit.models.tensors import read_weights


def random_adapter(base: Path, folder: Path, size: float, seed: int, **lora: Any) -> Path:
    """An adapter on ``base`` as PEFT saves it, whose changes have ``size`` times the norm of what they change."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(seed)
    given = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora}
    tuned = get_peft_model(model, LoraConfig(**given, init_lora_weights=False))
    with torch.no_grad():
        for module in tuned.modules():
            if not (parts := getattr(module, "lora_B", None) or getattr(module, "lora_embedding_B", None)):
                continue
            change = module.get_delta_weight("default")
            weight = getattr(module.get_base_layer(), "weight", None)
            if weight is not None:
                (part,) = parts.values()
                (getattr(part, "weight", part)).mul_(size * weight.norm() / change.norm())
    tuned.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path, folder: Path, dtype: str) -> Path:
    """``merge_and_unload`` in ``dtype``, saved."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    return folder


def tensors_of(folder: Path) -> dict[str, Any]:
    """Every tensor of the model in ``folder``."""
    from safetensors.torch import load_file

    return {name: value for path in read_weights(folder) for name, value in load_file(path).items()}


def save_tensors(tensors: dict[str, Any], folder: Path) -> Path:
    """Write ``tensors`` as the model in ``folder``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value.clone().contiguous() for name, value in tensors.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# --- faults: each makes a merge that is wrong, from a base and an adapter that are right

Merge = Callable[[Path, Path, Path], Path]
"""Merges (base, adapter) into a folder."""


def another_base(merge: Merge, base: Path, adapter: Path, out: Path, random: Random) -> Path:
    """The base was trained on for a little: every matrix moved by 1 % of its norm."""
    import torch

    torch.manual_seed(random.randrange(2**31))
    other, moved = out.with_name(f"{out.name}-base"), {}
    shutil.copytree(base, other)
    for name, value in tensors_of(base).items():
        noise = torch.randn_like(value.float()) if value.ndim > 1 else torch.zeros_like(value.float())
        moved[name] = (value + noise * 0.01 * value.float().norm() / max(1.0, float(noise.norm()))).to(value.dtype)
    for path in other.glob("*.safetensors*"):
        path.unlink()
    return merge(save_tensors(moved, other), adapter, out)


def another_scaling(merge: Merge, base: Path, adapter: Path, out: Path, random: Random) -> Path:
    """``lora_alpha`` is another."""
    other = out.with_name(f"{out.name}-adapter")
    shutil.copytree(adapter, other)
    settings = json.loads((other / "adapter_config.json").read_text())
    settings["lora_alpha"] *= random.choice([0.5, 0.75, 1.25, 1.5, 4])
    (other / "adapter_config.json").write_text(json.dumps(settings))
    return merge(base, other, out)


def target_left_out(merge: Merge, base: Path, adapter: Path, out: Path, random: Random) -> Path:
    """One matrix stayed the base's."""
    name = random.choice(_changed(base, adapter))
    tensors = tensors_of(merge(base, adapter, out))
    return save_tensors({**tensors, name: tensors_of(base)[name].to(tensors[name].dtype)}, out)


def swapped_layer(merge: Merge, base: Path, adapter: Path, out: Path, random: Random) -> Path:
    """Two matrices of one shape changed places."""
    tensors = tensors_of(merge(base, adapter, out))
    names = [name for name in _changed(base, adapter) if _others(name, tensors, _changed(base, adapter))]
    one = random.choice(names)
    other = random.choice(_others(one, tensors, _changed(base, adapter)))
    return save_tensors({**tensors, one: tensors[other], other: tensors[one]}, out)


def merged_twice(merge: Merge, base: Path, adapter: Path, out: Path, random: Random) -> Path:
    """The adapter was merged into its own merge."""
    once = merge(base, adapter, out.with_name(f"{out.name}-once"))
    return merge(once, adapter, out)


def wrong_dtype(merge: Merge, base: Path, adapter: Path, out: Path, random: Random) -> Path:
    """One tensor is in another dtype."""
    import torch

    tensors = tensors_of(merge(base, adapter, out))
    name = random.choice(sorted(tensors))
    kinds = {torch.float32, torch.float16, torch.bfloat16} - {tensors[name].dtype}
    return save_tensors({**tensors, name: tensors[name].to(random.choice(sorted(kinds, key=str)))}, out)


def changed_byte(merge: Merge, base: Path, adapter: Path, out: Path, random: Random) -> Path:
    """One byte of a tensor is another."""
    merge(base, adapter, out)
    (path, header), *_ = read_weights(out).items()
    tensor = random.choice(list(header.tensors.values()))
    body = bytearray(path.read_bytes())
    body[random.randrange(tensor.start, tensor.end)] ^= random.randrange(1, 256)
    path.write_bytes(body)
    return out


FAULTS = (
    another_base, another_scaling, target_left_out, swapped_layer, merged_twice, wrong_dtype, changed_byte,
)  # fmt: skip


def _changed(base: Path, adapter: Path) -> list[str]:
    """The base's tensors that ``adapter`` changes."""
    from hubkit.models.merging.adapter import read_adapter
    from hubkit.models.merging.merge import fit_to

    there = {name: item for header in read_weights(base).values() for name, item in header.tensors.items()}
    return sorted(fit_to(base, read_adapter(adapter), there, base).changes)


def _others(name: str, tensors: dict[str, Any], names: list[str]) -> list[str]:
    """Those of ``names`` with the shape of ``name`` and other numbers."""
    return [
        other for other in names
        if other != name and tensors[other].shape == tensors[name].shape and not tensors[other].equal(tensors[name])
    ]  # fmt: skip
