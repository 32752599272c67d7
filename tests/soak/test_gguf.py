"""GGUF files as llama.cpp runs them, compared with transformers.

They need llama-cpp-python, which takes minutes to build: `make llama-cpp`, which `make soak` runs first.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import hubkit, hubkit_json
from gguf_models import WRITABLE, make, sharpen
from gguf_steps import RECIPE, gate_of, step_of
from kept import perform

from hubkit.core.errors import RefusedError
from hubkit.models.chat import eos
from hubkit.models.chat.generation import generate
from hubkit.models.chat.stop_rate import measure
from hubkit.models.gguf.checking import same_token_ids
from hubkit.models.gguf.library import has_runtime
from hubkit.models.gguf.measuring import measure_gguf
from hubkit.models.gguf.runtime import GgufModel
from hubkit.models.gguf.write import write_gguf
from hubkit.models.load import load_model, load_tokenizer
from hubkit.pipeline.runs import Run
from hubkit.recipe.loading import parse_recipe

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not has_runtime(), reason="SKIPPED: `make llama-cpp` installs llama-cpp-python for these"),
]
SHARPER, ROUNDING = 12.0, 0.02
"""A factor for the matrices of the layers; and how far rounding moves a logit, in standard deviations."""
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 128,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0],
}  # fmt: skip
SCALED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-3, its scaled frequencies": (
        "llama-3",
        {"rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}},
    ),
    "llama-3, linear": ("llama-3", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "qwen2, YaRN": (
        "qwen2",
        {"rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    "phi-3, long": ("phi-3", {"rope_parameters": LONG_ROPE}),
    "gemma-2, beyond its window": ("gemma-2", {"sliding_window": 16}),
    "gemma-3, beyond its window": ("gemma-3", {"sliding_window": 16, "num_hidden_layers": 7}),
}  # fmt: skip


@pytest.mark.parametrize("name", [*WRITABLE, *SCALED])
def test_llama_cpp_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    """The logits after texts of several lengths, up to rounding: llama.cpp rounds activations to 16 bits, too."""
    architecture, keys = SCALED.get(name, (name, {}))
    folder = make(architecture, tmp_path / "model", **keys)
    sharpen(folder, SHARPER)
    file = write_gguf(folder, tmp_path / "model.gguf", "f16").file
    same_token_ids(folder, file)
    expected = logits(folder)
    with GgufModel(file, context=128, threads=1) as other:
        for length, numbers in expected.items():
            away = (torch.from_numpy(other.logits(text(length))) - numbers).abs().max()
            assert float(away) < ROUNDING * float(numbers.std()), (name, length)
    if name in SCALED:  # what is tested makes a difference: without the setting, the numbers are others
        plain = make(architecture, tmp_path / "plain")
        shutil.copyfile(folder / "model.safetensors", plain / "model.safetensors")
        if "num_hidden_layers" not in keys:
            away = (logits(plain)[90] - expected[90]).abs().max()
            assert float(away) > 5 * ROUNDING * float(expected[90].std()), name


def text(length: int) -> list[int]:
    return [(7 * place) % 200 + 20 for place in range(length)]


def logits(folder: Path) -> dict[int, torch.Tensor]:
    """What transformers computes after texts of several lengths, in 32 bits."""
    model = load_model(folder, dtype="float32")
    with torch.inference_mode():
        return {length: model(torch.tensor([text(length)])).logits[0, -1] for length in (1, 7, 90)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base of the tiny recipe, which answers in words and stops."""
    from hubkit_stages.recipes.tiny.model import make_base

    folder = tmp_path_factory.mktemp("tiny") / "base"
    make_base(folder)
    return folder


def prompts(count: int) -> list[dict[str, Any]]:
    from hubkit_stages.recipes.tiny import world

    rows = [row for row in world.base_rows() if row[-2]["role"] == "user"]
    return [{"messages": row[:-1]} for row in rows[:: len(rows) // count][:count]]


def test_greedy_answers_are_those_of_transformers(tiny: Path, tmp_path: Path) -> None:
    """32 prompts: the same tokens in F16, and at least 99 % of them before the first that differs in Q8_0."""
    tokenizer, model = load_tokenizer(tiny), load_model(tiny, dtype="float32")
    end = eos.find(tokenizer)
    rows = prompts(32)
    texts = [tokenizer.apply_chat_template(r["messages"], tokenize=False, add_generation_prompt=True) for r in rows]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    expected = generate(model, ids, end, max_new_tokens=64, batch_size=1)
    for kind, least in (("f16", 1.0), ("q8_0", 0.99)):
        file = write_gguf(tiny, tmp_path / f"{kind}.gguf", kind).file  # type: ignore[arg-type]
        equal = 0
        with GgufModel(file, context=200, threads=1) as other:
            for prompt, answer in zip(ids, expected, strict=True):
                found = other.answer(prompt, max_new_tokens=64)
                differs = (at for at, (one, two) in enumerate(zip(answer, found, strict=False)) if one != two)
                equal += next(differs, min(len(answer), len(found)))
        assert equal >= least * sum(map(len, expected))


def over(model: Path, folder: Path) -> Path:
    """A copy of ``model`` in ``folder`` whose end-of-turn token has a text that llama.cpp does not know."""
    shutil.copytree(model, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text((folder / name).read_text().replace("<|im_end|>", "<|over|>"))
    return folder


def test_the_stop_rate_is_that_of_the_weights_and_a_file_without_its_stop_is_refused(
    tiny: Path, tmp_path: Path
) -> None:
    """The end-of-turn token has a text that llama.cpp does not know, so that nothing but the file's keys names it."""
    import gguf

    folder = over(tiny, tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    end, rows = eos.find(tokenizer), prompts(32)
    model = load_model(folder, dtype="float32")
    expected = measure(model, tokenizer, rows, end, max_new_tokens=64, batch_size=8)
    few = measure(model, tokenizer, rows[:4], end, max_new_tokens=64, batch_size=4)
    written = write_gguf(folder, tmp_path / "model.gguf", "q8_0")
    found = measure_gguf(written.file, rows, end, max_new_tokens=64, kind="q8_0", threads=1)
    assert found.stopped == expected.stopped > 0 and found.generated_by == "llama-cpp-python"
    asked = tmp_path / "prompts.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    limits = ("--prompts", str(asked), "--max-new-tokens", "64", "--at-least", "0.5")
    good = hubkit_json("gguf", str(folder), "-o", str(tmp_path / "good.gguf"), *limits, home=tmp_path)
    assert good["stop_rate"]["stopped"] == few.stopped >= 2 and good["compared_texts"] > 10
    reader = gguf.GGUFReader(written.file, "r+")
    for key in ("eos", "eot"):
        reader.fields[f"tokenizer.ggml.{key}_token_id"].parts[-1][0] = tokenizer.pad_token_id
    reader.data.flush()
    assert measure_gguf(written.file, rows, end, max_new_tokens=64, kind="q8_0", threads=1).stopped == 0
    never = tmp_path / "never"
    shutil.copytree(folder, never)
    template = (never / "chat_template.jinja").read_text()
    (never / "chat_template.jinja").write_text(template.replace("<|over|>", "<|pad|>"))
    refused = hubkit("gguf", str(never), "-o", str(tmp_path / "bad.gguf"), *limits, home=tmp_path)
    assert refused.returncode == 3 and "The stop rate of" in refused.stderr and "below 50.0 %" in refused.stderr


def test_a_release_gates_each_file_by_its_own_answers(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights stop, and a file whose keys name no end-of-turn token does not: the gate refuses it by its name."""
    import gguf as library

    from hubkit_stages import gate, gguf

    text = RECIPE.replace("variants: [main, dpo-v0]", "variants: [main]")
    rule = "prompts: 32, max_new_tokens: 64, at_least: 0.8"
    asked = parse_recipe(text.replace("prompts: 4, max_new_tokens: 8, at_least: 0.95", rule))

    def made(name: str) -> Path:
        ctx = step_of(tmp_path / name, over(tiny, tmp_path / f"{name}-model"), asked, end="<|over|>", rows=prompts(32))
        return perform(gguf, ctx, Run(tmp_path / name / "run"), "gguf[main]").path

    verdict = gate.run(gate_of(tmp_path, asked, {"main": made("whole")})).artifact.variants["main"]
    assert verdict.gguf_result == "passed" and all((item.rate or 0.0) >= 0.8 for item in verdict.gguf)

    def planted(model: Path, out: Path, kind: Any, **keys: Any) -> Any:
        report = write_gguf(model, out, kind, **keys)
        if kind == "q8_0":
            reader = library.GGUFReader(out, "r+")
            for key in ("eos", "eot"):
                reader.fields[f"tokenizer.ggml.{key}_token_id"].parts[-1][0] = load_tokenizer(model).pad_token_id
            reader.data.flush()
        return report

    monkeypatch.setattr(gguf, "write_gguf", planted)
    with pytest.raises(RefusedError) as refused:
        gate.run(gate_of(tmp_path, asked, {"main": made("planted")}))
    assert refused.value.message.splitlines()[1:] == ["  main: tiny-Q8_0.gguf 0 % (merged weights 100 %): failed"]


@pytest.mark.skipif(shutil.which("go") is None, reason="SKIPPED: install Go to render the templates for Ollama")
def test_go_renders_the_templates_for_ollama_as_jinja_renders_the_chat_templates(tmp_path: Path) -> None:
    import subprocess

    import architectures

    from hubkit.models.chat.golden import GOLDEN
    from hubkit.models.chat.rendering import render
    from hubkit.models.gguf.ollama import go_template
    from hubkit.models.gguf.turns import turns_of

    (tmp_path / "main.go").write_text(GO)
    (tmp_path / "go.mod").write_text("module render\ngo 1.21\n")
    subprocess.run(["go", "build", "-o", "render", "."], cwd=tmp_path, check=True)
    for what in architectures.ARCHITECTURES.values():
        special = {"bos_token": what.bos or "", "eos_token": what.eos}
        if (turns := turns_of(what.template, special)) is None:
            continue
        (tmp_path / "template").write_text(go_template(turns, None) or "")
        for name, messages in GOLDEN.items():
            if name == "empty system message" or any(item["role"] not in turns.before for item in messages):
                continue
            expected = render(what.template, messages[:-1], variables=special, add_generation_prompt=True)
            said = [dict(item) for item in messages[:-1]]
            if turns.default_system and said[0]["role"] != "system":  # as Ollama does with SYSTEM of a Modelfile
                said.insert(0, {"role": "system", "content": turns.default_system})
            done = subprocess.run(
                [tmp_path / "render", tmp_path / "template"], input=json.dumps(said), text=True, stdout=-1, check=True
            )
            assert done.stdout == expected


GO = """
package main

import (
	"encoding/json"
	"os"
	"text/template"
)

type message struct{ Role, Content string }

func main() {
	text, _ := os.ReadFile(os.Args[1])
	var found []*message
	if err := json.NewDecoder(os.Stdin).Decode(&found); err != nil {
		panic(err)
	}
	parsed := template.Must(template.New("").Parse(string(text)))
	if err := parsed.Execute(os.Stdout, map[string]any{"Messages": found}); err != nil {
		panic(err)
	}
}
"""
