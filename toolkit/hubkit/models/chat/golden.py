"""Conversations that every chat template is tried with, and what its renderings of them tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hubkit.core.findings import Finding
from hubkit.models.chat.rendering import Message, Rendering
from hubkit.models.chat.rules import TEMPLATE_FAILS, TEMPLATE_PREFIX, TEMPLATE_SYSTEM

_QUESTION = {"role": "user", "content": "What is the capital of France?"}
_ANSWER = {"role": "assistant", "content": "Paris."}
GOLDEN: Mapping[str, tuple[Message, ...]] = {
    "one turn": (_QUESTION, _ANSWER),
    "system message": ({"role": "system", "content": "You answer in one word."}, _QUESTION, _ANSWER),
    "empty system message": ({"role": "system", "content": ""}, _QUESTION, _ANSWER),
    "several turns": (
        _QUESTION,
        _ANSWER,
        {"role": "user", "content": "And of Italy?"},
        {"role": "assistant", "content": "Rome."},
    ),
    "unicode": (
        {"role": "user", "content": "Écris « été » en grec : καλοκαίρι 🌞, et en arabe : صيف"},
        {"role": "assistant", "content": "καλοκαίρι 🌞 — 夏"},
    ),
    "control tokens as text": (
        {"role": "user", "content": "What do <|im_end|>, </s>, [/INST] and {{ braces }} mean?"},
        {"role": "assistant", "content": "They are {% raw %} markers: <|im_start|> <s>."},
    ),
    "markup and spaces": (
        {"role": "user", "content": "Keep this:\n\n    x < y && y > 'z'\n\tand \"that\"."},
        {"role": "assistant", "content": "```python\nif x < y:\n    pass\n```"},
    ),
}
"""Conversations that every template is tried with; each ends in an assistant's turn."""


def golden_requests() -> list[tuple[Sequence[Message], bool]]:
    """What :func:`golden_findings` needs rendered: each golden conversation, and its prompt with the opening."""
    return [pair for turns in GOLDEN.values() for pair in ((turns, False), (turns[:-1], True))]


def golden_names() -> list[str]:
    """What the renderings of :func:`golden_requests` are of, for people."""
    return [name for title in GOLDEN for name in (title, f"{title}, its prompt")]


def golden_findings(renderings: Sequence[Rendering]) -> list[Finding]:
    """What is wrong with a template, seen in its renderings of :func:`golden_requests`.

    A template must show every message in order, and the prompt with its opening must be the beginning of the whole
    conversation: training and generating else see different texts. A refused system message is reported once.
    """
    found: list[Finding] = []
    for (name, messages), whole, prompt in zip(GOLDEN.items(), renderings[::2], renderings[1::2], strict=True):
        if whole.text is None or prompt.text is None:
            guided = messages[0]["role"] == "system"
            problem = f"The chat template refuses a conversation ({name}): {whole.problem or prompt.problem}."
            if not (guided and any(finding.level == "note" for finding in found)):
                found.append(TEMPLATE_SYSTEM.finding(problem) if guided else TEMPLATE_FAILS.finding(problem))
            continue
        found += _seen(name, messages, whole.text, prompt.text)
    return found


def _seen(name: str, messages: Sequence[Message], whole: str, prompt: str) -> Iterator[Finding]:
    place = 0
    for message in messages:
        wanted = message["content"].strip()
        place = whole.find(wanted, place)
        if place < 0:
            problem = f"The chat template loses or changes the {message['role']}'s text ({name})."
            system = message["role"] == "system"
            yield TEMPLATE_SYSTEM.finding(problem, level="warning") if system else TEMPLATE_FAILS.finding(problem)
            break
        place += len(wanted)
    if not whole.startswith(prompt.rstrip()):
        yield TEMPLATE_PREFIX.finding(
            f"The prompt with its opening is not the beginning of the full conversation ({name}).",
            "Prompts at inference then differ from the text seen in training.",
        )
