"""Which rows are chosen: the same as ever for an old recipe, mixtures, rows for evaluation, duplicates."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from preparations import chats, made_of, pairs, recipe

from hubkit.core.errors import RefusedError, UsageError
from hubkit.evals.contamination import Contamination
from hubkit.models.chat.eos import find
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe
from hubkit.training.data import choosing
from hubkit.training.data.prepared import PreparedData
from hubkit.training.data.preparing import DataReport


def changed(sources: Mapping[str, list[dict[str, Any]]], prompts: int = 4, **settings: Any) -> Recipe:
    text = json.loads(recipe(prompts=prompts).model_dump_json())
    return parse_recipe(json.dumps({**text, "data": {**text["data"], **sources}, **settings}))


def made(folder: Path, asked: Recipe, tables: Mapping[str, Any], tokenizer: Any) -> tuple[DataReport, PreparedData]:
    report = made_of(asked, tables, tokenizer, folder=folder)
    return report, PreparedData.write(report, folder)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_old_recipe_chooses_the_rows_that_it_always_chose(make_tokenizer: Any, tmp_path: Path) -> None:
    """Digests of what the version before chose, which held all rows in memory; so no old training is discarded."""
    tables = {
        "them/pairs": [
            {"system": "", "rejected": "A dog.", "question": f"What is number {n % 350}?",
             "chosen": f"Number {n % 390}."}
            for n in [*range(400), *range(10)]
        ],
        "them/chats": [*chats(300), *({"instruction": f"what IS  number {n}?", "output": "x"} for n in range(9))],
    }  # fmt: skip
    asked = changed({"repair": [{"repo": "them/chats", "rows": 100}]}, prompts=20, seed=7)
    report, _ = made(tmp_path, asked, tables, make_tokenizer())
    assert (
        sha(tmp_path / "sets/preferences.jsonl") == "b5a21e725678b3b928e0e9cc55cd5894076b9251e2367f82dda7c00feaaef137"
    )
    assert sha(tmp_path / "sets/repair.jsonl") == "1309a9d10a53fd2dda7c3b9737801f0b8f8283e6b1cb754999dfb3a5f53b5d4d"
    assert sha(tmp_path / "prompts.jsonl") == "c070963257149569b8479cc7914d6cf4c5a2adeb900986a86b750ed52a9dda27"
    assert (report.overlapping, report.trained_on) == (9, 0)
    assert report.sources["preferences"][0]["dropped"] == {"duplicate": 10}
    assert report.sources["preferences"][0]["dropped_rows"] == {"duplicate": [400, 401, 402, 403, 404]}


def test_the_counts_of_a_source_add_up(make_tokenizer: Any, tmp_path: Path) -> None:
    asked = changed({"repair": [{"repo": "them/chats", "eval": 0.25}]})
    report, kept = made(tmp_path, asked, {"them/pairs": pairs(20), "them/chats": chats(44)}, make_tokenizer())
    (source,) = kept.sets["repair"].sources
    assert (source.kept, source.held_out, source.evaluation, source.used) == (44, 4, 10, 30)
    assert (kept.sets["repair"].rows, kept.sets["repair"].evaluation) == (30, 10)
    trained = {row["prompt"][0]["content"] for row in kept.rows("repair")}
    evaluated = {json.loads(line)["prompt"][0]["content"] for line in (tmp_path / "evaluation/repair.jsonl").open()}
    held = {row["messages"][0]["content"] for row in kept.held_out()}
    assert (len(trained), len(evaluated), len(held)) == (30, 10, 4)
    assert not trained & evaluated and not trained & held and not evaluated & held
    assert report.examples["sft"] and report.examples["dpo"]


@pytest.mark.parametrize(("wanted", "found"), [(3, 3), (1.0, 1), (0.001, 0), (500, 36)])
def test_rows_for_evaluation_are_a_share_or_a_number(
    wanted: float, found: int, make_tokenizer: Any, tmp_path: Path
) -> None:
    asked = changed({"repair": [{"repo": "them/chats", "eval": wanted}]})
    report, _ = made(tmp_path, asked, {"them/pairs": pairs(20), "them/chats": chats(40)}, make_tokenizer())
    assert report.evaluation.get("repair", 0) == found


def test_a_question_of_two_rows_is_evaluated_or_trained_on_and_not_both(make_tokenizer: Any, tmp_path: Path) -> None:
    rows = [*chats(30), *({**row, "output": "Another answer."} for row in chats(30))]
    asked = changed({"repair": [{"repo": "them/chats", "eval": 9}]})
    _, kept = made(tmp_path, asked, {"them/pairs": pairs(20), "them/chats": rows}, make_tokenizer())
    trained = {row["prompt"][0]["content"] for row in kept.rows("repair")}
    evaluated = [json.loads(line)["prompt"][0]["content"] for line in (tmp_path / "evaluation/repair.jsonl").open()]
    assert len(evaluated) == 18 and not trained & set(evaluated)


def test_a_mixture_has_the_shares_of_its_weights_and_repeats_no_row(make_tokenizer: Any, tmp_path: Path) -> None:
    sources = [{"repo": "them/chats", "weight": 3}, {"repo": "them/more", "weight": 1}]
    tables = {"them/pairs": pairs(20), "them/chats": chats(64), "them/more": chats(50, "planet")}
    report, kept = made(tmp_path, changed({"repair": sources}), tables, make_tokenizer())
    first, second = kept.sets["repair"].sources
    assert first.used is not None and second.used is not None
    assert (first.used, second.used) == (64 - first.held_out, (64 - first.held_out) // 3)
    texts = [json.dumps(row) for row in kept.rows("repair")]
    assert len(texts) == len(set(texts)) == report.sets["repair"]


def test_shares_of_a_mixture() -> None:
    assert choosing.in_shares([100, 100], [1, 1]) == [100, 100]
    assert choosing.in_shares([100, 10], [0.7, 0.3]) == [23, 10]
    assert choosing.in_shares([1000, 30, 70], [0.9, 0.03, 0.07]) == [900, 30, 70]


def test_a_weight_beside_none_is_a_mistake_of_the_recipe() -> None:
    with pytest.raises(UsageError, match=r"give each source of the mixture a `weight`, or none"):
        changed({"repair": [{"repo": "them/chats", "weight": 3}, {"repo": "them/more"}]})
    with pytest.raises(UsageError, match="neither a share between 0 and 1 nor a number of rows"):
        changed({"repair": [{"repo": "them/chats", "eval": 1.5}]})


WORDS = [f"word{number}" for number in range(2000)]


def long_chats(count: int, change: int) -> list[dict[str, Any]]:
    """Rows of a hundred words; of the second half each is a row of the first with ``change`` other words."""
    draw = random.Random(3)
    first = [draw.choices(WORDS, k=100) for _ in range(count)]
    other = []
    for words in first:
        new = list(words)
        for place in draw.sample(range(100), change):
            new[place] = "other"
        other.append(new)
    return [{"instruction": " ".join(words), "output": f"Yes {n % count}."} for n, words in enumerate([*first, *other])]


@pytest.mark.parametrize(
    ("duplicates", "kept", "reasons"),
    [
        ("keep", 90, {}),
        ("drop", 80, {"duplicate": 10}),
        ("near", 60, {"duplicate": 10, "near duplicate": 20}),
    ],
)
def test_duplicates_are_kept_dropped_or_dropped_with_near_ones(
    duplicates: str, kept: int, reasons: dict[str, int], make_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [*long_chats(20, 1), *long_chats(60, 40)[20:60], *long_chats(20, 1)[:10]]
    asked = changed({"repair": [{"repo": "them/chats", "duplicates": duplicates}]})
    report, _ = made(tmp_path, asked, {"them/pairs": pairs(20), "them/chats": rows}, make_tokenizer())
    (source,) = report.sources["repair"]
    assert (source["kept"], source["dropped"]) == (kept, reasons)


def test_questions_of_a_benchmark_in_the_rows_are_counted_and_refused_unless_accepted(
    make_tokenizer: Any, tmp_path: Path
) -> None:
    asked = [f"Which of the seven tall towers of the old town is number {n} of the list?" for n in range(50)]
    rows = [*chats(40), {"instruction": f"Tell me! {asked[3].upper()}", "output": "x"}]
    tables = {"them/pairs": pairs(20), "them/chats": rows}
    tokenizer = make_tokenizer()
    questions = Contamination()
    questions.add("own", "towers", asked)
    report = made_of(changed({"repair": [{"repo": "them/chats"}]}), tables, tokenizer, benchmarks=questions)
    (told,) = report.to_json()["benchmarks"]
    assert (told["questions"], told["overlapping"], told["by_set"]) == (50, 1, {"repair": 1})
    assert told["examples"] == [asked[3]]
    (finding,) = [item for item in report.findings if item.rule == "benchmark-overlap"]
    assert (finding.level, finding.stages) == ("warning", ("sft",))
    more = Contamination()
    more.add("own", "towers", asked[:10])
    text = json.loads(changed({"repair": [{"repo": "them/chats"}]}).model_dump_json())
    report = made_of(parse_recipe(json.dumps(text)), tables, tokenizer, benchmarks=more)
    with pytest.raises(RefusedError, match=r"1 of 10 questions of the benchmark towers \(10\.0 %\)") as refused:
        report.refuse()
    assert "accept: [benchmark-overlap]" in (refused.value.hint or "")
    text["stages"]["sft"]["accept"] = ["benchmark-overlap"]
    more = Contamination()
    more.add("own", "towers", asked[:10])
    made_of(parse_recipe(json.dumps(text)), tables, tokenizer, benchmarks=more).refuse()


def test_what_is_shown_of_a_row_is_what_is_trained(make_tokenizer: Any, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    report, kept = made(tmp_path, recipe(), {"them/pairs": pairs(20), "them/chats": chats(40)}, tokenizer)
    shown = kept.shown()["examples"]
    assert {stage: len(rows) for stage, rows in shown.items()} == {"dpo": 3, "sft": 3}
    trained = "".join(text for text, is_trained in shown["sft"][0]["rows"] if is_trained)
    assert find(tokenizer).token in trained and trained.startswith("It is")
    assert set(shown["dpo"][0]) == {"chosen", "rejected"}
    assert json.loads(json.dumps(report.examples)) == shown
