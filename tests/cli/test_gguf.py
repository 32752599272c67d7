"""`hubkit gguf` as a person types it: a repo at a revision, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

from commands import hubkit, hubkit_json
from gguf_models import make

from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.gguf.write import write_gguf
from hubkit.server.process import Running


def test_a_repo_at_a_revision_becomes_the_file_of_its_folder(hub: Running, tmp_path: Path) -> None:
    folder = make("smollm", tmp_path / "model")
    connected = connect(Target(hub.url, tmp_path / "elsewhere", hub.token, embedded=True))
    connected.ensure_repo("hubkit/chat", "public")
    connected.api.upload_folder(repo_id="hubkit/chat", folder_path=folder)
    connected.api.create_branch("hubkit/chat", branch="v2")
    connected.api.delete_file("tokenizer.json", "hubkit/chat", revision="main")
    out = tmp_path / "files"
    found = hubkit_json("gguf", "hubkit/chat@v2", "-o", str(out), "--type", "q8_0", "--hub", "embedded", home=tmp_path)
    file = out / "chat-Q8_0.gguf"
    assert found["file"] == str(file) and found["stops"] == {"<|im_end|>": 2} and found["end_of_turn"] == "<|im_end|>"
    assert found["model"] == {"name": "hubkit/chat@v2", "commit": connected.resolve("hubkit/chat", "v2")}
    assert found["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found["sha256"] == write_gguf(folder, tmp_path / "own.gguf", "q8_0", name="chat").sha256
    assert found["tensors"][0]["type"] == "Q8_0" and 0 < found["tensors"][0]["relative_error"] < 0.01


def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    folder = make("gpt-2", tmp_path / "model")
    refused = hubkit("gguf", str(folder), "-o", str(tmp_path / "x.gguf"), home=tmp_path)
    assert refused.returncode == 3 and refused.stdout == "" and "Traceback" not in refused.stderr
    assert "GPT2LMHeadModel cannot be written as GGUF" in refused.stderr and "convert_hf_to_gguf" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
