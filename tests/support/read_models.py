"""Models for the readers: tiny ones that answer some tokens and stop, as transformers 5 saves them and as published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf_models import make, sharpen

from hubkit.models.chat import eos
from hubkit.models.load import load_tokenizer
from hubkit.models.merging.companions import write_companions
from hubkit.models.readers.asking import Questions

TOKENS = 24
STOPS_AFTER = 5


def questions(*, max_new_tokens: int = TOKENS) -> Questions:
    """The golden conversations; all their prompts are answered."""
    return Questions.of((), max_new_tokens=max_new_tokens)


def as_saved(folder: Path, name: str = "llama-3") -> Path:
    """A model as transformers 5 saves it, with a rotary base that is no version's default; its answers stop.

    A random model never emits its end-of-turn token: the output rows of that token and of one that it does emit are
    exchanged.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    rope = {"rope_type": "default", "rope_theta": 2e6}
    make(name, folder, dtype="float32", rope_parameters=rope)
    sharpen(folder, 12.0)
    tokenizer = load_tokenizer(folder)
    end = eos.find(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    given = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    new = model.generate(given, max_new_tokens=TOKENS, do_sample=False)[0][given.shape[1] :].tolist()
    chosen = next(token for place, token in enumerate(new) if place >= STOPS_AFTER and token not in new[:place])
    weights = load_file(folder / "model.safetensors")
    rows = weights["lm_head.weight"].clone()
    rows[[end.id, chosen]] = rows[[chosen, end.id]]
    save_file({**weights, "lm_head.weight": rows}, folder / "model.safetensors", {"format": "pt"})
    return folder


def as_published(source: Path, folder: Path) -> Path:
    """``source`` with the files beside its weights as a release writes them."""
    folder.mkdir(parents=True)
    shutil.copyfile(source / "model.safetensors", folder / "model.safetensors")
    tokenizer = load_tokenizer(source)
    write_companions(
        source, folder, dtype="float32", chat_template=tokenizer.chat_template, end_of_turn=eos.find(tokenizer)
    )
    return folder


def changed(source: Path, folder: Path, name: str, *, without: Sequence[str] = (), **keys: Any) -> Path:
    """A copy of ``source`` whose JSON file ``name`` has ``keys``, and none of ``without``."""
    shutil.copytree(source, folder)
    settings = {**json.loads((folder / name).read_text("utf-8")), **keys}
    (folder / name).write_text(json.dumps({key: settings[key] for key in settings if key not in without}), "utf-8")
    return folder
