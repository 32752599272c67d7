"""The turn end is found in the rendered template; the stop rate is the same in batches as one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubkit.core.errors import RefusedError
from hubkit.core.intervals import wilson
from hubkit.models.chat.eos import SENTINEL, EndOfTurn, find, find_in_text
from hubkit.models.chat.stop_rate import measure
from hubkit.models.chat.stop_rates import MeasuredRate, StopRates

ROLES = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '\n' }}{% endfor %}"


def test_end_of_turn_is_the_templates_not_the_tokenizers_eos(make_tokenizer):
    tokenizer = make_tokenizer()
    newline = tokenizer("\n")["input_ids"]
    assert tokenizer.eos_token == "</s>"
    assert find(tokenizer) == EndOfTurn("<|im_end|>", 260, tuple(newline))


@pytest.mark.parametrize(
    ("template", "token"),
    [
        ("{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}", "</s>"),
        ("{% for m in messages %}{{ m['content'] | trim + ' ' + eos_token + '\n' }}{% endfor %}", "</s>"),
        (ROLES.replace("'\n' }}", "'<|im_end|>\n' }}") + "<|im_start|>assistant\n", "<|im_end|>"),
        ("{% for m in messages %}{{ m['content'] + '<|im_end|></s>' }}{% endfor %}", "<|im_end|>"),
    ],
    ids=["eos", "spaces", "always opens the next", "two at the end"],
)
def test_templates_that_close_the_turn(make_tokenizer, template, token):
    tokenizer = make_tokenizer(template)
    found = find(tokenizer)
    assert found.token == token
    assert found.id == tokenizer.convert_tokens_to_ids(token)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "no chat template"),
        (ROLES, "never closes"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "nothing follows"),
        (ROLES + "<|im_start|>assistant\n", "opens another turn"),
        ("{% for m in messages %}{{ m['content'] | upper + eos_token }}{% endfor %}", "changes the assistant's answer"),
        ("{{ nothing.at.all }}", "cannot render"),
        ("{{ raise_exception('only for experts') }}", "only for experts"),
    ],
)
def test_templates_without_a_end_of_turn_are_refused(make_tokenizer, template, says):
    with pytest.raises(RefusedError, match=says) as refused:
        find(make_tokenizer(template))
    assert refused.value.hint


def test_of_two_tokens_at_one_place_the_longer_is_meant_and_blanks_are_none():
    added = {"<end>": 5, "<end>!": 6, "\n": 7}
    assert find_in_text(f"u {SENTINEL}\n<end>!", added).id == 6


def test_end_of_turn_survives_json():
    end_of_turn = EndOfTurn("<|im_end|>", 260, (198,))
    assert EndOfTurn.from_json(end_of_turn.to_json()) == end_of_turn


def test_wilson_against_published_values():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29
    for successes, trials, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.fixture
def speaker(make_model):
    """A random model that says the turn end now and then (its row of the head is the mean of the others' ends)."""
    import torch

    model = make_model(seed=3, initializer_range=0.3)
    with torch.no_grad():
        model.lm_head.weight[260] *= 1.6
    return model


PROMPTS = [{"messages": [{"role": "user", "content": f"word {n} " * (n % 5 + 1)}]} for n in range(24)]


def test_batches_say_what_single_prompts_say(speaker, make_tokenizer):
    tokenizer = make_tokenizer()
    end_of_turn = find(tokenizer)
    alone = measure(speaker, tokenizer, PROMPTS, end_of_turn, max_new_tokens=24, batch_size=1)
    together = measure(speaker, tokenizer, PROMPTS, end_of_turn, max_new_tokens=24, batch_size=9)
    assert together.answers == alone.answers
    assert 0 < alone.stopped < len(PROMPTS), "the test needs some that stop and some that do not"
    assert alone.stopped == sum(answer.ids[-1] == end_of_turn.id for answer in alone.answers)
    assert all(len(answer.ids) == 24 for answer in alone.answers if not answer.stopped)
    assert alone.mean_tokens == sum(len(answer.ids) for answer in alone.answers) / 24


def test_the_models_own_generation_config_has_no_say(speaker, make_tokenizer):
    tokenizer = make_tokenizer()
    end_of_turn = find(tokenizer)
    plain = measure(speaker, tokenizer, PROMPTS[:6], end_of_turn, max_new_tokens=16, batch_size=6)
    config = speaker.generation_config
    config.do_sample, config.temperature, config.repetition_penalty = True, 5.0, 9.0
    config.eos_token_id, config.max_length, config.min_new_tokens = 5, 3, 16
    assert measure(speaker, tokenizer, PROMPTS[:6], end_of_turn, max_new_tokens=16, batch_size=6) == plain
    assert speaker.generation_config is config


def test_the_same_first_short_questions_are_shown_whatever_was_answered(speaker, make_tokenizer):
    tokenizer = make_tokenizer()
    system, long = {"role": "system", "content": "Rhyme."}, {"role": "user", "content": "b" * 201}
    asked = [[{"role": "user", "content": text}] for text in ("aaa", " ", "bb", "cc", "dd", "ee")]
    rows = [{"messages": [system, *asked[0]]}, {"messages": [long]}, *({"messages": one} for one in asked)]
    rate = MeasuredRate.of(measure(speaker, tokenizer, rows, find(tokenizer), max_new_tokens=24, batch_size=8))
    assert [item.prompt for item in rate.answers] == ["aaa", "bb", "cc", "dd"]
    alone = measure(speaker, tokenizer, [rows[2]], find(tokenizer), max_new_tokens=24, batch_size=1).answers[0]
    first = rate.answers[0]
    assert (first.answer, first.tokens) == (tokenizer.decode(alone.ids, skip_special_tokens=True), len(alone.ids))
    assert all((item.ended == "eos") or item.tokens == 24 for item in rate.answers)
    assert "<|im_" not in "".join(item.answer for item in rate.answers)


def test_stop_rates_of_earlier_versions_are_read_without_answers():
    run = Path(__file__).parents[1] / "data" / "run-0.1.0" / "tiny-hermes-dpo-1"
    old = StopRates.load(run / "artifacts" / "stopping[main]")
    assert old.forms["merged"].answers == ()
    assert old.forms["merged"].examples


def test_figures_of_a_stop_rate(speaker, make_tokenizer):
    tokenizer = make_tokenizer()
    said = []
    rate = measure(
        speaker,
        tokenizer,
        PROMPTS,
        find(tokenizer),
        max_new_tokens=24,
        batch_size=12,
        report=lambda figure, share: said.append((figure, share)),
    )
    figures = rate.to_json()
    assert figures["rate"] == rate.stopped / 24
    assert figures["low"] < figures["rate"] < figures["high"]
    assert figures["dtype"] == "float32"
    assert [example["stopped"] for example in figures["examples"]] == [False] * 3
    assert "<|im_end|>" not in "".join(answer.answer for answer in rate.answers if answer.stopped)
    assert [share for _, share in said] == [0.5, 1.0]
    assert said[-1][0] == f"{rate.stopped} of 24 answers stopped"
