"""The recipe: what it accepts, and how it tells all mistakes at once."""

import json
from pathlib import Path

import pytest
from samples import RECIPE_TEXT

from hubkit.core.errors import UsageError
from hubkit.core.yaml_text import parse_yaml
from hubkit.recipe.loading import load_recipe, parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.recipe.schema import recipe_schema


def mistakes(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_recipe(text)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value.message


def test_a_small_recipe_has_all_it_needs() -> None:
    recipe = parse_recipe(RECIPE_TEXT)
    assert recipe.hub == "embedded"
    assert recipe.wanted_stages() == ("dpo", "sft")
    assert recipe.chain("sft") == ("dpo", "sft")
    assert recipe.publishing_order() == ("dpo-v0", "main"), "main moves last, wherever it stands"


def test_protected_branches() -> None:
    assert parse_recipe(RECIPE_TEXT).protected == ()
    assert parse_recipe(RECIPE_TEXT + "protected: [main, v1]\n").protected == ("main", "v1")
    assert "'a b' cannot be a branch" in mistakes(RECIPE_TEXT + "protected: [a b]\n")


def test_numbers_are_read_as_people_write_them() -> None:
    args = parse_recipe(RECIPE_TEXT).stages["dpo"].args
    assert args == {"learning_rate": 5e-5, "max_length": 40, "bf16": True}


@pytest.mark.fault("C1")
def test_several_mistakes_come_in_one_message_with_lines_and_suggestions() -> None:
    text = RECIPE_TEXT.replace("visibility: public", "visibilty: public").replace("dpo-v0:", "dpo v0:")
    text = text.replace("rows: 300", "rows: many")
    said = mistakes(text)
    assert "hubkit.yaml has 4 mistakes:" in said
    assert "hubkit.yaml:2: visibilty: unknown key; did you mean 'visibility'?" in said
    assert "hubkit.yaml:1: visibility: this key is required" in said
    assert "hubkit.yaml:7: data.repair.0.rows: " in said and "'many'" in said
    assert "hubkit.yaml:13: variants.dpo v0: 'dpo v0' cannot be a branch: a space is not allowed" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("data: preferences,", "data: preference,", ":9: stages.dpo.data: `data` has no entry 'preference'; did you"),
        ("continues: dpo", "continues: dop", "there is no stage 'dop'; did you mean 'dpo'?"),
        ("continues: dpo", "continues: sft", "the stages form a cycle through `continues`"),
        ("stage: sft", "stage: stf", "variants.main.stage: there is no stage 'stf'; did you mean 'sft'?"),
        ("[{repo: them/pairs}]", "[]", "data.preferences: this entry has no dataset"),
        ("  main:", "  release:", "no variant is published on 'main'"),
        ("dpo-v0:", "staging/x:", "'staging/' is where releases are prepared"),
        ("dpo-v0:", "main/x:", "git cannot hold a branch 'main/x' beside a branch 'main'"),
        (
            "suites: [tiny_facts]",
            "suites: [x], fewshot_as_multiturn: true",
            "fewshot_as_multiturn needs apply_chat_template",
        ),
        ("suites: [tiny_facts]", "suites: [x], backend: onnx", "is not one of 'hf' or 'vllm'"),
        ("  preferences:", "  ../x:", "data.../x: '../x' cannot be a name here"),
        ("dpo-v0:", "MAIN:", "differ only in upper and lower case"),
        ("prompts_from: repair", "prompts_from: repairs", "did you mean 'repair'?"),
        ("prompts_from: repair", "prompts_from: repair, batch_size: 0", "0 is neither a whole number from 1 on nor"),
        ("suites: [tiny_facts]", "suites: [x], batch_size: many", "evaluate.batch_size: 'many' is neither"),
        ("prompts_from: repair", "prompts_from: repair, at_least: 95", "95.0 is not a share"),
        ("prompts_from: repair", "prompts_from: repair, at_least: bas - 2", "neither a share such as 0.95"),
        ("repo: me/my-model", "repo: my-model", "a repo id has the form namespace/name"),
        ("visibility: public", "visibility: publik", "did you mean 'public'?"),
        ("license: apache-2.0", "license: apache-2.0\nhub: ftp://x", "is no Hub"),
        ("license: apache-2.0", "license: apache-2.0\nhub: huggingface\nprovide: tiny", "on the embedded Hub only"),
        ("license: apache-2.0", "license: apache-2.0\nlicense: mit", "the key 'license' appears twice"),
        ("license: apache-2.0", "license: [", "not valid YAML"),
        ("license: apache-2.0", "license: !!python/object:os.system x", "not valid YAML"),
        ("license: apache-2.0", "license: !!int x", "not valid YAML"),
        ("license: apache-2.0", "license: !!timestamp x", "not valid YAML"),
        ("license: apache-2.0", "license: apache-2.0\n7: x", "keys must be strings"),
    ],
)
@pytest.mark.fault("C1")
def test_each_mistake_is_named(old: str, new: str, said: str) -> None:
    assert said in mistakes(RECIPE_TEXT.replace(old, new))


@pytest.mark.fault("S8")
def test_words_that_old_yaml_takes_for_truth_stay_words() -> None:
    value, _ = parse_yaml("on: yes\nno: off\n", "x.yaml")
    assert value == {"on": "yes", "no": "off"}


@pytest.mark.fault("S8")
def test_half_a_surrogate_pair_is_refused_with_its_line() -> None:
    text = RECIPE_TEXT.replace("visibility: public", 'visibility: public\nlicense: "\\ud800"')
    assert "hubkit.yaml:3: invalid Unicode escape (lone surrogate)" in mistakes(text)


def test_an_alias_bomb_is_refused_quickly() -> None:
    bomb = "a: &a [x]\n" + "".join(f"b{i}: [*a]\n" for i in range(101))
    assert "aliases" in mistakes(bomb)


@pytest.mark.fault("S8")
def test_a_deep_nest_is_refused() -> None:
    assert "hubkit.yaml:1: nested more than 30 deep" in mistakes("[" * 500_000)


@pytest.mark.fault("C1")
def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hubkit init"):
        load_recipe(tmp_path / "hubkit.yaml")


def test_the_effective_recipe_reads_back_the_same() -> None:
    recipe = parse_recipe(RECIPE_TEXT)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(("at_least", "base", "bar"), [(0.95, 1.0, 0.95), ("base - 0.02", 0.99, 0.97)])
def test_the_threshold_is_a_share_or_the_bases_less_some(at_least: object, base: float, bar: float) -> None:
    text = RECIPE_TEXT.replace("prompts_from: repair", f"prompts_from: repair, at_least: {at_least}")
    assert parse_recipe(text).gates.stop_rate.threshold(base) == pytest.approx(bar)


def test_the_schema_is_json_and_names_every_key() -> None:
    schema = json.loads(json.dumps(recipe_schema()))
    assert set(schema["properties"]) == set(Recipe.model_fields)
