"""What was measured once is not measured again; and nothing is ever given a number of something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from kept import perform, sample

from hubkit.core.errors import HubkitError, RemoteError
from hubkit.core.files import write_json
from hubkit.core.target import Target
from hubkit.evals.caching import Cache, hub_data, key_of, tasks_digest
from hubkit.evals.results import read_results
from hubkit.evals.suites import SUITES, Suite
from hubkit.models.base import PinnedBase
from hubkit.models.merging.merged import MergedWeights
from hubkit.pipeline.runs import Run
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Context, Scope
from hubkit_stages import evaluate

RECIPE = """
repo: me/tiny
visibility: private
license: apache-2.0
base: {repo: me/base}
data: {preferences: [{repo: me/pairs}]}
stages: {dpo: {data: preferences}}
variants: {main: {stage: dpo}, other: {stage: dpo}}
evaluate: {suites: [colours], include: tasks, apply_chat_template: true}
gates: {stop_rate: {prompts_from: preferences}}
card: {title: Tiny, summary: A test.}
"""
TASK = (
    "task: colours\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
    "output_type: multiple_choice\n"
)
HUB_TASK = "task: colours\ndataset_path: me/colours\ntest_split: test\noutput_type: multiple_choice\n"


class Bench:
    """A step of which everything can be changed, and a harness that only counts how often it is asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch, self.measured = folder, monkeypatch, 0
        self.value: float | None = 0.25
        self.during: Callable[[], None] = lambda: None
        self.tasks, self.base, self.model = folder / "recipe" / "tasks", folder / "base", folder / "merge" / "model"
        for made in (self.tasks, self.base, self.model):
            made.mkdir(parents=True)
        (self.tasks / "colours.yaml").write_text(TASK)
        (self.tasks / "rows.jsonl").write_text('{"q": "x"}\n')
        (self.base / "chat_template.jinja").write_text("{{ messages }}")
        write_json(self.base / "base.json", sample("base.json", repo="me/base", commit="a" * 40))
        for name in ("model.safetensors", "tokenizer.json", "config.json"):
            (self.model / name).write_text(name)
        write_json(self.model.parent / "merge.json", sample("merge.json", dtype="bfloat16"))
        self.recipe: Recipe = parse_recipe(RECIPE)
        self.variant: str | None = "main"
        self.target = Target("http://localhost:9", folder / "hf")
        monkeypatch.setenv("HUBKIT_HOME", str(folder / "home"))
        monkeypatch.setattr(evaluate._Harness, "measure", lambda harness, suite, report: self._measure(suite))

    def _measure(self, suite: Suite) -> dict[str, Any]:
        self.measured += 1
        self.during()
        values = {"alias": "colours", "sample_len": 4, "acc,none": self.value, "acc_stderr,none": 0.1}
        return {"results": dict.fromkeys(suite.tasks, values)}

    def asked(self, **keys: Any) -> None:
        self.recipe = self.recipe.model_copy(update={"evaluate": self.recipe.evaluate.model_copy(update=keys)})

    def run(self) -> float | None:
        """The average that the step reports, if any; the run's folder is new each time, as with --fresh."""
        made = Run(self.folder / f"run-{len(list(self.folder.glob('run-*')))}")
        step = f"evaluate[{self.variant}]" if self.variant else "base-scores"
        merged = MergedWeights.load(self.model.parent) if self.variant else None
        made.begin(step, "key")
        ctx = Context(
            settings=evaluate.Settings.of(self.recipe, Scope(self.folder / "recipe", variant=self.variant)),
            inputs=evaluate.Inputs(PinnedBase.load(self.base), merged),
            target=self.target,
            out=made.out(step),
            scratch=made.scratch(step),
        )
        return read_results(perform(evaluate, ctx, made, step, "key").path / "results.json").average.value


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_another_run_measures_nothing_and_loads_no_model(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.run() == 0.25 and bench.measured == 1
    bench.value = 0.75
    monkeypatch.setattr(evaluate._Harness, "_load", lambda self: pytest.fail("a model was loaded"))
    assert bench.run() == 0.25 and bench.measured == 1
    made = sorted(bench.folder.glob("run-*/artifacts/*/manifest.json"))
    assert [json.loads(path.read_text())["summary"]["reused"] for path in made] == [0, 1]
    assert "measured before" in json.loads(made[1].read_text())["summary"]["figure"]
    raw = [path.parent / "raw" / "1-colours.json" for path in made]
    assert raw[0].read_bytes() == raw[1].read_bytes()


def test_another_variant_of_the_same_weights_measures_nothing(bench: Bench) -> None:
    bench.run()
    bench.variant = "other"
    assert bench.run() == 0.25 and bench.measured == 1


def _write(path: Path, text: str) -> None:
    path.write_text(text)


CHANGES: dict[str, Callable[[Bench], object]] = {
    "weights": lambda bench: _write(bench.model / "model.safetensors", "model.safetensorZ"),
    "tokenizer": lambda bench: _write(bench.model / "tokenizer.json", "tokenizer.jsoN"),
    "config": lambda bench: _write(bench.model / "config.json", "config.jsoN"),
    "a file more": lambda bench: _write(bench.model / "added_tokens.json", "{}"),
    "template": lambda bench: _write(bench.base / "chat_template.jinja", "{{ messages[0] }}"),
    "no template": lambda bench: bench.asked(apply_chat_template=False),
    "task file": lambda bench: _write(bench.tasks / "colours.yaml", TASK + "doc_to_text: x\n"),
    "its own data": lambda bench: _write(bench.tasks / "rows.jsonl", '{"q": "y"}\n'),
    "dtype": lambda bench: write_json(bench.model.parent / "merge.json", sample("merge.json", dtype="float16")),
    "limit": lambda bench: bench.asked(limit=3),
    "examples in the prompt": lambda bench: bench.asked(num_fewshot=3),
    "examples as turns": lambda bench: bench.asked(fewshot_as_multiturn=False),
    "batch size": lambda bench: bench.asked(batch_size=3),
    "backend": lambda bench: bench.asked(backend="vllm"),
    "device": lambda bench: bench.patch.setattr(evaluate, "benchmark_device", lambda: ("cuda", "cuda A card")),
    "kind of device": lambda bench: bench.patch.setattr(
        evaluate, "benchmark_device", lambda: ("cpu", "cpu of another kind")
    ),
    "code": lambda bench: bench.patch.setattr(evaluate, "VERSION", evaluate.VERSION + 1),
    **{
        f"version of {library}": lambda bench, library=library: bench.patch.setattr(  # type: ignore[misc]
            evaluate, "installed", lambda name: "0.0.1" if name == library else "1.0"
        )
        for library in ("lm_eval", "torch", "transformers", "tokenizers", "datasets")
    },
    "format": lambda bench: bench.patch.setattr("hubkit.evals.caching.FORMAT", 99),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_part_of_the_key_alone_asks_for_a_new_measurement(bench: Bench, change: str) -> None:
    if change.startswith("version of"):
        bench.patch.setattr(evaluate, "installed", lambda name: "1.0")
    bench.run()
    CHANGES[change](bench)
    bench.value = 0.75
    assert bench.run() == 0.75 and bench.measured == 2
    bench.value = 0.9
    assert bench.run() == 0.75 and bench.measured == 2


@pytest.mark.parametrize("name", ["../common.yaml", "{folder}/common.yaml"])
def test_a_changed_include_outside_of_the_folder_asks_for_a_new_measurement(bench: Bench, name: str) -> None:
    common = bench.tasks.parent / "common.yaml"
    common.write_text("doc_to_text: x\nprocess_docs: !function utils.f\n")
    text = f"include: {name.format(folder=common.parent)}\n{TASK}"
    (bench.tasks / "colours.yaml").write_text(text)
    bench.run()
    bench.run()
    assert bench.measured == 1
    common.write_text("doc_to_text: y\nprocess_docs: !function utils.f\n")
    bench.run()
    assert bench.measured == 2
    common.write_text("doc_to_text: y\nprocess_docs: !function utils.g\n")
    bench.run()
    assert bench.measured == 3


def test_a_recipe_in_another_folder_has_the_same_tasks(bench: Bench, tmp_path: Path) -> None:
    suite = Suite("c", "C", "own", ("colours",))
    shutil.copytree(bench.tasks, tmp_path / "elsewhere")
    assert tasks_digest(suite, bench.tasks) == tasks_digest(suite, tmp_path / "elsewhere")


def test_a_new_version_of_what_the_tasks_import_asks_for_a_new_measurement(bench: Bench) -> None:
    suite = Suite("colours", "Colours", "own", ("colours",), modules=("yaml",))
    bench.patch.setattr(evaluate, "resolve", lambda names, include: (suite,))
    bench.run()
    bench.run()
    assert bench.measured == 1
    there = evaluate.installed
    bench.patch.setattr(evaluate, "installed", lambda name: "0.1" if name.lower() == "pyyaml" else there(name))
    bench.run()
    assert bench.measured == 2


def test_the_base_is_known_by_its_commit_and_dtype_and_never_by_a_branch(bench: Bench) -> None:
    bench.variant = None
    bench.run()
    bench.run()
    assert bench.measured == 1
    write_json(bench.base / "base.json", sample("base.json", repo="me/copy-of-base", commit="a" * 40))
    bench.run()
    assert bench.measured == 1
    write_json(bench.base / "base.json", sample("base.json", repo="me/base", commit="b" * 40))
    bench.run()
    assert bench.measured == 2
    bench.recipe = parse_recipe(RECIPE.replace("repo: me/base", "repo: me/base, dtype: float32"))
    bench.run()
    assert bench.measured == 3
    write_json(bench.base / "base.json", sample("base.json", repo="me/base", commit="main"))
    bench.run()
    bench.run()
    assert bench.measured == 5


def test_a_suite_more_measures_that_suite_alone(bench: Bench) -> None:
    bench.run()
    bench.patch.setattr(evaluate, "hub_data", lambda suite, include, commit: {})
    bench.asked(suites=("colours", "truthfulqa"))
    bench.run()
    assert bench.measured == 2
    bench.asked(suites=("truthfulqa", "colours", "gpt4all"))
    bench.run()
    assert bench.measured == 3


@pytest.mark.parametrize("harm", ["cut", "value", "key", "not JSON", "a list"])
def test_a_kept_file_that_is_not_whole_counts_for_nothing(bench: Bench, harm: str) -> None:
    bench.run()
    (path,) = (bench.folder / "home" / "evaluations").rglob("*.json")
    value = json.loads(path.read_text())
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif harm == "value":
        value["raw"]["results"]["colours"]["acc,none"] = 0.99
        write_json(path, value)
    elif harm == "key":
        value["key"]["dtype"] = "float32"
        write_json(path, value)
    else:
        path.write_text("no" if harm == "not JSON" else "[]")
    bench.value = 0.75
    assert bench.run() == 0.75 and bench.measured == 2
    assert bench.run() == 0.75 and bench.measured == 2


def test_a_measurement_without_a_number_is_not_kept(bench: Bench) -> None:
    bench.value = None
    for number in (1, 2):
        with pytest.raises(HubkitError, match="no usable number for colours"):
            bench.run()
        assert bench.measured == number
    bench.value = 0.75
    assert bench.run() == 0.75 and bench.measured == 3


def test_a_kept_measurement_without_a_number_is_made_again(bench: Bench) -> None:
    bench.run()
    (path,) = (bench.folder / "home" / "evaluations").rglob("*.json")
    raw = {"results": {"colours": {"alias": "colours", "acc,none": None}}}
    Cache(bench.folder / "home" / "evaluations").keep(json.loads(path.read_text())["key"], raw, 1.0)
    bench.value = 0.75
    assert bench.run() == 0.75 and bench.measured == 2
    assert bench.run() == 0.75 and bench.measured == 2


def test_tasks_of_unlike_metrics_have_no_average_and_are_kept_all_the_same(bench: Bench) -> None:
    (bench.tasks / "words.yaml").write_text(TASK.replace("task: colours", "task: words"))
    suite = Suite("colours", "Colours", "own", ("colours", "words"))
    bench.patch.setattr(evaluate, "resolve", lambda names, include: (suite,))

    def measure(harness: object, suite: Suite, report: object) -> dict[str, Any]:
        bench.measured += 1
        return {"results": {"colours": {"acc,none": 0.5}, "words": {"word_perplexity,none": 15.2}}}

    bench.patch.setattr(evaluate._Harness, "measure", measure)
    assert bench.run() is None and bench.run() is None and bench.measured == 1
    made = sorted(bench.folder.glob("run-*/artifacts/*/manifest.json"))
    figures = [json.loads(path.read_text())["summary"]["figure"] for path in made]
    assert [figure.startswith("no average: ") for figure in figures] == [True, True]


@pytest.fixture
def colours(hub: Any, bench: Bench) -> Callable[[str], str]:
    """Put a data set on an embedded Hub, which the step then uses, and its repo in the task; commits to it."""
    api = HfApi(hub.url, token=hub.token)
    api.create_repo("me/colours", repo_type="dataset")
    bench.target = Target(hub.url, bench.folder / "hf", hub.token, embedded=True)
    (bench.tasks / "colours.yaml").write_text(HUB_TASK)

    def commit(text: str) -> str:
        files = [CommitOperationAdd("test.jsonl", text.encode())]
        return str(api.create_commit("me/colours", files, repo_type="dataset", commit_message="Change").oid)

    commit('{"q": "x"}\n')
    return commit


def test_a_data_set_of_the_hub_counts_by_its_commit(bench: Bench, colours: Callable[[str], str]) -> None:
    bench.run()
    bench.run()
    assert bench.measured == 1
    moved = colours('{"q": "y"}\n')
    bench.run()
    assert bench.measured == 2
    bench.run()
    assert bench.measured == 2
    kept = [json.loads(path.read_text())["key"]["data"] for path in (bench.folder / "home").rglob("*.json")]
    assert {"me/colours@main": moved} in kept and len(kept) == 2


def test_a_data_set_that_moves_while_it_is_measured_is_not_kept(bench: Bench, colours: Callable[[str], str]) -> None:
    bench.during = lambda: colours('{"q": "z"}\n') and None
    bench.run()
    bench.during = lambda: None
    bench.run()
    assert bench.measured == 2


def test_a_data_set_whose_commit_cannot_be_asked_is_not_kept(bench: Bench) -> None:
    (bench.tasks / "colours.yaml").write_text(HUB_TASK)
    bench.run()
    bench.run()
    assert bench.measured == 2 and not (bench.folder / "home" / "evaluations").exists()


@pytest.mark.parametrize(
    "text",
    [
        "task: colours\nclass: !function x.Y\n",
        "task: colours\ncustom_dataset: !function x.y\n",
        "task: colours\ndataset_path: json\n",
        "task: colours\ndataset_path: json\ndataset_kwargs: {data_files: {test: 'https://example.org/x.jsonl'}}\n",
        "task: colours\ndataset_path: json\ndataset_kwargs: {data_files: {test: /etc/hostname}}\n",
        "task: colours\ndataset_path: json\ndataset_kwargs: {data_files: {test: ../outside.jsonl}}\n",
        "task: colours\ndataset_path: json\ndataset_kwargs: {data_dir: .}\n",
        "task: colours\ndataset_path: csv\ndataset_kwargs: {data_files: {test: [rows.jsonl, /etc/hostname]}}\n",
        "task: colours\ndataset_path: 3\n",
        "task: colours\n",
        "task: other\n",
        "task: [",
    ],
)
def test_what_cannot_be_told_to_be_the_same_is_not_kept(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("{}")
    (folder / "t.yaml").write_text(text)
    assert hub_data(Suite("c", "C", "own", ("colours",)), folder, lambda repo, revision: "x") is None


def test_a_folder_here_is_no_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.yaml").write_text(HUB_TASK)
    suite = Suite("c", "C", "own", ("colours",))
    assert hub_data(suite, tmp_path, lambda repo, revision: "x") == {"me/colours@main": "x"}
    (tmp_path / "me" / "colours").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_data(suite, tmp_path, lambda repo, revision: "x") is None


def test_the_named_suites_say_which_data_sets_they_read() -> None:
    def away(repo: str, revision: str) -> str:
        raise RemoteError("away")

    for suite in SUITES.values():
        told = hub_data(suite, None, lambda repo, revision: f"{repo}:{revision}")
        assert told and all(name.endswith("@main") and value.endswith(":main") for name, value in told.items())
        assert hub_data(suite, None, away) is None
        assert tasks_digest(suite, None) == tasks_digest(suite, None)
    assert len({tasks_digest(suite, None) for suite in SUITES.values()}) == len(SUITES)


def test_a_key_is_its_parts_whatever_their_order_and_any_part_changes_it(tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        "suite": Suite("s", "S", "own", ("a", "b")), "tasks": "t", "data": {"d@main": "1"}, "weights": {"w": "1"},
        "template": None, "dtype": "bfloat16", "device": "cpu", "backend": "hf", "asked": {"limit": None},
        "libraries": {"torch": "1"}, "code": 1,
    }  # fmt: skip
    others: dict[str, Any] = {
        "suite": Suite("s", "S", "own", ("b", "a")), "tasks": "u", "data": {"d@main": "2"}, "weights": {"w": "2"},
        "template": "", "dtype": "float32", "device": "cuda", "backend": "vllm", "asked": {"limit": 1},
        "libraries": {"torch": "2"}, "code": 2,
    }  # fmt: skip
    cache = Cache(tmp_path)
    cache.keep(key_of(**parts), {"results": {}}, 1.0)
    assert cache.find(key_of(**dict(reversed(parts.items())))) is not None
    for name, other in others.items():
        assert cache.find(key_of(**{**parts, name: other})) is None, name
    assert [path.name for path in tmp_path.iterdir()] == [cache.path(key_of(**parts)).parent.name]
