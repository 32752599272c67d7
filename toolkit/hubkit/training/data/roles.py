"""Conversations made fit for a chat template that refuses some orders of roles: Gemma's has no system message.

Whether a template refuses a conversation depends on its roles, so each order of roles is rendered once, with other
words, and not each row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hubkit.training.data.mappings import BadRow, Message, Row


@dataclass
class Roles:
    """What the chat template of ``tokenizer`` (of transformers) does with each order of roles that was met."""

    tokenizer: Any
    problems: dict[tuple[str, ...], str | None] = field(default_factory=dict)

    def fit(self, row: Row) -> tuple[Row, bool]:
        """``row`` as the template takes it, and whether its system message had to be moved into the question.

        The text of the system message is then the first paragraph of the first question, as Gemma 3 writes it.
        BadRow when the template refuses it even so.
        """
        problem = self.problem(row["prompt"])
        if problem is None:
            return row, False
        if row["prompt"][0]["role"] == "system" and len(row["prompt"]) > 1:
            moved = {**row, "prompt": without_system(row["prompt"])}
            if self.problem(moved["prompt"]) is None:
                return moved, True
        raise BadRow(f"refused by the chat template ({problem})")

    def problem(self, prompt: list[Message]) -> str | None:
        """Why the template refuses ``prompt`` with an answer; None when it does not."""
        order = tuple(message["role"] for message in prompt)
        if order not in self.problems:
            self.problems[order] = self._try(order)
        return self.problems[order]

    def _try(self, order: tuple[str, ...]) -> str | None:
        from jinja2 import TemplateError

        messages = [{"role": role, "content": "Text."} for role in order]
        answer = {"role": "assistant", "content": "Text."}
        try:
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            self.tokenizer.apply_chat_template([*messages, answer], tokenize=False)
        except (TemplateError, TypeError, ValueError) as error:
            return str(error).rstrip(".")[:200] or type(error).__name__
        return None


def without_system(prompt: list[Message]) -> list[Message]:
    """``prompt``, whose first message is a system message, with its text before that of the question after it."""
    system, question, *rest = prompt
    return [{"role": question["role"], "content": f"{system['content']}\n\n{question['content']}"}, *rest]
