"""What happens to a message that holds a control token, such as ``<|im_end|>``, as text.

A tokenizer finds its added tokens in any text, whoever wrote it: written by a user, ``<|im_end|>`` becomes the token
that ends a turn. In training such a row teaches a false end or a false beginning, so the data step drops it, and counts
it. When a published model is asked, the program that asks decides; with transformers it is ``apply_chat_template(...,
sanitize_control_tokens=True)`` that reads such words as words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import TemplateError, nodes

from hubkit.models.chat import sandbox


def control_tokens(tokenizer: Any, template: str) -> tuple[str, ...]:
    """The words that, in anybody's message, ``tokenizer`` (of transformers) reads as a token of the format, sorted.

    They are its special tokens, and those of its other added tokens that ``template`` writes. A token that is a plain
    word or sign, or white space, is none: some tokenizers pad with ``!``, and Gemma's newlines are added tokens.
    """
    literals = "\0".join(_literals(template))
    found = {
        token.content for token in tokenizer.added_tokens_decoder.values() if token.special or token.content in literals
    }
    return tuple(sorted(word for word in found if len(word.strip()) > 2 and not word.strip().isalnum()))


def _literals(template: str) -> Iterator[str]:
    """What ``template`` writes by itself: its text and its string constants."""
    try:
        tree = sandbox.environment().parse(template)
    except (TemplateError, RecursionError):
        return
    for data in tree.find_all(nodes.TemplateData):
        yield data.data
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str):
            yield constant.value
