"""GGUF files as transformers' own reader and the gguf library read them: nothing of what is tested reads them here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from gguf_models import make
from safetensors.torch import load_file, save_file

from hubkit.core.errors import ConflictError, RefusedError, UsageError
from hubkit.models.gguf import blocks
from hubkit.models.gguf.layout import Kind
from hubkit.models.gguf.read_back import settings_of
from hubkit.models.gguf.write import GgufReport, write_gguf


class Models(dict[str, Path]):
    """Folders by architecture, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, name: str) -> Path:
        self[name] = make(name, self.root / name)
        return self[name]

    def copy_of(self, name: str, folder: Path) -> Path:
        shutil.copytree(self[name], folder)
        return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("gguf"))


def tensors_of(file: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(file)
    return {
        item.name: torch.from_numpy(gguf.dequantize(item.data, item.tensor_type).astype(numpy.float32))
        for item in reader.tensors
    }


@pytest.mark.parametrize("name", ["llama-3", "llama-3-tied", "qwen2", "phi-3", "openhermes", "smollm"])
def test_transformers_reads_the_file_and_computes_what_it_does_from_the_model(
    name: str, models: Models, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models[name]
    write_gguf(folder, tmp_path / "model.gguf", "bf16")
    source = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.arange(10, 60)[None]
    with torch.inference_mode():
        assert torch.equal(source(ids).logits, read(ids).logits)
    if name == "phi-3":  # its reader puts a space before every text, whatever the file says
        return
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == text
    assert own(text, add_special_tokens=False)["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_norms_of_gemma_are_factors_and_experts_are_stacked(models: Models, tmp_path: Path) -> None:
    """transformers' reader does not undo these, so they are compared tensor by tensor."""
    for name in ("gemma-2", "gemma-3"):
        write_gguf(models[name], tmp_path / f"{name}.gguf", "bf16")
        source, read = load_file(models[name] / "model.safetensors"), tensors_of(tmp_path / f"{name}.gguf")
        norm, other = source["model.layers.1.post_feedforward_layernorm.weight"], read["blk.1.post_ffw_norm.weight"]
        assert torch.equal(norm.float() + 1, other)
        assert torch.equal(source["model.layers.1.self_attn.q_proj.weight"].float(), read["blk.1.attn_q.weight"])
    assert torch.equal(source["model.layers.0.self_attn.q_norm.weight"].float() + 1, read["blk.0.attn_q_norm.weight"])
    for name, old in (("mixtral", "block_sparse_moe.experts.{}.w1"), ("qwen3-moe", "mlp.experts.{}.gate_proj")):
        write_gguf(models[name], tmp_path / f"{name}.gguf", "bf16")
        source, read = load_file(models[name] / "model.safetensors"), tensors_of(tmp_path / f"{name}.gguf")
        experts = [source[f"model.layers.1.{old.format(expert)}.weight"].float() for expert in range(4)]
        assert torch.equal(torch.stack(experts), read["blk.1.ffn_gate_exps.weight"])


def test_stacked_experts_of_a_checkpoint_are_cut_into_gate_and_up(models: Models, tmp_path: Path) -> None:
    source = load_file(models["qwen3-moe"] / "model.safetensors")
    folder = models.copy_of("qwen3-moe", tmp_path / "stacked")
    made = {name: item for name, item in source.items() if ".experts." not in name}
    for layer in range(2):
        start = f"model.layers.{layer}.mlp.experts"
        parts = {part: [source[f"{start}.{e}.{part}_proj.weight"] for e in range(4)] for part in ("gate", "up", "down")}
        made[f"{start}.gate_up_proj"] = torch.cat([torch.stack(parts["gate"]), torch.stack(parts["up"])], 1)
        made[f"{start}.down_proj"] = torch.stack(parts["down"])
    save_file(made, folder / "model.safetensors", {"format": "pt"})
    one = write_gguf(models["qwen3-moe"], tmp_path / "one.gguf", "q8_0")
    assert write_gguf(folder, tmp_path / "two.gguf", "q8_0").sha256 == one.sha256


@pytest.mark.parametrize("name", ["gemma-3", "mixtral"])
def test_the_bytes_depend_on_the_model_alone(
    name: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither threads nor the size of blocks nor shards change them: a file can be made again and compared."""
    from transformers import AutoModelForCausalLM

    kinds: tuple[Kind, ...] = ("f16", "bf16", "q8_0")
    first = {kind: write_gguf(models[name], tmp_path / f"{kind}.gguf", kind, workers=3) for kind in kinds}
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(models[name], dtype="auto").save_pretrained(sharded, max_shard_size="30KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    for file in models[name].glob("*token*"):
        (sharded / file.name).write_bytes(file.read_bytes())
    for file in ("chat_template.jinja", "generation_config.json", "config.json"):
        (sharded / file).write_bytes((models[name] / file).read_bytes())
    monkeypatch.setattr(blocks, "BLOCK", 1000)
    for kind, report in first.items():
        again = write_gguf(sharded, tmp_path / f"again-{kind}.gguf", kind, workers=1)
        assert again.sha256 == report.sha256
        assert again.file.read_bytes() == report.file.read_bytes()


def test_errors_are_those_of_the_numbers_in_the_file(models: Models, tmp_path: Path) -> None:
    folder = models["smollm"]
    source = load_file(folder / "model.safetensors")
    for kind in ("f16", "bf16", "q8_0"):
        report = write_gguf(folder, tmp_path / f"{kind}.gguf", kind)  # type: ignore[arg-type]
        read = tensors_of(report.file)
        stated = {item.name: item for item in report.tensors}
        assert set(stated) == set(read)
        for ours, theirs in (
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"),
            ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
        ):
            before = source[theirs].double()
            away = before - read[ours].double()
            assert stated[ours].largest_error == pytest.approx(float(away.abs().max()), rel=1e-6)
            assert stated[ours].relative_error == pytest.approx(float(away.norm() / before.norm()), rel=1e-6)
        worst = report.worst.relative_error
        assert worst == 0 if kind == "bf16" else 0 < worst < (1e-3 if kind == "f16" else 1e-2)
    kinds = {item.name: item.type for item in report.tensors}
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0" and kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == "F16"  # its rows have 48 numbers, no multiple of 32


def test_every_stop_is_written_and_a_tokenizers_prefix_too(models: Models, tmp_path: Path) -> None:
    def found(name: str) -> tuple[GgufReport, dict[str, Any]]:
        report = write_gguf(models[name], tmp_path / f"{name}.gguf", "f16", name="a model")
        return report, settings_of(report.file)

    report, settings = found("llama-3")
    ids = json.loads((models["llama-3"] / "generation_config.json").read_text())["eos_token_id"]
    assert settings["tokenizer.ggml.eos_token_ids"][0] == settings["tokenizer.ggml.eot_token_id"] == 1
    assert sorted(settings["tokenizer.ggml.eos_token_ids"]) == sorted(ids)
    assert report.stops == {"<|eot_id|>": 1, "<|end_of_text|>": 5, "<|eom_id|>": 6} and report.notes == ()
    assert settings["general.name"] == "a model" and settings["tokenizer.ggml.pre"] == "gpt-2"
    assert settings["tokenizer.ggml.add_bos_token"] is True
    template = (models["llama-3"] / "chat_template.jinja").read_text()
    assert settings["tokenizer.chat_template"] == template
    report, settings = found("phi-3")
    assert settings["tokenizer.ggml.eos_token_id"] == report.stops["<|endoftext|>"]
    assert settings["tokenizer.ggml.eot_token_id"] == report.stops["<|end|>"]
    assert settings["tokenizer.ggml.eom_token_id"] == report.stops["<|assistant|>"]
    assert settings["tokenizer.ggml.model"] == "llama" and settings["tokenizer.ggml.add_space_prefix"] is False
    report, settings = found("gemma-2")
    assert settings["tokenizer.ggml.eot_token_id"] == report.stops["<end_of_turn>"]
    assert settings["gemma2.attention.sliding_window"] == 64 and settings["gemma2.final_logit_softcapping"] == 30


def test_a_stop_without_room_is_told(models: Models, tmp_path: Path) -> None:
    folder = models.copy_of("phi-3", tmp_path / "model")
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["eos_token_id"] += [4, 5]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    report = write_gguf(folder, tmp_path / "model.gguf", "f16")
    assert len(report.stops) == 5 and "does not stop at <|user|>, <|system|>" in report.notes[0]


def test_what_llama_cpp_would_compute_differently_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("pythia", {}, "GPTNeoXForCausalLM cannot be written as GGUF"),
        ("gemma-3", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar is 256"),
        ("qwen3-moe", {"norm_topk_prob": False}, "norm_topk_prob is False"),
        ("llama-3", {"hidden_act": "relu"}, "its activation is 'relu'"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}, "sliding windows"),
        ("smollm", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic'"),
    ]
    for number, (name, keys, problem) in enumerate(cases):
        folder = make(name, tmp_path / str(number), **keys)
        with pytest.raises(RefusedError, match=problem):
            write_gguf(folder, tmp_path / "model.gguf", "f16")
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob(".*"))


def test_numbers_that_the_type_cannot_hold_are_refused(models: Models, tmp_path: Path) -> None:
    folder = models.copy_of("smollm", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name][3, 4] = 1e5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RefusedError, match=r"blk\.0\.ffn_up\.weight holds numbers up to 99840, too large for F16"):
        write_gguf(folder, tmp_path / "model.gguf", "f16")
    assert write_gguf(folder, tmp_path / "bf16.gguf", "bf16").worst.relative_error == 0
    weights[name][3, 4] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RefusedError, match=r"blk\.0\.ffn_up\.weight holds NaN"):
        write_gguf(folder, tmp_path / "model.gguf", "q8_0")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RefusedError, match=r"nothing makes blk\.1\.ffn_up\.weight"):
        write_gguf(folder, tmp_path / "model.gguf", "q8_0")
    with pytest.raises(UsageError, match="exists already"):
        write_gguf(folder, tmp_path / "bf16.gguf", "bf16")
    assert [path.name for path in tmp_path.glob("*.gguf*")] == ["bf16.gguf"] and not list(tmp_path.glob(".*"))


def test_a_file_that_came_out_otherwise_is_not_kept(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = gguf.GGUFWriter.write_kv_data_to_file

    def without_a_stop(writer: Any) -> None:
        kept = dict(writer.kv_data[0])
        writer.kv_data[0]["tokenizer.ggml.eot_token_id"] = kept["qwen2.block_count"]
        write(writer)
        writer.kv_data[0] = kept

    monkeypatch.setattr(gguf.GGUFWriter, "write_kv_data_to_file", without_a_stop)
    with pytest.raises(ConflictError, match=r"the key tokenizer\.ggml\.eot_token_id has another value"):
        write_gguf(models["qwen2"], tmp_path / "model.gguf", "f16")
    assert not list(tmp_path.iterdir())


def test_pre_tokenizers_are_told_by_their_rules() -> None:
    from hubkit.models.gguf.pretokenizers import pre_tokenizer

    def split(pattern: str, *, ignore_merges: bool = False) -> dict[str, Any]:
        steps = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ]
        return {
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "model": {"type": "BPE", "ignore_merges": ignore_merges},
        }

    qwen = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    llama = qwen.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    assert pre_tokenizer(split(qwen)) == "qwen2"
    assert pre_tokenizer(split(llama, ignore_merges=True)) == "llama-bpe"
    assert pre_tokenizer(split(llama)) == "dbrx"
    digits = [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False}]
    found = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": digits}, "model": {"type": "BPE"}}
    assert pre_tokenizer(found) == "smollm"
    for wrong in (
        split(qwen, ignore_merges=True),
        split(r"\p{L}+"),
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}, "model": {}},
        {"pre_tokenizer": None, "model": {}},
    ):
        with pytest.raises(RefusedError, match="no pre-tokenizer that splits text as this tokenizer does"):
            pre_tokenizer(wrong)
