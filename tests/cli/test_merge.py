"""`hubkit merge` as a person types it: folders and repos, whose tokenizer is kept, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from adapters import base_of, merged_by_peft, one_rounding, read, save_adapter
from commands import hubkit, hubkit_json

from hubkit.core.errors import RefusedError
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.merging.companions import tokenizer_of
from hubkit.models.merging.merge import merge
from hubkit.server.process import Running


def test_repos_at_a_revision_are_merged_and_the_adapters_tokenizer_wins(hub: Running, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = base_of("llama-3-tied", tmp_path)
    lora = {"target_modules": ["q_proj"], "_resized": 2, "modules_to_save": ["lm_head"]}
    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(adapter)
    (adapter / "README.md").unlink()  # PEFT writes the path of the base on it, which no Hub takes
    connected = connect(Target(hub.url, tmp_path / "elsewhere", hub.token, embedded=True))
    for name, folder in (("base", base), ("adapter", adapter)):
        connected.ensure_repo(f"hubkit/{name}", "public")
        connected.api.upload_folder(repo_id=f"hubkit/{name}", folder_path=folder)
    connected.api.create_branch("hubkit/adapter", branch="v2")
    connected.api.delete_file("adapter_config.json", "hubkit/adapter", revision="main")
    out = tmp_path / "merged"
    args = ("hubkit/base", "hubkit/adapter@v2", "-o", str(out), "--max-shard-size", "20kB", "--hub", "embedded")
    found = hubkit_json("merge", *args, home=tmp_path)
    assert (found["way"], found["tokenizer"], found["dtype"]) == ("streamed", "adapter", "float32")
    assert found["config"] == {"tie_word_embeddings": False, "vocab_size": tokenizer.vocab_size + 2}
    assert found["adapter"]["commit"] == connected.resolve("hubkit/adapter", "v2")
    assert len(list(out.glob("model-*.safetensors"))) > 2
    assert one_rounding(read(out), read(merged_by_peft(base, adapter, tmp_path / "peft"))) == []
    merged, own = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert own.convert_tokens_to_ids("<two>") == merged.config.vocab_size - 1
    assert own.chat_template == "{{ messages[0]['content'] }}"
    assert not merged.config.tie_word_embeddings


def test_what_cannot_be_merged_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    base = base_of("gpt-2", tmp_path)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["c_attn", "wte"])
    refused = hubkit("merge", str(base), str(adapter), "-o", str(tmp_path / "out"), home=tmp_path)
    assert refused.returncode == 3 and refused.stdout == ""
    assert "tied embeddings" in refused.stderr and "Traceback" not in refused.stderr
    for args, message in (
        (["./nowhere", str(adapter), "-o", "x"], "There is no folder ./nowhere"),
        ([str(base), str(adapter), "-o", "x", "--max-shard-size", "5"], "is not a size"),
        ([str(base), str(adapter), "-o", str(base)], "already exists"),
    ):
        wrong = hubkit("merge", *args, home=tmp_path)
        assert wrong.returncode == 2 and message in wrong.stderr
    assert not (tmp_path / "out").exists()


def test_the_bases_tokenizer_and_template_are_kept_and_a_person_reads_what_changed(tmp_path: Path) -> None:
    base = base_of("qwen2", tmp_path)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"], bias="lora_only")
    out = tmp_path / "out"
    done = hubkit("merge", str(base), str(adapter), "-o", str(out), "--dtype", "bfloat16", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8 of 27: q_proj 4, v_proj 4" in done.stdout and "tensor by tensor" in done.stdout
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    shutil.copyfile(base / "tokenizer.json", adapter / "tokenizer.json")
    words = json.loads((adapter / "tokenizer.json").read_text())
    words["added_tokens"].append({**words["added_tokens"][0], "id": 5000, "content": "<much>"})
    (adapter / "tokenizer.json").write_text(json.dumps(words))
    (adapter / "tokenizer_config.json").write_text("{}")
    with pytest.raises(RefusedError, match="has the token id 5,000, and the model"):
        merge(base, adapter, tmp_path / "other", tokenizer=tokenizer_of(adapter))
