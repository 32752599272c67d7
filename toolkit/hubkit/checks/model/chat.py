"""The tokenizer and the chat template: do all files agree on the token that ends an answer?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hubkit.checks.model.files import plain, settings_of, text_of
from hubkit.checks.rules import NO_CHAT_TEMPLATE, NO_TOKENIZER, TWO_CHAT_TEMPLATES
from hubkit.checks.source import Source
from hubkit.core.findings import Finding, Level
from hubkit.models.chat import agreement
from hubkit.models.chat.eos import EndOfTurn

_NUMBER = re.compile(r"[0-9]{1,9}")
_KINDS = (
    ("<|im_start|>", "ChatML"),
    ("<|start_header_id|>", "Llama 3"),
    ("<start_of_turn>", "Gemma"),
    ("[INST]", "Mistral or Llama 2"),
    ("<|user|>", "Zephyr or Phi"),
)
"""The names by which people know a template; no check depends on them."""


def inspect(
    source: Source, config: Mapping[str, Any], found: list[Finding], *, has_weights: bool
) -> tuple[EndOfTurn | None, str | None]:
    """The end-of-turn token and the kind of template; what disagrees with them is added to ``found``."""
    tokenizer_config = settings_of(source, "tokenizer_config.json", found)
    tokenizer = settings_of(source, "tokenizer.json", found)
    level: Level | None = None if has_weights else "note"
    if not tokenizer_config and not tokenizer:
        hint = "Save the tokenizer in the same folder as the weights."
        found.append(NO_TOKENIZER.finding("The tokenizer is missing.", hint, level=level))
        return None, None
    template = template_of(source, tokenizer_config, found)
    if template is None:
        found.append(
            NO_CHAT_TEMPLATE.finding(
                "The chat template is missing: the format of a conversation and the end of an answer are undefined.",
                "Save one as chat_template.jinja.",
                level=level,
            )
        )
        return None, None
    added = _added_tokens(tokenizer, tokenizer_config)
    special = agreement.special_tokens({**settings_of(source, "special_tokens_map.json", found), **tokenizer_config})
    kind = next((name for mark, name in _KINDS if mark in template), "other")
    count = max([*added.values(), *_vocabulary(tokenizer)], default=-1) + 1
    generation = settings_of(source, "generation_config.json", found)
    if not tokenizer and not added:
        added = _eos_by_the_configs(special, config, generation)
        if not added:
            hint = "Save the tokenizer as tokenizer.json too, which other programs read as well."
            problem = "Cannot tell where an answer ends: tokenizer.json, which has the ids of the tokens, is missing."
            found.append(NO_TOKENIZER.finding(problem, hint, level="note"))
            return None, kind
    tokens = agreement.Tokens(special, added, count)
    agreed = agreement.agree(template, tokens, config, generation)
    found += agreed.findings
    return agreed.end_of_turn, kind


def template_of(source: Source, tokenizer_config: Mapping[str, Any], found: list[Finding]) -> str | None:
    """The template that transformers would use: chat_template.jinja first, then tokenizer_config.json."""
    inline = tokenizer_config.get("chat_template")
    if isinstance(inline, list):
        named = [item.get("template") for item in inline if isinstance(item, dict) and item.get("name") == "default"]
        inline = named[-1] if named else None
    own = text_of(source, "chat_template.jinja", found)
    if own is not None and isinstance(inline, str) and own.strip() != inline.strip():
        found.append(
            TWO_CHAT_TEMPLATES.finding(
                "chat_template.jinja and the chat_template in tokenizer_config.json differ: "
                "which one is used depends on the program's version.",
                "Make them equal, or remove the one in tokenizer_config.json.",
                file="tokenizer_config.json",
            )
        )
    return own if own is not None else inline if isinstance(inline, str) else None


def _added_tokens(tokenizer: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> dict[str, int]:
    """The added tokens' ids, as both files give them; tokenizer.json overrides the other."""
    ids = {}
    for number, item in tokenizer_config.get("added_tokens_decoder", {}).items():
        if _NUMBER.fullmatch(number) and isinstance(item, dict) and isinstance(item.get("content"), str):
            ids[plain(item["content"])] = int(number)
    for item in tokenizer.get("added_tokens", ()):
        if isinstance(item, dict) and isinstance(item.get("content"), str) and _is_id(item.get("id")):
            ids[plain(item["content"])] = item["id"]
    return ids


def _eos_by_the_configs(special: Mapping[str, str], *configs: Mapping[str, Any]) -> dict[str, int]:
    """The tokenizer's EOS token with the id that the configs give it, where the tokenizer's own files give none.

    Empty when they give no id, or several.
    """
    ids = {number for config in configs for number in agreement.eos_ids(config)}
    token = special.get("eos_token")
    return {token: ids.pop()} if token and len(ids) == 1 else {}


def _vocabulary(tokenizer: Mapping[str, Any]) -> list[int]:
    """The ids of a tokenizer.json's vocabulary."""
    vocabulary = tokenizer.get("model", {}).get("vocab")
    if isinstance(vocabulary, dict):
        return [item for item in vocabulary.values() if _is_id(item)]
    return list(range(len(vocabulary))) if isinstance(vocabulary, list) else []


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31
