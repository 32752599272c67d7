"""The merge takes what PEFT takes: each form of LoRA on thirteen architectures equals PEFT's merge to one rounding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from adapters import MIXTURES, base_of, forms, merged_by_peft, one_rounding, quiet, read, save_adapter
from architectures import ARCHITECTURES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubkit.core.errors import RefusedError
from hubkit.models import meta
from hubkit.models.merging.adapter import read_adapter
from hubkit.models.merging.merge import merge
from hubkit.models.merging.resolution import NotLocalError
from hubkit.models.merging.support import merge_problem, merge_way
from hubkit.models.tensors import SINGLE

EVERY = [(name, form) for name in ARCHITECTURES for form in forms(name)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bases")


def equal_to_peft(name: str, form: str, bases: Path, folder: Path) -> None:
    import torch

    base = base_of(name, bases)
    adapter = save_adapter(base, folder / "adapter", **forms(name)[form])
    theirs = merged_by_peft(base, adapter, folder / "peft")
    exact, expected = read(theirs), json.loads((theirs / "config.json").read_text())
    report = merge(base, adapter, folder / "float32", dtype="float32")
    ours = read(folder / "float32")
    assert ours.keys() == exact.keys()
    assert one_rounding(ours, exact) == []
    assert report.way == "streamed"
    config = json.loads((folder / "float32" / "config.json").read_text())
    for key in ("vocab_size", "tie_word_embeddings"):
        assert config.get(key, expected.get(key)) == expected.get(key)
    merge(base, adapter, folder / "bfloat16", dtype="bfloat16")
    rounded = read(folder / "bfloat16")
    assert all(torch.equal(rounded[key], value.bfloat16()) for key, value in ours.items())


@pytest.mark.soak
@pytest.mark.parametrize(("name", "form"), EVERY)
def test_every_form_on_every_architecture_equals_pefts_merge(name, form, bases, tmp_path):
    equal_to_peft(name, form, bases, tmp_path)


QUICK = [
    ("llama-3", "patterns"),
    ("llama-3", "dora, rslora"),
    ("llama-3", "lora on a resized embedding"),
    ("llama-3", "dora on the embedding"),
    ("llama-3-tied", "the embedding saved"),
    ("llama-3-tied", "tied and saved"),
    ("qwen2", "bias: all"),
    ("phi-3", "pissa, rslora"),
    ("pythia", "lora_bias, bias: all"),
    ("pythia", "tokens of both"),
    ("falcon", "resized, tokens"),
    ("gpt-2", "dora"),
    ("mixtral", "all-linear"),
    ("qwen3-moe", "experts"),
]
"""One of each way in which a tensor changes; `make soak` has all of them everywhere."""


@pytest.mark.parametrize(("name", "form"), QUICK)
def test_a_form_of_each_kind_equals_pefts_merge(name, form, bases, tmp_path):
    equal_to_peft(name, form, bases, tmp_path)


# --- adapters and checkpoints of other ages


def test_a_checkpoint_without_the_models_prefix_keeps_its_names(bases, tmp_path):
    """As GPT-2's own repo has them: ``h.0.attn.c_attn.weight``."""
    from safetensors.torch import load_file, save_file

    whole = base_of("gpt-2", bases)
    base = tmp_path / "base"
    shutil.copytree(whole, base)
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(base / SINGLE).items()}
    save_file(tensors, base / SINGLE, {"format": "pt"})
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["c_attn", "c_proj"], modules_to_save=["wte"])
    merge(base, adapter, tmp_path / "out", dtype="float32")
    ours, exact = read(tmp_path / "out"), read(merged_by_peft(base, adapter, tmp_path / "peft"))
    assert ours.keys() == tensors.keys() | {"lm_head.weight"}
    assert one_rounding(ours, {name.removeprefix("transformer."): value for name, value in exact.items()}) == []
    assert distance(base, adapter, tmp_path / "out") < 1e-5


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_lora_on_each_expert_by_itself_equals_what_peft_converts_it_to(name, bases, tmp_path):
    """Adapters that were trained while transformers kept each expert as a layer of its own."""
    import torch
    from safetensors.torch import save_file

    base = base_of(name, bases)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    tensors = read_one(adapter)
    experts = [key for key in read(base) if ".experts." in key]
    torch.manual_seed(5)
    for key in experts:
        out, into = read(base)[key].shape
        own = f"base_model.model.{key.removesuffix('.weight')}"
        tensors[f"{own}.lora_A.weight"] = torch.randn(4, into) * 0.1
        tensors[f"{own}.lora_B.weight"] = torch.randn(out, 4) * 0.1
    save_file(tensors, adapter / "adapter_model.safetensors")
    edit(adapter, target_modules=["q_proj", *sorted({key.split(".")[-2] for key in experts})])
    report = merge(base, adapter, tmp_path / "out", dtype="float32")
    assert report.changed == len(experts) + 2
    assert one_rounding(read(tmp_path / "out"), read(merged_by_peft(base, adapter, tmp_path / "peft"))) == []


def read_one(adapter: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(adapter / "adapter_model.safetensors")


def test_what_is_read_of_an_adapter_is_a_copy_and_never_that_of_an_earlier_file(tmp_path):
    import torch
    from safetensors.torch import save_file

    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    for number in (1.0, 2.0):
        (tmp_path / "adapter_model.safetensors").unlink(missing_ok=True)
        save_file({"x": torch.full((2, 3), number)}, tmp_path / "adapter_model.safetensors")
        adapter = read_adapter(tmp_path)
        adapter.load("x").mul_(7)
        assert adapter.load("x").eq(number).all()
        assert adapter.load("x", 1, 2).eq(number).all()


# --- settings by chance


@pytest.mark.soak
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_settings_by_chance_equal_pefts_merge(data, bases, tmp_path_factory):
    name = data.draw(st.sampled_from([name for name in ARCHITECTURES if name not in MIXTURES]))
    one, two = forms(name)["lora"]["target_modules"]
    targets = data.draw(st.sampled_from([[one], [two], [one, two], "all-linear"]))
    lora = {
        "target_modules": targets,
        "r": data.draw(st.integers(1, 9)),
        "lora_alpha": data.draw(st.sampled_from([1, 3, 16, 0.5])),
        "use_rslora": data.draw(st.booleans()),
        "use_dora": data.draw(st.booleans()),
        "bias": data.draw(st.sampled_from(["none", "all", "lora_only"])),
        "rank_pattern": data.draw(st.sampled_from([{}, {one: 1}, {rf"0\..*{two}": 7, one: 3}])),
        "alpha_pattern": data.draw(st.sampled_from([{}, {two: 40}, {rf".*\.1\..*{one}": 2.5}])),
        "layers_to_transform": data.draw(st.sampled_from([None, [0], [0, 1]] if isinstance(targets, list) else [None])),
        "modules_to_save": data.draw(st.sampled_from([None, ["lm_head"]])),
    }
    scale = data.draw(st.sampled_from([1e-3, 0.1, 1.0]))
    base, folder = base_of(name, bases), tmp_path_factory.mktemp("chance")
    adapter = save_adapter(base, folder / "adapter", scale=scale, seed=data.draw(st.integers(0, 99)), **lora)
    merge(base, adapter, folder / "out", dtype="float32")
    exact = read(merged_by_peft(base, adapter, folder / "peft"))
    assert one_rounding(read(folder / "out"), exact) == []
    shutil.rmtree(folder)


# --- where PEFT's own merge is wrong


def distance(base: Path, adapter: Path, merged: Path) -> float:
    """How far the logits of ``merged`` are from those of the adapter on the base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with quiet(), torch.no_grad():
        tokens = torch.arange(1, 20)[None]
        wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
        other = AutoModelForCausalLM.from_pretrained(merged)
        return float((wrapped(tokens).logits - other(tokens).logits).abs().max())


@pytest.mark.parametrize(
    ("name", "lora"),
    [
        ("falcon", {"target_modules": ["query_key_value", "word_embeddings"]}),
        ("llama-3-tied", {"target_modules": ["q_proj", "lm_head"]}),
        ("llama-3-tied", {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}),
        ("gpt-2", {"target_modules": ["c_attn", "wte"], "use_dora": True}),
    ],
)
def test_lora_on_tied_embeddings_of_any_name_is_refused_because_peft_merges_it_wrongly(name, lora, bases, tmp_path):
    base = base_of(name, bases)
    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    assert distance(base, adapter, merged_by_peft(base, adapter, tmp_path / "peft")) > 0.5
    with pytest.raises(RefusedError, match=r"it has LoRA on .* \(tied embeddings\)") as refused:
        merge(base, adapter, tmp_path / "out")
    assert refused.value.exit_code == 3
    assert "modules_to_save" in str(refused.value.hint)
    assert not (tmp_path / "out").exists()


def test_different_tokens_of_tied_embeddings_are_refused(bases, tmp_path):
    base = base_of("llama-3-tied", bases)
    lora = {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1], "lm_head": [2]}}
    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    with pytest.raises(RefusedError, match="trains different tokens"):
        merge(base, adapter, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "lora", "problem"),
    [
        ("llama-3-tied", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, None),
        ("llama-3-tied", {"target_modules": ["lm_head"]}, "it has LoRA on lm_head.weight"),
        ("falcon", {"target_modules": ["word_embeddings"]}, "it has LoRA on transformer.word_embeddings.weight"),
        ("llama-3", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, None),
        ("llama-3", {"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias needs layers that have a bias"),
        ("pythia", {"target_modules": ["query_key_value"], "lora_bias": True}, None),
        ("mixtral", {"target_modules": "all-linear"}, None),
        (
            "gpt-2",
            {"target_modules": ["c_attn"], "trainable_token_indices": {"wte": [1], "lm_head": [2]}},
            "it trains different tokens of wte and lm_head",
        ),
    ],
)
def test_what_the_merge_refuses_is_known_from_config_and_settings_alone(name, lora, problem, bases):
    config = (base_of(name, bases) / "config.json").read_bytes()
    with quiet():
        adapter = meta.resolve(config, {"r": 4, **lora})
    found = merge_problem(adapter.settings, meta.facts_of(config), adapter)
    assert (found is None) == (problem is None), found
    assert problem is None or problem in str(found)
    assert merge_way(adapter.settings, adapter) == "streamed"


@pytest.mark.parametrize(
    ("start", "action"),
    [("pissa", "path_initial_model_for_weight_conversion"), ("olora", "twice the rank"), ("loftq", "LoftQ")],
)
def test_a_start_that_moved_the_base_is_refused_until_it_is_converted(start, action, bases, tmp_path):
    base = base_of("llama-3", bases)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    edit(adapter, init_lora_weights=start)
    with pytest.raises(RefusedError, match=f"init_lora_weights: {start} changes the base's own weights") as refused:
        merge(base, adapter, tmp_path / "out")
    assert action in str(refused.value.hint)


def edit(adapter: Path, **changed: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_tensors_that_peft_would_ignore_are_refused(bases, tmp_path):
    from safetensors.torch import load_file, save_file

    base = base_of("gpt-2", bases)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["c_attn"])
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    kept = {name: value for name, value in tensors.items() if ".h.0." in name}
    save_file(kept, weights)
    with pytest.raises(RefusedError, match=r"lacks base_model\.model\.transformer\.h\.1\.attn\.c_attn\.lora_A"):
        merge(base, adapter, tmp_path / "out")
    more = {"base_model.model.transformer.h.7.attn.c_attn.lora_A.weight": kept.popitem()[1].clone()}
    save_file({**tensors, **more}, weights)
    with pytest.raises(RefusedError, match="PEFT would ignore it"):
        merge(base, adapter, tmp_path / "out")


def test_an_adapter_whose_vocabulary_is_resized_by_halves_is_refused(bases, tmp_path):
    from safetensors.torch import load_file, save_file

    base = base_of("llama-3", bases)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], _resized=4)
    weights = adapter / "adapter_model.safetensors"
    tensors = {name: value for name, value in load_file(weights).items() if "lm_head" not in name}
    save_file(tensors, weights)
    with pytest.raises(RefusedError, match="resizes the vocabulary, but"):
        merge(base, adapter, tmp_path / "out")


# --- by PEFT itself


def test_a_variant_is_merged_by_peft_itself_and_the_report_says_so(bases, tmp_path):
    base = base_of("llama-3", bases)
    lora = {"target_modules": ["q_proj"], "velora_config": {"num_groups": 4, "init_type": "random"}}
    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    report = merge(base, adapter, tmp_path / "out", dtype="float32")
    assert (report.way, report.reason) == ("peft", "a variant of LoRA (velora_config)")
    assert report.targets == {"q_proj": 2} and report.changed == 2
    exact = read(merged_by_peft(base, adapter, tmp_path / "peft"))
    assert one_rounding(read(tmp_path / "out"), exact) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out", "peft"]


@pytest.mark.parametrize(("name", "form"), [("mixtral", "all-linear"), ("gpt-2", "the embedding saved")])
def test_what_peft_merges_in_memory_equals_what_is_streamed(name, form, bases, tmp_path, monkeypatch):
    base = base_of(name, bases)
    adapter = save_adapter(base, tmp_path / "adapter", **forms(name)[form])
    merge(base, adapter, tmp_path / "streamed", dtype="float32")

    def not_local(*_: object) -> None:
        raise NotLocalError("a test")

    monkeypatch.setattr("hubkit.models.merging.merge.fit", not_local)
    assert merge(base, adapter, tmp_path / "peft", dtype="float32").way == "peft"
    ours, theirs = read(tmp_path / "streamed"), read(tmp_path / "peft")
    assert ours.keys() == theirs.keys() and one_rounding(ours, theirs) == []
    names = [json.loads((tmp_path / way / "config.json").read_text()) for way in ("streamed", "peft")]
    assert names[0] == names[1]


def test_a_merge_by_peft_that_makes_another_model_is_refused(bases, tmp_path, monkeypatch):
    base = base_of("falcon", bases)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["query_key_value", "word_embeddings"])

    def not_local(*_: object) -> None:
        raise NotLocalError("a test")

    monkeypatch.setattr("hubkit.models.merging.merge.fit", not_local)
    with pytest.raises(RefusedError, match=r"PEFT's merge makes another model of this adapter \(a test\)"):
        merge(base, adapter, tmp_path / "out")
