"""Forms of rows that people have, each with the conversation that it becomes, or the sentence that refuses it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Raw = Mapping[str, Any]
SKY, BLUE, GREEN = "What color is the sky?", "It is blue.", "It is green."


def user(text: str = SKY) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str = BLUE, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def system(text: str = "Be kind.") -> dict[str, Any]:
    return {"role": "system", "content": text}


def said(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


SFT = {"prompt": [user()], "completion": [assistant()]}
GUIDED = {"prompt": [system(), user()], "completion": [assistant()]}
PAIR = {"prompt": [user()], "chosen": [assistant()], "rejected": [assistant(GREEN)]}
GUIDED_PAIR = {**PAIR, "prompt": [system(), user()]}
CALL = {"type": "function", "function": {"name": "lamp", "arguments": {"room": "hall", "on": True}}}
OTHER_CALL = {"type": "function", "function": {"name": "clock", "arguments": {}}}
LAMP = {
    "type": "function",
    "function": {
        "name": "lamp",
        "description": "Switches a lamp.",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}, "on": {"type": "boolean"}}},
    },
}
TOOL_TALK = {
    "prompt": [
        user("Light, please."),
        assistant("", tool_calls=[CALL]),
        {"role": "tool", "content": "It is on.", "name": "lamp"},
    ],
    "completion": [assistant("Done!")],
    "tools": [LAMP],
}


@dataclass(frozen=True)
class Form:
    """Rows of one form, the stage that trains on them, and what they become: rows, or the words of a refusal."""

    name: str
    rows: tuple[Raw, ...]
    becomes: tuple[Raw, ...] = ()
    method: str = "sft"
    source: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    says_how: str = ""
    dropped: Mapping[int, str] = field(default_factory=dict)


def taken(name: str, row: Raw, becomes: Raw, method: str = "sft", **source: Any) -> Form:
    return Form(name, (row,), (becomes,), method, source)


def refused(name: str, row: Raw, why: str, how: str, method: str = "sft", **source: Any) -> Form:
    return Form(name, (row,), (), method, source, why, how)


HH = f"\n\nHuman: {SKY}\n\nAssistant: {BLUE}"
TWO_TURNS = {"prompt": [user("Hi"), assistant("Hello."), user()], "completion": [assistant()]}
TALK = [{"input": "Hi", "output": "Hello."}, {"input": SKY, "output": BLUE}]
GUANACO = f"### Human: Hi\n### Assistant: Hello.\n### Human: {SKY}\n### Assistant: {BLUE}"
FORMS = (
    # --- the forms that TRL documents
    refused("trl-text", {"text": "The sky is blue."}, "text without turns: text", "prompt and completion"),
    taken("trl-messages", {"messages": [user(), assistant()]}, SFT),
    refused("trl-prompt-only", {"prompt": "The sky is"}, "prompts without answers", "column completion"),
    refused("trl-prompt-only-conversational", {"prompt": [user()]}, "prompts without answers", "column completion"),
    taken(
        "trl-prompt-completion",
        {"prompt": "The sky is", "completion": " blue."},
        {"prompt": [user("The sky is")], "completion": [assistant("blue.")]},
    ),
    taken("trl-prompt-completion-conversational", {"prompt": [user()], "completion": [assistant()]}, SFT),
    taken(
        "trl-preference",
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        {"prompt": [user("The sky is")], "chosen": [assistant("blue.")], "rejected": [assistant("green.")]},
        "dpo",
    ),
    refused(
        "trl-preference-implicit",
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        "missing key: prompt",
        "`columns: {prompt: NAME}`",
        "dpo",
    ),
    taken("trl-preference-conversational", PAIR, PAIR, "dpo"),
    taken(
        "trl-preference-conversational-implicit",
        {"chosen": [user(), assistant()], "rejected": [user(), assistant(GREEN)]},
        PAIR,
        "dpo",
    ),
    Form(
        "trl-unpaired",
        (
            {"prompt": "The sky is", "completion": " blue.", "label": True},
            {"prompt": "The sky is", "completion": " green.", "label": False},
        ),
        ({"prompt": [user("The sky is")], "completion": [assistant("blue.")]},),
        dropped={1: "the label is false"},
    ),
    Form(
        "trl-unpaired-in-pairs",
        (
            {"prompt": [user()], "completion": [assistant(GREEN)], "label": False},
            {"prompt": [user("Alone?")], "completion": [assistant("Yes.")], "label": True},
            {"prompt": [user()], "completion": [assistant()], "label": True},
        ),
        (PAIR,),
        "dpo",
        dropped={1: "no worse answer to the same prompt"},
    ),
    refused(
        "trl-unpaired-without-pairs",
        {"prompt": [user()], "completion": [assistant()], "label": True},
        "no worse answer to the same prompt",
        "DPO needs a good and a bad answer to the same prompt",
        "dpo",
    ),
    refused(
        "trl-stepwise",
        {"prompt": "9.8 or 9.11?", "completions": ["0.8.", "9.8."], "labels": [True, True]},
        "stepwise supervision",
        "prompt and completion",
    ),
    taken(
        "trl-tool-calling",
        {
            "messages": [
                user("Light, please."),
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "name": "lamp", "content": "It is on."},
                assistant("Done!"),
            ],
            "tools": [LAMP],
        },
        TOOL_TALK,
    ),
    taken(
        "trl-tools-as-text",
        {"prompt": [user()], "completion": [{"role": "assistant", "tool_calls": [CALL]}], "tools": json.dumps([LAMP])},
        {"prompt": [user()], "completion": [assistant("", tool_calls=[CALL])], "tools": [LAMP]},
    ),
    taken(
        "trl-preference-of-tool-calls",
        {
            "prompt": [user()],
            "chosen": [{"role": "assistant", "tool_calls": [CALL]}],
            "rejected": [{"role": "assistant", "tool_calls": [OTHER_CALL]}],
            "tools": [LAMP],
        },
        {
            "prompt": [user()],
            "chosen": [assistant("", tool_calls=[CALL])],
            "rejected": [assistant("", tool_calls=[OTHER_CALL])],
            "tools": [LAMP],
        },
        "dpo",
    ),
    taken(
        "trl-thinking",
        {"messages": [system(), user(), assistant(thinking="Light scatters.")]},
        {**GUIDED, "completion": [assistant(thinking="Light scatters.")]},
    ),
    # --- preferences as they are on the Hub
    taken("hh-rlhf", {"chosen": HH, "rejected": HH.replace(BLUE, GREEN)}, PAIR, "dpo"),
    taken(
        "hh-rlhf-with-prompt",
        {"prompt": f"\n\nHuman: {SKY}\n\nAssistant:", "chosen": BLUE, "rejected": GREEN},
        PAIR,
        "dpo",
    ),
    taken(
        "orca", {"system": "Be kind.", "question": SKY, "chosen": BLUE, "rejected": GREEN}, GUIDED_PAIR, "dpo"
    ),
    taken(
        "ultrafeedback", {"instruction": SKY, "chosen_response": BLUE, "rejected_response": GREEN}, PAIR, "dpo"
    ),
    taken(
        "ultrafeedback-binarized",
        {
            "prompt": SKY,
            "prompt_id": "a1",
            "chosen": [user(), assistant()],
            "rejected": [user(), assistant(GREEN)],
            "messages": [user(), assistant()],
            "score_chosen": 8.0,
        },
        PAIR,
        "dpo",
    ),
    taken(
        "ultrafeedback-binarized-for-sft",
        {
            "prompt": SKY,
            "chosen": [user(), assistant()],
            "rejected": [user(), assistant(GREEN)],
            "messages": [user(), assistant()],
        },
        SFT,
    ),
    taken(
        "distilabel-pairs",
        {"system": "Be kind.", "input": SKY, "generations": [BLUE, GREEN], "chosen": BLUE, "rejected": GREEN},
        GUIDED_PAIR,
        "dpo",
    ),
    taken(
        "distilabel-ratings",
        {"instruction": SKY, "generations": [GREEN, "No.", BLUE], "ratings": [1.0, None, 4.5]},
        PAIR,
        "dpo",
    ),
    taken("distilabel-generation", {"instruction": SKY, "generation": BLUE, "model_name": "m"}, SFT),
    refused(
        "answers-in-no-order",
        {"prompt": SKY, "response_0": BLUE, "response_1": GREEN, "better_response_id": 0},
        "order says nothing",
        "column chosen",
        "dpo",
    ),
    # --- instructions
    taken("alpaca", {"instruction": SKY, "input": "", "output": BLUE}, SFT),
    taken(
        "alpaca-with-input",
        {"instruction": "Add.", "input": "2 and 2", "output": "4", "system": "Be kind."},
        {"prompt": [system(), user("Add.\n2 and 2")], "completion": [assistant("4")]},
    ),
    taken(
        "dolly",
        {"instruction": "Where is it?", "context": "The cat is in the hall.", "response": "In the hall."},
        {"prompt": [user("Where is it?\nThe cat is in the hall.")], "completion": [assistant("In the hall.")]},
    ),
    taken("openorca", {"id": 1, "system_prompt": "Be kind.", "question": SKY, "response": BLUE}, GUIDED),
    taken("gsm8k", {"question": SKY, "answer": BLUE}, SFT),
    taken("metamath", {"query": SKY, "response": BLUE, "type": "x"}, SFT),
    taken("flan", {"inputs": SKY, "targets": BLUE}, SFT),
    # --- conversations
    taken(
        "sharegpt",
        {"conversations": [said("human", "Hi"), said("gpt", "Hello."), said("human", SKY), said("gpt", BLUE)]},
        TWO_TURNS,
    ),
    taken(
        "sharegpt-with-system", {"system": "Be kind.", "conversations": [said("human", SKY), said("gpt", BLUE)]}, GUIDED
    ),
    taken(
        "sharegpt-names",
        {"conversations": [said("prompter", "Hi"), said("chatgpt", "Hello."), said("user", SKY), said("bard", BLUE)]},
        TWO_TURNS,
    ),
    taken(
        "sharegpt-tools",
        {
            "conversations": [
                said("human", "Light, please."),
                said("function_call", json.dumps({"name": "lamp", "arguments": {"room": "hall", "on": True}})),
                said("observation", "It is on."),
                said("gpt", "Done!"),
            ],
            "tools": json.dumps([LAMP["function"]]),
        },
        {
            **TOOL_TALK,
            "prompt": [*TOOL_TALK["prompt"][:2], {"role": "tool", "content": "It is on."}],
        },
    ),
    taken(
        "openai-parts",
        {
            "messages": [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "Look up."}, {"type": "text", "text": SKY}]},
                {"role": "assistant", "content": [{"type": "text", "text": BLUE}]},
            ]
        },
        {"prompt": [system(), user(f"Look up.\n{SKY}")], "completion": [assistant()]},
    ),
    refused(
        "openai-image",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]},
                assistant(),
            ]
        },
        "holds an image: messages",
        "Remove what is not text",
    ),
    refused(
        "llava",
        {"messages": [user("<image> What is it?"), assistant()], "images": ["a.png"]},
        "holds an image: images",
        "Remove what is not text",
    ),
    taken(
        "openai-tool-calls",
        {
            "messages": [
                user("Light, please."),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "lamp", "arguments": '{"room": "hall", "on": true}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "It is on."},
                {"role": "assistant", "content": "Done!", "weight": 1},
            ],
            "tools": [LAMP],
            "parallel_tool_calls": False,
        },
        {
            **TOOL_TALK,
            "prompt": [
                user("Light, please."),
                assistant("", tool_calls=[{"id": "call_1", **CALL}]),
                {"role": "tool", "content": "It is on.", "tool_call_id": "call_1"},
            ],
        },
    ),
    taken(
        "openai-functions",
        {
            "messages": [
                user("Light, please."),
                {"role": "assistant", "function_call": {"name": "lamp", "arguments": '{"room":"hall","on":true}'}},
                {"role": "function", "name": "lamp", "content": "It is on."},
                assistant("Done!"),
            ],
            "functions": [LAMP["function"]],
        },
        TOOL_TALK,
    ),
    refused(
        "openai-weight-0",
        {"messages": [user(), {**assistant(), "weight": 0}]},
        "the last answer has the weight 0",
        "Remove the weight",
    ),
    taken("messages-as-json-text", {"messages": json.dumps([user(), assistant()])}, SFT),
    refused(
        "messages-as-python-text",
        {"messages": str([user(), assistant()])},
        "wrong type: messages",
        "Write the list as JSON",
    ),
    taken(
        "messages-as-table",
        {"messages": {"role": ["user", "assistant"], "content": [SKY, BLUE]}},
        SFT,
    ),
    taken("capybara", {"conversation": TALK}, TWO_TURNS),
    taken("guanaco", {"text": GUANACO}, TWO_TURNS),
    taken(
        "chatml-text",
        {
            "text": f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{SKY}<|im_end|>\n"
            f"<|im_start|>assistant\n{BLUE}<|im_end|>\n"
        },
        GUIDED,
    ),
    refused(
        "ends-with-a-question",
        {"messages": [user(), assistant(), user()]},
        "does not end with an answer",
        "Remove what",
    ),
    refused("starts-with-an-answer", {"messages": [assistant(), user(), assistant()]}, "roles out of order", "in turn"),
    refused("unknown-role", {"messages": [{"role": "narrator", "content": "x"}]}, "unknown role", "system, user"),
    # --- names of one's own
    taken(
        "own-names-of-pairs",
        {"question": SKY, "good": BLUE, "bad": GREEN, "rejected": "no"},
        PAIR,
        "dpo",
        columns={"prompt": "question", "chosen": "good", "rejected": "bad"},
    ),
    taken(
        "own-names-of-answers",
        {"ask": SKY, "say": BLUE, "persona": "Be kind."},
        GUIDED,
        columns={"prompt": "ask", "completion": "say", "system": "persona"},
    ),
    taken("own-name-of-messages", {"dialog": [user(), assistant()]}, SFT, columns={"messages": "dialog"}),
    taken(
        "chosen-for-sft", {"chosen": [user(), assistant()], "rejected": [user(), assistant(GREEN)]}, SFT,
        columns={"messages": "chosen"},
    ),
    refused(
        "unknown-names", {"ask": SKY, "reply_text": BLUE}, "No mapping fits the columns of rows.jsonl: ask, reply_text",
        "`columns: {prompt: ask, completion: reply_text}`",
    ),
    refused(
        "unknown-names-of-pairs", {"user_question": SKY, "better": BLUE, "worse": GREEN}, "Closest: pairs",
        "`columns: {prompt: user_question, chosen: better, rejected: worse}`", "dpo",
    ),
    refused(
        "a-column-that-is-not-there", {"ask": SKY, "say": BLUE}, "has no column reply, which `columns` names",
        "Name the columns as the dataset does", columns={"prompt": "ask", "completion": "reply"},
    ),
    refused(
        "preferences-for-sft", PAIR, "needs sft rows, but dataset 'mine' has preference rows",
        "`columns: {prompt: prompt, completion: chosen}`",
    ),
    refused("answers-for-dpo", SFT, "needs preference rows, but dataset 'mine' has sft rows", "another `data`", "dpo"),
    refused("tokenized", {"input_ids": [1, 2], "labels": [1, 2]}, "tokenized already", "the conversations themselves"),
    Form(
        "mixed", ({"messages": [user(), assistant()]}, {"prompt": SKY, "completion": BLUE}),
        refused="row 1 is of the form prompt-completion", says_how="two files",
    ),
)  # fmt: skip
