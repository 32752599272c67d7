"""`hubkit space run ./my-model`: what of anybody's folder the chat app shows, and what is refused with a sentence."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from commands import hubkit

from hubkit.checks.source import FolderSource
from hubkit.core.errors import RefusedError
from hubkit.publishing.spaces import any_model

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS = ["<unk>", "<|im_start|>", "<|im_end|>"]


def weights(path: Path, size: int = 64) -> None:
    """A file of safetensors with one tensor of ``size`` bytes; it takes no room on the disk."""
    tensor = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)


def model(place: Path, size: int = 64) -> Path:
    place.mkdir()
    added = [{"id": number, "content": token, "special": True} for number, token in enumerate(TOKENS)]
    vocabulary = {"model": {"type": "BPE", "vocab": {"a": 3}, "merges": []}, "added_tokens": added}
    files = {
        "config.json": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "eos_token_id": 2},
        "tokenizer.json": vocabulary,
        "tokenizer_config.json": {"eos_token": "<|im_end|>"},
    }
    for name, value in files.items():
        (place / name).write_text(json.dumps(value))
    (place / "chat_template.jinja").write_text(TEMPLATE)
    weights(place / "model.safetensors", size)
    return place


def adapter(place: Path, base: str | None) -> Path:
    place.mkdir()
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    weights(place / "adapter_model.safetensors")
    return place


def no_hub(repo: str, revision: str | None) -> Path:
    raise AssertionError(f"the Hub was asked for {repo}")


def place(tmp_path: Path) -> Path:
    (tmp_path / "links").mkdir()
    return tmp_path / "links"


def test_a_folder_with_weights_is_shown_as_it_is(tmp_path: Path) -> None:
    folder = model(tmp_path / "mine")
    weights(folder / "consolidated.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"beside")
    found = any_model.model_in(folder, place(tmp_path), no_hub)
    (revision,) = found.facts.revisions
    assert (found.facts.title, found.facts.end_of_turn, found.facts.dtype) == ("mine", (2, "<|im_end|>"), "bfloat16")
    assert (revision.form, revision.repo, revision.commit) == ("weights", str(folder), "")
    assert found.facts.to_json()["base"] is None and found.facts.repo == str(folder)
    assert found.reads == (folder,) and not list((tmp_path / "links").iterdir())
    needed = set(any_model.needed_files(FolderSource(folder)))
    assert {"config.json", "model.safetensors", "chat_template.jinja"} <= needed
    assert not {"consolidated.safetensors", "pytorch_model.bin"} & needed


@pytest.mark.parametrize("named", ["beside", "on the Hub", "with its own tokenizer"])
def test_an_adapter_is_loaded_on_the_base_that_it_names(tmp_path: Path, named: str) -> None:
    base = model(tmp_path / "base")
    folder = adapter(tmp_path / "mine", "them/base" if named == "on the Hub" else "../base")
    if named == "with its own tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(base / name, folder)
        (folder / "chat_template.jinja").write_text(TEMPLATE.replace("<|im_end|>", "<unk>"))
    asked: list[tuple[str, str | None]] = []

    def base_of(repo: str, revision: str | None) -> Path:
        asked.append((repo, revision))
        return base

    found = any_model.model_in(folder, place(tmp_path), base_of)
    (revision,) = found.facts.revisions
    shown = Path(str(revision.repo))
    assert (shown / "adapter" / "adapter_model.safetensors").resolve() == folder / "adapter_model.safetensors"
    assert revision.form == "adapter" and Path(found.facts.base[0]).resolve() == base and found.bytes > 64
    assert Path(found.facts.base[0]).name == "base" and revision.title == "LoRA adapter of base"
    assert found.facts.end_of_turn == ((0, "<unk>") if named == "with its own tokenizer" else (2, "<|im_end|>"))
    assert asked == ([("them/base", None)] if named == "on the Hub" else []) and {folder, base} <= set(found.reads)


def test_what_cannot_be_chatted_with_is_refused_with_a_sentence(tmp_path: Path) -> None:
    folder, links = model(tmp_path / "mine"), place(tmp_path)

    def refused(words: str) -> None:
        with pytest.raises(RefusedError, match=words) as caught:
            any_model.model_in(folder, links, no_hub)
        assert caught.value.hint

    (folder / "chat_template.jinja").unlink()
    refused("mine has no chat template")
    (folder / "model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 9\n" % (b"0" * 64)
    )
    refused("git-lfs pointers")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused("pickles")
    (folder / "pytorch_model.bin").rename(folder / "model.gguf")
    refused("as GGUF")
    (folder / "model.gguf").unlink()
    refused("neither a model nor a Space")
    (folder / "adapter_config.json").write_text("{}")
    weights(folder / "adapter_model.safetensors")
    refused("names no base model")
    (folder / "adapter_config.json").unlink()
    weights(folder / "model.safetensors")
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    refused("not a model for text")


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    any_model.require_room(800, "mine", available=1000)
    with pytest.raises(RefusedError, match=r"mine is too big for this machine: its weights need 1\.2 kB"):
        any_model.require_room(1000, "mine", available=1100)
    home = tmp_path / "home"
    done = hubkit("space", "run", str(model(tmp_path / "huge", 10**13)), home=home)
    assert done.returncode == 3 and "11.5 TB of memory" in done.stderr and not (home / "hub").exists()
