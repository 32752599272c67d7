"""The rules on the front matter of a model's card: what the Hub refuses, and what it takes."""

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hubkit.core.card_metadata import is_true, language_problem, metadata_problems

BAD_CONFIG = {"type": "x", "name": "X", "config": 2020}


def levels(**data: Any) -> list[tuple[str, str]]:
    return [(item.key, item.level) for item in metadata_problems(data)]


def index(**changes: Any) -> list[dict[str, Any]]:
    """A ``model-index`` with one result, changed."""
    result = {
        "task": {"type": "text-generation"},
        "dataset": {"type": "squad", "name": "SQuAD"},
        "metrics": [{"type": "f1", "value": 0.5}],
    }
    return [{"name": "m", "results": [{**result, **changes}]}]


@pytest.mark.parametrize(
    "data",
    [
        {"license": "other"},
        {"license": "other", "license_name": "my-license"},
        {"license": ["mit", "cc-by-2.5"]},
        {"license": "fair-noncommercial-research-license", "language": "en"},
        {"license": None, "base_model": None, "language": None, "datasets": None, "tags": None},
        {"language": ["en", "fil", "code", "multilingual"]},
        {"datasets": ["squad", "wikitext"], "base_model": "distilbert-base-uncased"},
        {"base_model": ["a/b", "gpt2"], "base_model_relation": "merge", "new_version": "a/c"},
        {"base_model": "a/b_"},
        {"tags": ["x", "yes"], "pipeline_tag": "text-generation"},
        {"tags": "x"},
        {"widget": [{"text": "Hi"}], "inference": "false", "extra_gated_prompt": "..."},
        {"model-index": [{"name": "m", "results": []}]},
        {"model-index": index()},
        {"model-index": index(metrics=[{"type": "mean_reward", "value": "250.1 +/- 18.4"}])},
        {"model-index": index(metrics=[{"type": "f1", "value": None}])},
    ],
    ids=str,
)
def test_what_the_hub_takes(data: dict[str, Any]) -> None:
    assert levels(**data) == []


@pytest.mark.parametrize(
    ("data", "key", "words"),
    [
        ({"license": "apache2"}, "license", '"license" must be one of [apache-2.0, mit, '),
        ({"license": ["mit", "Apache-2.0"]}, "license", '"license" must be one of ['),
        ({"language": "zh-CN"}, "language", '"language" must only contain lowercase characters'),
        ({"language": ["en", "zh-cn"]}, "language", '"language[1]" with value "zh-cn" is not valid. It must be an ISO'),
        ({"language": "english"}, "language", '"language" with value "english" is not valid. It must be an ISO 639-1'),
        ({"language": [7]}, "language", '"language[0]" must be a string'),
        ({"base_model": "./out"}, "base_model", '"base_model" with value "./out" is not valid. Use a model id from'),
        ({"base_model": "/home/a/b"}, "base_model", '"base_model" with value "/home/a/b" is not valid.'),
        ({"base_model": ["a/b", "My Model"]}, "base_model", '"base_model[1]" with value "My Model" is not valid.'),
        ({"base_model": ""}, "base_model", '"base_model" is not allowed to be empty'),
        ({"base_model": "https://huggingface.co/a/b"}, "base_model", '"base_model" with value "https://huggingface.co'),
        (
            {"datasets": ["/data/x/"]},
            "datasets",
            '"datasets[0]" with value "/data/x/" is not valid. If possible, use a',
        ),
        ({"datasets": ["a/b/c"]}, "datasets", '"datasets[0]" with value "a/b/c" is not valid.'),
        ({"datasets": "https://example.org/x"}, "datasets", '"datasets" with value "https://example.org/x" is not'),
        ({"datasets": [None]}, "datasets", '"datasets[0]" must be a string'),
        ({"widget": {"text": "Hi"}}, "widget", '"widget" must be an array'),
        ({"tags": {"a": 1}}, "tags", '"tags" must be an array'),
        ({"model-index": "foo"}, "model-index", '"model-index" must be an array'),
        ({"model-index": index(dataset=BAD_CONFIG)}, "model-index", '.dataset.config" must be a string'),
    ],
    ids=str,
)
def test_what_the_hub_refuses_and_how_it_says_so(data: dict[str, Any], key: str, words: str) -> None:
    (problem,) = metadata_problems(data)
    assert (problem.key, problem.level) == (key, "error") and problem.message and problem.hint
    assert words in problem.hub and problem.hub.startswith(f'"{key}')


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"name": "m", "results": []}, "'model-index' is not a list."),
        ([{"results": []}], "'model-index[0]' has no name."),
        ([{"name": "m"}], "'model-index[0].results' is not a list."),
        (index(dataset=None), "'model-index[0].results[0]' has no dataset."),
        (index(dataset={"type": "x"}), "'model-index[0].results[0].dataset' has no name."),
        (index(task=None), "'model-index[0].results[0]' has no task."),
        (index(metrics=[{"type": "f1"}]), "'model-index[0].results[0].metrics[0]' has no value."),
        (index(source={"name": "Me"}), "'model-index[0].results[0].source' has a name and no url."),
    ],
    ids=str,
)
def test_what_huggingface_hub_cannot_read(index: Any, words: str) -> None:
    """The Hub has cards of this kind, so that it does not refuse them; the library does."""
    (problem,) = metadata_problems({"model-index": index})
    assert (problem.level, problem.message, problem.refused_by, problem.hub) == ("error", words, "huggingface_hub", "")
    text = yaml.safe_dump({"model-index": index})
    with pytest.raises((ValueError, TypeError, AttributeError)):
        ModelCard(f"---\n{text}---\n# x\n")


def test_what_all_results_lack_is_told_once() -> None:
    results = [{"task": {"type": "x"}, "metrics": []}] * 12
    (problem,) = metadata_problems({"model-index": [{"name": "m", "results": results}]})
    assert problem.message == "'model-index[0].results[0]' has no dataset. 11 other results too."


@pytest.mark.parametrize(
    ("data", "level"),
    [
        ({"language": [False, "en"]}, "note"),  # `no` without quotes: a word to the Hub, false to Python
        ({"tags": ["x", False]}, "note"),  # the Norwegian tag `no`
        ({"datasets": ["a/b--c"]}, "warning"),  # the Hub once gave out such names; huggingface_hub refuses them
        ({"datasets": ["VoxPopuli-(EN)"]}, "warning"),  # the Hub holds cards with such names
        ({"datasets": ["Common Voice"]}, "warning"),
        ({"tags": [2024]}, "warning"),
        ({"pipeline_tag": "text-generating"}, "warning"),
        ({"base_model_relation": "lora"}, "warning"),
        ({"library_name": ["transformers"]}, "warning"),
    ],
    ids=str,
)
def test_what_no_record_says_that_the_hub_refuses(data: dict[str, Any], level: str) -> None:
    (problem,) = metadata_problems(data)
    assert problem.level == level


def test_a_language_with_a_region_is_told_where_it_belongs() -> None:
    assert language_problem("pt-BR") == (
        "The language 'pt-BR' is no ISO 639 code such as 'en'. Write 'pt', and 'pt-BR' under 'language_bcp47'."
    )
    assert language_problem("EN") is not None and "Write 'en'." in (language_problem("EN") or "")
    assert language_problem("no") is None and language_problem(False) is None


def test_switches_may_be_in_quotes() -> None:
    assert [is_true(value) for value in (True, "true", "False", False, "yes", 1, None)] == [
        True, True, False, False, None, None, None,
    ]  # fmt: skip
