"""Conversations made fit for a chat template that refuses some orders of roles: Gemma's has no system message.

Whether a template refuses a conversation depends on its roles and on its tool calls, so each shape of conversation is
rendered once, with other words, and not each row. A template may also leave out what it does not know, without a word:
what it is to render of tools is looked for in the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hubkit.training.data.forms import Row
from hubkit.training.data.messages import BadRow, Message

_ANSWER: Message = {"role": "assistant", "content": "Text."}
_PROBE = "probe_of_hubkit"
"""The name of the tool in the conversations that are tried."""
_TOOL = {
    "type": "function",
    "function": {
        "name": _PROBE,
        "description": "Text.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string", "description": "Text."}}},
    },
}
_CALL_ID = "abcdefghi"
"""Mistral's templates want an id of nine letters."""

Shape = tuple[tuple[tuple[str, ...], ...], bool]
"""What of a conversation a template can refuse: the role of each message with the keys beside its text; with tools."""


@dataclass
class Roles:
    """What the chat template of ``tokenizer`` (of transformers) does with each shape of conversation that was met."""

    tokenizer: Any
    problems: dict[Shape, str | None] = field(default_factory=dict)

    def fit(self, row: Row) -> tuple[Row, bool]:
        """``row`` as the template takes it, and whether its system message had to be moved into the question.

        The text of the system message is then the first paragraph of the first question, as Gemma 3 writes it.
        BadRow when the template refuses it even so.
        """
        problem = self._problem_of(row)
        if problem is None:
            return row, False
        if row["prompt"][0]["role"] == "system" and len(row["prompt"]) > 1:
            moved = {**row, "prompt": without_system(row["prompt"])}
            if self._problem_of(moved) is None:
                return moved, True
        raise BadRow(f"refused by the chat template ({problem})")

    def _problem_of(self, row: Row) -> str | None:
        sides = [row[side] for side in ("completion", "chosen", "rejected") if side in row]
        problems = (self.problem(row["prompt"], side, tools="tools" in row) for side in sides)
        return next((problem for problem in problems if problem), None)

    def problem(
        self, prompt: Sequence[Message], answer: Sequence[Message] = (_ANSWER,), *, tools: bool = False
    ) -> str | None:
        """Why the template refuses ``prompt`` with ``answer``; None when it does not."""
        shape = (tuple(_shape(message) for message in (*prompt, *answer)), tools)
        if shape not in self.problems:
            self.problems[shape] = self._try(*shape)
        return self.problems[shape]

    def _try(self, shapes: tuple[tuple[str, ...], ...], tools: bool) -> str | None:
        from jinja2 import TemplateError

        messages = [_sample(*shape) for shape in shapes]
        options: dict[str, Any] = {"tokenize": False, **({"tools": [_TOOL]} if tools else {})}
        try:
            asked = self.tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, **options)
            whole = self.tokenizer.apply_chat_template(messages, **options)
        except (TemplateError, TypeError, ValueError) as error:
            return str(error).rstrip(".")[:200] or type(error).__name__
        calls = sum("tool_calls" in shape for shape in shapes)
        offered = asked.count(_PROBE) - sum("tool_calls" in shape for shape in shapes[:-1])
        if tools and offered < 1:
            return "it does not render tools"
        if calls and whole.count("text-of-call") < calls:
            return "it does not render tool calls"
        if any(shape[0] == "tool" for shape in shapes) and "text-of-tool" not in whole:
            return "it does not render what tools return"
        return None


def _shape(message: Message) -> tuple[str, ...]:
    return (message["role"], *sorted(key for key in message if key not in ("role", "content", "weight")))


def _sample(role: str, *keys: str) -> Message:
    """A message of this shape, with other words."""
    values: Mapping[str, Any] = {
        "tool_calls": [
            {"id": _CALL_ID, "type": "function", "function": {"name": _PROBE, "arguments": {"text": "text-of-call"}}}
        ],
        "tool_call_id": _CALL_ID,
        "name": "name",
    }
    text = "" if "tool_calls" in keys else "text-of-tool" if role == "tool" else "Text."
    return {"role": role, "content": text, **{key: values.get(key, "Text.") for key in keys}}


def without_system(prompt: list[Message]) -> list[Message]:
    """``prompt``, whose first message is a system message, with its text before that of the question after it."""
    system, question, *rest = prompt
    return [{"role": question["role"], "content": f"{system['content']}\n\n{question['content']}"}, *rest]
