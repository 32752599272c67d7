"""The vocabulary of a model: the ids of its tokens, from whichever of the tokenizer's files have them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubkit.checks.model.files import plain, settings_of
from hubkit.checks.model.pieces import MOST_BYTES, Pieces, PiecesError, read_pieces
from hubkit.checks.model.pointers import is_pointer
from hubkit.checks.source import Source
from hubkit.core.findings import Finding

_NUMBER = re.compile(r"[0-9]{1,9}")
_PIECES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model", "sentencepiece.model")
"""The names under which transformers keeps a SentencePiece model."""
_OTHERS = re.compile(
    r"tekken\.json|[\w.-]*\.tiktoken|tiktoken\.model|tokenizer\.model(\.v\d+)?|[\w.-]*\.spm|ice_text\.model"
    r"|vocab\.(json|txt|bpe)|bpe\.codes|tokenization_\w+\.py|original/tokenizer\.model"
)
"""Other files that hold a vocabulary: mistral-common's, tiktoken's, those of older tokenizers and of their own code."""


@dataclass(frozen=True)
class Vocabulary:
    """What is known of a vocabulary.

    ``special`` are the ids of tokens that are no part of ordinary text, by their text. ``ordinary`` is the number of
    ids of ordinary text (None: unknown). ``files`` hold the vocabulary, ``unread`` are those of them that nothing here
    can read.
    """

    special: Mapping[str, int]
    ordinary: int | None
    files: tuple[str, ...]
    unread: tuple[str, ...] = ()


def read(source: Source, tokenizer_config: Mapping[str, Any], found: list[Finding]) -> Vocabulary:
    """The vocabulary of ``source``; what is wrong with its files is added to ``found``."""
    files = source.files()
    tokenizer = settings_of(source, "tokenizer.json", found)
    special = _by_number(tokenizer_config) | _by_text(settings_of(source, "added_tokens.json", found))
    holders = tuple(sorted(name for name in files if name in _PIECES or _OTHERS.fullmatch(name)))
    if tokenizer:
        ids = _ids_of(tokenizer)
        special |= _listed(tokenizer)
        return Vocabulary(special, max(ids, default=-1) + 1 if ids else None, ("tokenizer.json", *holders))
    unread, ordinary = [], None
    for name in holders:
        pieces = _pieces(source, name) if name in _PIECES else None
        words = _by_text(settings_of(source, name, found)) if name == "vocab.json" else {}
        if pieces:
            special, ordinary = {**pieces.special, **special}, pieces.count
        elif words:
            named = {text: words[text] for text in _named(tokenizer_config) if text in words}
            special, ordinary = {**named, **special}, max(words.values()) + 1
        else:
            unread.append(name)
    if "tokenizer.json" in files:  # a pointer, or damaged, which was reported
        unread.append("tokenizer.json")
        holders = (*holders, "tokenizer.json")
    return Vocabulary(special, ordinary, holders, tuple(unread))


def _pieces(source: Source, name: str) -> Pieces | None:
    if source.files()[name].size > MOST_BYTES:
        return None
    content = source.read(name)
    try:
        return None if is_pointer(content) else read_pieces(content)
    except PiecesError:
        return None


def _by_number(tokenizer_config: Mapping[str, Any]) -> dict[str, int]:
    ids = {}
    for number, item in tokenizer_config.get("added_tokens_decoder", {}).items():
        if _NUMBER.fullmatch(number) and isinstance(item, dict) and isinstance(item.get("content"), str):
            ids[plain(item["content"])] = int(number)
    return ids


def _by_text(settings: Mapping[str, Any]) -> dict[str, int]:
    return {plain(text): number for text, number in settings.items() if _is_id(number)}


def _listed(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """The added tokens of tokenizer.json."""
    items = (item for item in tokenizer.get("added_tokens", ()) if isinstance(item, dict))
    return {
        plain(item["content"]): item["id"]
        for item in items
        if isinstance(item.get("content"), str) and _is_id(item.get("id"))
    }


def _ids_of(tokenizer: Mapping[str, Any]) -> list[int]:
    """The ids of a tokenizer.json's vocabulary."""
    vocabulary = tokenizer.get("model", {}).get("vocab")
    if isinstance(vocabulary, dict):
        return [item for item in vocabulary.values() if _is_id(item)]
    return list(range(len(vocabulary))) if isinstance(vocabulary, list) else []


def _named(tokenizer_config: Mapping[str, Any]) -> list[str]:
    """The texts of the special tokens that the config names."""
    values = (value for key, value in tokenizer_config.items() if key.endswith("_token"))
    texts = (value.get("content") if isinstance(value, dict) else value for value in values)
    return [text for text in texts if isinstance(text, str)]


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31
