"""Models and tokenizers are loaded at their revision, in their dtype, and their memory is freed."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models import load


@pytest.fixture
def base(make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    make_model(seed=0).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


LOAD = """
import json, sys
from pathlib import Path
from hubkit.core.errors import HubkitError
from hubkit.hub.transport import install
from hubkit.models import load

endpoint, token, cache, *commits = sys.argv[1:]
install(endpoint, token)
sums, messages = [], []
for commit in commits:
    repo = load.PinnedRepo("hubkit/base", commit, endpoint, Path(cache))
    model = load.load_model(repo, dtype="float32")
    assert load.load_config(repo).vocab_size == model.config.vocab_size and load.load_tokenizer(repo).chat_template
    sums.append(float(sum(weight.double().sum() for weight in model.parameters())))
for load_one in (load.load_config, load.load_tokenizer, load.load_model):
    try:
        load_one(load.PinnedRepo("hubkit/base", "f" * 40, endpoint))
    except HubkitError as error:
        messages.append(error.message)
print(json.dumps([sums, messages]))
"""


def test_a_repo_is_loaded_at_its_revision(hub: Any, base: Path, make_model: Any, tmp_path: Path) -> None:
    """Two commits, two models: the revision decides, and ``cache`` is where the files go. As in a worker."""
    target = Target(hub.url, tmp_path / "hf", hub.token, embedded=True)
    client = connect(target)
    client.ensure_repo("hubkit/base", "public")
    commits = [str(client.api.upload_folder(repo_id="hubkit/base", folder_path=base).oid)]
    make_model(seed=1).save_pretrained(base)
    commits.append(str(client.api.upload_folder(repo_id="hubkit/base", folder_path=base).oid))
    arguments = [hub.url, hub.token, str(tmp_path / "cache"), commits[0], commits[1], commits[0]]
    environment = {**os.environ, **target.environment()}
    child = subprocess.run([sys.executable, "-c", LOAD, *arguments], env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    (first, second, again), messages = json.loads(child.stdout)
    assert first == again != second and any((tmp_path / "cache").rglob("model.safetensors"))
    assert len(messages) == 3 and all("hubkit/base" in message and "fffffff" in message for message in messages)


def test_dtype_quantization_and_adapter(base: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    assert next(load.load_model(base, dtype="bfloat16").parameters()).dtype == torch.bfloat16
    assert next(load.load_model(base).parameters()).dtype == torch.float32, "auto: the dtype of the files"
    quantized = load.load_model(base, dtype=torch.float32, quantization="nf4")
    assert quantized.config.quantization_config.bnb_4bit_quant_type == "nf4"
    assert load.keep_differentiable(quantized) > 0 and load.keep_differentiable(load.load_model(base)) == 0
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(load.load_model(base), lora).save_pretrained(tmp_path / "repo" / "adapter")
    for source, subfolder in ((tmp_path / "repo" / "adapter", None), (tmp_path / "repo", "adapter")):
        for trainable in (False, True):
            model = load.load_adapter(load.load_model(base), source, subfolder=subfolder, trainable=trainable)
            trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
            assert bool(trained) == trainable and all("lora_" in name for name in trained)


def test_a_tokenizer_with_another_template_and_padding(base: Path) -> None:
    tokenizer = load.load_tokenizer(base, chat_template="{{ messages }}", pad_token="<unk>")
    assert tokenizer.chat_template == "{{ messages }}" and tokenizer.pad_token == "<unk>"
    assert load.load_tokenizer(base).chat_template != "{{ messages }}"


def test_the_memory_of_a_model_is_freed_when_the_block_ends(base: Path) -> None:
    """A model holds itself in a circle, so that no longer naming it is not enough."""

    def use() -> weakref.ref[Any]:
        model = load.load_model(base)
        model.itself = model
        return weakref.ref(model)

    gc.disable()
    try:
        with load.memory_released():
            alive = use()
            assert alive() is not None
        assert alive() is None and gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_the_device_has_a_name() -> None:
    import torch

    if not torch.cuda.is_available():
        assert load.device() == "cpu" and load.device_name().startswith("CPU, ") and load.device_names() == []
        assert load.training_dtype() == torch.float32
    assert load.benchmark_device()[1].startswith(load.benchmark_device()[0])
    assert load.peak_memory() > 10_000_000
