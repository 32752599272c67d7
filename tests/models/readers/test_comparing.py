"""Which cell a reader's report is worth: what is planted in a report is named, and rounding is not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.readers.asking import Report
from hubkit.models.readers.comparing import NEAR, Expected, judge

END = EndOfTurn("<end>", 9)
GOOD: dict[str, Any] = {
    "versions": {"transformers": "5.23.0"},
    "failed": [],
    "warnings": [],
    "dtype": "bfloat16",
    "renderings": {"one turn": {"text": "ab", "ids": [1, 2]}, "guided": {"refused": "TemplateError: no"}},
    "texts": {"plain": [3, 4]},
    "eos": [9],
    "answers": [
        {"prompt": "one turn", "ids": [5, 6, 9], "best": [[[5, 8.0], [6, 1.0]], [[6, 7.0], [7, 6.995]], [[9, 9.0]]]}
    ],
}
AS_EXPECTED = Expected(Report(GOOD), END, "transformers 5.23.0")


def report(**keys: Any) -> Report:
    return Report({**copy.deepcopy(GOOD), **keys})


def answered(ids: list[int], best: list[Any] | None = None) -> dict[str, Any]:
    return {"answers": [{"prompt": "one turn", "ids": ids, **({"best": best} if best else {})}]}


def test_a_reader_that_reads_the_same_works() -> None:
    cell = judge("transformers-4", "merged", report(), AS_EXPECTED)
    assert (cell.status, cell.why, cell.conversations) == ("works", None, 3)
    assert (cell.answers, cell.stopped, cell.same) == (1, 1, 1)
    own = judge("transformers", "merged", report(), Expected(None, END))
    assert (own.status, own.same) == ("works", None)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "the adapter": (
        {"failed": [{"what": "the adapter", "error": "TypeError: unexpected keyword argument 'x'\nmore"}]},
        "the adapter cannot be loaded: TypeError: unexpected keyword argument 'x'",
    ),
    "asking": (
        {"failed": [{"what": "the answers", "error": "KeyError: 1"}], "answers": None},
        "it cannot be asked: KeyError: 1",
    ),
    "no template": (
        {"renderings": {"one turn": {"refused": "ValueError: not set"}}},
        "the chat template cannot be used: ValueError: not set",
    ),
    "another template": (
        {"renderings": {**GOOD["renderings"], "one turn": {"text": "a", "ids": [1, 2]}}},
        "the chat template renders another text than by transformers 5.23.0 (one turn)",
    ),
    "a template that refuses less": (
        {"renderings": {**GOOD["renderings"], "guided": {"text": "a", "ids": [1]}}},
        "the chat template renders what transformers 5.23.0 refuses (guided)",
    ),
    "other ids of a conversation": (
        {"renderings": {**GOOD["renderings"], "one turn": {"text": "ab", "ids": [1, 3]}}},
        "the token ids are others than by transformers 5.23.0 (one turn, token 1)",
    ),
    "other ids of plain text": (
        {"texts": {"plain": [3, 4, 5]}}, "the token ids of plain text are others than by transformers 5.23.0 (token 2)",
    ),
    "no stop": (
        {"eos": []}, "answers do not stop at <end>: the token ids that end generation are none, without 9",
    ),
    "going on": (answered([5, 6, 9, 1]), "answers go on after <end>"),
    "another answer": (
        answered([6, 6, 9]), "answers are others than by transformers 5.23.0, beyond rounding: 1 of 1, from token 0 on",
    ),
    "a token that was not among the best": (
        answered([5, 1, 9]), "answers are others than by transformers 5.23.0, beyond rounding: 1 of 1, from token 1 on",
    ),
    "a shorter answer": (
        answered([5, 6]), "answers are others than by transformers 5.23.0, beyond rounding: 1 of 1, from token 2 on",
    ),
    "the same tokens by other scores": (
        answered([5, 6, 9], [[[5, 8.0]], [[6, 7.0 + 2 * NEAR]], [[9, 9.0]]]),
        "answers are others than by transformers 5.23.0, beyond rounding: 1 of 1, from token 1 on",
    ),
    "no answer": ({"answers": []}, "1 prompt got no answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_named(name: str) -> None:
    keys, sentence = FAULTS[name]
    cell = judge("transformers-4", "merged", report(**keys), AS_EXPECTED)
    assert (cell.status, cell.why) == ("fails", sentence)


def test_an_answer_may_part_where_two_tokens_are_as_near_as_rounding() -> None:
    cell = judge("transformers-4", "merged", report(**answered([5, 7, 1, 9])), AS_EXPECTED)
    assert (cell.status, cell.same) == ("works", 0)
    nearly = answered([5, 6, 9], [[[5, 8.0]], [[6, 7.0 + NEAR / 2]], [[9, 9.0]]])
    assert judge("transformers-4", "merged", report(**nearly), AS_EXPECTED).status == "works"


def test_without_an_answer_that_ends_nothing_is_claimed() -> None:
    endless = {"answers": [{"prompt": "one turn", "ids": [5, 6], "best": [[[5, 8.0]], [[6, 7.0]]]}]}
    cell = judge("transformers-4", "merged", report(**endless), Expected(report(**endless), END))
    assert (cell.status, cell.why) == ("not run", "none of 1 answer ended, so nothing was seen of stopping")


def test_a_reader_that_breaks_off_and_a_model_without_an_end_of_turn_fail() -> None:
    broken = judge("transformers-4", "merged", Report(broke_off="the reader ended by signal 11"), AS_EXPECTED)
    assert (broken.status, broken.why, broken.answers) == ("fails", "the reader ended by signal 11", None)
    unknown = judge("transformers", "merged", report(), Expected(None, None))
    assert unknown.status == "fails" and unknown.why and "end-of-turn token is not known" in unknown.why


def test_ignored_keys_and_another_dtype_are_notes() -> None:
    ignored = "Unexpected keyword arguments ['x'] for class LoraConfig, these are ignored."
    cell = judge("transformers-4", "adapter", report(warnings=[ignored], dtype="None"), AS_EXPECTED)
    assert cell.status == "works"
    assert cell.notes == (ignored, "torch_dtype of config.json is None to it, and bfloat16 to transformers 5.23.0")


def test_what_is_no_fault_of_the_model_is_not_run() -> None:
    cell = judge("transformers-4", "merged", Report(not_run="it took more than 9 seconds"), AS_EXPECTED)
    assert (cell.status, cell.why) == ("not run", "it took more than 9 seconds")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ messages }}", None),
        ("{{ messages }}\n", None),
        (None, "the chat template cannot be used: there is none in the file"),
        ("{{ 1 }}", "the chat template in the file is another than the one that transformers 5.23.0 reads"),
    ],
)
def test_the_template_in_a_gguf_file_is_compared(template: str | None, why: str | None) -> None:
    reference = Expected(report(template="{{ messages }}"), END, "transformers 5.23.0")
    cell = judge("llama-cpp", "gguf", report(template=template), reference)
    assert (cell.status, cell.why) == ("fails" if why else "works", why)


def test_of_a_tokenizer_nothing_is_asked() -> None:
    tokens = {key: GOOD[key] for key in ("versions", "failed", "renderings", "texts")}
    cell = judge("transformers-js", "tokenizer", Report(tokens), AS_EXPECTED)
    assert (cell.status, cell.answers, cell.stopped, cell.same) == ("works", None, None, None)


def test_a_cause_on_the_second_line_is_told() -> None:
    failed = [{"what": "the tokenizer", "error": "ImportError: \n requires the protobuf library\nand more"}]
    found = judge("transformers-4", "merged", report(failed=failed), AS_EXPECTED)
    assert found.why == "the tokenizer cannot be loaded: ImportError: requires the protobuf library"
