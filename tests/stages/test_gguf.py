"""The stage gguf: what it writes and refuses, what is found before anything is trained, and the gate on its files."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf_models import make
from gguf_steps import RECIPE, files_with, gate_of, step_of
from kept import Kept, perform

from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding
from hubkit.core.numbers import share
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.gguf.library import has_runtime
from hubkit.models.gguf.made import GgufFiles
from hubkit.models.gguf.write import write_gguf
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.runs import Run
from hubkit.recipe.gguf import example_type
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import CheckContext, Context, Scope
from hubkit_stages import gate, gguf

ASKED = parse_recipe(RECIPE)


def recipe(before: str, after: str) -> Recipe:
    assert before in RECIPE
    return parse_recipe(RECIPE.replace(before, after))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("smollm", tmp_path_factory.mktemp("model") / "smollm")


@pytest.fixture
def step(tmp_path: Path, model: Path) -> Callable[..., Context[Any, Any]]:
    """The context of the step for a variant; the artifacts before it are there."""

    return lambda asked=ASKED, **keys: step_of(tmp_path, model, asked, **keys)


@pytest.fixture
def without_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where llama-cpp-python is not installed."""
    monkeypatch.setattr(gguf, "installed", lambda name: None)


def made(ctx: Context[Any, Any], tmp_path: Path, variant: str = "main") -> tuple[Kept, GgufFiles]:
    found = perform(gguf, ctx, Run(tmp_path / "run"), f"gguf[{variant}]")
    return found, GgufFiles.load(found.path)


def test_only_the_variants_that_ask_for_it_have_the_step() -> None:
    ids = [job.id for job in expand(ASKED)]
    assert [item for item in ids if item.startswith("gguf")] == ["gguf[dpo-v0]", "gguf[main]"]
    assert ids.index("gguf[main]") < ids.index("gate")
    one = expand(recipe("variants: [main, dpo-v0]", "variants: [main]"))
    judged = next(job for job in one if job.id == "gate")
    assert judged.input_sources["gguf"].jobs == {"main": "gguf[main]"}
    assert not any(job.step.name == "gguf" for job in expand(ASKED.model_copy(update={"gguf": None})))


@pytest.mark.usefixtures("without_runtime")
def test_what_the_step_writes(step: Any, tmp_path: Path) -> None:
    kept, files = made(step(variant="dpo-v0"), tmp_path, "dpo-v0")
    assert [item.name for item in files.files] == ["tiny-dpo-v0-F16.gguf", "tiny-dpo-v0-Q8_0.gguf"]
    for item in files.files:
        content = files.path(item.name).read_bytes()
        assert (item.bytes, item.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert "<|im_end|>" in item.stops and item.stop_rate is None and item.compared_texts is None
    exact, rounded = files.files
    assert exact.relative_error < rounded.relative_error < 0.01 and rounded.worst_tensor
    assert set(files.ollama) == {"Modelfile", "template", "params", "system"} <= files.paths().keys()
    assert files.path("Modelfile").read_text().startswith("FROM ./tiny-dpo-v0-Q8_0.gguf\n")
    weights = hashlib.sha256((tmp_path / "merge" / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert files.source["model.safetensors"] == weights and files.architecture == "llama"
    assert files.unmeasured == "llama-cpp-python was not installed" and files.llama_cpp is None
    assert kept.summary["figure"].startswith("F16 ") and kept.summary["figure"].endswith("not measured")
    assert GgufFiles.parse(files.to_json()) == files


@pytest.mark.usefixtures("without_runtime")
def test_without_a_gate_on_the_stop_rate_or_without_ollama_less_is_written(step: Any, tmp_path: Path) -> None:
    bare = parse_recipe(
        "".join(line + "\n" for line in RECIPE.splitlines() if not line.startswith("gates:")).replace(
            "types: [f16, q8_0]", "types: [q8_0], ollama: false"
        )
    )
    _, files = made(step(asked=bare), tmp_path)
    assert files.ollama == () and list(files.paths()) == ["tiny-Q8_0.gguf"]
    assert files.unmeasured == "the recipe has no gate on the stop rate" and files.max_new_tokens is None


@pytest.mark.usefixtures("without_runtime")
@pytest.mark.parametrize(("types", "named"), [("[q8_0, f16]", "Q8_0"), ("[bf16, f16]", "BF16")])
def test_the_modelfile_loads_the_file_that_the_card_downloads(
    step: Any, tmp_path: Path, types: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size does not count: of files of equal size, or where llama.cpp's types are smaller than Q8_0."""

    def sized(model: Path, out: Path, kind: Any, **keys: Any) -> Any:
        return replace(write_gguf(model, out, kind, **keys), bytes=1 if kind == "f16" else 2)

    monkeypatch.setattr(gguf, "write_gguf", sized)
    _, files = made(step(asked=recipe("[f16, q8_0]", types)), tmp_path)
    assert files.path("Modelfile").read_text().startswith(f"FROM ./tiny-{named}.gguf\n")
    assert example_type([item.kind for item in files.files]).upper() == named


@pytest.mark.usefixtures("without_runtime")
def test_the_notes_of_every_file_are_kept(step: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(model: Path, out: Path, kind: Any, **keys: Any) -> Any:
        return replace(write_gguf(model, out, kind, **keys), notes=("of all", f"of {kind}"))

    monkeypatch.setattr(gguf, "write_gguf", noted)
    _, files = made(step(), tmp_path)
    assert files.notes == ("of all", "of f16", "of q8_0")


@pytest.mark.usefixtures("without_runtime")
def test_a_file_without_the_end_of_turn_token_of_the_release_is_refused(step: Any, tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        made(step(end="<|im_start|>"), tmp_path)
    assert "tiny-F16.gguf does not end answers at '<|im_start|>'" in refused.value.message
    assert "'<|im_end|>'" in refused.value.message


@pytest.mark.skipif(not has_runtime(), reason="SKIPPED: install llama-cpp-python to measure GGUF files")
def test_each_file_is_measured_by_llama_cpp(step: Any, tmp_path: Path) -> None:
    heard: list[float] = []
    kept, files = made(step(report=lambda figure, share: heard.append(share)), tmp_path)
    for item in files.files:
        assert item.stop_rate is not None and item.stop_rate.generated_by == "llama-cpp-python"
        assert (item.stop_rate.prompts, item.stop_rate.dtype) == (4, item.kind) and (item.compared_texts or 0) > 10
    assert files.unmeasured is None and files.max_new_tokens == 8 and files.llama_cpp
    assert "stop rate" in kept.summary["figure"] and heard == sorted(heard) and heard[-1] == 1.0
    assert files.notes == ()
    fewer, _ = made(step(asked=recipe("[main, dpo-v0]}", "[main, dpo-v0], prompts: 2}")), tmp_path)
    assert fewer.json("gguf.json")["files"][0]["stop_rate"]["prompts"] == 2


TASK = """
task: tiny_words
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.mark.skipif(not has_runtime(), reason="SKIPPED: install llama-cpp-python to run benchmarks on GGUF files")
def test_llama_cpp_answers_benchmarks_as_transformers_does(step: Any, tmp_path: Path) -> None:
    """The log-likelihood of every answer is transformers' up to rounding, and the averages are written."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from hubkit.evals.gguf_lm import gguf_lm
    from hubkit.evals.results import parse_results
    from hubkit.models.load import load_model, load_tokenizer

    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tiny_words.yaml").write_text(TASK)
    rows = [{"question": f"word {n}", "choices": [" a word", " other", f" {n}"], "answer": n % 3} for n in range(6)]
    (tmp_path / "tasks" / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.replace("gguf: {types: [f16, q8_0]", "gguf: {types: [f16], benchmarks: [tiny_words]")
    asked = parse_recipe(text + "evaluate: {suites: [tiny_words], include: tasks}\n")
    kept, files = made(step(asked=asked), tmp_path)
    (item,) = files.files
    (score,) = item.benchmarks
    results = parse_results(kept.json("benchmarks-f16.json"), "benchmarks-f16.json")
    assert (score.name, score.value) == ("tiny_words", results.average.value)
    assert (results.subject.form, results.settings.backend, results.settings.dtype) == (
        "gguf",
        "llama-cpp-python",
        "f16",
    )
    assert str(tmp_path) not in json.dumps(kept.json("benchmarks-f16.json"))
    assert f"tiny_words {share(score.value)}" in kept.summary["figure"]
    model = tmp_path / "merge" / "model"
    requests = [
        Instance("loglikelihood", {}, (row["question"], choice), number, ("tiny_words", number, 1))
        for number, row in enumerate(rows)
        for choice in row["choices"]
    ]
    tokenizer = load_tokenizer(model)
    weights = HFLM(pretrained=load_model(model, dtype="float32"), tokenizer=tokenizer, batch_size=1)
    until = [Instance("generate_until", {}, ("word 1", {"until": ["."], "max_gen_toks": 5}), 0, ("t", 0, 1))]
    with gguf_lm(files.path(item.name), model, None, threads=1) as lm:
        pairs = zip(lm.loglikelihood(requests), weights.loglikelihood(requests), strict=True)
        for (ours, greedy), (theirs, same) in pairs:
            assert ours == pytest.approx(theirs, abs=0.02) and greedy == same
        assert lm.generate_until(until) == weights.generate_until(until)


# --- before anything is trained


def found(asked: Recipe, target: Target, variant: str = "main") -> list[Finding]:
    gguf._unwritable.cache_clear()
    return list(gguf.check(CheckContext(gguf.Settings.of(asked, Scope(Path(), variant=variant)), target)))


@pytest.mark.usefixtures("without_runtime")
def test_an_enforced_gate_needs_llama_cpp_python(tmp_path: Path) -> None:
    nowhere = Target("http://127.0.0.1:9", tmp_path)
    (error,) = found(ASKED, nowhere)
    assert (error.level, error.exit_code) == ("error", 1) and "llama-cpp-python is not installed" in error.message
    assert "hubkit[llama-cpp]" in error.hint and "gate: report" in error.hint
    (warning,) = found(ASKED, nowhere, "dpo-v0")
    assert warning.level == "warning" and "published unmeasured" in warning.message
    measured = RECIPE.replace("types:", "gate: report, benchmarks: [x], types:") + "evaluate: {suites: [x]}\n"
    (other,) = found(parse_recipe(measured), nowhere)
    assert other.level == "error" and other.message.startswith("gguf.benchmarks are run by llama-cpp-python")
    (other,) = found(recipe("[f16, q8_0]", "[q4_k_m]"), nowhere, "dpo-v0")
    assert other.level == "error" and other.message.startswith("gguf.types: q4_k_m: written by llama.cpp's quantizer")
    assert [item.level for item in found(recipe("types:", "gate: report, types:"), nowhere)] == ["warning"]


def test_a_llama_cpp_that_cannot_be_imported_is_found_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text("raise RuntimeError('libgomp.so.1: cannot open shared object')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.setattr(gguf, "installed", lambda name: "0.3.36")
    (error,) = found(ASKED, Target("http://127.0.0.1:9", tmp_path))
    assert (error.level, error.exit_code) == ("error", 1)
    assert "llama-cpp-python is installed and cannot be imported: libgomp.so.1" in error.message


BASES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "sound": ("smollm", {}, None),
    "activation": ("smollm", {"hidden_act": "gelu"}, "llama.cpp computes LlamaForCausalLM differently: its activation"),
    "rotary": ("smollm", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
    "tokenizer": (
        "smollm",
        {},
        "llama.cpp has no pre-tokenizer that splits text as this tokenizer does: Punctuation, Byte",
    ),
    "architecture": ("falcon", {}, "FalconForCausalLM cannot be written as GGUF"),
}


def rewrite(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_a_base_that_llama_cpp_would_run_differently_is_refused_before(hub: Any, tmp_path: Path) -> None:
    import architectures

    target = Target(hub.url, tmp_path / "home", hub.token, embedded=True)
    api = connect(target).api
    for name, (kind, keys, problem) in BASES.items():
        folder = architectures.make(kind, tmp_path / name)
        rewrite(folder / "config.json", **keys)
        if name == "tokenizer":
            steps = [
                {"type": "Punctuation", "behavior": "Isolated"},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ]
            rewrite(folder / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": steps})
        api.create_repo(f"hubkit/{name}")
        api.upload_folder(repo_id=f"hubkit/{name}", folder_path=folder, ignore_patterns=["*.safetensors"])
        errors = [
            item for item in found(recipe("me/base", f"hubkit/{name}"), target) if "installed" not in item.message
        ]
        assert [problem in item.message for item in errors if problem] == [True] * bool(problem), (name, errors)
        assert all(item.level == "error" and "remove `gguf`" in item.hint for item in errors)


# --- the gate


def judged(tmp_path: Path, asked: Recipe = ASKED, **rates: float | None) -> Context[Any, Any]:
    """The context of the gate: all weights stop, and each variant's GGUF files at ``rates`` (None: not measured)."""
    return gate_of(tmp_path, asked, {name: files_with(tmp_path / f"gguf-{name}", rates) for name in ("main", "dpo-v0")})


def test_files_that_stop_as_often_pass(tmp_path: Path) -> None:
    result = gate.run(judged(tmp_path, f16=1.0, q8_0=0.95))
    verdict = result.artifact.variants["main"]
    assert [(item.file, item.rate, item.passed) for item in verdict.gguf] == [
        ("tiny-F16.gguf", 1.0, True),
        ("tiny-Q8_0.gguf", 0.95, True),
    ]
    assert (
        verdict.gguf_enforced
        and verdict.gguf_result == "passed"
        and not result.artifact.variants["dpo-v0"].gguf_enforced
    )
    assert result.figure == "dpo-v0 passed; main passed (at least 95.0 %)"


def test_a_file_below_the_threshold_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        gate.run(judged(tmp_path, f16=1.0, q8_0=0.94))
    lines = refused.value.message.splitlines()
    assert lines[0].startswith("Stop rate of GGUF files below the gate.") and "at least 95.0 %" in lines[0]
    assert lines[1:] == ["  main: tiny-Q8_0.gguf 94.0 % (merged weights 100 %): failed"], "dpo-v0's gate only reports"
    assert "gguf.types" in refused.value.hint and "gguf: {gate: report}" in refused.value.hint


def test_a_gate_that_reports_publishes_the_verdict(tmp_path: Path) -> None:
    result = gate.run(judged(tmp_path, recipe("types:", "gate: report, types:"), f16=0.0, q8_0=0.0))
    verdict = result.artifact.variants["main"]
    assert (verdict.result, verdict.gguf_result) == ("passed", "failed (reported)")
    assert "main passed, its GGUF files failed (reported)" in result.figure
    assert "main: the stop rate of tiny-F16.gguf is 0 %: failed (reported)." in result.warnings


def test_what_was_not_measured_has_not_passed(tmp_path: Path) -> None:
    with pytest.raises(
        RefusedError, match=r"files of main was not measured: llama-cpp-python was not installed\."
    ) as no:
        gate.run(judged(tmp_path, f16=None))
    assert "hubkit[llama-cpp]" in no.value.hint
    result = gate.run(judged(tmp_path, recipe("types:", "gate: report, types:"), f16=None))
    assert "main: the stop rate of tiny-F16.gguf was not measured (reported)." in result.warnings
    assert result.artifact.variants["main"].gguf_result == "not measured (reported)"
    assert "main passed, its GGUF files not measured (reported)" in result.figure
    part = gate.run(judged(tmp_path, recipe("types:", "gate: report, types:"), f16=None, q8_0=0.0))
    assert part.artifact.variants["main"].gguf_result == "failed (reported)", "one was measured and failed"
