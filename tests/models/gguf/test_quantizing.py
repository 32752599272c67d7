"""Types that llama.cpp's quantizer writes, with another quantizer of the same format in its place: the gguf library's.

What is tested is what hubkit does around it. The real one is in tests/soak/test_gguf_types.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import gguf
import pytest
import torch
from gguf_models import library_quantizer, make
from safetensors.torch import load_file

from hubkit.core.errors import ConflictError, HubkitError, UsageError
from hubkit.models.gguf import library, quantizing
from hubkit.models.gguf.header import read_gguf_header
from hubkit.models.gguf.layout import FILE_TYPES, KINDS, QUANTIZED, Kind
from hubkit.models.gguf.read_back import settings_of
from hubkit.models.gguf.write import write_gguf


def test_the_file_is_read_back_and_its_errors_are_those_of_its_numbers(tmp_path: Path) -> None:
    """Rows of heads that change places, experts that are stacked, and a norm that is shifted are compared as such."""
    for name, tensor, source in (
        ("smollm", "blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"),
        ("qwen3-moe", "blk.1.ffn_gate_exps.weight", "model.layers.1.mlp.experts.{}.gate_proj.weight"),
        ("gemma-3", "blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight"),
    ):
        folder, seen = make(name, tmp_path / name), list[tuple[str, float]]()
        report = write_gguf(
            folder, tmp_path / f"{name}.gguf", "q4_0", name="a model", quantizer=library_quantizer(),
            report=lambda figure, done, seen=seen: seen.append((figure, done)),  # type: ignore[misc]
        )  # fmt: skip
        exact = write_gguf(folder, tmp_path / f"{name}-BF16.gguf", "bf16", name="a model")
        assert report.stops == exact.stops and report.template and report.bytes < exact.bytes
        settings, expected = settings_of(report.file), settings_of(exact.file)
        assert settings == {**expected, "general.file_type": FILE_TYPES["q4_0"]}
        assert read_gguf_header(report.file).kind == "q4_0"
        stated = {item.name: item for item in report.tensors}
        assert stated[tensor].type == "Q4_0" and stated["blk.0.attn_norm.weight"].relative_error == 0
        weights = load_file(folder / "model.safetensors")
        parts = [weights[source.format(number)] for number in range(4)] if "{}" in source else [weights[source]]
        before = torch.stack(parts).double()
        found = next(item for item in gguf.GGUFReader(report.file).tensors if item.name == tensor)
        away = before - torch.from_numpy(gguf.dequantize(found.data, found.tensor_type)).double().view(before.shape)
        assert stated[tensor].relative_error == pytest.approx(float(away.norm() / before.norm()), rel=1e-6)
        assert stated[tensor].largest_error == pytest.approx(float(away.abs().max()), rel=1e-6)
        assert 0.01 < report.worst.relative_error < 0.2
        assert [done for _, done in seen] == sorted(done for _, done in seen) and seen[-1] == ("all tensors", 1.0)
        types = {item.name: item.type for item in report.tensors}
        assert ("BF16" in types.values()) == bool(report.notes)  # rows of 48 or 24 numbers
        if report.notes:
            assert "Q4_0 cuts rows into blocks of 32 numbers" in report.notes[0]
            assert "in other types, 2 in BF16 (16.0 bits)" in report.notes[0]
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".gguf"] * 6


def without(quantize: quantizing.Quantize, act: Callable[[Path], None]) -> quantizing.Quantize:
    """``quantize``, then ``act`` on the file."""

    def both(source: Path, out: Path, kind: Kind, threads: int, report: quantizing.Report | None = None) -> None:
        quantize(source, out, kind, threads, report)
        act(out)

    return both


def test_a_quantizer_that_changes_the_stops_or_loses_a_tensor_leaves_no_file(tmp_path: Path) -> None:
    folder = make("smollm", tmp_path / "model")

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-4096])

    for quantizer, problem in (
        (library_quantizer(**{"tokenizer.ggml.eot_token_id": 5}), r"the key tokenizer\.ggml\.eot_token_id has another"),
        (library_quantizer(**{"tokenizer.chat_template": "{{ 1 }}"}), r"the key tokenizer\.chat_template has another"),
        (without(library_quantizer(), cut), "cannot be read back"),
    ):
        with pytest.raises(ConflictError, match=problem):
            write_gguf(folder, tmp_path / "model.gguf", "q4_0", quantizer=quantizer)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_without_llama_cpp_python_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = library.find_spec
    monkeypatch.setattr(library, "find_spec", lambda name: None if name == "llama_cpp" else found(name))
    folder = make("smollm", tmp_path / "model")
    with pytest.raises(UsageError, match="llama-cpp-python is not installed") as error:
        write_gguf(folder, tmp_path / "model.gguf", "q4_k_m")
    assert "hubkit[llama-cpp]" in (error.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_quantizer_that_dies_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is a real one: it cannot load what it is to quantize with, so it ends with an error."""
    monkeypatch.setattr(quantizing, "runtime", lambda: None)
    monkeypatch.setattr(quantizing, "__name__", "hubkit.models.gguf.no_such_module")
    with pytest.raises(HubkitError, match=r"llama\.cpp cannot quantize to Q4_K_M: .*no_such_module") as error:
        quantizing.quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_k_m", 1)
    assert "room" in (error.value.hint or "") and not list(tmp_path.iterdir())


def test_every_type_has_a_number_of_its_own() -> None:
    from hubkit.cli.gguf import TYPES

    assert tuple(FILE_TYPES) == TYPES == get_args(Kind) and len(set(FILE_TYPES.values())) == len(FILE_TYPES)
    assert {*KINDS, *QUANTIZED} == set(FILE_TYPES) and not set(KINDS) & set(QUANTIZED)
    for kind, number in FILE_TYPES.items():
        assert gguf.LlamaFileType(number).name == f"MOSTLY_{kind.upper()}"
