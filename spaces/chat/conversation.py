"""What was said: turns, as the chat template, the chatbot and a reader need them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from generation import Answer, Settings
from number_format import counted, seconds, token_rate

WORDS = {
    "eos": "stopped by end-of-turn token",
    "limit": "hit the token limit",
    "stopped": "stopped by you",
    "timeout": "cut off: it took too long",
}
MESSAGES_PER_TURN = 3
"""The question, the answer, and the mark below it: message ``index`` of a chatbot belongs to turn ``index // 3``."""
_CODE = re.compile(
    r"(^ {0,3}(`{3,}|~{3,})[^\n]*\n.*?(?:^ {0,3}\2[`~]*[ \t]*$|\Z)|(`+)(?!`).+?(?<!`)\3(?!`))", re.S | re.M
)


@dataclass(frozen=True)
class Turn:
    """A question, the revision that it was sent to, and its answer.

    ``note`` ends its mark. ``prompt`` is what the model read, as token ids; ``pieces`` are its text, and which of them
    are special tokens.
    """

    revision: str
    question: str
    answer: Answer
    note: str = ""
    prompt: tuple[int, ...] = ()
    pieces: tuple[tuple[str, bool], ...] = ()


def chat_messages(system: str, turns: Sequence[Turn], question: str) -> list[dict[str, str]]:
    """The conversation as chat templates expect it: text only, no marks."""
    conversation = [{"role": "system", "content": system}] if system.strip() else []
    for turn in turns:
        conversation += [
            {"role": "user", "content": turn.question},
            {"role": "assistant", "content": turn.answer.text},
        ]
    return [*conversation, {"role": "user", "content": question}]


def mark(turn: Turn) -> str:
    """How an answer ended: ``main · stopped by end-of-turn token · 7 tokens · 12 tokens/s``."""
    answer = turn.answer
    parts = [turn.revision, WORDS.get(answer.ended, f"ended by {answer.ended}") if answer.ended else "writing …"]
    parts.append(counted(answer.tokens, "token"))
    if answer.seconds > 0 and answer.tokens > 1:
        parts.append(token_rate(answer.tokens / answer.seconds))
    return " · ".join([*parts, turn.note] if turn.note else parts)


def sampling_note(settings: Settings) -> str:
    """The settings with which a sampled answer is generated again; nothing for a greedy one."""
    if not settings.temperature:
        return ""
    top_p = f", top-p {settings.top_p:g}" if settings.top_p < 1 else ""
    return f"temperature {settings.temperature:g}{top_p}, seed {settings.seed}"


def waiting_note(limit: float) -> str:
    """Why an answer was cut off."""
    return f"the limit is {seconds(limit)}"


def chatbot_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns as ``gr.Chatbot`` shows them: ``MESSAGES_PER_TURN`` messages each."""
    shown: list[dict[str, Any]] = []
    for turn in turns:
        ended = turn.answer.ended
        kind = f"mark {ended if ended in WORDS else 'other'}" if ended else "growing"
        texts = [
            ("user", markdown(turn.question)),
            ("assistant", markdown(turn.answer.text) or ("*(an empty answer)*" if ended else "…")),
            ("assistant", f'<span class="{kind}">{escape(mark(turn))}</span>'),
        ]
        # A list of parts: Gradio takes the indentation out of a plain text.
        shown += [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in texts]
    return shown


def markdown(text: str) -> str:
    """Anybody's Markdown, with HTML and pictures as text: ``<b>`` is shown, no page is asked for ``![](https://…)``.

    Code is left as it is; there, a reader of Markdown takes no HTML.
    """
    parts, last = [], 0
    for code in _CODE.finditer(text):
        parts += [_escaped(text[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, _escaped(text[last:])])


def plain(shown: str) -> str:
    """The text of which ``markdown`` made ``shown``: what somebody edited in the chatbot."""
    parts, last = [], 0
    for code in _CODE.finditer(shown):
        parts += [_plain(shown[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, _plain(shown[last:])])


def _escaped(text: str) -> str:
    unescaped = re.sub(r"(\\*)<", lambda found: found[0] if len(found[1]) % 2 else f"{found[1]}\\<", text)
    return unescaped.replace("![", "!\\[")


def _plain(text: str) -> str:
    return text.replace("\\<", "<").replace("!\\[", "![")


def prompt_html(turn: Turn | None) -> str:
    """The prompt of the latest answer, its special tokens marked."""
    if turn is None:
        return '<p class="empty">Nothing was asked yet.</p>'
    if not turn.pieces:
        return '<p class="empty">This answer was measured at release; retry it to see the prompt.</p>'
    text = "".join(f"<mark>{escape(piece)}</mark>" if special else escape(piece) for piece, special in turn.pieces)
    return f'<pre tabindex="0" aria-label="Prompt of {escape(turn.revision)}">{text}</pre>'


def measured_answer(release: Mapping[str, Any], revision: str, question: str) -> Answer | None:
    """The answer of ``revision`` to ``question`` that was measured at release, if it was kept."""
    for item in release.get("answers") or ():
        if item["revision"] == revision and item["prompt"] == question:
            return Answer(item["answer"], item["tokens"], item["ended"])
    return None
