"""Values of any type in the files of a model become findings and never break `hubkit check`."""

from __future__ import annotations

import json
import shutil

import pytest
from checked_models import look, put, said
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubkit.checks.model import CheckReport


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        ("config.json", "architectures", 5, "config.json: architectures is 5, not a list"),
        ("config.json", "architectures", [5, {}], ""),
        ("config.json", "vocab_size", "10", "config.json: vocab_size is '10', not an integer"),
        ("config.json", "vocab_size", True, "vocab_size is True"),
        ("config.json", "eos_token_id", {"a": 1}, "eos_token_id is {'a': 1}, not an integer or a list"),
        ("config.json", "dtype", "\ud800", ""),
        ("generation_config.json", "eos_token_id", "257", "generation_config.json: eos_token_id is '257'"),
        ("tokenizer_config.json", "added_tokens_decoder", [1], "added_tokens_decoder is [1], not an object"),
        (
            "tokenizer_config.json",
            "added_tokens_decoder",
            {"\u00b2": {"content": "a"}, "9" * 5000: {"content": "b"}},
            "",
        ),
        ("tokenizer_config.json", "chat_template", [{"name": ["default"], "template": 1}, 5], ""),
        ("tokenizer_config.json", "eos_token", 5, "eos_token is 5, not a string or an object"),
        ("tokenizer.json", "added_tokens", 5, "tokenizer.json: added_tokens is 5, not a list"),
        ("tokenizer.json", "added_tokens", [{"content": "<|im_end|>", "id": 10**4299}], ""),
        ("tokenizer.json", "model", 5, "tokenizer.json: model is 5, not an object"),
        ("adapter/adapter_config.json", "revision", [1], "adapter/adapter_config.json: revision is [1], not a string"),
        ("model.safetensors.index.json", "weight_map", {"a": 5}, "not a safetensors file in the same folder"),
    ],
)
def test_a_value_of_a_wrong_type_is_a_finding(model, file, key, value, says):
    put(model / file, **{key: value})
    report = look(model)
    assert says in said(report) and (not says or "[value-type]" in said(report) or "[shards]" in said(report))
    json.dumps(report.to_json(), ensure_ascii=False).encode()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "adapter/adapter_config.json"])
@pytest.mark.parametrize("content", ["[1]", '"x"', "null", "[" * 100_000, "1" * 5000, "\xff"])
def test_a_settings_file_that_is_no_object_is_a_finding(model, name, content):
    (model / name).write_text(content, encoding="latin-1")
    assert f"{name} is not " in said(look(model))


@pytest.mark.parametrize(
    ("front", "says"),
    [
        ("base_model: 5", "README.md: base_model is 5, not a string or a list"),
        ("base_model: [me/base, {a: 1}]", "README.md: base_model holds {'a': 1}, not a string"),
        (f"base_model: 0x{'f' * 5000}", "a number of 5,002 characters"),
        ("license: !!int x", "not valid YAML"),
        ("license: !!timestamp x", "not valid YAML"),
        ("- 1", "front matter has no keys"),
    ],
)
def test_a_card_of_wrong_types_is_a_finding(model, front, says):
    (model / "README.md").write_text(f"---\n{front}\n---\n")
    assert says in said(look(model))


KEYS = {
    "config.json": ["architectures", "vocab_size", "eos_token_id", "dtype", "torch_dtype", "quantization_config"],
    "tokenizer_config.json": ["added_tokens_decoder", "chat_template", "eos_token", "pad_token", "bos_token"],
    "tokenizer.json": ["added_tokens", "model"],
    "generation_config.json": ["eos_token_id"],
    "special_tokens_map.json": ["eos_token", "pad_token"],
    "adapter/adapter_config.json": ["base_model_name_or_path", "revision", "peft_type"],
    "model.safetensors.index.json": ["weight_map", "metadata"],
    "README.md": ["base_model", "license", "tags", "model-index"],
}
NAMES = st.sampled_from(["content", "id", "name", "template", "default", "vocab", "257", "\u0664", "-1"]) | st.text()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["10", "default", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("file", KEYS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_value_of_any_key_breaks_the_check(model, file, data):
    path = model / file
    first = path.with_name(path.name + ".first")
    if path.exists() and not first.exists():
        shutil.copyfile(path, first)
    before = json.loads(first.read_text()) if first.exists() and file != "README.md" else {}
    changes = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS[file], JSON)))
    text = json.dumps({**before, **changes})
    path.write_text(f"---\n{text}\n---\n" if file == "README.md" else text)
    report = look(model)
    assert isinstance(report, CheckReport)
    json.dumps(report.to_json(), ensure_ascii=False).encode()
