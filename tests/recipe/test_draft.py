"""The recipe that `hubkit init --base ... --data ...` writes has no mistake, and nothing of the examples."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hubkit.cards.placeholder import placeholder
from hubkit.cards.template_context import cards_of
from hubkit.cards.validate import validate
from hubkit.core.errors import UsageError
from hubkit.pipeline.model_facts import data_facts, names_file
from hubkit.pipeline.recipe_checks import argument_mistakes, name_mistakes
from hubkit.recipe.draft import BaseFacts, DataFacts, Draft, default_repo, draft, with_values
from hubkit.recipe.loading import load_recipe, parse_recipe
from hubkit.recipe.models import Recipe, Source
from hubkit_stages.recipes import dpopenhermes_7b, tiny

BASE = BaseFacts(
    "them/Chat-7B-Instruct",
    "LlamaForCausalLM",
    7_241_732_096,
    "bfloat16",
    8192,
    "apache-2.0",
    None,
    None,
    ("en",),
    True,
)
PAIRS = DataFacts(
    "them/pairs", "train", ("question", "chosen", "rejected"), "orca", "preference", 1000, False, 700, 300
)
CHATS = DataFacts("them/chats", "train", ("messages",), "messages", "sft", 232, True, 65, 30)


def made(base: BaseFacts = BASE, *data: DataFacts, hub: str = "huggingface") -> str:
    return draft(Draft("me/my-model", hub, base, data or (PAIRS, CHATS)))


def texts(value: Any) -> Iterator[str]:
    """Every text in a recipe."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)


def example_sentences() -> set[str]:
    """What the built-in recipes say in words: titles, summaries, limitations, prompts, tags, titles of variants."""
    found: set[str] = set()
    for path in (tiny.RECIPE, dpopenhermes_7b.RECIPE):
        example = load_recipe(path)
        for text in (
            *texts(example.card.model_dump()),
            *texts(example.space.model_dump(exclude={"hardware"}) if example.space else {}),
        ):
            found |= {sentence.strip() for sentence in text.split(". ") if len(sentence) > 3}
        found.add(example.base.repo)
    return found - {"transformers"}


BASES = (
    BASE,
    replace(BASE, parameters=134_515_008, dtype="float32", license=None, language=()),
    replace(BASE, license="other", license_name="x: #1 \u2028é", license_link="https://x.y/z#a", language=("de", "fr")),
    replace(BASE, has_template=False, context=None, dtype="float16", architecture="A\nlicense: mit"),
    replace(BASE, context=512, parameters=70_000_000_000),
)
SETS = ((PAIRS, CHATS), (PAIRS,), (CHATS,), (PAIRS, replace(PAIRS, repo="them/more", split="train_prefs"), CHATS))


@pytest.mark.parametrize(
    ("base", "data", "hub"),
    [
        *((base, SETS[0], "huggingface") for base in BASES),
        *((BASES[1], data, "embedded") for data in SETS),
        (BASE, SETS[3], "https://hub.example"),
    ],
)
def test_any_draft_is_a_recipe_without_mistakes(base: BaseFacts, data: tuple[DataFacts, ...], hub: str) -> None:
    text = draft(Draft("me/1e5", hub, base, data))
    recipe = parse_recipe(text)
    assert (recipe.repo, recipe.card.title, recipe.hub, recipe.base.repo) == ("me/1e5", "1e5", hub, base.repo)
    assert (recipe.license, recipe.card.language, recipe.base.dtype) == (base.license, base.language, base.dtype)
    assert recipe.license != "other" or recipe.license_name == base.license_name
    assert [source.repo for sources in recipe.data.values() for source in sources] == [item.repo for item in data]
    assert recipe.visibility == "private" and recipe.provide is None and recipe.card.summary is None
    assert list(name_mistakes(recipe, Path())) == []
    assert not [
        line for line in text.splitlines() if len(line) > 120 or (line != line.rstrip() and "license: " not in line)
    ]


def test_training_arguments_are_those_of_trl_and_peft() -> None:
    for size, data in itertools.product((1e8, 2e9, 7e9), ((PAIRS, CHATS), (CHATS,))):
        assert list(argument_mistakes(parse_recipe(made(replace(BASE, parameters=int(size)), *data)))) == []


def test_arguments_suit_the_size() -> None:
    large = parse_recipe(made())
    small = parse_recipe(made(replace(BASE, parameters=134_515_008)))
    assert {stage.quantization for stage in large.stages.values()} == {"nf4"}
    assert {stage.quantization for stage in small.stages.values()} == {"none"}
    for name in ("dpo", "sft"):
        assert large.stages[name].args["learning_rate"] < small.stages[name].args["learning_rate"]
    assert large.space is None and small.space is not None  # 7B in 16 bits does not fit on the Hub's free CPU


def test_lengths_suit_the_data() -> None:
    recipe = parse_recipe(made(BASE, replace(PAIRS, row_tokens=1500), replace(CHATS, rows=4000, answer_tokens=200)))
    assert 1500 < recipe.stages["dpo"].args["max_length"] <= 4096
    rate = recipe.gates.stop_rate
    assert (rate.prompts_from, rate.prompts, rate.max_new_tokens) == ("chats", 256, 832)
    assert parse_recipe(made(BASE, CHATS)).gates.stop_rate.prompts == 32  # of 232 rows
    short = parse_recipe(made(replace(BASE, context=1024), replace(PAIRS, row_tokens=1500)))
    assert short.stages["dpo"].args["max_length"] == 1024


def test_one_kind_of_data_gives_one_stage_and_one_branch() -> None:
    for data, stage in ((PAIRS, "dpo"), (CHATS, "sft")):
        recipe = parse_recipe(made(BASE, data))
        assert (list(recipe.stages), list(recipe.variants)) == ([stage], ["main"])
        assert recipe.variants["main"].gate == "enforce"


def test_benchmarks_are_only_those_that_exist_for_it() -> None:
    assert parse_recipe(made()).evaluate.suites == ("gpt4all", "truthfulqa")
    assert parse_recipe(made(hub="embedded")).evaluate.suites == ()
    assert parse_recipe(made(replace(BASE, language=("de",)))).evaluate.suites == ()


@pytest.mark.parametrize("variant", ["dpo-v0", "main"])
def test_no_word_of_the_examples_reaches_recipe_or_card(variant: str) -> None:
    recipe = parse_recipe(made(hub="embedded"))
    cards = cards_of(recipe, variant, placeholder(recipe))[1]
    whole = "\n".join([made(hub="embedded"), *(card.text for card in cards.values())])
    assert [sentence for sentence in example_sentences() if sentence in whole] == []
    assert all(validate(card.text) == [] for card in cards.values())


def test_without_a_summary_a_card_says_what_was_done() -> None:
    recipe = parse_recipe(made())
    cards = {name: cards_of(recipe, name, placeholder(recipe))[1]["README.md"].text for name in recipe.variants}
    dpo = (
        "A chat model, fine-tuned from [`them/Chat-7B-Instruct`](/them/Chat-7B-Instruct) by DPO on "
        "[`them/pairs`](/datasets/them/pairs)"
    )
    assert f"\n{dpo} · " in cards["dpo-v0"]
    assert f"\n{dpo}, then SFT on [`them/chats`](/datasets/them/chats) · " in cards["main"]
    assert "This variant was not benchmarked." not in cards["main"]
    bare = parse_recipe(made(hub="embedded"))
    assert "This variant was not benchmarked." in cards_of(bare, "main", placeholder(bare))[1]["README.md"].text


def copied(base: str, **card: str) -> Recipe:
    text = tiny.RECIPE.read_text().replace("repo: hubkit/tiny-hermes\n", f"repo: {base}\n")
    recipe = parse_recipe(text)
    return recipe.model_copy(update={"card": recipe.card.model_copy(update=card)})


def _theirs() -> str:
    """A sentence of the built-in recipe's card."""
    return "To see what a release looks like, and to try hubkit."


def test_a_copied_card_of_another_base_is_refused_with_its_keys() -> None:
    found = list(name_mistakes(copied("them/base"), tiny.RECIPE.parent))
    assert [item.path for item in found] == [
        ("card", "summary"), ("card", "intended_use"), ("card", "limitations"), ("card", "tags")
    ]  # fmt: skip
    assert "'A toy of half a million parameters: the example release of h'" in found[0].problem
    assert "the built-in recipe 'tiny', which describes a release on hubkit/tiny-hermes" in found[0].problem
    mixed = copied("them/base", summary=f"It is mine. {_theirs()}", intended_use="", limitations="", tags=())
    assert [item.path for item in name_mistakes(mixed, tiny.RECIPE.parent)] == [("card", "summary")]
    own = copied("them/base", summary="It is mine.", intended_use="", limitations="It is small.", tags=("mine",))
    assert list(name_mistakes(own, tiny.RECIPE.parent)) == []
    assert list(name_mistakes(copied("hubkit/tiny-hermes"), tiny.RECIPE.parent)) == []


def test_a_value_is_set_and_every_comment_stays() -> None:
    before = made(hub="embedded")
    after = with_values(before, ["stages.dpo.args.learning_rate=8e-4", "evaluate.include=tasks", "card.tags=[a, b]"])
    recipe = parse_recipe(after)
    assert recipe.stages["dpo"].args["learning_rate"] == 8e-4 and recipe.stages["sft"].args["learning_rate"] == 1e-4
    assert recipe.evaluate.include == "tasks" and recipe.card.tags == ("a", "b")
    lines = after.splitlines()
    assert [line for line in before.splitlines() if "#" in line and "learning_rate" not in line] == [
        line for line in lines if "#" in line and "learning_rate" not in line
    ]
    assert lines[lines.index("  include: tasks") - 1].startswith("  suites:")
    assert with_values(before, []) == before


@pytest.mark.parametrize("given", ["beta", "=1", "a..b=1", "stages.orpo.args.x=1", "stages.dpo.data.x=1", "seed=[1"])
def test_a_value_that_cannot_be_set_is_named(given: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        with_values(made(), [given])


def test_the_default_repo_says_base_and_methods() -> None:
    assert default_repo("me", "them/Chat-7B", ["preference", "sft"]) == "me/Chat-7B-dpo-sft"
    assert default_repo("me", "them/Chat-7B", ["sft"]) == "me/Chat-7B-sft"
    assert len(default_repo("me", f"them/{'x' * 96}", ["sft"]).partition("/")[2]) == 96


def test_a_file_of_data_becomes_a_source_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Q {n}", "chosen": "An answer.", "rejected": "No."} for n in range(40)]
    Path("my pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = data_facts(None, "my pairs.jsonl", len)  # type: ignore[arg-type]  # no Hub is asked
    assert (facts.local, facts.mapping, facts.kind, facts.rows, facts.all_rows) == (
        True,
        "pairs",
        "preference",
        40,
        True,
    )
    recipe = parse_recipe(draft(Draft("me/model", "embedded", BASE, (facts,))))
    assert recipe.data["pairs"] == (Source(file="my pairs.jsonl", mapping="pairs"),)
    assert not list(name_mistakes(recipe, tmp_path))
    Path("my pairs.jsonl").unlink()
    (mistake,) = name_mistakes(recipe, tmp_path)
    assert mistake.path == ("data", "pairs", "0", "file") and "my pairs.jsonl does not exist" in mistake.problem
    with pytest.raises(UsageError, match=r"The file none\.csv does not exist"):
        data_facts(None, "none.csv", len)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "is_file"),
    [
        ("me/pairs", False),
        ("me/pairs.v2", False),
        ("pairs.jsonl", True),
        ("data/pairs.jsonl.gz", True),
        ("./pairs", True),
        ("data/*.csv", True),
        ("~/rows.parquet", True),
    ],
)
def test_a_file_and_a_repo_are_told_apart(name: str, is_file: bool) -> None:
    assert names_file(name) is is_file
