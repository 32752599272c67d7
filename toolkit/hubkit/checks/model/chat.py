"""The tokenizer and the chat template: do all files agree on the token that ends an answer?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hubkit.checks.model.family import Family
from hubkit.checks.model.files import settings_of
from hubkit.checks.model.templates import template_of
from hubkit.checks.model.vocabulary import Vocabulary
from hubkit.checks.model.vocabulary import read as read_vocabulary
from hubkit.checks.rules import NO_CHAT_TEMPLATE, NO_TOKENIZER
from hubkit.checks.source import Source
from hubkit.core.findings import Finding, Level
from hubkit.core.numbers import counted
from hubkit.core.trees import short_list
from hubkit.models.chat import agreement
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.chat.rules import EOS_CONFIG, EOS_PADDING, TEMPLATE_FAILS, TEMPLATE_PREFIX, VOCABULARY

_KINDS = (
    ("<|im_start|>", "ChatML"),
    ("<|start_header_id|>", "Llama 3"),
    ("<start_of_turn>", "Gemma"),
    ("[INST]", "Mistral or Llama 2"),
    ("<|user|>", "Zephyr or Phi"),
)
"""The names by which people know a template; no check depends on them."""
_MOST_COMPARED = 4_000_000_000
"""Tokens times characters of a template. Gemma's 6,400 added tokens and a template of 20 kB are 130 million."""


@dataclass(frozen=True)
class Holder:
    """The model whose chat is inspected: its ``family``, whether there are weights, whether its card says it chats."""

    family: Family
    has_weights: bool
    chats: bool


def inspect(
    source: Source, config: Mapping[str, Any], found: list[Finding], holder: Holder
) -> tuple[EndOfTurn | None, str | None]:
    """The end-of-turn token and the kind of template; what disagrees with them is added to ``found``."""
    tokenizer_config = settings_of(source, "tokenizer_config.json", found)
    vocabulary = read_vocabulary(source, tokenizer_config, found)
    if not tokenizer_config and not vocabulary.files:
        _no_tokenizer(found, holder)
        return None, None
    template = template_of(source, tokenizer_config, found)
    if template is None:
        _no_template(found, holder)
        return None, None
    special = agreement.special_tokens({**settings_of(source, "special_tokens_map.json", found), **tokenizer_config})
    kind = next((name for mark, name in _KINDS if mark in template), "other")
    generation = settings_of(source, "generation_config.json", found)
    ids = dict(vocabulary.special)
    if "tokenizer.json" not in vocabulary.files or "tokenizer.json" in vocabulary.unread:
        ids = {**_eos_by_the_configs(special, config, generation), **ids}
    if vocabulary.ordinary is None and not ids:
        found.append(_cannot_tell(vocabulary))
        return None, kind
    count = max([vocabulary.ordinary or 0, *(ids[token] + 1 for token in _used(ids, special, template))])
    agreed = agreement.agree(template, agreement.Tokens(special, ids, count), config, generation, published=True)
    found += _as_published(agreed)
    _unused_without_a_row(found, ids, count, config)
    return agreed.end_of_turn, kind


def _used(ids: Mapping[str, int], special: Mapping[str, str], template: str) -> set[str]:
    """The tokens of ``ids`` that the settings name or the template writes; all, where to look would take minutes."""
    if len(ids) * len(template) > _MOST_COMPARED:
        return set(ids)
    named = set(special.values())
    return {token for token in ids if token in named or token in template}


def _no_tokenizer(found: list[Finding], holder: Holder) -> None:
    """A model for text without any file of a tokenizer; GGUF files hold theirs."""
    if holder.family == "text generation":
        level: Level | None = None if holder.has_weights else "note"
        hint = "Save the tokenizer in the same folder as the weights."
        found.append(NO_TOKENIZER.finding("The tokenizer is missing.", hint, level=level))


def _no_template(found: list[Finding], holder: Holder) -> None:
    """A model for text without a chat template: an error only where the card says that one talks with it."""
    if holder.family != "text generation":
        return
    if holder.chats and holder.has_weights:
        problem = (
            "The chat template is missing, but the card says that this is a chat model: apply_chat_template raises "
            "an error, and the format of a conversation and the end of an answer are undefined."
        )
        found.append(NO_CHAT_TEMPLATE.finding(problem, "Save one as chat_template.jinja."))
        return
    problem = "The chat template is missing. A model that completes text needs none; a chat model does."
    found.append(NO_CHAT_TEMPLATE.finding(problem, "For a chat model, save it as chat_template.jinja.", level="note"))


def _cannot_tell(vocabulary: Vocabulary) -> Finding:
    hint = "Save the tokenizer as tokenizer.json too, which other programs read as well."
    if not vocabulary.unread:
        problem = "Cannot tell where an answer ends: no file has the ids of the tokens."
    else:
        verb = "has" if len(vocabulary.unread) == 1 else "have"
        problem = (
            f"Cannot tell where an answer ends: only {short_list(vocabulary.unread)} {verb} the ids of the tokens, "
            "and cannot be read here."
        )
    return NO_TOKENIZER.finding(problem, hint, level="note")


def _as_published(agreed: agreement.Agreement) -> list[Finding]:
    """The findings with the severity that they have in a published model, each problem of the template once.

    What its template does with unusual conversations and how it pads concern those who train it further, and a
    template that never ends an answer is refused by no library. What no program can render is an error.
    """
    found: list[Finding] = []
    for item in agreed.findings:
        if item.rule == TEMPLATE_PREFIX.id and any(other.rule == item.rule for other in found):
            continue
        found.append(replace(item, level=_level(item, ends=agreed.end_of_turn is not None)))
    return found


def _level(item: Finding, *, ends: bool) -> Level:
    if item.rule == EOS_CONFIG.id and " is missing, " in item.message:
        return "note"
    milder = item.rule == EOS_PADDING.id or (
        item.rule == TEMPLATE_FAILS.id and (ends or "never closes" in item.message)
    )
    return "warning" if milder and item.level == "error" else item.level


def _unused_without_a_row(found: list[Finding], ids: Mapping[str, int], count: int, config: Mapping[str, Any]) -> None:
    """Added tokens beyond the embeddings that neither the template nor the tokenizer's settings use: Gemma 3 1B's."""
    rows = agreement.setting(config, "vocab_size")
    if not isinstance(rows, int) or count > rows:
        return
    if beyond := sorted((token for token, number in ids.items() if number >= rows), key=lambda token: ids[token]):
        problem = (
            f"{counted(len(beyond), 'added token')} beyond the {rows:,} embeddings of the model, such as {beyond[0]!r} "
            f"({ids[beyond[0]]}): a text that holds one ends the program with an error."
        )
        found.append(VOCABULARY.finding(problem, "Remove them, or resize the embeddings.", level="warning"))


def _eos_by_the_configs(special: Mapping[str, str], *configs: Mapping[str, Any]) -> dict[str, int]:
    """The tokenizer's EOS token with the id that the configs give it, where the tokenizer's own files give none.

    Empty when they give no id, or several.
    """
    ids = {number for config in configs for number in agreement.eos_ids(config)}
    token = special.get("eos_token")
    return {token: ids.pop()} if token and len(ids) == 1 else {}
