"""Text of anybody as a page may show it: characters that hide, reorder or break text are written as their codes."""

from __future__ import annotations

_HIDDEN = {
    code: f"\\u{code:04x}"
    for first, last in ((0x00, 0x08), (0x0B, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x61C, 0x61C), (0x200B, 0x200F),
                        (0x2028, 0x202E), (0x2060, 0x2069), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB))
    for code in range(first, last + 1)
}  # fmt: skip
_LINES = {**_HIDDEN, ord("\t"): "\\t", ord("\n"): "\\n"}


def visible(text: str, most: int = 0) -> str:
    """One line of text, cut to ``most`` characters when given: no control, no invisible and no bidi character."""
    text = text if not most or len(text) <= most else f"{text[: most - 1]}…"
    return text.translate(_LINES)


def visible_code(text: str) -> str:
    """A line of a file: tabs stay."""
    return text.translate(_HIDDEN)
