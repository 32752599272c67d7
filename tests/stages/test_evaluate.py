"""The stage `evaluate` on a random model and a task file of the recipe's own, without a network."""

from __future__ import annotations

import gc
import json
import os
import pickle
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kept import Kept, perform, sample

from hubkit.core.errors import HubkitError, RemoteError, UsageError
from hubkit.core.files import write_json
from hubkit.core.libraries import installed
from hubkit.core.target import Target
from hubkit.evals.harness import batch_size, tasks_translated
from hubkit.evals.readers import read_file
from hubkit.evals.results import read_results
from hubkit.evals.scores import Measured
from hubkit.hub import transport
from hubkit.models.base import PinnedBase
from hubkit.models.merging.merged import MergedWeights
from hubkit.pipeline.runs import Run
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.stage import Context, Scope
from hubkit_stages import evaluate

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RECIPE = """
repo: me/tiny
visibility: private
license: apache-2.0
base: {repo: me/base}
data: {preferences: [{repo: me/pairs}]}
stages: {dpo: {data: preferences}}
variants: {main: {stage: dpo}}
evaluate: {suites: [colours], include: tasks, apply_chat_template: true, batch_size: 4, limit: 6}
gates: {stop_rate: {prompts_from: preferences}}
card: {title: Tiny, summary: A test.}
"""
STEP = "evaluate[main]"
SUPPORT = Path(__file__).parents[1] / "support"
COLOURS = ["red", "green", "blue", "black"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mistral of one layer with a byte-level tokenizer and no template of its own."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|pad|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def context(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """What the runner would give this step: a base, merged weights, the recipe and its task files."""
    monkeypatch.setenv("HUBKIT_HOME", str(tmp_path / "home"))
    tasks = tmp_path / "recipe" / "tasks"
    tasks.mkdir(parents=True)
    rows = [{"q": f"Name colour {place}.", "c": COLOURS, "a": place % 4} for place in range(10)]
    (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "colours.yaml").write_text(
        "task: colours\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{c}}'\ndoc_to_target: a\n"
        "metric_list:\n- {metric: acc, aggregation: mean, higher_is_better: true}\n"
        "- {metric: acc_norm, aggregation: mean, higher_is_better: true}\nmetadata: {version: 1.0}\n"
    )
    base, merge = tmp_path / "base", tmp_path / "merge"
    # The base's repo is a folder here: the stage hands it to from_pretrained as it would hand a repo id.
    write_json(base / "base.json", sample("base.json", repo=str(model), commit="main", dtype="float32"))
    (base / "chat_template.jinja").write_text(CHATML)
    merge.mkdir()
    (merge / "model").mkdir()
    for path in model.iterdir():
        (merge / "model" / path.name).write_bytes(path.read_bytes())
    write_json(merge / "merge.json", sample("merge.json", dtype="float32"))
    run = Run(tmp_path / "run")
    run.begin(STEP, "key")
    recipe, scope = parse_recipe(RECIPE), Scope(tmp_path / "recipe", variant="main")
    return Context(
        settings=evaluate.Settings.of(recipe, scope),
        inputs=evaluate.Inputs(PinnedBase.load(base), MergedWeights.load(merge)),
        target=Target("http://localhost:9", tmp_path / "home"),
        out=run.out(STEP),
        scratch=run.scratch(STEP),
    )


def run(context: Context, folder: Path) -> Kept:
    """Run the stage again, as the step would be."""
    made = Run(folder / "run")
    made.begin(STEP, "key")
    return perform(evaluate, context, made, STEP, "key")


def tasks_of(context: Context) -> Path:
    """The recipe's task file."""
    assert context.settings.include is not None
    return context.settings.include / "colours.yaml"


def of_base(context: Context) -> Context:
    """The same step for the base."""
    settings = replace(context.settings, dtype="float32")
    return replace(context, settings=settings, inputs=evaluate.Inputs(context.inputs.base))


def test_merged_weights_are_measured_on_own_tasks_from_any_folder(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[tuple[str, float | None]] = []
    monkeypatch.chdir(tmp_path)
    assert [finding.level for finding in evaluate.check(context)] == ["note"]
    made = run(replace(context, report=lambda text, share: said.append((text, share))), tmp_path)
    results = read_results(made.path / "results.json")
    task = results.suites["colours"].tasks["colours"]
    assert task is not None and (task.n, task.available, task.version, task.n_shot) == (6, 10, "1.0", 0)
    assert list(task.metrics) == ["acc", "acc_norm"] and task.dataset.path is None
    assert made.summary["average"] == results.average.value == task.metrics["acc_norm"].value
    assert results.rehearsal and results.settings.apply_chat_template and results.subject.form == "merged"
    raw = (made.path / "raw" / "1-colours.json").read_text()
    assert json.loads(raw)["results"]["colours"]["acc,none"] == task.metrics["acc"].value
    assert str(tmp_path) not in raw and "samples" not in json.loads(raw)
    assert said[-1] == ("24 of 24 requests", 1.0)
    files = ["benchmarks.json.gz", "manifest.json", "raw", "results.json"]
    assert sorted(path.name for path in made.path.iterdir()) == files
    scores = Measured.load(made.path).scores["colours"]
    assert len(set(scores.questions)) == 6 and list(scores.scores) == ["acc", "acc_norm"]
    for metric, values in scores.scores.items():
        assert sum(values) / 6 == pytest.approx(task.metrics[metric].value)
    again = read_file(made.path / "raw" / "1-colours.json")
    assert again.suites["other"].tasks["colours"] == task and again.settings.limit == 6
    assert again.libraries == {name: results.libraries[name] for name in ("lm_eval", "transformers")}


def test_the_base_gets_the_releases_template_and_no_space_before_the_answer(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM

    seen: list[tuple[str, str]] = []
    whole = HFLM.loglikelihood

    def watched(self: HFLM, requests: Sequence[object], **options: object) -> object:
        seen.extend(request.args for request in requests)  # type: ignore[attr-defined]
        return whole(self, requests, **options)

    monkeypatch.setattr(HFLM, "loglikelihood", watched)
    assert evaluate.run(of_base(context)).artifact.subject.form == "base"
    prompt, answer = seen[0]
    assert prompt == "<|im_start|>user\nName colour 0.<|im_end|>\n<|im_start|>assistant\n"
    assert answer in COLOURS


def test_without_suites_nothing_is_loaded_or_measured(context: Context) -> None:
    asked = context.settings.asked.model_copy(update={"suites": ()})
    (context.inputs.merged.model / "config.json").unlink()  # no model can be loaded
    done = evaluate.run(replace(context, settings=replace(context.settings, asked=asked, tasks=None)))
    assert done.artifact.suites == {} and done.artifact.average.value is None
    assert done.figure == "no suites in the recipe"


def test_the_check_names_what_is_wrong_without_a_model(context: Context) -> None:
    (finding,) = evaluate.check(_asked(context, suites=("colors",), limit=None))
    assert (finding.level, finding.exit_code) == ("error", 2)
    assert "'colors'" in finding.message and finding.hint == "Did you mean 'colours'?"
    gone = _asked(context, limit=None)
    nowhere = NamedFile.beside(context.scratch, "nowhere")
    (finding,) = evaluate.check(replace(gone, settings=replace(gone.settings, tasks=nowhere)))
    assert "The folder of task files" in finding.message and "does not exist" in finding.message


def _asked(context: Context, **evaluate_keys: object) -> Context:
    """The same step with other keys under `evaluate`."""
    asked = context.settings.asked.model_copy(update=evaluate_keys)
    return replace(context, settings=replace(context.settings, asked=asked))


def test_a_backend_or_a_module_that_is_not_installed_is_refused_before_anything_runs(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: set[str] = {"lm_eval"}
    monkeypatch.setattr(evaluate, "find_spec", lambda name: object() if name in there else None)
    (finding,) = evaluate.check(_asked(context, backend="vllm", limit=None))
    assert (finding.level, finding.exit_code) == ("error", 2) and "vLLM is not installed" in finding.message
    there.add("vllm")
    (finding,) = evaluate.check(_asked(context, backend="vllm", limit=None))
    assert finding.level == "note" and "has not been tested" in finding.message
    monkeypatch.setattr("hubkit.evals.suites.find_spec", find_spec_without("langdetect", "antlr4"))
    lacking, shots = evaluate.check(_asked(context, suites=("openllm",), limit=None, num_fewshot=2))
    assert lacking.exit_code == 2 and "langdetect" in lacking.message and "antlr4" in lacking.message
    assert lacking.hint == "pip install 'lm_eval[math,ifeval]'"
    assert shots.level == "note" and "num_fewshot is ignored" in shots.message


def test_what_vllm_is_given_is_what_the_installed_harness_takes(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM is not installed here, so the harness's file about it is read and not imported."""
    import ast
    import sys
    import types
    from importlib.util import find_spec

    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "models" / "vllm_causallms.py").read_text())
    (theirs,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "VLLM"]
    (init,) = [node for node in theirs.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    given: dict[str, object] = {}
    fake = types.ModuleType("lm_eval.models.vllm_causallms")
    fake.VLLM = lambda **options: given.update(options) or object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", fake)
    ctx = _asked(context, backend="vllm")
    subject, source, dtype = evaluate._subject(ctx)
    evaluate._Harness(ctx, source, subject, dtype, "cuda")._load()
    assert given.keys() <= {argument.arg for argument in init.args.args}
    assert (given["pretrained"], given["dtype"], given["batch_size"]) == (source, "float32", 4)
    assert CHATML in Path(str(given["tokenizer"]), "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    ("asked", "device", "given"), [("auto", "cpu", 8), ("auto", "mps", 8), ("auto", "cuda", "auto"), (3, "cpu", 3)]
)
def test_auto_is_the_harness_own_on_a_gpu_alone(asked: int | str, device: str, given: int | str) -> None:
    """Elsewhere it would try 64 sequences of the model's full length, and a lack of memory is no error there."""
    assert batch_size(asked, device) == given


def test_a_release_needs_no_vllm_and_one_measured_by_another_vllm_is_measured_anew(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(installed(name) for name in evaluate.SHAPED_BY)
    made = evaluate.run(context).artifact
    assert evaluate.outdated(context, made) is None
    ctx = _asked(context, backend="vllm")
    versions = {"vllm": "0.9"}
    monkeypatch.setattr(evaluate, "installed", lambda name: versions.get(name))
    assert evaluate.outdated(ctx, made) == "vLLM None measured, and 0.9 is installed"
    made = made.model_copy(update={"libraries": {"vllm": "0.9"}})
    assert evaluate.outdated(ctx, made) is None
    versions.clear()
    assert evaluate.outdated(ctx, made) == "vLLM 0.9 measured, and none is installed"


def test_the_progress_of_several_suites_is_one(context: Context) -> None:
    said: list[tuple[str, float | None]] = []
    for place, title in enumerate(("One", "Two")):
        part = evaluate._part(lambda text, share: said.append((text, share)), title, place / 2, 0.5)
        part("a", 0.0)
        part("b", None)
        part("c", 1.0)
    assert said == [
        ("One: a", 0.0), ("One: b", None), ("One: c", 0.5), ("Two: a", 0.5), ("Two: b", None), ("Two: c", 1.0),
    ]  # fmt: skip


def find_spec_without(*names: str) -> Callable[[str], object]:
    """importlib's find_spec on a machine that has everything but ``names``."""
    import importlib.util

    def find(name: str) -> object:
        return None if name in names else importlib.util.find_spec(name) or object()

    kept = importlib.util.find_spec("lm_eval")
    return lambda name: kept if name == "lm_eval" else find(name)


def test_examples_in_the_prompt_are_counted_and_said(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.models.huggingface import HFLM

    prompts: list[str] = []
    whole = HFLM.loglikelihood

    def watched(self: HFLM, requests: Sequence[object], **options: object) -> object:
        prompts.append(requests[0].args[0])  # type: ignore[attr-defined]
        return whole(self, requests, **options)

    monkeypatch.setattr(HFLM, "loglikelihood", watched)
    tasks = tasks_of(context)
    tasks.write_text(tasks.read_text() + "fewshot_split: test\nfewshot_config: {sampler: first_n}\n")
    for turns in (None, False):
        results = evaluate.run(_asked(context, num_fewshot=2, fewshot_as_multiturn=turns)).artifact
        assert results.settings.num_fewshot == 2 and results.settings.fewshot_as_multiturn is (turns is None)
        task = results.suites["colours"].tasks["colours"]
        assert task is not None and task.n_shot == 2
    assert [prompt.count("<|im_start|>user") for prompt in prompts] == [3, 1]
    assert all(prompt.count("Name colour") == 3 for prompt in prompts)


def test_the_machine_is_not_listed_and_lm_eval_is_left_as_it_was(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import evaluator
    from torch.utils import collect_env

    monkeypatch.setattr(collect_env, "get_pretty_env_info", lambda: pytest.fail("the machine was listed"))
    before = evaluator.add_env_info
    evaluate.run(context)
    assert evaluator.add_env_info is before


def test_the_model_is_gone_when_the_step_is_done(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next job of the same process needs the memory, and the collector may not come by in time."""
    from lm_eval.models.huggingface import HFLM

    seen: list[weakref.ref[object]] = []
    whole = HFLM.loglikelihood

    def watched(self: HFLM, requests: Sequence[object], **options: object) -> object:
        seen.extend([weakref.ref(self), weakref.ref(self.model)])
        return whole(self, requests, **options)

    monkeypatch.setattr(HFLM, "loglikelihood", watched)
    gc.collect()
    gc.disable()
    try:
        evaluate.run(context)
        assert [found() for found in seen] == [None, None]
    finally:
        gc.enable()


def _on_a_hub_that_is_away(context: Context) -> Context:
    away = replace(context.inputs.base, repo="me/base", commit="0" * 40)
    return of_base(replace(context, inputs=evaluate.Inputs(away)))


def test_a_hub_that_is_away_while_the_model_is_loaded_is_a_remote_error(
    context: Context, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    base = _on_a_hub_that_is_away(context)
    transport.install("http://127.0.0.1:9", None)
    with pytest.raises(RemoteError) as away:
        evaluate.run(base)
    assert away.value.exit_code == 5 and "cannot be reached" in away.value.message
    # The Hub may go away between the tokenizer and the model.
    tokenizer = AutoTokenizer.from_pretrained(model)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *args, **options: tokenizer)
    with pytest.raises(RemoteError) as away:
        evaluate.run(base)
    assert away.value.exit_code == 5 and "cannot be reached" in away.value.message


def test_a_data_set_that_is_away_is_a_remote_error(context: Context) -> None:
    transport.install("http://127.0.0.1:9", None)
    tasks = tasks_of(context)
    local = "dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}"
    assert local in tasks.read_text()
    tasks.write_text(tasks.read_text().replace(local, "dataset_path: me/colours"))
    with pytest.raises(RemoteError) as away:
        evaluate.run(context)
    assert away.value.exit_code == 5


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionError("Couldn't reach x"), 5),
        (FileNotFoundError("x"), 2),
        (KeyError("x"), 2),
        (ValueError("x"), 2),
        (ModuleNotFoundError("No module named 'x'"), 2),
    ],
)
def test_what_a_task_raises_becomes_one_sentence(error: Exception, code: int) -> None:
    with (
        pytest.raises(HubkitError, match="lm-eval could not run one, two: ") as said,
        tasks_translated("http://127.0.0.1:9", ["one", "two"]),
    ):
        raise error
    assert said.value.exit_code == code


def test_a_task_that_cannot_be_run_is_the_recipes_fault(context: Context) -> None:
    tasks = tasks_of(context)
    tasks.write_text(tasks.read_text().replace("test_split: test", "test_split: exam"))
    with pytest.raises(UsageError, match="lm-eval could not run colours") as wrong:
        evaluate.run(context)
    assert wrong.value.exit_code == 2


@pytest.mark.soak
def test_two_processes_measure_what_one_does(context: Context, tmp_path: Path) -> None:
    """Benchmarks and stop rate, by gloo on the CPU: each process has a part of the questions, and all the answers."""
    measured = []
    for count in (1, 2):
        file, results = tmp_path / f"{count}.pickle", tmp_path / f"{count}.json"
        file.write_bytes(pickle.dumps((replace(context, scratch=tmp_path / f"scratch-{count}"), CHATML)))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        common |= {"MASTER_PORT": port, "HUBKIT_LAUNCHER": str(os.getpid()), "GLOO_SOCKET_IFNAME": "lo"}
        common |= {"HUBKIT_HOME": str(tmp_path / f"home-{count}"), "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, str(SUPPORT / "measured_together.py"), str(file), str(results)],
                env={**os.environ, **common, "RANK": str(number), "LOCAL_RANK": str(number)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]
        ends = [process.communicate(timeout=500)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * count, ends
        measured.append(json.loads(results.read_text()))
    assert measured[0] == measured[1]
    assert measured[0]["rate"]["prompts"] == 7
