"""Shared by all tests: no Xet, no real token, fixtures that several test files use, and a fresh embedded Hub."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asked_once
import matrix
import process_state
import pytest
from forked_hubs import ForkedHubs
from hypothesis import settings
from scheduling import pytest_xdist_make_scheduler

from hubkit.core.late_compiling import compile_late

# huggingface_hub reads these when it is imported, so they are set before any test module is.
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
process_state.take_interrupts()
# pytest imports readline, which tells all later processes (the workers of xdist are among them) the size of a terminal.
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)
    os.unsetenv(_name)  # readline writes past os.environ
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

compile_late()  # the tests import PEFT as hubkit does

__all__ = ["pytest_xdist_make_scheduler"]

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pytest_configure(config: pytest.Config) -> None:
    matrix.configure(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    matrix.mark(items)


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


@pytest.fixture(scope="session", autouse=True)
def _asked_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """All homes of this run, of all its workers, share what a plan asks the libraries and this machine."""
    base = tmp_path_factory.getbasetemp()
    asked_once.share((base if worker_id == "master" else base.parent) / "asked-once")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """A test leaves this process as it found it, so that none after it can depend on it."""
    before = process_state.now()
    yield
    assert process_state.changes(before, process_state.now()) == {}, "the test left this changed: (before, after)"


@pytest.fixture(autouse=True)
def _own_client() -> Iterator[None]:
    """Each test meets huggingface_hub as it is, not as the test before it left it."""
    yield
    from hubkit.hub import transport

    transport.uninstall()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent again is sent at once; tests/hub/test_retry.py measures the waits."""
    monkeypatch.setattr("hubkit.hub.retry._pause", lambda state: 0.0)


@pytest.fixture(scope="session")
def forked_hubs() -> Iterator[ForkedHubs]:
    """What starts a fresh Hub in a few hundredths of a second."""
    hubs = ForkedHubs()
    yield hubs
    hubs.end()


@pytest.fixture
def hub(tmp_path: Path, forked_hubs: ForkedHubs) -> Iterator[Any]:
    """Start a fresh embedded Hub in its own process, with scripted faults allowed: a ``process.Running``."""
    from hubkit.server import process

    data = tmp_path / "hub"
    yield forked_hubs.start(data)
    process.stop(data)
