"""Shared by all tests: no Xet, no real token, fixtures that several test files use, and a fresh embedded Hub."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matrix
import pytest
from hypothesis import settings

# huggingface_hub reads these when it is imported, so they are set before any test module is.
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
# The models of the tests are so small that threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A test that names no Hub must not reach for the real one: nothing answers at this address.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hubkit-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_CO_STAGING", "HF_HUB_OFFLINE"):
    os.environ.pop(_name, None)

# `make test` draws the same cases every time, so that a run says something of the change. `make soak` draws new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("new", print_blob=True)
settings.load_profile("same")

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pytest_configure(config: pytest.Config) -> None:
    matrix.configure(config)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    matrix.mark(items)
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:  # what a file's tests share is made once, and so is the release that two files look at
            shared = "released" if "released" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
            item.add_marker(pytest.mark.xdist_group(shared))


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """Make a byte-level tokenizer without merges: ids 0-255 are bytes, then <s> </s> <pad> <|im_start|> <|im_end|>."""

    def make(template: str | None = CHAT, **names: Any) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        letters = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        made = Tokenizer(models.BPE(vocab=letters, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        names = {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            **names,
        }
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **names)
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """Make a random Mistral of 2 layers, 261 tokens, float32; ``settings`` are keys of MistralConfig."""

    def make(seed: int = 0, **settings: Any) -> Any:
        import torch
        from transformers import MistralConfig, MistralForCausalLM

        torch.manual_seed(seed)
        shape = {
            "vocab_size": 261,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": 256,
            "eos_token_id": 260,
            "pad_token_id": 258,
        }
        return MistralForCausalLM(MistralConfig(**{**shape, **settings})).eval()

    return make


@pytest.fixture(autouse=True)
def _own_client() -> Iterator[None]:
    """Each test meets huggingface_hub as it is, not as the test before it left it."""
    yield
    from hubkit.hub import transport

    transport.uninstall()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    """Start a fresh embedded Hub in its own process, with scripted faults allowed: a ``process.Running``."""
    from hubkit.server import process

    data = tmp_path / "hub"
    running = process.start(data, port=0, faults=True)
    yield running
    process.stop(data)
