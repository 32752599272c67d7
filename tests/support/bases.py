"""Bases on one embedded Hub for recipes that are only checked: sound ones, and such as no release can train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from architectures import make

from hubkit.core.target import Target
from hubkit.hub.client import Hub, connect
from hubkit.server.process import Running

SOUND = ("llama-3-tied", "falcon", "gpt-2", "mixtral")
Change = Callable[[Path], None]


def _config(**settings: Any) -> Change:
    """Keys that are set in config.json; those set to None are removed."""

    def change(folder: Path) -> None:
        _rewrite(folder / "config.json", settings)

    return change


def _rewrite(path: Path, settings: dict[str, Any]) -> None:
    known = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({key: value for key, value in known.items() if value is not None}))


def _multimodal(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"})
    )


def _no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    _rewrite(folder / "tokenizer_config.json", {"chat_template": None})


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BROKEN: dict[str, Change] = {
    "multimodal": _multimodal,
    "quantized": _config(quantization_config={"quant_method": "gptq", "bits": 4}),
    "remote-code": _config(
        model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    ),
    "unknown-type": _config(model_type="llama-9"),
    "no-model-type": _config(model_type=None),
    "encoder": _config(model_type="t5"),
    "wrong-number": _config(hidden_size=33),
    "small-embeddings": _config(vocab_size=100),
    "no-template": _no_template,
    "no-tokenizer": _no_tokenizer,
    "pickles": _pickles,
}
"""Copies of the Llama with one thing wrong, by the names of their repos."""


def publish(running: Running, folder: Path) -> Target:
    """Create ``them/NAME`` for all of them, a gated one, and two datasets; the target that may read them."""
    target = Target(running.url, folder / "hf", running.token, embedded=True)
    hub = connect(target)
    for name in SOUND:
        _upload(hub, name, make(name, folder / name))
    llama = folder / "llama-3-tied"
    for name, change in {**BROKEN, "gated": lambda _: None}.items():
        copy = folder / name
        copy.mkdir()
        for path in llama.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        change(copy)
        _upload(hub, name, copy)
    hub.api.update_repo_settings("them/gated", gated="manual")
    chat = [{"role": "user", "content": "Why?"}]
    answers = [[{"role": "assistant", "content": text}] for text in ("Because.", "No.")]
    pair = {"prompt": "Why?", "chosen": chat + answers[0], "rejected": chat + answers[1]}
    for name, row in {"pairs": pair, "chats": {"messages": chat + answers[0]}}.items():
        repo = f"them/{name}"
        hub.api.create_repo(repo, repo_type="dataset", exist_ok=True)
        body = "".join(json.dumps(row) + "\n" for _ in range(4)).encode()
        hub.api.upload_file(path_or_fileobj=body, path_in_repo="train.jsonl", repo_id=repo, repo_type="dataset")
    return target


def _upload(hub: Hub, name: str, folder: Path) -> None:
    hub.api.create_repo(f"them/{name}", exist_ok=True)
    hub.api.upload_folder(repo_id=f"them/{name}", folder_path=folder)
