"""The prompt that a card shows, compared with the chat template that is shipped beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hubkit.cards.lint.document import Document
from hubkit.cards.lint.rules import TEMPLATE_DIFFERS, TEMPLATE_MISSING
from hubkit.checks.model.files import settings_of
from hubkit.checks.model.templates import template_of
from hubkit.checks.source import Source
from hubkit.core.errors import RefusedError
from hubkit.core.findings import Finding
from hubkit.models.chat import agreement, golden, rendering

_FAMILIES = (
    ("ChatML", "<|im_start|>", re.compile(r"\bchat[- ]?ml\b", re.IGNORECASE)),
    ("Llama 3", "<|start_header_id|>", None),
    ("Gemma", "<start_of_turn>", None),
    ("Mistral or Llama 2", "[INST]", None),
    ("Alpaca", "### Instruction:", re.compile(r"\balpaca(?:'s)? (?:prompt|format|template)", re.IGNORECASE)),
)
_SPEAKS = re.compile(r"apply_chat_template|\bchat template|\bprompt (?:format|template)|\bchat[- ]?ml\b", re.IGNORECASE)
_DENIES = re.compile(
    r"\b(?:no|not|without|unlike|never|lacks?|neither|nor|instead of|rather than|is a base model)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_TURN = re.compile(r"<\|im_start\|>[ ]?(\w+)[ ]?\n(.*?)(<\|im_end\|>|\Z)", re.DOTALL)
_ROLES = {"system", "user", "assistant"}
_CODE = frozenset({"python", "py", "python3", "jinja", "json", "sh", "bash", "shell", "console", "yaml"})


def find(document: Document, source: Source) -> Iterator[Finding]:
    """A missing template, or one that renders something else than the card shows."""
    if document.path != "README.md":
        return
    files = source.files()
    chats = any(name in files for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))
    template, special = shipped(source)
    if template is None:
        line = next((at for at, text in enumerate(document.text.splitlines(), 1) if _mentions(_SPEAKS, text)), None)
        within = any(name.endswith(".gguf") for name in files)  # such a file holds its template itself
        if line is not None and not within and (chats or "config.json" in files):
            yield TEMPLATE_MISSING.finding(
                "The card describes a prompt format, but the repo has no chat template.",
                "Save it as chat_template.jinja next to the tokenizer.",
                file=document.path,
                line=line,
            )
        return
    try:
        yield from _differs(document, template, special)
    except RefusedError as error:
        hint = "Fix the template."
        yield TEMPLATE_DIFFERS.finding(error.message, hint, file=document.path, line=1, level="error")


def needs_generation_prompt(source: Source) -> bool | None:
    """Whether the template of ``source`` opens the assistant's turn only when asked to; None when nobody knows."""
    template, special = shipped(source)
    if template is None:
        return None
    turns = _closed(golden.GOLDEN["one turn"])
    try:
        without, asked = rendering.render_untrusted(template, [(turns, False), (turns, True)], variables=special)
    except RefusedError:
        return None
    return without.text != asked.text if without.text is not None and asked.text is not None else None


def _mentions(pattern: re.Pattern[str], text: str) -> bool:
    """Whether a sentence of ``text`` mentions it, and does not deny it."""
    return any(pattern.search(sentence) and not _DENIES.search(sentence) for sentence in _SENTENCE.split(text))


def shipped(source: Source) -> tuple[str | None, dict[str, str]]:
    """The template of a folder or repo and the special tokens that it may name."""
    settings = settings_of(source, "tokenizer_config.json", [])
    template = template_of(source, settings, [])
    special = agreement.special_tokens({**settings_of(source, "special_tokens_map.json", []), **settings})
    return template, special


def _differs(document: Document, template: str, special: dict[str, str]) -> Iterator[Finding]:
    shown = [
        (fence.line, fence.content, turns) for fence in document.fences
        if fence.language not in _CODE and (turns := _turns(fence.content))
    ]  # fmt: skip
    one_turn = golden.GOLDEN["one turn"]
    requests = [(one_turn, False), *((turns, _opens(turns)) for _, _, turns in shown)]
    requests = [(_closed(turns), opens) for turns, opens in requests]
    probe, *rendered = rendering.render_untrusted(template, requests, variables=special)
    for (line, content, _), made in zip(shown, rendered, strict=True):
        if made.text is None or content.strip() not in made.text:
            does = f"refuses it: {made.problem}" if made.text is None else f"renders {_short(made.text)}"
            yield TEMPLATE_DIFFERS.finding(
                f"The prompt on the card differs from the chat template of the repo, which {does}.",
                "Copy the prompt from apply_chat_template(..., tokenize=False, add_generation_prompt=True).",
                file=document.path,
                line=line,
            )
    if probe.text is None:
        yield TEMPLATE_DIFFERS.finding(
            f"The chat template of the repo cannot render a conversation: {probe.problem}.",
            "Fix the template.",
            file=document.path,
            line=1,
            level="error",
        )
        return
    for name, mark, word in _FAMILIES:
        if mark in probe.text:
            continue
        where = [
            fence.line for fence in document.fences
            if mark in fence.content and fence.language not in _CODE and not _turns(fence.content)
        ]  # fmt: skip
        where += [item.line for item in document.prose if word and _mentions(word, item.text)]
        if where:
            yield TEMPLATE_DIFFERS.finding(
                f"The card shows the format of {name}, but the chat template of the repo renders {_short(probe.text)}.",
                "Describe the template of the repo, or replace it with the one described.",
                file=document.path,
                line=where[0],
            )


def _turns(content: str) -> list[dict[str, str]]:
    """The messages of a prompt in ChatML; empty for other text."""
    found = [{"role": role, "content": words, "end": end} for role, words, end in _TURN.findall(content)]
    return found if found and all(turn["role"] in _ROLES for turn in found) else []


def _opens(turns: list[dict[str, str]]) -> bool:
    last = turns[-1]
    return last["role"] == "assistant" and not last["content"].strip() and not last["end"]


def _closed(turns: object) -> list[dict[str, str]]:
    """Messages alone, without the opening of an answer."""
    assert isinstance(turns, list | tuple)
    kept = turns[:-1] if turns and "end" in turns[-1] and _opens(list(turns)) else turns
    return [{"role": turn["role"], "content": turn["content"]} for turn in kept]


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:97]}...")
