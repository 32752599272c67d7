"""The chat template of a model, wherever it is saved: of the tokenizer, or of the processor of a multimodal model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubkit.checks.model.files import settings_of, text_of
from hubkit.checks.rules import TWO_CHAT_TEMPLATES
from hubkit.checks.source import Source
from hubkit.core.findings import Finding

_PROCESSORS = ("chat_template.json", "processor_config.json")
"""Where a processor keeps its template besides chat_template.jinja: the older file of its own, and its settings."""


def template_of(source: Source, tokenizer_config: Mapping[str, Any], found: list[Finding]) -> str | None:
    """The template that transformers would use; None without one.

    chat_template.jinja comes first, then tokenizer_config.json, then the files of a processor. ``found`` is told when
    the first two differ.
    """
    inline = _default(tokenizer_config.get("chat_template"))
    own = text_of(source, "chat_template.jinja", found)
    if own is not None and inline is not None and own.strip() != inline.strip():
        found.append(
            TWO_CHAT_TEMPLATES.finding(
                "chat_template.jinja and the chat_template in tokenizer_config.json differ: "
                "which one is used depends on the program's version.",
                "Make them equal, or remove the one in tokenizer_config.json.",
                file="tokenizer_config.json",
            )
        )
    if own is not None or inline is not None:
        return own if own is not None else inline
    templates = (_default(settings_of(source, name, found).get("chat_template")) for name in _PROCESSORS)
    return next((template for template in templates if template is not None), None)


def _default(value: object) -> str | None:
    """The template in ``value``: a text, or the one named "default" of a list or an object of named templates."""
    if isinstance(value, dict):
        value = value.get("default")
    if isinstance(value, str):
        return value
    named = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    texts = [item.get("template") for item in named if item.get("name") == "default"]
    return next((text for text in reversed(texts) if isinstance(text, str)), None)
