"""The vocabulary as GGUF has it: texts, types and scores by id, merges, and how text becomes the first tokens.

It is read from the tokenizer as transformers loads it, so that token ids are to be those of transformers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.models.gguf.pretokenizers import pre_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens, by the library's numbers (``gguf.TokenType``)."""
SPACE = "▁"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_ADDED_SCORE, _UNUSED_SCORE = -1000.0, -10000.0


@dataclass(frozen=True)
class Vocabulary:
    """``model`` is llama.cpp's name of the algorithm: ``gpt2`` for byte-level BPE, ``llama`` for SentencePiece's.

    ``scores`` are of the second, ``merges`` of the first. ``prefix_space``: a space is put before text that follows a
    special token or nothing. ``adds_bos`` and ``adds_eos``: what the tokenizer puts around every text.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...]
    merges: tuple[str, ...]
    prefix_space: bool
    adds_bos: bool
    adds_eos: bool
    special: Mapping[str, int]

    def write(self, writer: Any) -> None:
        """Add it to ``writer``, a GGUFWriter."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        writer.add_token_types(list(self.types))
        if self.merges:
            writer.add_token_merges(list(self.merges))
        for name in ("bos", "unk", "pad"):
            if name in self.special:
                getattr(writer, f"add_{name}_token_id")(self.special[name])
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        writer.add_add_space_prefix(self.prefix_space)


def vocabulary_of(tokenizer: Any, rows: int, stops: Sequence[int], rendered: str | None) -> Vocabulary:
    """The vocabulary of ``tokenizer``, of transformers, for embeddings of ``rows`` rows.

    ``stops`` are ids that end an answer: tokens of control, whatever the tokenizer calls them. ``rendered`` is a
    conversation as the chat template writes it. RefusedError where llama.cpp would encode text differently.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RefusedError(
            "The tokenizer has no form that the tokenizers library can run, so its rules cannot be read.",
            hint="Save the model with a tokenizer.json.",
        )
    found = json.loads(backend.to_str())
    if found["model"].get("type") != "BPE":
        raise RefusedError(
            f"The tokenizer is of the kind {found['model'].get('type')}; GGUF is written for BPE alone.",
            hint="Convert it with llama.cpp's convert_hf_to_gguf.py.",
        )
    byte_level = "ByteLevel" in json.dumps(found.get("pre_tokenizer"))
    if not byte_level:
        _refuse_splits(found)
    tokens, types = _tokens(found, rows, stops, byte_level=byte_level)
    scores = () if byte_level else _scores(found, tokens, types)
    special = {
        name: number
        for name in ("bos", "eos", "unk", "pad")
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None and number < rows
    }
    adds_bos, adds_eos = _around(tokenizer, special)
    return Vocabulary(
        model="gpt2" if byte_level else "llama",
        pre=pre_tokenizer(found) if byte_level else "default",
        tokens=tuple(tokens),
        types=tuple(types),
        scores=scores,
        merges=_merges(found) if byte_level else (),
        prefix_space=not byte_level and _prefix_space(found, rendered),
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        special=special,
    )


def _refuse_splits(found: Mapping[str, Any]) -> None:
    """RefusedError for a tokenizer.json that cuts text elsewhere than at spaces: SentencePiece's algorithm does not.

    As those of SentencePiece's models are converted, spaces become ``▁`` by a normalizer or by Metaspace, and a Split
    at a space (Gemma's) finds none any more.
    """
    steps = [found.get("pre_tokenizer") or {}]
    for step in [*steps]:
        steps += step.get("pretokenizers", [])
    for step in steps:
        kind = step.get("type", "Sequence")
        at_spaces = kind == "Split" and step.get("pattern") == {"String": " "}
        if kind not in {"Sequence", "Metaspace"} and not at_spaces:
            raise RefusedError(
                f"The tokenizer cuts text by {kind} before it merges; SentencePiece's algorithm, which llama.cpp runs"
                " for tokenizers that are not byte-level, does not.",
                hint="Convert it with llama.cpp's convert_hf_to_gguf.py, and compare the token ids.",
            )


def _around(tokenizer: Any, special: Mapping[str, int]) -> tuple[bool, bool]:
    """Whether BOS is put before every text, and EOS after it."""
    bare, whole = (list(tokenizer("a", add_special_tokens=flag)["input_ids"]) for flag in (False, True))
    start = whole[: len(whole) - len(bare)]
    adds_bos, adds_eos = whole[:1] == [special.get("bos")] != bare[:1], whole[-1:] == [special.get("eos")] != bare[-1:]
    if len(whole) != len(bare) + adds_bos + adds_eos:
        raise RefusedError(
            f"The tokenizer puts {start} before every text; llama.cpp can put BOS and EOS around it alone."
        )
    return adds_bos, adds_eos


def _tokens(
    found: Mapping[str, Any], rows: int, stops: Sequence[int], *, byte_level: bool
) -> tuple[list[str], list[int]]:
    texts = {number: text for text, number in found["model"]["vocab"].items()}
    kinds = dict.fromkeys(texts, NORMAL)
    unknown = found["model"].get("unk_token")
    for number, text in texts.items():
        if not byte_level and _BYTE.fullmatch(text):
            kinds[number] = BYTE
        elif not byte_level and text == unknown:
            kinds[number] = UNKNOWN
    for item in found.get("added_tokens") or ():
        number, text = item["id"], item["content"]
        special = item["special"] or number in stops
        if kinds.get(number) != UNKNOWN:
            kinds[number] = CONTROL if special else USER_DEFINED
        texts[number] = text if special or byte_level else text.replace(SPACE, " ")
    tokens = [texts.get(number, f"[PAD{number}]") for number in range(rows)]
    types = [kinds.get(number, UNUSED) for number in range(rows)]
    if len(set(tokens)) != rows:
        twice = next(text for text, times in Counter(tokens).items() if times > 1)
        raise RefusedError(f"Two tokens of the vocabulary have the text {twice!r}, which llama.cpp cannot hold.")
    return tokens, types


def _merges(found: Mapping[str, Any]) -> tuple[str, ...]:
    pairs = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in found["model"]["merges"]]
    return tuple(" ".join(part.replace(" ", chr(ord(" ") + 256)) for part in pair) for pair in pairs)


def _scores(found: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> tuple[float, ...]:
    """Scores that let SentencePiece's algorithm merge in the order of the tokenizer's merges.

    It merges the pair whose product has the highest score, so a product may have one place in the order alone.
    """
    places: dict[str, int] = {}
    products: list[str] = []
    for pair in found["model"]["merges"]:
        left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
        product = left + right
        if not products or products[-1] != product:
            if product in places:
                raise RefusedError(
                    f"The tokenizer makes {product!r} at two places in the order of its merges; SentencePiece's"
                    " algorithm, which llama.cpp runs, has one.",
                    hint="Convert it with llama.cpp's convert_hf_to_gguf.py, and compare the token ids.",
                )
            places[product] = len(products)
            products.append(product)
    scores = {NORMAL: 0.0, UNKNOWN: 0.0, BYTE: 0.0, CONTROL: _ADDED_SCORE, USER_DEFINED: _ADDED_SCORE}
    return tuple(
        -float(places[text]) - 1.0 if text in places and kind == NORMAL else scores.get(kind, _UNUSED_SCORE)
        for text, kind in zip(tokens, types, strict=True)
    )


def _prefix_space(found: Mapping[str, Any], rendered: str | None) -> bool:
    """Whether a space is put before text: always, or before a text that no special token begins.

    llama.cpp knows both or never; a chat begins with a special token, so the second counts as never where it does.
    """
    steps = [found.get("normalizer") or {}, found.get("pre_tokenizer") or {}]
    for step in [*steps]:
        steps += step.get("normalizers", []) + step.get("pretokenizers", [])
    for step in steps:
        if step.get("type") == "Prepend" and step.get("prepend") == SPACE:
            return True
        if step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme", "always")
            starts = any(rendered.startswith(item["content"]) for item in found["added_tokens"]) if rendered else False
            return scheme == "always" or (scheme == "first" and not starts)
    return False
