"""Which of llama.cpp's pre-tokenizers a byte-level tokenizer has, told from the rules in it and not from its name.

llama.cpp knows them by name alone, and splits text by the regular expression that it has for that name. A wrong name
encodes most text correctly and digits, apostrophes or line ends differently, without an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubkit.core.errors import RefusedError

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BY_EXPRESSION: Mapping[str, tuple[str, str | None]] = {
    rf"{_ENDINGS}|{_WORDS}|\p{{N}}|{_REST}": ("qwen2", None),
    rf"{_ENDINGS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}": ("dbrx", "llama-bpe"),
    rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": ("qwen35", None),
    rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SLASHED}": ("", "tekken"),
    rf"{_CASED[0]}{_ENDINGS}?|{_CASED[1]}{_ENDINGS}?|\p{{N}}{{1,3}}|{_SLASHED}": ("gpt-4o", None),
}
"""(the name without ``ignore_merges``, the name with it) by the regular expression; None or "": there is none."""


def pre_tokenizer(found: Mapping[str, Any]) -> str:
    """llama.cpp's name for the pre-tokenizer of ``found``, a byte-level tokenizer.json; RefusedError without one."""
    steps = _steps(found.get("pre_tokenizer"))
    kinds = [step.get("type") for step in steps]
    ignore_merges = bool(found["model"].get("ignore_merges"))
    if any(step.get("add_prefix_space") for step in steps):
        raise _unknown("it puts a space before every text (add_prefix_space)")
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True) and not ignore_merges:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and not ignore_merges:
        if steps[1].get("use_regex", True):
            return "smollm"
    elif kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        pattern = steps[0].get("pattern", {}).get("Regex")
        isolated = steps[0].get("behavior") == "Isolated" and not steps[0].get("invert")
        names = _BY_EXPRESSION.get(pattern, ("", None)) if isolated else ("", None)
        if name := names[ignore_merges]:
            return name
    raise _unknown(f"{', '.join(map(str, kinds)) or 'none'}{', ignoring merges' if ignore_merges else ''}")


def _steps(found: Any) -> Sequence[Mapping[str, Any]]:
    if not found:
        return []
    return found["pretokenizers"] if found.get("type") == "Sequence" else [found]


def _unknown(problem: str) -> RefusedError:
    return RefusedError(
        f"llama.cpp has no pre-tokenizer that splits text as this tokenizer does: {problem}.",
        hint="Convert it with llama.cpp's convert_hf_to_gguf.py, if that knows the tokenizer.",
    )
