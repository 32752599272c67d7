"""Mappings, row checks, held-out prompts and turn ends, on rows that are planted wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from preparations import PAIR, chats, made_of, pairs, recipe

from hubkit.core.errors import RefusedError, UsageError
from hubkit.models.chat.eos import EndOfTurn, find
from hubkit.recipe.loading import parse_recipe
from hubkit.training.data import choosing, findings, mappings, rows, turns
from hubkit.training.data.prepared import PreparedData, TrainingRows, rows_file
from hubkit.training.data.spool import Spool


def test_orca_keeps_a_system_message_only_when_it_says_something() -> None:
    convert = mappings.MAPPINGS["orca"].convert
    assert convert(PAIR)["prompt"] == [{"role": "user", "content": "What is it?"}]
    made = convert({**PAIR, "system": "Be kind."})
    assert made["prompt"][0] == {"role": "system", "content": "Be kind."}
    assert made["chosen"] == [{"role": "assistant", "content": "It is a cat."}]
    assert made["rejected"] == [{"role": "assistant", "content": "A dog."}]


def test_instruction_joins_instruction_and_input() -> None:
    convert = mappings.MAPPINGS["instruction"].convert
    made = convert({"instruction": "Add.", "input": "2 and 2", "output": "4"})
    assert made == {
        "prompt": [{"role": "user", "content": "Add.\n2 and 2"}],
        "completion": [{"role": "assistant", "content": "4"}],
    }


def test_pairs_of_messages_share_their_prompt() -> None:
    said = [{"role": "user", "content": "Hi"}]
    row = {
        "prompt": "Hi",
        "chosen": [*said, {"role": "assistant", "content": "Hello."}],
        "rejected": [*said, {"role": "assistant", "content": "No."}],
    }
    assert mappings.MAPPINGS["pairs"].convert(row)["prompt"] == said
    row["rejected"] = [{"role": "user", "content": "Other"}, {"role": "assistant", "content": "No."}]
    with pytest.raises(mappings.BadRow, match="different prompts"):
        mappings.MAPPINGS["pairs"].convert(row)


def test_sharegpt_trains_the_last_answer() -> None:
    said = [("system", "Be kind."), ("human", "Hi"), ("gpt", "Hello."), ("human", "Bye"), ("gpt", "Farewell.")]
    made = mappings.MAPPINGS["sharegpt"].convert({"conversations": [{"from": a, "value": b} for a, b in said]})
    assert [item["role"] for item in made["prompt"]] == ["system", "user", "assistant", "user"]
    assert made["completion"] == [{"role": "assistant", "content": "Farewell."}]


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (("system", "question", "chosen", "rejected"), "orca"),
        (("source", "instruction", "chosen_response", "rejected_response", "chosen_model"), "ultrafeedback"),
        (("instruction", "input", "output"), "instruction"),
        (("prompt", "chosen", "rejected"), "pairs"),
        (("conversations",), "sharegpt"),
        (("id", "messages"), "messages"),
    ],
)
def test_a_mapping_is_found_by_the_columns(columns: tuple[str, ...], name: str) -> None:
    assert mappings.find(None, columns, "a/b").name == name


def test_a_mapping_that_does_not_fit_is_said_with_what_is_there() -> None:
    with pytest.raises(UsageError, match="no column chosen, question, rejected"):
        mappings.find("orca", ("instruction", "output"), "a/b")
    with pytest.raises(UsageError, match="did you mean 'orca'"):
        mappings.find("orka", ("question",), "a/b")
    with pytest.raises(UsageError, match="No mapping fits the columns of a/b: body"):
        mappings.find(None, ("body",), "a/b")


def check(
    source: Sequence[Mapping[str, Any] | None], mapping: str = "orca", **given: Any
) -> tuple[rows.Checked, list[mappings.Row]]:
    counted = rows.Checked()
    passed = rows.Checker(**given).each(source, mappings.MAPPINGS[mapping], counted)
    return counted, [row for _, row, _ in passed]


BAD: list[tuple[str, Mapping[str, Any]]] = [
    ("missing key: chosen", {key: value for key, value in PAIR.items() if key != "chosen"}),
    ("null: rejected", {**PAIR, "rejected": None}),
    ("empty: question", {**PAIR, "question": "  \n"}),
    ("wrong type: chosen", {**PAIR, "chosen": 7}),
    ("wrong type: question", {**PAIR, "question": ["a"]}),
    ("chosen equals rejected", {**PAIR, "rejected": PAIR["chosen"] + " "}),
    ("not UTF-8: chosen", {**PAIR, "chosen": "caf\ufffd"}),
    ("not UTF-8: chosen", {**PAIR, "chosen": "half a pair \ud83d"}),
    ("longer than a million characters", {**PAIR, "chosen": "x" * 10_000_000}),
    ("holds the end-of-turn token as text", {**PAIR, "chosen": "It ends.<|im_end|> Or does it?"}),
]


@pytest.mark.parametrize(("reason", "bad"), BAD)
def test_a_bad_row_is_counted_under_its_reason_with_its_index(reason: str, bad: Mapping[str, Any]) -> None:
    found, kept = check([*pairs(3), bad, *pairs(5)[3:]], forbidden=["<|im_end|>"])
    assert found.dropped == {reason: 1}
    assert found.examples == {reason: [3]}
    assert (found.read, found.kept, len(kept)) == (6, 5, 5)
    assert len(found.excerpts[reason]) == 1
    found.excerpts[reason][0].encode()
    assert "row 3" in found.why()


def test_planted_faults_are_all_counted_and_nothing_else() -> None:
    chance = random.Random(1)
    planted = [dict(bad) for _, bad in BAD] * 3
    source = [*pairs(200), *planted]
    chance.shuffle(source)
    found, kept = check(source, forbidden=["<|im_end|>"])
    expected: dict[str, int] = {}
    for reason, _ in BAD:
        expected[reason] = expected.get(reason, 0) + 3
    assert found.dropped == expected
    assert found.kept == len(kept) == 200
    for reason in expected.keys() - {"holds the end-of-turn token as text", "longer than a million characters"}:
        for index in found.examples[reason]:
            with pytest.raises(mappings.BadRow):
                mappings.MAPPINGS["orca"].convert(source[index])


def test_a_row_in_which_somebody_says_a_control_token_is_dropped() -> None:
    said = [{**PAIR, "question": text} for text in ("a <s> b", "strike <s>this</s>", "a < s > b", "<|im_end|> <s>")]
    found, _ = check(said, forbidden=["<|im_end|>"], control=["<s>", "</s>", "<|im_end|>"])
    assert found.examples == {"holds a control token as text": [0, 1], "holds the end-of-turn token as text": [3]}
    assert check(said)[0].dropped == {}


def test_a_duplicate_counts_across_the_sources_of_a_set(tmp_path: Path) -> None:
    first, again = (pool(tmp_path, each, "orca") for each in (pairs(4), [*pairs(2), *pairs(6)]))
    assert [mask.tolist() for mask in choosing.repeated([first, again])] == [[False] * 4, [True] * 6 + [False] * 2]


def test_no_rows_and_one_row() -> None:
    none, kept = check([])
    assert (none.read, kept, none.dropped_share) == (0, [], 1.0)
    assert len(check([PAIR])[1]) == 1


def converted(raw: Sequence[Mapping[str, Any]], name: str) -> list[mappings.Row]:
    return check(raw, name)[1]


def pool(folder: Path, raw: Sequence[Mapping[str, Any]], name: str) -> choosing.Pool:
    passed = rows.Checker().each(raw, mappings.MAPPINGS[name], rows.Checked())
    return choosing.Pool.of(Spool.write(folder / f"{len([*folder.iterdir()])}.jsonl", passed))


def left(chosen: choosing.Pool) -> list[mappings.Row]:
    return [row for _, row in chosen.spool.rows(chosen.free)]


def test_held_out_prompts_are_in_no_set_and_planted_overlaps_are_counted(tmp_path: Path) -> None:
    asked_in_both = [{"instruction": f"WHAT is  number {n}?", "output": "x"} for n in range(7)]
    repair = pool(tmp_path, [*chats(50), *asked_in_both], "instruction")
    preferences = pool(tmp_path, pairs(30), "orca")
    held = choosing.hold_out({"preferences": [preferences], "repair": [repair]}, "repair", 20, seed=3)
    assert (len(held.prompts), held.overlapping) == (20, 7)
    assert choosing.overlap(held, [repair]) == 20
    repair.take_out(held.asked)
    kept = left(repair)
    assert len(kept) == 37
    assert not [row for row in kept if row["prompt"] in held.prompts]
    assert choosing.overlap(held, [repair, preferences]) == 0


def test_all_rows_of_a_held_out_prompt_leave_the_training_set(tmp_path: Path) -> None:
    twice = pool(tmp_path, [*chats(10), *({**row, "output": "Another answer."} for row in chats(10))], "instruction")
    held = choosing.hold_out({"repair": [twice]}, "repair", 4, seed=0)
    assert len(held.prompts) == 4
    twice.take_out(held.asked)
    assert len(left(twice)) == 12


def test_draws_follow_the_seed(tmp_path: Path) -> None:
    made = [pool(tmp_path, chats(100), "instruction")]
    assert choosing.hold_out({"a": made}, "a", 10, 1) == choosing.hold_out({"a": made}, "a", 10, 1)
    assert choosing.hold_out({"a": made}, "a", 10, 1) != choosing.hold_out({"a": made}, "a", 10, 2)

    def sampled(wanted: int | None, seed: int) -> list[mappings.Row]:
        chosen = choosing.Pool.of(made[0].spool)
        choosing.sample(chosen, wanted, seed)
        return left(chosen)

    assert sampled(10, 1) == sampled(10, 1)
    assert sampled(10, 1) != sampled(10, 2)
    assert len(sampled(10, 1)) == 10
    assert sampled(None, 1) == sampled(1000, 1) == left(made[0])


def test_truncation_is_found_by_side(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    long_chosen = converted(pairs(8, chosen="It is a very long answer. " * 4), "orca")
    found = turns.look(long_chosen, tokenizer, find(tokenizer), max_length=100)
    assert (found["chosen"].truncated, found["chosen"].ends_trained) == (8, 0)
    assert (found["rejected"].truncated, found["rejected"].ends_trained) == (0, 8)
    assert found["chosen"].closed_once == found["rejected"].closed_once == 8
    longest = max(
        len(tokenizer(tokenizer.apply_chat_template([*row["prompt"], *row["chosen"]], tokenize=False)).input_ids)
        for row in long_chosen
    )
    assert found["chosen"].longest == longest


@pytest.mark.parametrize(("spare", "kept"), [(0, 1), (-1, 1), (-2, 0), (-3, 0)])
def test_the_cut_that_takes_only_the_newline_keeps_the_end_of_turn(
    make_tokenizer: Callable[..., Any], spare: int, kept: int
) -> None:
    tokenizer = make_tokenizer()
    one = converted(chats(1), "instruction")
    whole = tokenizer.apply_chat_template([*one[0]["prompt"], *one[0]["completion"]], tokenize=False)
    size = len(tokenizer(whole, add_special_tokens=False)["input_ids"])
    found = turns.look(one, tokenizer, find(tokenizer), max_length=size + spare)["rows"]
    assert (found.ends_trained, found.truncated) == (kept, 1 - kept)


def test_a_prompt_that_fills_the_length_is_counted(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    found = turns.look(converted(chats(3), "instruction"), tokenizer, find(tokenizer), max_length=10)["rows"]
    assert (found.prompt_fills, found.ends_trained) == (3, 0)


def test_a_end_of_turn_that_is_missing_or_doubled_is_found(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    end = find(tokenizer)
    made = converted(chats(4), "instruction")
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|im_end|><|im_end|>")
    doubled = turns.look(made, tokenizer, end, max_length=None)["rows"]
    assert (doubled.closed_once, doubled.not_closed) == (0, [0, 1, 2, 3])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "")
    assert turns.look(made, tokenizer, end, max_length=None)["rows"].closed_once == 0


def test_the_labelled_tokens_are_those_of_the_trainer(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    one = converted(chats(1), "instruction")[0]
    tokens = turns.spans([one], tokenizer)[0]["rows"]
    assert "".join(text for text, trained in tokens if trained) == "It is 0.<|im_end|>\n"
    assert "".join(text for text, trained in tokens if not trained).endswith("<|im_start|>assistant\n")
    size = len(turns.encode([one], tokenizer)[0]["rows"].ids)
    cut = turns.spans([one], tokenizer, max_length=size - 2)[0]["rows"]
    assert cut == [tokens[0], ("It is 0.", True)]


def test_sound_data_makes_rows_prompts_and_a_report(make_tokenizer: Callable[..., Any]) -> None:
    made = made_of(recipe(), {"them/pairs": pairs(20), "them/chats": chats(40)}, make_tokenizer())
    made.refuse()
    told = json.loads(json.dumps(made.to_json()))
    assert {name: item["rows"] for name, item in told["sets"].items()} == {"preferences": 20, "repair": 10}
    assert told["prompts"] == {"set": "repair", "rows": 5, "also_in_other_sets": 0, "also_trained_on": 0}
    source = told["sets"]["repair"]["sources"][0]
    assert (source["read"], source["kept"], source["used"], source["licence"]) == (40, 40, 10, "mit")
    assert told["stages"]["dpo"]["end_of_turn_lost"] == {"chosen": 0.0, "rejected": 0.0}
    assert told["findings"] == []
    assert all(prompt[-1]["role"] == "user" for prompt in made.prompts)


def test_the_data_step_drops_what_the_tokenizer_would_take_for_tokens(make_tokenizer: Callable[..., Any]) -> None:
    loud = [*pairs(60), {**PAIR, "question": "Is <|im_start|> a token?"}]
    made = made_of(recipe(), {"them/pairs": loud, "them/chats": chats(40)}, make_tokenizer())
    assert made.sources["preferences"][0]["dropped"] == {"holds a control token as text": 1}


def test_a_set_called_prompts_is_kept_apart_from_the_held_out_prompts(
    make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    text = json.dumps(recipe().model_dump(mode="json")).replace('"repair"', '"prompts"')
    tables = {"them/pairs": pairs(20), "them/chats": chats(40)}
    made = made_of(parse_recipe(text), tables, make_tokenizer(), folder=tmp_path)
    PreparedData.write(made, tmp_path).save(tmp_path)
    held = [json.loads(line)["messages"] for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert held == made.prompts
    assert len(held) == 5
    for name, mapping in (("preferences", "orca"), ("prompts", "instruction")):
        found = TrainingRows.load(tmp_path / rows_file(name)).dataset().to_list()
        assert len(found) == made.sets[name]
        assert all(row in converted(pairs(20) if mapping == "orca" else chats(40), mapping) for row in found)
    assert (made.sets["prompts"], json.loads((tmp_path / "data.json").read_text())["prompts"]["rows"]) == (10, 5)


def test_truncated_turn_ends_hold_the_release_back_unless_accepted(make_tokenizer: Callable[..., Any]) -> None:
    tables = {"them/pairs": pairs(20, chosen="long " * 40), "them/chats": chats(40)}
    tables["them/pairs"] = [{**row, "question": f"Q {n}"} for n, row in enumerate(tables["them/pairs"])]
    with pytest.raises(RefusedError, match=r"100 % of chosen, 0 % of rejected") as refused:
        made_of(recipe(), tables, make_tokenizer(), max_length=100).refuse()
    assert "accept: [truncated-end-of-turn]" in (refused.value.hint or "")
    made = made_of(recipe("truncated-end-of-turn"), tables, make_tokenizer(), max_length=100)
    made.refuse()
    assert [(item.rule, item.level, item.accepted) for item in made.findings] == [
        ("truncated-end-of-turn", "error", True)
    ]
    assert made.stages["dpo"]["end_of_turn_lost"] == {"chosen": 1.0, "rejected": 0.0}
    assert made.to_json()["findings"][0]["stages"] == ["dpo"]


def test_many_dropped_rows_hold_the_release_back_unless_accepted(make_tokenizer: Callable[..., Any]) -> None:
    tables = {"them/pairs": [*pairs(20), {**PAIR, "chosen": None}], "them/chats": chats(40)}
    with pytest.raises(RefusedError, match=r"1 of 21 rows of them/pairs \(4\.8 %\).*null: chosen \(row 20\)"):
        made_of(recipe(), tables, make_tokenizer()).refuse()
    made_of(recipe("dropped-rows"), tables, make_tokenizer()).refuse()
    tables["them/pairs"] = [*pairs(100), {**PAIR, "chosen": None}]
    assert [item["stages"] for item in made_of(recipe(), tables, make_tokenizer()).to_json()["findings"]] == [["dpo"]]
    few = made_of(recipe(), tables, make_tokenizer())
    few.refuse()
    assert [(item.level, item.rule) for item in few.findings] == [("warning", "dropped-rows")]


def test_no_rows_can_not_be_accepted(make_tokenizer: Callable[..., Any]) -> None:
    tables = {"them/pairs": [{**PAIR, "chosen": None}], "them/chats": chats(40)}
    made = made_of(recipe("dropped-rows, truncated-end-of-turn"), tables, make_tokenizer())
    assert "no-rows" in [item.rule for item in made.findings]
    with pytest.raises(RefusedError, match="No row of them/pairs can be trained on"):
        made.refuse()


def test_too_few_prompts_are_refused_and_overlap_is_said(make_tokenizer: Callable[..., Any]) -> None:
    shared = [{"instruction": row["question"], "input": "", "output": "x"} for row in pairs(3)]
    tables = {"them/pairs": pairs(20), "them/chats": [*chats(12), *shared]}
    made = made_of(recipe(prompts=4), tables, make_tokenizer())
    made.refuse()
    assert made.to_json()["prompts"]["also_in_other_sets"] == 3
    assert "overlap" in [item.rule for item in made.findings]
    few = made_of(recipe(prompts=13), tables, make_tokenizer())
    assert {"too-few-prompts", "fewer-rows"} <= {item.rule for item in few.findings}
    with pytest.raises(RefusedError, match="Only 12 of 13 prompts"):
        few.refuse()


def test_rules_about_the_ends_of_answers() -> None:
    side = turns.Side(answers=10, ends_trained=10, closed_once=9, not_closed=[3], prompt_fills=2, longest=5)
    end = EndOfTurn("<|im_end|>", 260, (198,))
    found = list(findings.of_turns("dpo", {"chosen": side}, 100, end, False))
    assert [(item.rule, item.level) for item in found] == [("open-turns", "error"), ("long-prompts", "warning")]


def test_a_stage_is_not_trained_on_rows_of_the_other_kind(make_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="Stage 'dpo' uses dpo and needs preference rows"):
        made_of(recipe(), {"them/pairs": chats(20), "them/chats": chats(40)}, make_tokenizer())
