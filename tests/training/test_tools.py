"""Conversations with tools: trained as the chat template renders them, and never asked without their tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import ARCHITECTURES, make_tokenizer
from preparations import chats, made_of, pairs, recipe

from hubkit.models.chat import trained
from hubkit.training.data import turns
from hubkit.training.data.mappings import BadRow
from hubkit.training.data.prepared import PreparedData, TrainingRows, rows_file
from hubkit.training.data.roles import Roles

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAMP = {"type": "function", "function": {"name": "lamp", "description": "A lamp.", "parameters": {"type": "object"}}}


def tool_chats(count: int) -> list[dict[str, Any]]:
    """Each call has another argument: in a table each would get the arguments of all others, as null."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Lamp {n}, please."},
                {
                    "role": "assistant",
                    "tool_calls": [{"type": "function", "function": {"name": "lamp", "arguments": {f"lamp{n}": True}}}],
                },
                {"role": "tool", "name": "lamp", "content": "on"},
                {"role": "assistant", "content": f"Lamp {n} is on."},
            ],
            "tools": [LAMP],
        }
        for n in range(count)
    ]


def plain_chats(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]}
        for row in chats(count)
    ]


def tools_tokenizer(template: str = TEMPLATE) -> Any:
    tokenizer = make_tokenizer(ARCHITECTURES["smollm"])
    tokenizer.chat_template = template
    return tokenizer


def test_rows_with_tools_are_trained_with_them_and_never_held_out(tmp_path: Path) -> None:
    tables = {"them/pairs": pairs(20), "them/chats": [*tool_chats(20), *plain_chats(8)]}
    tokenizer = tools_tokenizer()
    report = made_of(recipe(prompts=6), tables, tokenizer, folder=tmp_path)
    report.refuse()
    prepared = PreparedData.write(report, tmp_path)
    assert len(report.prompts) == 6 and not any("amp" in prompt[-1]["content"] for prompt in report.prompts)
    rows = [row for row in prepared.rows("repair") if "tools" in row]
    assert rows and all(row["tools"] == [LAMP] for row in rows)
    calls = [row["prompt"][1]["tool_calls"][0]["function"]["arguments"] for row in rows]
    assert all(len(arguments) == 1 for arguments in calls), "no argument of another row is added as null"
    kept = TrainingRows.load(tmp_path / rows_file("repair"))
    assert kept.offer_tools() and not TrainingRows.load(tmp_path / rows_file("preferences")).offer_tools()
    (shown,) = turns.spans(rows[:1], tokenizer)
    text = "".join(piece for piece, _ in shown["rows"])
    assert '"name": "lamp", "description"' in text and f"<call>{json.dumps(_function(rows[0]))}</call>" in text
    few = made_of(recipe(prompts=9), tables, tokenizer, folder=tmp_path / "few")
    assert "too-few-prompts" in [item.rule for item in few.findings]


def _function(row: Any) -> Any:
    return row["prompt"][1]["tool_calls"][0]["function"]


def test_a_template_that_leaves_tools_out_drops_their_rows_and_says_so(tmp_path: Path) -> None:
    without = TEMPLATE.replace("{% if tools %}", "{% if false %}")
    tables = {"them/pairs": pairs(20), "them/chats": [*tool_chats(3), *plain_chats(40)]}
    report = made_of(recipe(), tables, tools_tokenizer(without), folder=tmp_path)
    reason = "refused by the chat template (it does not render tools)"
    assert report.sources["repair"][0]["dropped"] == {reason: 3}


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("{{ call.function | tojson }}", "it does not render tool calls"),
        ("{{ message.content }}", "it does not render what tools return"),
    ],
)
def test_what_a_template_does_not_render_is_found_before_training(missing: str, reason: str) -> None:
    roles = Roles(tools_tokenizer(TEMPLATE.replace(missing, "")))
    row = {
        "prompt": [
            {"role": "user", "content": "Light!"},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "lamp"}}]},
            {"role": "tool", "content": "on"},
        ],
        "completion": [{"role": "assistant", "content": "Done."}],
    }
    with pytest.raises(BadRow, match=reason):
        roles.fit(row)


def test_what_a_training_saw_of_tools_is_compared_with_the_published_template() -> None:
    tokenizer, (chat,) = tools_tokenizer(), tool_chats(1)
    *prompt, answer = chat["messages"]
    prompt[1] = {**prompt[1], "content": ""}
    row = {"prompt": prompt, "completion": [answer], "tools": chat["tools"]}
    row["input_ids"] = turns.encode([row], tokenizer)[0]["rows"].ids
    kept = json.loads(json.dumps(trained.seen(tokenizer, [row])))
    assert kept["rows"][0]["tools"] == [LAMP]
    assert trained.differences(tokenizer, kept) == []
    other = tools_tokenizer(TEMPLATE.replace("tool | tojson", "tool.function.name"))
    assert [item for item in trained.differences(other, kept) if item.startswith("the training text 1")]
