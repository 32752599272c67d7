"""Conversations that a chat template refuses: a system message moves into the question, other rows are counted."""

from __future__ import annotations

from typing import Any

import pytest
from architectures import ARCHITECTURES, make_tokenizer
from training_case import recipe_text

from hubkit.core.errors import RefusedError
from hubkit.models.chat import eos
from hubkit.recipe.loading import parse_recipe
from hubkit.training.data import mappings, turns
from hubkit.training.data.loading import Loaded
from hubkit.training.data.mappings import BadRow
from hubkit.training.data.prepared import PreparedData
from hubkit.training.data.preparing import DataSettings, prepare
from hubkit.training.data.roles import Roles

ASKED = {"role": "user", "content": "What is it?"}
ANSWER = [{"role": "assistant", "content": "A cat."}]
GUIDED = {"prompt": [{"role": "system", "content": "Be kind."}, ASKED], "completion": ANSWER}


def test_a_system_message_moves_where_the_template_has_no_place_for_it() -> None:
    moved, was_moved = Roles(make_tokenizer(ARCHITECTURES["gemma-2"])).fit(GUIDED)
    assert was_moved and moved == {
        "prompt": [{"role": "user", "content": "Be kind.\n\nWhat is it?"}],
        "completion": ANSWER,
    }
    for name in ("llama-3", "qwen3", "mistral", "smollm"):
        assert Roles(make_tokenizer(ARCHITECTURES[name])).fit(GUIDED) == (GUIDED, False)


def test_each_order_of_roles_is_rendered_once() -> None:
    rendered: list[Any] = []

    class Tokenizer:
        def apply_chat_template(self, messages: Any, **how: Any) -> str:
            rendered.append(messages)
            return ""

    roles = Roles(Tokenizer())
    for _ in range(5):
        roles.fit(GUIDED)
        roles.fit({"prompt": [ASKED], "completion": ANSWER})
    assert len(rendered) == 4


def test_what_the_template_refuses_anyway_is_counted_by_its_own_words() -> None:
    tokenizer = make_tokenizer(ARCHITECTURES["gemma-2"])
    tokenizer.chat_template = "{% if messages | length > 2 %}{{ raise_exception('One turn only.') }}{% endif %}"
    roles = Roles(tokenizer)
    assert roles.fit({"prompt": [ASKED], "completion": ANSWER})[1] is False
    with pytest.raises(BadRow, match=r"refused by the chat template \(One turn only\)"):
        roles.fit({"prompt": [ASKED, *ANSWER, ASKED], "completion": ANSWER})


def test_moved_messages_are_counted_reported_and_kept(tmp_path: Any) -> None:
    tokenizer = make_tokenizer(ARCHITECTURES["gemma-3"])
    pairs = [
        {"system": "Be kind." * (n % 2), "question": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No."}
        for n in range(6)
    ]
    chats = [{"instruction": f"Name thing {n}.", "input": "", "output": f"It is {n}."} for n in range(300)]
    sources = {"them/pairs": pairs, "them/chats": chats}
    report = prepare(
        DataSettings.of(parse_recipe(recipe_text())),
        lambda source: Loaded("c" * 40, tuple(sources[source.repo][0]), sources[source.repo], None),
        tokenizer,
        eos.find(tokenizer),
        lambda stage: (None, "keep_start"),
        lambda text, share: None,
        tmp_path,
        tmp_path / "scratch",
    )
    report.refuse()
    kept = PreparedData.write(report, tmp_path)
    prompts = [row["prompt"] for row in kept.rows("preferences")]
    assert all(len(prompt) == 1 for prompt in prompts)
    assert sum(prompt[0]["content"].startswith("Be kind.\n\n") for prompt in prompts) == 3
    found = [item for item in report.findings if item.rule == "moved-system"]
    assert len(found) == 1 and "3 of 6 rows of them/pairs" in found[0].message and found[0].level == "note"
    assert [source.moved_system for source in kept.sets["preferences"].sources] == [3]


def test_a_row_that_only_its_own_words_make_impossible_is_no_traceback() -> None:
    tokenizer = make_tokenizer(ARCHITECTURES["llama-3"])
    tokenizer.chat_template = "{% if 'cat' in messages[-1].content %}{{ raise_exception('no cats') }}{% endif %}"
    row: mappings.Row = {"prompt": [ASKED], "completion": ANSWER}
    with pytest.raises(RefusedError, match="cannot render a conversation of the training data: no cats"):
        turns.look([row], tokenizer, eos.EndOfTurn("<|eot_id|>", 1), max_length=None)
