"""Files for Ollama: the chat template as turns, and as a template of Go's. tests/soak renders it by Go itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import architectures
import pytest
from gguf_models import make

from hubkit.core.errors import UsageError
from hubkit.models.chat.library import shipped
from hubkit.models.gguf.ollama import companions, go_template, of_model, sampling_of
from hubkit.models.gguf.turns import Turns, turns_of


def test_a_template_of_turns_is_taken_apart_and_another_is_not() -> None:
    chatml = turns_of(shipped("chatml"), {})
    assert chatml == Turns(
        "",
        {"user": "<|im_start|>user\n", "assistant": "<|im_start|>assistant\n", "system": "<|im_start|>system\n"},
        dict.fromkeys(("user", "assistant", "system"), "<|im_end|>\n"),
        "<|im_start|>assistant\n",
    )
    smol = architectures.ARCHITECTURES["smollm"]
    found = turns_of(smol.template, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    assert found is not None and chatml is not None and (found.start, found.before) == ("", chatml.before)
    assert found.default_system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    gemma = turns_of(architectures.ARCHITECTURES["gemma-2"].template, {"bos_token": "<bos>"})
    assert gemma is not None and "system" not in gemma.before and gemma.start == "<bos>"
    for name in ("mistral", "qwen3"):  # the first puts the system message into the user's, the second removes thoughts
        assert turns_of(architectures.ARCHITECTURES[name].template, {"bos_token": "<s>", "eos_token": "</s>"}) is None


def test_the_modelfile_has_the_template_its_stops_and_what_samples() -> None:
    turns = Turns("<s>", {"user": "U:", "assistant": "A:"}, {"user": "\n", "assistant": "</s>"}, "A:", "")
    template = go_template(turns, "<s>")
    assert template == (
        "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        '{{ if eq .Role "user" }}U:{{ .Content }}\n'
        '{{ else if eq .Role "assistant" }}A:{{ .Content }}{{ if not $last }}</s>{{ end }}{{ end }}'
        '{{ if and $last (ne .Role "assistant") }}A:{{ end }}{{ end }}'
    )
    assert go_template(turns, None) == "<s>" + template
    found = companions("m.gguf", turns, ["</s>", "<end>"], {"temperature": 0.7, "top_k": 20}, bos="<s>")
    assert json.loads(found.files["params"]) == {"temperature": 0.7, "top_k": 20, "stop": ["</s>", "<end>"]}
    lines = ["PARAMETER temperature 0.7", "PARAMETER top_k 20", 'PARAMETER stop "</s>"', 'PARAMETER stop "<end>"']
    assert found.files["Modelfile"] == "\n".join(["FROM ./m.gguf", f'TEMPLATE """{template}"""', *lines, ""])
    odd = Turns("", {"user": "{{ x }}"}, {"user": ""}, "")
    assert go_template(odd, None) is None
    none = companions("m.gguf", odd, ["</s>"], {}, bos=None)
    assert none.reason and set(none.files) == {"params", "Modelfile"}


@pytest.mark.parametrize("name", ["llama-3", "smollm"])
def test_files_of_a_model_folder(name: str, tmp_path: Path) -> None:
    folder = make(name, tmp_path / "model")
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    found = of_model(folder, tmp_path / "m.gguf")
    assert "<|begin_of_text|>" not in found.files["template"]  # llama.cpp puts it there itself
    sampling = {"temperature": 0.6, "repeat_penalty": 1.1}
    stops = {"llama-3": ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"], "smollm": ["<|im_end|>"]}
    assert json.loads(found.files["params"]) == {**sampling, "stop": stops[name]}
    assert ("system" in found.files) == (name == "smollm")
    assert [path.name for path in found.write(tmp_path)] == list(found.files)


def parsed(modelfile: str) -> list[tuple[str, str]]:
    """The commands of a Modelfile as Ollama reads them: a value ends at the first end of line where its quotes do."""
    found, lines = [], modelfile.splitlines(keepends=True)
    while lines:
        command, _, value = lines.pop(0).partition(" ")
        if command == "PARAMETER":
            name, _, value = value.partition(" ")
            command = f"PARAMETER {name}"
        while value.startswith('"') and not _is_whole(value[:-1]):
            value += lines.pop(0)
        value = value[:-1]
        quotes = 3 if value.startswith('"""') else value.startswith('"')
        found.append((command, value[quotes : len(value) - quotes]))
    return found


def _is_whole(value: str) -> bool:
    if value.startswith('"""'):
        return len(value) >= 6 and value.endswith('"""')
    return len(value) >= 2 and value.endswith('"')


SYSTEMS = (
    'Hi"""\nFROM evil/backdoored\nSYSTEM """x',
    'Say "yes"',
    '"""\nADAPTER ./x',
    'a\nFROM evil\n"',
    "{{ .System }}",
)
STOPS = ("</s>", '<e>"\nADAPTER ./x\nPARAMETER stop "y', '""', "a\rFROM evil", "<|end|>", "a\x85FROM evil", "it's")


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_text_of_the_model_becomes_a_command_of_the_modelfile(system: str) -> None:
    written = system.replace("\n", "\\n")
    turns = turns_of(architectures._chatml(written), {})
    assert turns is not None and turns.default_system == system
    found = companions("m.gguf", turns, STOPS, {"top_k": 2_000_000, "temperature": 0.123456789}, bos=None)
    commands = parsed(found.files["Modelfile"])
    expected = [("FROM", "./m.gguf")]
    if '"""' not in system and "{{" not in system:
        expected.append(("TEMPLATE", found.files["template"]))
    expected += [("SYSTEM", system)] if '"""' not in system else []
    expected += [("PARAMETER top_k", "2000000"), ("PARAMETER temperature", "0.123456789")]
    assert commands == [*expected, *(("PARAMETER stop", stop) for stop in ("</s>", "<|end|>", "it's"))]
    assert found.files["system"] == system and json.loads(found.files["params"])["stop"] == list(STOPS)
    assert len(found.notes) == 4 + ('"""' in system) and all(note.startswith("The Modelfile ") for note in found.notes)
    for name in ("a\nFROM evil.gguf", 'a".gguf'):
        with pytest.raises(UsageError, match="A Modelfile cannot hold the name"):
            companions(name, turns, STOPS, {}, bos=None)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"top_k": 20.0, "temperature": 1e-7, "top_p": True, "min_p": "0.1"}, {"top_k": 20, "temperature": 1e-7}),
        ({"top_k": 2.5, "temperature": float("inf"), "top_p": float("nan")}, {}),
        ({"top_k": 10**30, "repetition_penalty": -(10**400)}, {}),
    ],
)
def test_settings_that_are_no_numbers_are_left_out(settings: dict[str, Any], expected: dict[str, float]) -> None:
    found = sampling_of({"do_sample": True, **settings})
    assert found == expected and type(found.get("top_k")) in (int, type(None))


def test_files_of_another_model_or_of_a_person_are_not_mixed_with_these(tmp_path: Path) -> None:
    turns = Turns("", {"user": "U"}, {"user": ""}, "A", "Be A")
    one = companions("a-F16.gguf", turns, ["</s>"], {}, bos=None)
    one.write(tmp_path)
    one.write(tmp_path)
    companions("a-Q8_0.gguf", turns, ["</s>"], {}, bos=None).write(tmp_path)
    assert (tmp_path / "Modelfile").read_text().startswith("FROM ./a-Q8_0.gguf\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    bare = companions("b.gguf", None, ["</s>"], {}, bos=None)  # the Hub would serve the template and system of `one`
    with pytest.raises(UsageError, match="Modelfile exists already, and is not of this model"):
        bare.write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    for name, content in (("template", b"one of mine"), ("params", b"\xff"), ("system", b"")):
        folder = tmp_path / f"with-{name}"
        folder.mkdir()
        (folder / name).write_bytes(content)
        with pytest.raises(UsageError, match=f"{name} exists already"):
            bare.write(folder)
        assert [path.name for path in folder.iterdir()] == [name]
