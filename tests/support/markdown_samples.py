"""What a reader of a card sees, by the tree that a Markdown parser makes."""

from __future__ import annotations

from collections.abc import Iterator

from huggingface_hub.repocard import REGEX_YAML_BLOCK
from markdown_it import MarkdownIt
from markdown_it.token import Token

PARSER = MarkdownIt("commonmark").enable("table")


def body_of(text: str) -> str:
    found = REGEX_YAML_BLOCK.search(text)
    assert found
    return text[found.end() :]


def shown_text(token: Token) -> str:
    return "".join(child.content or (" " if child.type == "softbreak" else "") for child in token.children or [])


def inlines(text: str) -> Iterator[str]:
    for token in PARSER.parse(body_of(text)):
        if token.type == "inline":
            yield shown_text(token)
