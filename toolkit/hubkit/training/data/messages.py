"""Lists of messages as people write them, in one form: ``{"role", "content"}``, and ``tool_calls`` if there are any.

Taken are OpenAI's chat format with its text parts and tool calls, ShareGPT's ``from`` and ``value`` with the role names
that are in use, lists that were written as JSON text, and text with the turns of a dialogue in it (Anthropic's hh-rlhf,
Guanaco, ChatML).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = dict[str, Any]

_ROLES = {
    "system": ("system", "developer", "sys"),
    "user": ("user", "human", "prompter", "instruction"),
    "assistant": ("assistant", "gpt", "model", "bot", "chatbot", "ai", "chatgpt", "bard", "bing"),
    "tool": ("tool", "function", "observation", "ipython", "tool_response", "tool_result"),
    "call": ("function_call", "tool_call"),
}
ROLES: Mapping[str, str] = {name: role for role, names in _ROLES.items() for name in names}
"""The role that each name stands for; ``call``: an assistant's message whose text is a tool call."""
_KEPT = ("reasoning_content", "thinking")
"""Keys of an assistant's message, besides its text, that chat templates read."""
_TURN_ROLES = {"input": "user", "output": "assistant"}
_TURNS = _TURN_ROLES.keys()
"""Keys of a turn in lists of questions with their answers, as Capybara has them."""
_FOLLOWS = {
    "": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
"""The roles that may follow each role; ``""`` is the start."""


class BadRow(ValueError):
    """A row that cannot be trained on; the text is the reason under which it is counted."""


def plain(value: Any, key: str, *, optional: bool = False) -> str:
    """``value`` as text that can be encoded. BadRow otherwise."""
    if not isinstance(value, str):
        raise BadRow(f"wrong type: {key}")
    if not value.strip() and not optional:
        raise BadRow(f"empty: {key}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"not UTF-8: {key}") from error
    if "\ufffd" in value or "\0" in value:
        raise BadRow(f"not UTF-8: {key}")
    return value


def messages(value: Any, key: str, *, completion: bool = False) -> list[Message]:
    """A list of messages in our form; ``key`` is what reasons call it. BadRow when it is not one.

    A system message without text is left out. ``completion``: it may begin with the answer to a prompt elsewhere.
    """
    listed = message_list(value, key)
    if not listed:
        raise BadRow(f"empty: {key}")
    found = [_message(item, key) for item in listed]
    found = [item for item in found if item["role"] != "system" or item["content"].strip()]
    last = "user" if completion and found and found[0]["role"] == "assistant" else ""
    for item in found[1:] if found and found[0]["role"] == "system" else found:
        if item["role"] not in _FOLLOWS[last]:
            raise BadRow(f"roles out of order: {key}")
        last = item["role"]
    return found


def is_messages(value: Any) -> bool:
    """Whether ``value`` is meant as a list of messages, and not as text."""
    return not isinstance(value, str) or _as_json_list(value) is not None


def message_list(value: Any, key: str) -> list[Mapping[str, Any]]:
    """The messages in ``value`` as they are: a list, JSON text of one, or a table of columns. BadRow otherwise."""
    if value is None:
        raise BadRow(f"null: {key}")
    if isinstance(value, str):
        value = _as_json_list(value)
    if isinstance(value, Mapping) and value and all(isinstance(column, list) for column in value.values()):
        value = [dict(zip(value, cells, strict=True)) for cells in _rows_of_columns(value, key)]
    if isinstance(value, list) and value and all(isinstance(item, dict) and item.keys() == _TURNS for item in value):
        value = [{"role": _TURN_ROLES[name], "content": item[name]} for item in value for name in _TURN_ROLES]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRow(f"wrong type: {key}")
    return value


def _rows_of_columns(value: Mapping[str, list[Any]], key: str) -> list[tuple[Any, ...]]:
    """The datasets library reads a ``Sequence`` of messages as a table: {"role": [...], "content": [...]}."""
    if len({len(column) for column in value.values()}) != 1:
        raise BadRow(f"wrong type: {key}")
    return list(zip(*value.values(), strict=True))


def _as_json_list(text: str) -> list[Any] | None:
    if not text.lstrip().startswith("[{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _message(item: Mapping[str, Any], key: str) -> Message:
    named = item.get("role")
    role = ROLES.get(str(item.get("from") if named is None else named).strip().lower())
    if role is None:
        raise BadRow(f"unknown role: {key}")
    content = next((item[name] for name in ("content", "value", "text") if item.get(name) is not None), None)
    if role == "call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(content, key)}
    made: Message = {"role": role, "content": ""}
    if role == "assistant" and (calls := _calls_of(item)):
        made["tool_calls"] = _calls(calls, key)
    if content is not None:
        made["content"] = plain(_text(content, key, role), key, optional=role == "system" or "tool_calls" in made)
    elif "tool_calls" not in made:
        raise BadRow(f"null: {key}")
    if role == "assistant":
        made |= {name: plain(item[name], key) for name in _KEPT if item.get(name)}
        if item.get("weight") == 0:
            made["weight"] = 0
    if role == "tool":
        made |= {name: plain(item[name], key) for name in ("name", "tool_call_id") if item.get(name)}
    return made


def _text(content: Any, key: str, role: str) -> Any:
    """Text parts joined by a line break; what a tool returned as JSON, as its text."""
    if isinstance(content, list) and all(isinstance(part, dict) and "type" in part for part in content):
        return "\n".join(_part(part, key) for part in content)
    if role == "tool" and isinstance(content, dict | list):
        return json.dumps(content, ensure_ascii=False)
    return content


def _part(part: Mapping[str, Any], key: str) -> str:
    kind = str(part["type"])
    if kind in ("text", "input_text", "output_text"):
        return plain(part.get("text"), key, optional=True)
    what = next((name for name in ("image", "audio", "video", "file") if name in kind), None)
    raise BadRow(f"holds {'an' if what in ('image', 'audio') else 'a'} {what}: {key}" if what else f"wrong type: {key}")


def _calls_of(item: Mapping[str, Any]) -> Any:
    """The tool calls of a message; OpenAI's first format had one ``function_call``."""
    return item.get("tool_calls") or ([item["function_call"]] if item.get("function_call") else None)


def _calls(value: Any, key: str) -> list[dict[str, Any]]:
    """Tool calls as transformers' templates read them: the arguments an object, and not the text of one."""
    if isinstance(value, str):
        value = _json(value, key)
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(item, dict) for item in listed):
        raise BadRow(f"wrong type: tool_calls of {key}")
    return [_call(item, key) for item in listed]


def _call(item: Mapping[str, Any], key: str) -> dict[str, Any]:
    inner = item.get("function")
    function = inner if isinstance(inner, dict) else item
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json(arguments, key) if arguments.strip() else {}
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        raise BadRow(f"wrong type: tool_calls of {key}")
    call: dict[str, Any] = {"id": plain(item["id"], key)} if item.get("id") else {}
    name = plain(function.get("name"), f"tool_calls of {key}")
    return {**call, "type": "function", "function": {"name": name, "arguments": arguments}}


def _json(text: str, key: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadRow(f"no JSON: tool_calls of {key}") from None


def tools_of(value: Any, key: str) -> list[dict[str, Any]]:
    """The tools that a row offers, as JSON schemas of functions; none where ``value`` is empty. BadRow otherwise."""
    if isinstance(value, str):
        if not value.strip():
            return []
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRow(f"no JSON: {key}") from None
    if not value:
        return []
    if not isinstance(value, list):
        raise BadRow(f"wrong type: {key}")
    return [_tool(item, key) for item in value]


def _tool(item: Any, key: str) -> dict[str, Any]:
    if isinstance(item, str):
        try:
            item = json.loads(item)
        except (ValueError, RecursionError):
            raise BadRow(f"no JSON: {key}") from None
    if not isinstance(item, dict):
        raise BadRow(f"wrong type: {key}")
    function = item.get("function") if isinstance(item.get("function"), dict) else None
    if function is None and "name" in item:
        return {"type": "function", "function": dict(item)}
    if function is None or "name" not in function:
        raise BadRow(f"wrong type: {key}")
    return dict(item)


# --- dialogues in one text

_DIALOGUES = (
    re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ ]?"),
    re.compile(r"(?:\A\s*|\n)### (Human|Assistant):[ ]?"),
    re.compile(r"(?:\A\s*|<\|im_end\|>\s*)<\|im_start\|>(\w+)\n"),
)
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def is_dialogue(value: Any) -> bool:
    """Whether ``value`` is text that begins with a turn of a dialogue, such as "\\n\\nHuman: "."""
    return isinstance(value, str) and any(turn.match(value) for turn in _DIALOGUES)


def dialogue(text: str, key: str, *, opened: bool = False) -> list[Message]:
    """The turns of a dialogue in ``text``. BadRow when a turn is empty or out of order.

    ``opened``: it may end with the opening of an answer, which is left out.
    """
    turn = next(found for found in _DIALOGUES if found.match(text))
    turns = list(_turns(text.removesuffix("<|endoftext|>"), turn))
    if opened and turns and turns[-1] == ("assistant", ""):
        turns.pop()
    return messages([{"role": role, "content": said} for role, said in turns], key)


def _turns(text: str, turn: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    starts = list(turn.finditer(text))
    for start, end in zip(starts, [*(item.start() for item in starts[1:]), len(text)], strict=True):
        said = text[start.end() : end].strip().removesuffix("<|im_end|>")
        yield _SPEAKERS.get(start[1], start[1]), said.strip()


def ends_with_answer(conversation: Sequence[Message]) -> None:
    """BadRow for a conversation that does not end with an answer to something."""
    if not conversation or conversation[-1]["role"] != "assistant":
        raise BadRow("does not end with an answer")
    if len(conversation) < 2 or conversation[-2]["role"] not in ("user", "tool"):
        raise BadRow("has no question")
