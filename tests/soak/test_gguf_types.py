"""A real model in the types of GGUF, by llama.cpp: which tokens it chooses, and what llama.cpp's quantizer writes.

SmolLM2-135M-Instruct, of the package that examples/smollm2 takes it from; HUBKIT_TEST_SMOLLM2 names a folder with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import psutil
import pytest
import torch
from commands import HUBKIT, environment, hubkit, hubkit_json, until
from gguf_models import make
from soak_figures import record

from hubkit.core.intervals import wilson
from hubkit.models.chat import eos
from hubkit.models.chat.generation import generate
from hubkit.models.gguf import quantizing
from hubkit.models.gguf.checking import same_token_ids
from hubkit.models.gguf.layout import QUANTIZED
from hubkit.models.gguf.library import has_runtime
from hubkit.models.gguf.measuring import measure_gguf
from hubkit.models.gguf.read_back import settings_of
from hubkit.models.gguf.runtime import GgufModel
from hubkit.models.gguf.write import GgufReport, write_gguf
from hubkit.models.load import load_model, load_tokenizer

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not has_runtime(), reason="SKIPPED: `make llama-cpp` installs llama-cpp-python for these"),
]
NEW_TOKENS = 48
QUESTIONS = (
    "What is the capital of France?", "Explain photosynthesis to a child.", "Write a haiku about autumn.",
    "How do I boil an egg?", "What causes tides?", "Name three uses of copper.", "Who wrote Pride and Prejudice?",
    "Translate 'good morning' into Spanish.", "Give me a tip for saving money.", "What is 17 times 6?",
    "Describe the taste of an orange.", "Why is the sky blue?", "List the planets of the solar system.",
    "What is a function in programming?", "Write a short poem about the sea.", "How can I sleep better?",
    "What is the difference between a frog and a toad?", "Suggest a name for a bakery.", "What is machine learning?",
    "Explain what a loan is.", "How does a bicycle stay upright?", "What should I pack for a hike?", "What is gravity?",
    "Tell me a fact about octopuses.", "What is the longest river in the world?", "How do vaccines work?",
    "Write an email to ask for a day off.", "What is the meaning of 'serendipity'?", "Compare tea and coffee.",
    "How do I remove a coffee stain?", "Give me a recipe for pancakes.", "Why do cats purr?",
)  # fmt: skip
ROWS = [{"messages": [{"role": "user", "content": text}]} for text in QUESTIONS]


@dataclass(frozen=True)
class Known:
    """What transformers answers in 32 bits: the prompts' ids, the greedy answers, and the logits for each token."""

    folder: Path
    ids: list[list[int]]
    answers: list[list[int]]
    logits: list[torch.Tensor]

    @property
    def count(self) -> int:
        return sum(map(len, self.answers))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    given = os.environ.get("HUBKIT_TEST_SMOLLM2")
    folder = Path(given) if given else tmp_path_factory.mktemp("smollm2")
    if not given:
        script = Path(__file__).parents[2] / "examples/smollm2/base.py"
        subprocess.run([sys.executable, script, folder, "bfloat16"], check=True)
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype="float32")
    texts = [tokenizer.apply_chat_template(r["messages"], tokenize=False, add_generation_prompt=True) for r in ROWS]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    found = generate(model, ids, eos.find(tokenizer), max_new_tokens=NEW_TOKENS, batch_size=1)
    answers = [list(answer) for answer in found]
    return Known(folder, ids, answers, forced(model, ids, answers))


def forced(model: Any, ids: list[list[int]], answers: list[list[int]]) -> list[torch.Tensor]:
    """The logits in the place of each token of the answers."""
    with torch.inference_mode():
        return [
            model(torch.tensor([(before + answer)[:-1]])).logits[0, len(before) - 1 :]
            for before, answer in zip(ids, answers, strict=True)
        ]


def written(known: Known, tmp_path: Path, kind: Any) -> GgufReport:
    return write_gguf(known.folder, tmp_path / f"{kind}.gguf", kind, name="SmolLM2")


def agreeing(known: Known, file: Path) -> tuple[int, float]:
    """How many tokens llama.cpp chooses as transformers does; where it does not, how far that one was ahead at most."""
    equal, lead = 0, 0.0
    with GgufModel(file, context=256, threads=2) as other:
        for ids, answer, logits in zip(known.ids, known.answers, known.logits, strict=True):
            for chosen, expected, numbers in zip(other.choices(ids, answer), answer, logits, strict=True):
                equal += chosen == expected
                lead = max(lead, float(numbers.max() - numbers[chosen]))
    return equal, lead


def test_a_real_model_answers_in_f16_as_transformers_does(known: Known, tmp_path: Path) -> None:
    report = written(known, tmp_path, "f16")
    with GgufModel(report.file, context=256, threads=2) as other:
        found = [other.answer(ids, max_new_tokens=NEW_TOKENS) for ids in known.ids]
    assert found == known.answers and known.count > 800
    equal, lead = agreeing(known, report.file)
    assert (equal, lead) == (known.count, 0.0)
    record("SmolLM2-135M in F16", f"{len(found)} greedy answers, {known.count:,} tokens: all those of transformers")


def test_what_q8_0_costs_a_small_model_is_mostly_what_its_numbers_cost(known: Known, tmp_path: Path) -> None:
    """transformers in 32 bits with the numbers of the Q8_0 file errs too; where any of them errs, it was a near tie."""
    report = written(known, tmp_path, "q8_0")
    equal, lead = agreeing(known, report.file)
    model = load_model(known.folder, dtype="float32")
    for name, matrix in model.named_parameters():
        if matrix.dim() == 2:
            packed = gguf.quantize(matrix.detach().numpy(), gguf.GGMLQuantizationType.Q8_0)
            numbers = gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
            matrix.data.copy_(torch.from_numpy(numbers))
            assert name == "model.embed_tokens.weight" or "proj" in name
    exact = forced(model, known.ids, known.answers)
    own = sum(
        int((numbers.argmax(1) == torch.tensor(answer)).sum())
        for numbers, answer in zip(exact, known.answers, strict=True)
    )
    assert 0.95 * known.count < equal <= own < known.count and lead < 1
    record(
        "SmolLM2-135M in Q8_0",
        f"llama.cpp chooses {equal / known.count:.1%} of {known.count:,} tokens as transformers does with the model's"
        f" numbers, transformers in 32 bits with the numbers of Q8_0 {own / known.count:.1%}; llama.cpp's others were"
        f" behind by at most {lead:.2f}",
    )


def test_the_stop_rates_of_all_types_are_within_the_interval(known: Known, tmp_path: Path) -> None:
    end = eos.find(load_tokenizer(known.folder))
    ended = sum(answer[-1] == end.id for answer in known.answers)
    low, high = wilson(ended, len(known.answers))
    for kind in ("f16", "q8_0", "q4_k_m"):
        report = written(known, tmp_path, kind)
        found = measure_gguf(report.file, ROWS, end, max_new_tokens=NEW_TOKENS, kind=kind, threads=2)
        assert low <= found.rate <= high and (kind != "f16" or found.stopped == ended), kind


def test_the_numbers_are_those_of_llama_cpps_own_quantizer(known: Known, tmp_path: Path) -> None:
    """From the same BF16 file, it writes the bytes of our Q8_0 for every tensor."""
    ours, source = written(known, tmp_path, "q8_0"), written(known, tmp_path, "bf16")
    quantizing.quantize(source.file, tmp_path / "theirs.gguf", "q8_0", 2)
    one, two = (
        {item.name: item for item in gguf.GGUFReader(path).tensors} for path in (ours.file, tmp_path / "theirs.gguf")
    )
    assert one.keys() == two.keys() and len(one) == 272
    for name, item in one.items():
        assert item.tensor_type == two[name].tensor_type and numpy.array_equal(item.data, two[name].data), name


def test_types_of_llama_cpps_quantizer_keep_what_the_model_says(known: Known, tmp_path: Path) -> None:
    """Rows of 576 numbers are no multiple of 256, so a larger type is taken for them, and that is said."""
    found = hubkit_json(
        "gguf", str(known.folder), "-o", str(tmp_path / "x-Q4_K_M.gguf"), "--type", "Q4_K_M", home=tmp_path
    )
    assert found["compared_texts"] > 10 and found["stops"] == {"<|im_end|>": 2} and len(found["tensors"]) == 272
    (note,) = found["notes"]
    assert note.startswith("Q4_K_M cuts rows into blocks of 256 numbers. ") and "in Q5_0 (5.5 bits)" in note
    stated = {item["name"]: item for item in found["tensors"]}
    assert {item["type"] for item in found["tensors"]} >= {"F32", "Q5_0", "Q8_0", "Q4_K"}
    expected = settings_of(written(known, tmp_path, "bf16").file)
    settings = settings_of(tmp_path / "x-Q4_K_M.gguf")
    kept = {key for key in expected if key not in ("general.file_type", "general.name")}
    assert settings["general.file_type"] == 15 and all(settings[key] == expected[key] for key in kept)
    again = {item.name: item for item in gguf.GGUFReader(tmp_path / "x-Q4_K_M.gguf").tensors}
    weights = load_model(known.folder, dtype="float32").state_dict()
    for ours, theirs in (("blk.3.ffn_up", "layers.3.mlp.up_proj"), ("blk.3.ffn_down", "layers.3.mlp.down_proj")):
        before, item = weights[f"model.{theirs}.weight"].double(), again[f"{ours}.weight"]
        away = before - torch.from_numpy(gguf.dequantize(item.data, item.tensor_type)).double()
        error = stated[f"{ours}.weight"]["relative_error"]
        assert error == pytest.approx(float(away.norm() / before.norm()), rel=1e-5) and 0.01 < error < 0.12
    figures = []
    for kind in ("q4_k_m", "q6_k"):
        report = written(known, tmp_path, kind)
        assert same_token_ids(known.folder, report.file) > 10
        equal, _ = agreeing(known, report.file)
        figures.append(f"{kind.upper()} {equal / known.count:.1%} of the tokens, {report.bytes / 1e6:,.0f} MB")
        assert equal > 0.6 * known.count
    record("SmolLM2-135M in types of llama.cpp's quantizer", "; ".join(figures))


def test_every_type_of_the_quantizer_is_written_and_loads(tmp_path: Path) -> None:
    """For a model whose rows fit no block of 256, and experts among its tensors; in any number of threads the same."""
    folder = make("mixtral", tmp_path / "model")
    for kind in QUANTIZED:
        report = write_gguf(folder, tmp_path / f"{kind}.gguf", kind, workers=1)
        assert same_token_ids(folder, report.file) > 10 and report.worst.relative_error < 0.5
        with GgufModel(report.file, context=64, threads=1) as other:
            assert numpy.isfinite(other.logits([5, 6, 7])).all()
    assert write_gguf(folder, tmp_path / "again.gguf", kind, workers=3).sha256 == report.sha256


def quantizers(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "hubkit.models.gguf.quantizing" in child.cmdline()]


def test_a_command_that_is_killed_takes_the_quantizer_along(known: Known, tmp_path: Path) -> None:
    """While llama.cpp writes; the next run begins again, and nothing is left of the first."""
    out = tmp_path / "out"
    command = [str(HUBKIT), "gguf", str(known.folder), "-o", str(out), "--type", "q2_k"]
    with subprocess.Popen(
        command, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        command_line = lambda child: " ".join(child.cmdline())  # noqa: E731
        children = until(
            lambda: [child for child in psutil.Process(process.pid).children() if "quantizing" in command_line(child)],
            300,
        )
        process.send_signal(signal.SIGKILL)
    until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), 30)
    assert not list(out.glob("*.gguf"))
    done = hubkit(*command[1:], home=tmp_path)
    assert done.returncode == 0 and [path.suffix for path in out.iterdir()] == [".gguf"]
