"""`hubkit check` on the shapes of real families: what libraries load has no error, what they refuse has one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_parts import CHATML, IM, INST, LLAMA_PIECES, QWEN, S, decoder, model, pieces, turns, weights, write
from model_shapes import SHAPES

from hubkit.checks.model import CheckReport, FolderSource, check
from hubkit.checks.model.family import family_of
from hubkit.checks.model.files import settings_of
from hubkit.checks.model.pieces import PiecesError, read_pieces
from hubkit.checks.model.quantization import quantization_of
from hubkit.checks.model.templates import template_of
from hubkit.checks.model.vocabulary import read as read_vocabulary


def look(folder: Path) -> CheckReport:
    return check(FolderSource(folder))


def found(report: CheckReport, *levels: str) -> list[str]:
    return [f"{item.level}: {item.message} [{item.rule}]" for item in report.findings if item.level in levels]


def test_there_are_enough_families() -> None:
    assert len(SHAPES) >= 50


@pytest.mark.parametrize("name", SHAPES)
def test_a_family_that_libraries_load_has_no_error(tmp_path: Path, name: str) -> None:
    assert found(look(write(tmp_path, SHAPES[name])), "error") == []


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("Qwen2-VL, template of the processor", "<|im_end|>"),
        ("Qwen1.5, added_tokens.json", "<|im_end|>"),
        ("Llama 2, only SentencePiece", "</s>"),
        ("LLaVA 1.5", "</s>"),
        ("Phi-3", "<|end|>"),
        ("Command A, a closer of the content before that of the turn", "<|END_OF_TURN_TOKEN|>"),
        ("GLM-4, an answer ends where the user's turn opens", "<|user|>"),
        ("gpt-oss, MXFP4", "<|return|>"),
    ],
)
def test_the_token_that_ends_an_answer(tmp_path: Path, name: str, token: str) -> None:
    end = look(write(tmp_path, SHAPES[name])).end_of_turn
    assert end is not None and end.token == token


def test_a_phi_that_does_not_stop_at_its_end_of_turn_is_an_error(tmp_path: Path) -> None:
    files = {**SHAPES["Phi-3"], "generation_config.json": {"eos_token_id": [30]}}
    report = look(write(tmp_path, files))
    assert report.end_of_turn is not None and report.end_of_turn.token == "<|end|>"
    [error] = found(report, "error")
    assert "generation does not stop at the end-of-turn token" in error and "[eos-generation]" in error


def test_a_template_for_parts_alone_is_told(tmp_path: Path) -> None:
    notes = found(look(write(tmp_path, SHAPES["Qwen2-VL, template of the processor"])), "note")
    assert any("only as a list of parts" in note and "[template-parts]" in note for note in notes)


@pytest.mark.parametrize("card", ["tags: [conversational]", "tags: conversational", "library_name: transformers"])
def test_a_chat_model_needs_a_template_and_a_completing_one_does_not(tmp_path: Path, card: str) -> None:
    files = {**model("LlamaForCausalLM", "llama", S, template=None, eos=2), "README.md": f"---\n{card}\n---\n"}
    report = look(write(tmp_path, files))
    levels = [item.level for item in report.findings if item.rule == "no-chat-template"]
    assert levels == ["error" if "conversational" in card else "note"]


def test_an_added_token_without_a_row_is_an_error_only_where_it_is_used(tmp_path: Path) -> None:
    unused = found(look(write(tmp_path / "a", SHAPES["Gemma 3 1B, an added token without a row"])), "error", "warning")
    assert len(unused) == 1 and "such as '<image_soft_token>' (64)" in unused[0] and "[vocabulary]" in unused[0]
    padded = {**QWEN, "tokenizer_config.json": {**QWEN["tokenizer_config.json"], "pad_token": "[PAD]"},
              "added_tokens.json": {"[PAD]": 64}}  # fmt: skip
    [error] = found(look(write(tmp_path / "b", padded)), "error")
    assert "ids up to 64, but the model has 64 embeddings" in error


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 4932808328\n"


def test_lfs_pointers_are_told_once_and_nothing_else_of_them(tmp_path: Path) -> None:
    names = ("model.safetensors", "tokenizer.json", "tokenizer.model")
    report = look(write(tmp_path, {**QWEN, **dict.fromkeys(names, POINTER)}))
    [error] = [item for item in report.findings if item.level == "error"]
    assert error.rule == "lfs-pointer" and all(name in error.message for name in names)
    assert "git lfs pull" in (error.hint or "")
    assert report.end_of_turn is not None and report.end_of_turn.token == "<|im_end|>"


def test_a_text_that_speaks_of_pointers_is_none(tmp_path: Path) -> None:
    text = POINTER.replace("a" * 64, "zz")
    assert found(look(write(tmp_path, {**QWEN, "notes.txt": text})), "error", "warning") == []


SENTENCEPIECE: dict[str, Any] = {
    "config.json": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32},
    "tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>", "chat_template": INST},
    "model.safetensors": weights(),
}


@pytest.mark.parametrize(
    ("content", "eos", "says"),
    [
        (LLAMA_PIECES, 2, ""),
        (LLAMA_PIECES, [2, 7], ""),
        (pieces(("<unk>", 2)), 2, ""),
        (LLAMA_PIECES, 9, "eos-generation"),
        (pieces(("<unk>", 2), *((f"w{n}", 1) for n in range(40)), ("</s>", 3)), 41, "vocabulary"),
        (b"\x0e\x00\x00\x00\x00\x00\x00\x00<unk>", [2, 7], "no-tokenizer"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", [2, 7], "no-tokenizer"),
        (b"", [2, 7], "no-tokenizer"),
    ],
)
def test_a_sentencepiece_vocabulary(tmp_path: Path, content: bytes, eos: Any, says: str) -> None:
    files = {**SENTENCEPIECE, "tokenizer.model": content, "generation_config.json": {"eos_token_id": eos}}
    files["config.json"] = {**SENTENCEPIECE["config.json"], "eos_token_id": eos}
    report = look(write(tmp_path, files))
    told = {item.rule for item in report.findings if item.rule in {"eos-generation", "vocabulary", "no-tokenizer"}}
    assert told == ({says} if says else set())
    assert "never closes" not in str(report.findings)
    if says == "no-tokenizer":
        assert "only tokenizer.model has the ids of the tokens" in str(report.findings)


def test_what_libraries_refuse_is_an_error(tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "no-config": {"model.safetensors": weights()},
        "no-tokenizer": {name: QWEN[name] for name in ("config.json", "generation_config.json", "model.safetensors")},
        "shards": {**QWEN, "model-00001-of-00002.safetensors": weights(), "model.safetensors": None},
        "adapter-at-root": {**QWEN, "adapter_config.json": {"base_model_name_or_path": "gpt2"},
                            "adapter_model.safetensors": weights()},
        "template-fails": {**QWEN, "chat_template.jinja": "{% for m in messages %}"},
        "adapter-base": {"adapter_config.json": {"base_model_name_or_path": "/data/llama"},
                         "adapter_model.safetensors": weights()},
    }  # fmt: skip
    for rule, files in wrong.items():
        folder = write(tmp_path / rule, {name: item for name, item in files.items() if item is not None})
        assert {item.rule for item in look(folder).findings if item.level == "error"} == {rule}


def test_an_opener_that_generation_does_not_stop_at_ends_nothing(tmp_path: Path) -> None:
    special = {"<|user|>": 20, "<|assistant|>": 21, "<|endoftext|>": 22}
    files = model("GlmForCausalLM", "glm", special, eos=22, template=turns("<|ROLE|>\n", ""))
    report = look(write(tmp_path, files))
    assert report.end_of_turn is None and any("never closes" in text for text in found(report, "warning"))
    assert found(report, "error") == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["default", "gptq", CHATML]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["default", "name", "template", "content", "id", "vocab", "12"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_value_breaks_the_readers(tmp_path: Path, data: st.DataObject) -> None:
    named = {
        "chat_template.json": ["chat_template"],
        "processor_config.json": ["chat_template"],
        "added_tokens.json": ["<|im_end|>", "a"],
        "vocab.json": ["<|im_end|>", "b"],
        "config.json": ["text_config", "quantization_config", "quantization", "is_encoder_decoder", "architectures"],
        "tokenizer_config.json": ["added_tokens_decoder", "eos_token"],
    }
    files = {
        file: data.draw(JSON | st.dictionaries(st.sampled_from(keys), JSON, max_size=3)) for file, keys in named.items()
    }
    source, problems = FolderSource(write(tmp_path, files)), []
    config = settings_of(source, "config.json", problems)
    tokenizer_config = settings_of(source, "tokenizer_config.json", problems)
    template = template_of(source, tokenizer_config, problems)
    assert template is None or isinstance(template, str)
    assert all(type(number) is int for number in read_vocabulary(source, tokenizer_config, problems).special.values())
    assert family_of(config, files) and quantization_of(config, files) != ""


@given(st.binary(max_size=60) | st.binary(max_size=30).map(lambda tail: LLAMA_PIECES[:50] + tail))
def test_no_bytes_break_the_reader_of_pieces(content: bytes) -> None:
    with contextlib.suppress(PiecesError):
        read_pieces(content)


def test_what_would_take_minutes_is_not_read(tmp_path: Path) -> None:
    for content in (b"\x0a\x02\x0a\x00" + b"\x10\x01" * 1_100_000, b"\x0a\x00" * 8_500_000):
        with pytest.raises(PiecesError):
            read_pieces(content)
    tokens = {f"<|{number}|>": number + 20 for number in range(50_000)}
    files = model("LlamaForCausalLM", "llama", {**S, **tokens}, template=INST + "{# " + "x" * 100_000 + " #}", eos=2)
    report = look(write(tmp_path, files))
    assert report.end_of_turn is not None and report.end_of_turn.token == "</s>"


def test_the_shapes_are_what_they_say() -> None:
    assert decoder(IM)["12"]["content"] == "<|im_end|>" and "<|im_end|>" in CHATML
