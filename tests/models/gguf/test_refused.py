"""Models and prompts with something wrong in their small files: one sentence at once, and no file of any name."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gguf_models import make

from hubkit.core.errors import ConflictError, HubkitError, RefusedError, UsageError
from hubkit.models.gguf import prompts
from hubkit.models.gguf.vocabulary import vocabulary_of
from hubkit.models.gguf.write import write_gguf


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("smollm", tmp_path_factory.mktemp("gguf") / "smollm")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the model with other settings in one of its files."""

    def changed(file: str = "config.json", **settings: Any) -> Path:
        folder = shutil.copytree(made, tmp_path / f"model-{len(list(tmp_path.iterdir()))}")
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **settings}))
        return folder

    return changed


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"num_hidden_layers": 100_000}, "The weights have 2 layers, config.json says 100,000"),
    ({"num_hidden_layers": 1}, "The weights have 2 layers, config.json says 1 "),
    ({"num_hidden_layers": "two"}, "num_hidden_layers: 'two'; it must be a whole number from 1"),
    ({"num_attention_heads": 0}, "num_attention_heads: '0'; it must be a whole number from 1"),
    ({"head_dim": -16}, "head_dim: '-16'; it must be a whole number from 1"),
    ({"hidden_size": True}, "hidden_size: 'True'"),
    ({"num_attention_heads": 3, "head_dim": None}, "transformers cannot read config.json: Class validation error"),
    ({"max_position_embeddings": 10**30}, "max_position_embeddings: '1000000000.*from 1 to 2,147,483,647"),
    ({"sliding_window": "x"}, "sliding_window: 'x'; it must be a whole number from 0"),
    ({"rms_norm_eps": 1e300}, r"layer_norm_rms_epsilon 1e\+300, which GGUF cannot hold"),
    ({"dtype": "float99"}, "transformers cannot read config.json: .*float99"),
    ({"rms_norm_eps": "small"}, "transformers cannot read config.json: Validation error for field 'rms_norm_eps'"),
    ({"architectures": 5}, "A model without architectures in config.json cannot be written as GGUF"),
    ({"architectures": [["LlamaForCausalLM"]]}, "cannot be written as GGUF"),
    ({"num_attention_heads": 2, "head_dim": 16}, "k_proj.weight has the shape 16 x 32, config.json asks for 32 x 32"),
    ({"intermediate_size": 40}, r"mlp.\w+_proj.weight has the shape"),
    ({"head_dim": 15}, "transformers cannot read config.json: .* RoPE requires an even rotary dimension"),
    ({"head_dim": 10}, "proj.weight has the shape"),
    (
        {"rope_parameters": {"rope_type": "linear", "rope_theta": "x", "factor": 2.0}},
        "rope_parameters in config.json are",
    ),
]


@pytest.mark.parametrize(("settings", "problem"), CONFIGS, ids=lambda item: str(item)[:40])
def test_a_config_that_is_not_that_of_the_weights_is_refused(
    settings: dict[str, Any], problem: str, model: Callable[..., Path], tmp_path: Path
) -> None:
    folder, began = model(**settings), time.process_time()
    with pytest.raises(RefusedError, match=problem):
        write_gguf(folder, tmp_path / "model.gguf", "f16")
    assert time.process_time() - began < 3
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("ids", [[2, 99_999], [-1], [2, 1 << 70]])
def test_a_stop_outside_of_the_vocabulary_is_refused(
    ids: list[int], model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = model("generation_config.json", eos_token_id=ids)
    with pytest.raises(RefusedError, match=f"is to end at the token {ids[-1]}, but the model has the tokens 0 to"):
        write_gguf(folder, tmp_path / "model.gguf", "f16")
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_one_file_is_written_by_one_process_at_a_time(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    (tmp_path / ".model.gguf.partial").write_bytes(b"of a killed process")
    refused: list[str] = []

    def again(figure: str, share: float) -> None:
        with pytest.raises(HubkitError) as error:
            write_gguf(made, out, "f16")
        refused.append(error.value.message)

    report = write_gguf(made, out, "f16", report=lambda figure, share: None if refused else again(figure, share))
    assert refused == [f"Another process is writing {out}."]
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"] and report.bytes == out.stat().st_size

    def appears(figure: str, share: float) -> None:
        (tmp_path / "other.gguf").write_bytes(b"of somebody")

    with pytest.raises(UsageError, match=r"other\.gguf exists now"):
        write_gguf(made, tmp_path / "other.gguf", "f16", report=appears)
    assert (tmp_path / "other.gguf").read_bytes() == b"of somebody" and not list(tmp_path.glob(".*"))


def test_bytes_that_the_disk_changed_are_found(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fsync_and_flip(handle: int) -> None:
        fsync(handle)
        if (path := tmp_path / ".model.gguf.partial").exists():
            with path.open("r+b") as file:
                file.seek(-5, 2)
                file.write(b"x")

    monkeypatch.setattr(os, "fsync", fsync_and_flip)
    with pytest.raises(ConflictError, match="does not hold the bytes that were written"):
        write_gguf(made, tmp_path / "model.gguf", "f16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("steps", "refused"),
    [
        ([], None),
        ([{"type": "Metaspace", "prepend_scheme": "never"}], None),
        ([{"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}], None),
        ([{"type": "Split", "pattern": {"Regex": "[0-9]"}, "behavior": "Isolated"}], "Split"),
        ([{"type": "Metaspace", "prepend_scheme": "never"}, {"type": "Digits"}], "Digits"),
        ([{"type": "Whitespace"}], "Whitespace"),
    ],
)
def test_a_tokenizer_that_cuts_text_otherwise_than_sentencepiece_is_refused(
    steps: list[dict[str, Any]], refused: str | None
) -> None:
    found = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if steps else None,
        "added_tokens": [],
    }

    class Tokenizer(SimpleNamespace):
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [0]}

    backend = SimpleNamespace(to_str=lambda: json.dumps(found))
    tokenizer = Tokenizer(
        backend_tokenizer=backend, bos_token_id=None, eos_token_id=None, unk_token_id=None, pad_token_id=None
    )
    if refused is None:
        assert vocabulary_of(tokenizer, 2, (), None).model == "llama"
        return
    with pytest.raises(RefusedError, match=f"The tokenizer cuts text by {refused} before it merges"):
        vocabulary_of(tokenizer, 2, (), None)


def test_a_text_twice_in_a_large_vocabulary_is_named_at_once() -> None:
    vocabulary = {f"t{number}": number for number in range(40_000)}
    found = {
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        "pre_tokenizer": {"type": "ByteLevel"},
        "added_tokens": [{"id": 40_000, "content": "t39999", "special": True}],
    }
    tokenizer = SimpleNamespace(backend_tokenizer=SimpleNamespace(to_str=lambda: json.dumps(found)))
    began = time.process_time()
    with pytest.raises(RefusedError, match="Two tokens of the vocabulary have the text 't39999'"):
        vocabulary_of(tokenizer, 40_001, (), None)
    assert time.process_time() - began < 2


def test_a_prompt_may_hold_other_ends_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """json.dumps leaves U+2028 and U+0085 as they are, and hubkit's own prompts.jsonl may have them."""
    monkeypatch.setattr(prompts, "runtime", lambda: None)
    messages = [{"role": "user", "content": "one\u2028two\u0085three"}]
    line = json.dumps({"messages": messages}, ensure_ascii=False)
    (tmp_path / "prompts.jsonl").write_text(f"{line}\n\n{line}\r\n", newline="")
    assert prompts.read_prompts(tmp_path / "prompts.jsonl") == [{"messages": messages}] * 2
    (tmp_path / "prompts.jsonl").write_text(f"{line}\n{{")
    with pytest.raises(UsageError, match=r"prompts\.jsonl:2 "):
        prompts.read_prompts(tmp_path / "prompts.jsonl")
