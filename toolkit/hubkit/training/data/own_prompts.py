"""hubkit's own prompts: questions as people ask a chat model, for a stop rate where a recipe names no data.

They were written for hubkit, are about everyday subjects, and take an answer of a sentence or of a page. None is from a
dataset or a benchmark. The list is ``own_prompts.txt``, one a line; its order is fixed, so that the same number of
prompts is always the same prompts.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hubkit.training.data.mappings import Message

NAME = "hubkit's own prompts"
"""What they are called where a dataset's name would be."""


@cache
def _lines() -> tuple[str, ...]:
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def conversations(most: int) -> list[list[Message]]:
    """The first ``most`` of them, each as the messages of a conversation that waits for its answer."""
    return [[{"role": "user", "content": line}] for line in _lines()[:most]]
