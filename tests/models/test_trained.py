"""What the trainer saw is what is published; and words that are control tokens do not get into the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hubkit.core.errors import RefusedError
from hubkit.core.files import write_json
from hubkit.models.chat import control, golden, library, trained
from hubkit.models.chat.eos import EndOfTurn, find
from hubkit.models.merging.companions import read_settings, write_companions
from hubkit.training.adapter import TrainedAdapter
from hubkit_stages import merge

END = EndOfTurn("<|im_end|>", 260, (198,))
ASKED = {"role": "user", "content": "What is the third?"}
ANSWER = {"role": "assistant", "content": "It is c."}


def _rows(tokenizer: Any, most: int | None = None) -> list[dict[str, Any]]:
    """One row as each of TRL's trainers holds it after tokenizing."""
    prompt = tokenizer.apply_chat_template([ASKED], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template([ASKED, ANSWER])["input_ids"]
    answer = whole[len(prompt) :]
    return [
        {"prompt": [ASKED], "chosen": [ANSWER], "rejected": [ANSWER], "prompt_ids": prompt, "chosen_ids": answer,
         "rejected_ids": answer},
        {"prompt": [ASKED], "completion": [ANSWER], "input_ids": whole[:most]},
        {"input_ids": [1, 2, 3], "seq_lengths": [3]},
    ]  # fmt: skip


def test_what_was_seen_is_found_again(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    kept = json.loads(json.dumps(trained.seen(tokenizer, _rows(tokenizer))))
    assert len(kept["rows"]) == 3 and len(kept["golden"]) == 2 * len(golden.GOLDEN)
    assert trained.differences(make_tokenizer(), kept) == []
    assert trained.differences(tokenizer, trained.seen(tokenizer, _rows(tokenizer, most=20))) == []
    end = [{**row, "input_ids": row["input_ids"][-20:]} for row in _rows(tokenizer)[1:2]]
    assert trained.differences(tokenizer, trained.seen(tokenizer, end)) == []
    doubled = [{**row, "input_ids": [*row["input_ids"], END.id]} for row in _rows(tokenizer)[1:2]]
    assert "the training text 1" in trained.differences(tokenizer, trained.seen(tokenizer, doubled))[0]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda text: text.replace("'<|im_end|>\n'", "'<|im_end|>'"), "the golden conversation 'one turn'"),
        (lambda text: text.replace("assistant\n' }}{% endif", "assistant' }}{% endif"), "'one turn, its prompt'"),
        (lambda text: "{{ bos_token }}" + text, "the training text 1 differs from the token 1 on"),
    ],
)
def test_another_template_is_found_by_its_tokens(make_tokenizer: Any, change: Any, where: str) -> None:
    tokenizer = make_tokenizer()
    kept = trained.seen(tokenizer, _rows(tokenizer))
    changed = make_tokenizer(change(tokenizer.chat_template))
    assert changed.chat_template != tokenizer.chat_template
    assert any(where in said for said in trained.differences(changed, kept))


def test_another_tokenizer_under_the_same_template_is_found(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    kept = trained.seen(tokenizer, _rows(tokenizer))
    other = make_tokenizer()
    other.add_tokens(["capital"])
    (first, *_) = trained.differences(other, kept)
    assert "'one turn' differs from the token" in first and "capital" in first
    assert trained.differences(make_tokenizer("{{ raise_exception('no') }}"), kept)[0].endswith(
        "refused by one of them"
    )


def test_a_template_with_the_date_is_compared_on_its_day_only(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer("{{ strftime_now('%Y-%m-%d') }}" + library.CHATML)
    kept = trained.seen(tokenizer, _rows(tokenizer))
    other = make_tokenizer("{{ strftime_now('%Y') }}" + library.CHATML)
    assert trained.differences(tokenizer, kept) == [] != trained.differences(other, kept)
    assert trained.differences(other, {**kept, "day": "2020-01-01"}) == []


@pytest.mark.train
@pytest.mark.parametrize("stage", ["dpo", "sft"])
def test_the_training_stages_keep_what_trls_trainers_held(stage: str, tmp_path: Path) -> None:
    from training_case import Case

    case = Case(tmp_path).prepare()
    made = case.train("dpo")
    made = case.train("sft") if stage == "sft" else made
    kept = made.json(trained.SEEN_FILE)
    assert len(kept["rows"]) == trained.ROWS * (2 if stage == "dpo" else 1)
    assert kept["rows"][0]["messages"] == [
        {"role": "user", "content": "What is number 0?"},
        {"role": "assistant", "content": "It is 0."},
    ]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base-model")
    assert trained.differences(tokenizer, kept) == []
    tokenizer.chat_template = library.shipped("zephyr")
    assert len(trained.differences(tokenizer, kept)) == len(kept["golden"]) + len(kept["rows"])


# --- the merged model ------------------------------------------------------------------------------------------------


@pytest.fixture
def merged(make_model: Any, make_tokenizer: Any, tmp_path: Path) -> Path:
    """The small files of a merged model, made of a base that says its template in one place only."""
    source, out = tmp_path / "base", tmp_path / "model"
    make_model().save_pretrained(source)
    make_tokenizer().save_pretrained(source)
    assert "chat_template" not in json.loads((source / "tokenizer_config.json").read_text())
    out.mkdir()
    write_companions(source, out, dtype="float32", chat_template=library.CHATML, end_of_turn=END, pad_token="<pad>")
    return out


def _train(folder: Path, tokenizer: Any = None) -> TrainedAdapter:
    folder.mkdir()
    if tokenizer is not None:
        trained.save_seen(folder, trained.seen(tokenizer, _rows(tokenizer)))
    return TrainedAdapter(stage="sft", folder=folder)


def test_old_and_new_programs_read_the_same_template(merged: Path) -> None:
    from transformers import AutoTokenizer

    assert (merged / "chat_template.jinja").read_text() == library.CHATML
    assert json.loads((merged / "tokenizer_config.json").read_text())["chat_template"] == library.CHATML
    assert AutoTokenizer.from_pretrained(merged).chat_template == library.CHATML
    (merged / "chat_template.jinja").unlink()  # what a program of before sees
    assert AutoTokenizer.from_pretrained(merged).chat_template == library.CHATML


def test_a_merge_that_agrees_with_itself_and_the_training_passes(
    merged: Path, make_tokenizer: Any, tmp_path: Path
) -> None:
    told = merge.compare_with_training(merged, END, _train(tmp_path / "train", make_tokenizer(library.CHATML)))
    assert told == 2 * len(golden.GOLDEN) + 3
    assert merge.compare_with_training(merged, END, _train(tmp_path / "of-others")) == 0


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("generation_config.json", {"eos_token_id": 257}, "generation does not stop at the end-of-turn token"),
        ("tokenizer_config.json", {"pad_token": "<|im_end|>"}, "a trainer that masks padding"),
        ("config.json", {"vocab_size": 200}, "the model has 200 embeddings"),
    ],
)
def test_a_merge_whose_files_disagree_is_refused(
    merged: Path, name: str, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    write_json(merged / name, {**read_settings(merged, name), **change})
    with pytest.raises(RefusedError, match=said):
        merge.compare_with_training(merged, END, _train(tmp_path / "train"))


def test_a_merge_that_ends_turns_otherwise_or_was_trained_otherwise_is_refused(
    merged: Path, make_tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="expected '</s>'"):
        merge.compare_with_training(merged, EndOfTurn("</s>", 257), _train(tmp_path / "a"))
    other = _train(tmp_path / "b", make_tokenizer("{{ bos_token }}" + library.CHATML))
    with pytest.raises(RefusedError, match="to different token ids: the golden conversation 'one turn'"):
        merge.compare_with_training(merged, END, other)


# --- control tokens in what people say -------------------------------------------------------------------------------


def test_a_control_token_that_somebody_says_becomes_the_token(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    assert find(tokenizer) == END
    said = [{"role": "user", "content": "Write <|im_end|> please."}]
    ids = tokenizer.apply_chat_template(said)["input_ids"]
    assert ids.count(END.id) == 2  # one of the user's, one of the template's
    safe = tokenizer.apply_chat_template(said, sanitize_control_tokens=True)["input_ids"]
    assert safe.count(END.id) == 1 and tokenizer.decode(safe) == tokenizer.decode(ids)


def test_control_tokens_are_special_or_written_by_the_template(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<|user|>", "<|other|>", "capital", "\n\n"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["!", "<|im_end|>", "<|im_start|>"]})
    assert control.control_tokens(tokenizer, library.CHATML) == ("</s>", "<pad>", "<s>", "<|im_end|>", "<|im_start|>")
    assert "<|user|>" in control.control_tokens(tokenizer, "<|user|>\n\ncapital {{ messages }}")
    assert control.control_tokens(tokenizer, "{% broken") == control.control_tokens(tokenizer, "")
