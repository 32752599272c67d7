"""The streaming merge equals PEFT's, refuses what it does not understand, and writes a model that loads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hubkit.checks.model import FolderSource, check
from hubkit.core.errors import HubkitError, RefusedError, RemoteError, UsageError
from hubkit.core.files import digests
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.chat.eos import EndOfTurn, find
from hubkit.models.chat.library import CHATML
from hubkit.models.merging.companions import fetch_base, generation_config, model_config
from hubkit.models.merging.merge import merge
from hubkit.models.tensors import read_header, read_weights

END = EndOfTurn("<|im_end|>", 260, (198,))


def save_base(make_model, make_tokenizer, folder: Path, dtype: str = "float32", **settings) -> Path:
    import torch

    model = make_model(**settings).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def save_adapter(base: Path, folder: Path, **lora) -> Path:
    """A LoRA adapter on ``base`` with random B, as PEFT saves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **lora}
    torch.manual_seed(1)
    peft = get_peft_model(model, LoraConfig(**given))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    peft.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path) -> dict:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    return model.state_dict()


def read(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {name: value for path in read_weights(folder) for name, value in load_file(path).items()}


@pytest.fixture(scope="module")
def base(make_model, make_tokenizer, tmp_path_factory) -> Path:
    return save_base(make_model, make_tokenizer, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    return save_adapter(base, tmp_path_factory.mktemp("adapter"))


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True, "r": 3, "lora_alpha": 5},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 32}},
        {"target_modules": "all-linear", "lora_dropout": 0.05},
        {"modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["embed_tokens", "v_proj"]},
    ],
    ids=["plain", "rslora", "patterns", "all-linear", "modules_to_save", "embedding"],
)
def test_float32_merge_equals_pefts(base, tmp_path, lora):
    import torch

    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    report = merge(base, adapter, tmp_path / "out", dtype="float32")
    ours, theirs, before = read(tmp_path / "out"), merged_by_peft(base, adapter), read(base)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-6), name
    moved = {name for name in ours if not torch.equal(ours[name], before[name])}
    assert len(moved) == report.changed == sum(report.targets.values())
    assert moved


def test_bfloat16_merge_is_rounded_once(make_model, make_tokenizer, tmp_path):
    import torch

    base = save_base(make_model, make_tokenizer, tmp_path / "base", "bfloat16")
    adapter = save_adapter(base, tmp_path / "adapter")
    merge(base, adapter, tmp_path / "exact", dtype="float32")
    report = merge(base, adapter, tmp_path / "out", dtype="bfloat16")
    exact, ours, theirs = read(tmp_path / "exact"), read(tmp_path / "out"), merged_by_peft(base, adapter)
    for name in ours:
        assert ours[name].dtype == torch.bfloat16
        assert torch.equal(ours[name], exact[name].bfloat16()), name
        assert torch.allclose(ours[name].float(), theirs[name].float(), rtol=2**-7, atol=1e-3), name
    assert report.parameters * 2 < report.bytes < report.parameters * 2 + 10_000


def test_shards_index_and_digests(base, adapter, tmp_path):
    report = merge(base, adapter, tmp_path / "out", dtype="float32", max_shard_bytes=60_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    whole = merge(base, adapter, tmp_path / "whole", dtype="float32")
    assert sorted(report.files) == sorted(set(index["weight_map"].values()))
    assert len(report.files) > 2
    for name, known in report.files.items():
        assert digests(tmp_path / "out" / name) == known
        data = sum(tensor.size for tensor in read_header(tmp_path / "out" / name).tensors.values())
        assert data <= 60_000 or len(read_header(tmp_path / "out" / name).tensors) == 1
    assert index["metadata"]["total_size"] == whole.parameters * 4
    sharded, single = read(tmp_path / "out"), read(tmp_path / "whole")
    assert all((sharded[name] == single[name]).all() for name in single)


def test_blocks_of_rows_make_no_difference(base, adapter, tmp_path, monkeypatch):
    whole = merge(base, adapter, tmp_path / "whole", dtype="float32")
    monkeypatch.setattr("hubkit.models.merging.blocks.BLOCK", 500)
    blocks = merge(base, adapter, tmp_path / "blocks", dtype="float32")
    assert blocks.changed == whole.changed
    one, other = read(tmp_path / "whole"), read(tmp_path / "blocks")
    assert all((one[name] - other[name]).abs().max() <= 1e-6 for name in one)


def test_the_result_is_a_model_of_its_own(base, adapter, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    changed = tmp_path / "base"
    shutil.copytree(base, changed)
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "_name_or_path": "/home/me/base", "eos_token_id": 257}))
    (changed / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 257}')
    out = tmp_path / "out"
    merge(changed, adapter, out, dtype="bfloat16", chat_template=CHATML, end_of_turn=END)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert model.config.eos_token_id == 260
    assert model.generation_config.eos_token_id == [260, 257]
    GenerationConfig.from_pretrained(out).validate(strict=True)
    model.save_pretrained(tmp_path / "again")
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == CHATML
    assert find(tokenizer) == END
    assert "/home/me" not in "".join(path.read_text() for path in out.glob("*.json"))
    assert not (out / "adapter_config.json").exists()
    assert not list(tmp_path.glob(".*partial"))


def test_the_result_passes_the_check_though_the_base_does_not(make_model, make_tokenizer, tmp_path):
    base = tmp_path / "base"
    make_model(eos_token_id=257).save_pretrained(base)
    make_tokenizer("{{ messages }}", pad_token="<|im_end|>", unk_token="<unk>").save_pretrained(base)
    adapter = save_adapter(base, tmp_path / "adapter")
    tokenizer = make_tokenizer(CHATML, pad_token="<|im_end|>", unk_token="<unk>")
    out = tmp_path / "out"
    merge(base, adapter, out, chat_template=CHATML, end_of_turn=find(tokenizer), pad_token="<unk>")
    before, after = check(FolderSource(base)), check(FolderSource(out))
    assert not before.sound
    assert [finding.message for finding in after.findings if finding.level == "error"] == []
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(out).pad_token == "<unk>"


def edit(folder: Path, into: Path, **settings) -> Path:
    shutil.copytree(folder, into)
    path = into / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return into


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"use_dora": True}, "has only lora_A"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"lora_bias": True}, "has only lora_A"),
        ({"kasa_config": {"beta": 1}}, "KaSA changes the base"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"a_key_of_tomorrow": {"x": 1}}, "a_key_of_tomorrow"),
        ({"r": 5}, "rank 5"),
    ],
)
def test_adapters_that_are_not_understood_are_refused(base, adapter, tmp_path, settings, says):
    with pytest.raises(RefusedError, match=says):
        merge(base, edit(adapter, tmp_path / "adapter", **settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapter_of_another_base_is_refused(make_model, make_tokenizer, adapter, tmp_path):
    narrow = save_base(make_model, make_tokenizer, tmp_path / "narrow", hidden_size=32)
    with pytest.raises(RefusedError, match="the base's tensor"):
        merge(narrow, adapter, tmp_path / "out")
    short = save_base(make_model, make_tokenizer, tmp_path / "short", num_hidden_layers=1)
    with pytest.raises(RefusedError, match="does not have"):
        merge(short, adapter, tmp_path / "out")


def test_tied_embeddings_are_not_changed_by_halves(make_model, make_tokenizer, tmp_path):
    tied = save_base(make_model, make_tokenizer, tmp_path / "tied", tie_word_embeddings=True)
    both = save_adapter(tied, tmp_path / "both", target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(RefusedError, match=r"LoRA on model.embed_tokens.weight.*tied"):
        merge(tied, both, tmp_path / "out")
    report = merge(tied, save_adapter(tied, tmp_path / "adapter"), tmp_path / "out", dtype="float32")
    assert report.tensors == len(read(tied))
    assert "lm_head.weight" not in read(tmp_path / "out")


def test_an_adapter_that_changes_nothing_is_refused(base, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    fresh = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj"]))
    fresh.save_pretrained(tmp_path / "adapter")
    with pytest.raises(RefusedError, match="changes nothing in q_proj"):
        merge(base, tmp_path / "adapter", tmp_path / "out", dtype="float32")
    assert list(tmp_path.iterdir()) == [tmp_path / "adapter"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6], ids=["nan", "inf", "too large for float16"])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_weights_that_are_no_numbers_are_refused(base, adapter, tmp_path, value, name):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors[name].view(-1)[7] = value
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(RefusedError, match=f"{name} holds a NaN or an infinite"):
        merge(broken, adapter, tmp_path / "out", dtype="float16")


def test_what_is_there_is_not_overwritten(base, adapter, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        merge(base, adapter, tmp_path / "out")


def test_a_full_disk_is_one_sentence_and_leaves_nothing(base, adapter, tmp_path):
    script = (
        "import resource, sys, signal; from pathlib import Path; from hubkit.models.merging.merge import merge\n"
        "from hubkit.core.errors import HubkitError\n"
        "import torch\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: merge(*map(Path, sys.argv[1:]))\n"
        "except HubkitError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, base, adapter, tmp_path / "out"],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert "The disk is full at" in done.stdout
    assert "bytes were to be written" in done.stdout
    assert list(tmp_path.iterdir()) == []


BFLOAT16 = {"dtype": "bfloat16", "torch_dtype": "bfloat16"}  # as transformers 5 and 4 name it


def test_configs_for_publishing():
    with pytest.raises(RefusedError, match="quantized"):
        model_config({"quantization_config": {"bits": 4}}, "bfloat16", END)
    with pytest.raises(RefusedError, match="code of its own"):
        model_config({"auto_map": {"AutoConfig": "x.Y"}}, "bfloat16", END)
    known = model_config({"model_type": "phi3", "auto_map": {"AutoConfig": "x.Y"}}, "bfloat16", None)
    assert known == {"model_type": "phi3", **BFLOAT16}, "transformers has this architecture itself"
    made = model_config({"torch_dtype": "float16", "_name_or_path": "/x", "eos_token_id": [2, 260]}, "bfloat16", END)
    assert made == {"eos_token_id": [2, 260], **BFLOAT16}
    assert generation_config({}, {"eos_token_id": 2, "bos_token_id": 1}, END) == {
        "bos_token_id": 1,
        "eos_token_id": [260, 2],
    }
    assert generation_config({"do_sample": False, "temperature": 1.0}, {}, END) == {
        "do_sample": False,
        "temperature": 1.0,
        "eos_token_id": 260,
    }
    assert generation_config({"do_sample": False, "temperature": 0.6}, {}, None)["do_sample"] is True


def test_errors_are_hubkit_errors(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(HubkitError):
        merge(tmp_path / "nothing", tmp_path / "nothing", tmp_path / "out")


def test_the_base_is_fetched_into_the_cache_that_transformers_reads(hub, base, tmp_path):
    from huggingface_hub import constants

    target = Target(hub.url, tmp_path / "elsewhere", hub.token, embedded=True)
    connected = connect(target)
    connected.ensure_repo("hubkit/fetched", "public")
    connected.api.upload_folder(repo_id="hubkit/fetched", folder_path=base)
    commit = connected.resolve("hubkit/fetched", "main")
    found = fetch_base(target, "hubkit/fetched", commit)
    assert found.is_relative_to(Path(constants.HF_HUB_CACHE).resolve())
    assert not (tmp_path / "elsewhere" / "hub").exists()
    assert read_weights(found).keys() == {found / "model.safetensors"}


def test_a_hub_that_is_away_is_a_remote_error(tmp_path):
    with pytest.raises(RemoteError, match="cannot be reached") as away:
        fetch_base(Target("http://127.0.0.1:9", tmp_path), "me/base", "0" * 40)
    assert away.value.exit_code == 5
